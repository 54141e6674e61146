package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// writing runs a node's StatusWriter, in a hurry.
func writing(t *testing.T, f *follower, node string) *StatusWriter {
	t.Helper()
	w, err := NewStatusWriter(f.s.config(), f.w, node, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.pace = statusPace{turn: 5 * time.Millisecond, quiet: 10 * time.Millisecond, stale: time.Hour, patch: time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func readyNode(name, ip string) jsonObject {
	o := nodeObject(name, ip, "10.0.0.0/24")
	o["status"].(jsonObject)["conditions"] = []any{jsonObject{"type": "Ready", "status": "True"}}
	return o
}

// reports has the node's agent say how far it has come with the resource.
func (s *server) reports(node string, r *resource, version string) {
	s.putAt("/apis/sallyport.dev/v1alpha1/nodestates", jsonObject{"apiVersion": "sallyport.dev/v1alpha1", "kind": "NodeState", "metadata": named("", node),
		"ready": true, "realised": jsonObject{r.name(): version}, "updated": time.Now().UTC().Format(time.RFC3339)})
}

// conditions of an object, as "type status reason: message".
func (s *server) conditions(r *resource, k key) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, _ := s.objects[pathOf(r)][k]["status"].(jsonObject)
	list, _ := status["conditions"].([]any)
	var out []string
	for _, c := range list {
		m := c.(jsonObject)
		line := fmt.Sprintf("%s %v %v: %v", strings.TrimPrefix(m["type"].(string), "sallyport.dev/"), m["status"], m["reason"], m["message"])
		if g, ok := m["observedGeneration"]; ok {
			line += fmt.Sprintf(" @%v", g)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func (f *follower) becomes(want string, got func() string) {
	f.t.Helper()
	for end := time.Now().Add(10 * time.Second); got() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("it is\n%s\nwant\n%s", got(), want)
		}
	}
}

func TestStatusOfPolicies(t *testing.T) {
	speakToy(t)
	s := world(t)
	s.put("nodes", readyNode("n0", "192.168.0.1"))
	s.put("nodes", readyNode("n1", "192.168.0.2"))
	r := resourceNamed("clusternetworkpolicies")
	s.serve(r, true)
	good := toyObject(r, "", "good", toyParts(jsonObject{"app": "db"}))
	good["metadata"].(jsonObject)["generation"] = 3
	foreign := jsonObject{"type": "other.example.com/Seen", "status": "True", "reason": "Yes", "message": "by somebody else"}
	good["status"] = jsonObject{"conditions": []any{foreign}}
	s.put(r.name(), good)
	bad := toyObject(r, "", "bad", jsonObject{"problem": "makes no sense"})
	s.put(r.name(), bad)
	f := following(t, s, hurried())
	f.next()
	for _, n := range []string{"n0", "n1"} {
		s.reports(n, r, "1")
		writing(t, f, n)
	}
	const others = "other.example.com/Seen True Yes: by somebody else\n"
	status := func(name string) func() string { return func() string { return s.conditions(r, key{name: name}) } }
	f.becomes(others+"Accepted True Accepted: every part of it is understood @3\nEnforced False Pending: enforced on 0 of 2 nodes @3", status("good"))
	f.becomes("Accepted False Invalid: makes no sense @0\nEnforced False Pending: enforced on 0 of 2 nodes @0", status("bad"))
	s.reports("n1", r, "100000")
	f.becomes(others+"Accepted True Accepted: every part of it is understood @3\nEnforced False Pending: enforced on 1 of 2 nodes @3", status("good"))
	s.reports("n0", r, "100000")
	f.becomes(others+"Accepted True Accepted: every part of it is understood @3\nEnforced True Everywhere: enforced on 2 of 2 nodes @3", status("good"))
	f.becomes("Accepted False Invalid: makes no sense @0\nEnforced True Everywhere: enforced on 2 of 2 nodes @0", status("bad"))

	// Nothing is written that is there already, and only one node writes.
	patch := "PATCH " + pathOf(r) + "/good/status"
	n := s.count(patch)
	time.Sleep(100 * time.Millisecond)
	if now := s.count(patch); now != n || n > 10 {
		t.Errorf("%d patches, and %d without a reason", n, now-n)
	}

	// The first node is away: the next one writes.
	s.put("nodes", nodeObject("n0", "192.168.0.1", "10.0.0.0/24"))
	s.put(r.name(), toyObject(r, "", "late", toyParts()))
	s.put(r.name(), toyObject(r, "", "late", toyParts(jsonObject{"app": "db"})))
	f.becomes("Accepted True Accepted: every part of it is understood @0\nEnforced True Everywhere: enforced on 2 of 2 nodes @0", status("late"))
}

// TestStatusWithoutAPlace: an API server drops conditions that its definition
// does not know; they are not written again and again.
func TestStatusWithoutAPlace(t *testing.T) {
	speakToy(t)
	s := world(t)
	s.put("nodes", readyNode("n0", "192.168.0.1"))
	r := resourceNamed("ciliumnetworkpolicies")
	s.serve(r, true)
	s.prunes = pathOf(r)
	s.put(r.name(), toyObject(r, "a", "p", toyParts(jsonObject{"app": "web"})))
	f := following(t, s, hurried())
	f.next()
	s.reports("n0", r, "1")
	writing(t, f, "n0")
	patch := "PATCH /apis/cilium.io/v2/namespaces/a/ciliumnetworkpolicies/p/status"
	eventually(t, func() bool { return s.count(patch) > 0 })
	time.Sleep(100 * time.Millisecond)
	if n := s.count(patch); n != 1 {
		t.Errorf("%d patches", n)
	}
}

func TestProblemsInBrief(t *testing.T) {
	list := []model.Problem{{Message: "mild"}}
	for range 6 {
		list = append(list, model.Problem{Severity: model.Error, Message: "grave", Hint: "do", Source: model.Source{Field: "spec"}})
	}
	if got, want := inBrief(list), strings.Repeat("spec: grave (do); ", 5)+"and 2 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	list[3].Message = strings.Repeat("ü", 2000)
	if got := inBrief(list); len(got) > 1030 || !strings.HasSuffix(got, "ü …") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
