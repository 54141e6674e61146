package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// memory answers with what it was given.
type memory struct {
	status Status
	pods   chan Pod
	err    error
	flows  []flow.Flow
}

func (m *memory) Status() Status         { return m.status }
func (m *memory) Endpoints() []Endpoint  { return []Endpoint{{Pod: "a/b"}} }
func (m *memory) Policies() []Policy     { return []Policy{{Name: "p"}} }
func (m *memory) Identities() []Identity { return []Identity{{Identity: 7}} }
func (m *memory) AddPod(_ context.Context, p Pod) (Enforced, error) {
	m.pods <- p
	return Enforced{Revision: 9}, m.err
}
func (m *memory) CheckPod(context.Context, Pod) (Enforced, error) { return Enforced{}, m.err }
func (m *memory) DeletePod(context.Context, Pod) error            { return m.err }
func (m *memory) Probe(_ context.Context, p Probe) Outcome        { return Outcome{Result: p.From} }
func (m *memory) Flows(ctx context.Context, f FlowFilter, handle func(*flow.Flow) error) error {
	for i := range m.flows {
		if f.Matches(&m.flows[i]) {
			if err := handle(&m.flows[i]); err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handler(b)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", i.Mode(), err)
	}
	return NewClient(path)
}

func TestWhatIsSaidArrives(t *testing.T) {
	at := flow.Event{Hook: flow.Forward}
	b := &memory{
		status: Status{Node: "n", Ready: true, Realised: map[string]string{"pods": "12"}, Problems: []model.Problem{{Message: "bad", Severity: model.Error}}},
		pods:   make(chan Pod, 1),
		flows:  []flow.Flow{{Event: at, Verdict: "allowed", SourcePod: "a/b"}, {Event: at, Verdict: "denied", DestinationPod: "a/b"}, {Event: at, Verdict: "denied", SourcePod: "x/y"}},
	}
	c, ctx := serve(t, b), t.Context()
	if got, err := c.Status(ctx); err != nil || cmp.Diff(b.status, got, cmpopts.EquateEmpty()) != "" {
		t.Errorf("%v %s", err, cmp.Diff(b.status, got, cmpopts.EquateEmpty()))
	}
	pod := Pod{Namespace: "a", Name: "b", ContainerID: "c", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	if got, err := c.AddPod(ctx, pod); err != nil || got.Revision != 9 || cmp.Diff(pod, <-b.pods, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })) != "" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := c.Probe(ctx, Probe{From: "a/b", Timeout: time.Second}); err != nil || got.Result != "a/b" {
		t.Errorf("%v %v", got, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	seen := 0
	err := c.Flows(ctx, FlowFilter{Verdict: "denied", Pod: "a/b"}, func(f *flow.Flow) error {
		if seen++; f.DestinationPod != "a/b" {
			t.Errorf("got %v", f)
		}
		cancel()
		return nil
	})
	if err != nil || seen != 1 {
		t.Errorf("%d flows, %v", seen, err)
	}
}

func TestErrorsArriveWithWhatToDo(t *testing.T) {
	b := &memory{pods: make(chan Pod, 1), err: &Failure{Message: "not yet", Retry: true}}
	c := serve(t, b)
	var f *Failure
	if _, err := c.AddPod(t.Context(), Pod{}); !errors.As(err, &f) || !f.Retry || f.Message != "not yet" {
		t.Errorf("got %v", err)
	}
	b.err = errors.New("broken")
	if _, err := c.CheckPod(t.Context(), Pod{}); !errors.As(err, &f) || f.Retry || f.Message != "broken" {
		t.Errorf("got %v", err)
	}
	if err := c.call(t.Context(), "POST", "/v1/pods/add", map[string]int{"unknown": 1}, nil); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("got %v", err)
	}
	var gone *Unreachable
	if _, err := NewClient(filepath.Join(t.TempDir(), "none")).Status(t.Context()); !errors.As(err, &gone) || !strings.Contains(err.Error(), "is the agent of this node running") {
		t.Errorf("got %v", err)
	}
}
