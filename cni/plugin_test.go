package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/api"
)

// binary is sallyport under the plugin's name.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sallyport-cni")
	if err == nil {
		binary = filepath.Join(dir, Binary)
		var said []byte
		if said, err = exec.Command("go", "build", "-o", binary, "../cmd/sallyport").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot build the plugin:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// agent answers with what it is told to, and remembers the questions.
type agent struct {
	api.Backend
	mu     sync.Mutex
	answer []error // one after the other; the last one stays
	asked  []string
	pods   []api.Pod
}

func (a *agent) ask(what string, p api.Pod) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.pods = append(a.asked, what), append(a.pods, p)
	if len(a.answer) == 0 {
		return nil
	}
	err := a.answer[0]
	if len(a.answer) > 1 {
		a.answer = a.answer[1:]
	}
	return err
}

func (a *agent) Status() api.Status { return api.Status{} }
func (a *agent) AddPod(_ context.Context, p api.Pod) (api.Enforced, error) {
	return api.Enforced{Revision: 1}, a.ask("add", p)
}
func (a *agent) CheckPod(_ context.Context, p api.Pod) (api.Enforced, error) {
	return api.Enforced{Revision: 1}, a.ask("check", p)
}
func (a *agent) DeletePod(_ context.Context, p api.Pod) error { return a.ask("delete", p) }

// questions is how often the agent was asked.
func (a *agent) questions() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

// world is a runtime's side: where the socket is, and what is in the
// environment.
type world struct {
	socket, timeout string
	args, prev      string
	extra           string // of the configuration
	version         string
}

const bridgeResult = `{"cniVersion": "1.0.0",
  "interfaces": [{"name": "cni0", "mac": "00:11:22:33:44:55"}, {"name": "veth1234"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
  "ips": [{"interface": 2, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"interface": 2, "address": "fd00::3/64"}, {"interface": 0, "address": "10.1.2.1/24"}],
  "routes": [{"dst": "0.0.0.0/0"}], "dns": {}}`

func newWorld(t *testing.T) *world {
	return &world{
		socket: filepath.Join(t.TempDir(), "agent.sock"), timeout: "2m", version: "1.0.0", prev: bridgeResult,
		args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1",
	}
}

func (w *world) serve(t *testing.T, a *agent) {
	t.Helper()
	l, err := net.Listen("unix", w.socket)
	must(t, err)
	s := &http.Server{Handler: api.Handler(a)}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// failure is an error as the protocol has it.
type failure struct {
	Code         int
	Msg, Details string
}

// call runs the binary for one command. The answer is what it printed.
func (w *world) call(t *testing.T, command string) (answer string, failed *failure) {
	t.Helper()
	conf := fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "type": "sallyport-cni", "socket": %q, "timeout": %q%s`, w.version, w.socket, w.timeout, w.extra)
	if w.prev != "" {
		conf += `, "prevResult": ` + w.prev
	}
	c := exec.Command(binary)
	c.Stdin = strings.NewReader(conf + "}")
	c.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=abc", "CNI_NETNS=/run/netns/absent", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + w.args}
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	if err != nil {
		failed = &failure{}
		if err := json.Unmarshal(out.Bytes(), failed); err != nil {
			t.Fatalf("%v: %s%s", err, out.String(), errs.String())
		}
	}
	return out.String(), failed
}

func TestAddTellsTheAgentAndPassesTheResultOn(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}
	for name, c := range map[string]struct {
		version, prev, device string
		ips                   []netip.Addr
	}{
		"bridge": {"1.0.0", bridgeResult, "veth1234", addresses},
		"ptp 1.1": {"1.1.0", `{"cniVersion": "1.1.0", "interfaces": [{"name": "veth1", "mtu": 1400}, {"name": "eth0", "sandbox": "/x"}],
			"ips": [{"interface": 1, "address": "10.1.2.3/32"}], "dns": {}}`, "veth1", addresses[:1]},
		"calico":   {"0.3.1", `{"cniVersion": "0.3.1", "interfaces": [{"name": "cali1"}], "ips": [{"version": "4", "address": "10.1.2.3/32"}], "dns": {}}`, "cali1", addresses[:1]},
		"aws":      {"1.0.0", `{"cniVersion": "1.0.0", "interfaces": [{"name": "eni1"}, {"name": "eth0", "sandbox": "/x"}, {"name": "dummy1"}], "ips": [{"interface": 1, "address": "10.1.2.3/32"}], "dns": {}}`, "eni1", addresses[:1]},
		"no names": {"1.0.0", `{"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/32"}], "dns": {}}`, "", addresses[:1]},
	} {
		t.Run(name, func(t *testing.T) {
			w, a := newWorld(t), &agent{}
			w.version, w.prev = c.version, c.prev
			w.extra = `, "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": []}, "args": {"cni": {}}`
			w.serve(t, a)
			out, failed := w.call(t, "ADD")
			if failed != nil {
				t.Fatal(failed)
			}
			if d := cmp.Diff(decoded(t, c.prev), decoded(t, out)); d != "" {
				t.Error(d)
			}
			want := api.Pod{Namespace: "shop", Name: "web-0", UID: "u-1", ContainerID: "abc", NetNS: "/run/netns/absent", HostInterface: c.device, IPs: c.ips}
			if d := cmp.Diff([]api.Pod{want}, a.pods, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); d != "" {
				t.Error(d)
			}
			if _, failed := w.call(t, "CHECK"); failed != nil && c.version != "0.3.1" || a.questions() == 1 && c.version != "0.3.1" {
				t.Errorf("CHECK: %v, %v", failed, a.asked)
			}
		})
	}
}

func TestAddWaitsForTheAgent(t *testing.T) {
	w := newWorld(t)
	a := &agent{answer: []error{&api.Failure{Message: "still reading", Retry: true}, &api.Failure{Message: "still reading", Retry: true}, nil}}
	time.AfterFunc(300*time.Millisecond, func() { w.serve(t, a) })
	if _, failed := w.call(t, "ADD"); failed != nil || a.questions() != 3 {
		t.Errorf("%v after %d questions", failed, a.questions())
	}
}

func TestAddFailsAtTheDeadlineAndSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.timeout = "400ms"
	began := time.Now()
	_, failed := w.call(t, "ADD")
	if failed == nil || failed.Code != 11 || !strings.Contains(failed.Msg, "pod shop/web-0 are not in force after 400ms: no agent answers at "+w.socket) ||
		!strings.Contains(failed.Details, "kubectl -n sallyport-system") {
		t.Errorf("got %+v", failed)
	}
	if d := time.Since(began); d < 400*time.Millisecond || d > time.Minute {
		t.Errorf("took %v", d)
	}
	w.timeout = "3s"
	w.serve(t, &agent{answer: []error{&api.Failure{Message: "the API server is away", Retry: true}}})
	if _, failed := w.call(t, "ADD"); failed == nil || failed.Code != 11 || !strings.Contains(failed.Msg, "the API server is away") {
		t.Errorf("got %+v", failed)
	}
}

func TestAnAgentThatHangsIsNotWaitedForForever(t *testing.T) {
	w := newWorld(t)
	w.timeout = "300ms"
	l, err := net.Listen("unix", w.socket) // nobody accepts
	must(t, err)
	defer l.Close()
	if _, failed := w.call(t, "ADD"); failed == nil || failed.Code != 11 {
		t.Errorf("ADD: %+v", failed)
	}
	if _, failed := w.call(t, "DEL"); failed != nil {
		t.Errorf("DEL: %+v", failed)
	}
}

func TestErrorsOfTheAgentEndAddAndCheckAtOnce(t *testing.T) {
	w, a := newWorld(t), &agent{answer: []error{errors.New("two pods have 10.1.2.3")}}
	w.serve(t, a)
	for _, command := range []string{"ADD", "CHECK"} {
		if _, failed := w.call(t, command); failed == nil || failed.Code != 999 || !strings.Contains(failed.Msg, "pod shop/web-0: two pods have 10.1.2.3") {
			t.Errorf("%s: %+v", command, failed)
		}
	}
	if a.questions() != 2 {
		t.Errorf("asked %v", a.asked)
	}
}

func TestDelNeverFailsBecauseOfTheAgent(t *testing.T) {
	w := newWorld(t)
	w.prev = ""
	for _, answer := range []error{nil, &api.Failure{Message: "busy", Retry: true}, errors.New("unknown container")} {
		for range 2 {
			if out, failed := w.call(t, "DEL"); failed != nil || out != "" {
				t.Errorf("with %v: %q %+v", answer, out, failed)
			}
		}
		if a := (&agent{answer: []error{answer}}); answer != nil {
			w.serve(t, a)
			if _, failed := w.call(t, "DEL"); failed != nil || len(a.pods) != 1 || a.pods[0].ContainerID != "abc" || a.pods[0].Key() != "shop/web-0" {
				t.Errorf("with %v: %+v, told of %v", answer, failed, a.pods)
			}
			must(t, os.Remove(w.socket))
		}
	}
}

func TestStatusIsThatOfTheAgent(t *testing.T) {
	w := newWorld(t)
	w.version, w.prev, w.timeout = "1.1.0", "", "300ms"
	if _, failed := w.call(t, "STATUS"); failed == nil || failed.Code != 50 || !strings.Contains(failed.Msg, "no agent answers") {
		t.Errorf("got %+v", failed)
	}
	w.timeout = "2m"
	time.AfterFunc(300*time.Millisecond, func() { w.serve(t, &agent{}) }) // it restarts
	if out, failed := w.call(t, "STATUS"); failed != nil || out != "" {
		t.Errorf("%q %+v", out, failed)
	}
}

func TestGarbageAndVersionNeedNoAgent(t *testing.T) {
	w := newWorld(t)
	w.version, w.prev = "1.1.0", ""
	w.extra = `, "cni.dev/valid-attachments": [{"containerID": "abc", "ifname": "eth0"}], "cni.dev/attachments": []`
	if out, failed := w.call(t, "GC"); failed != nil || out != "" {
		t.Errorf("%q %+v", out, failed)
	}
	out, failed := w.call(t, "VERSION")
	if failed != nil || cmp.Diff([]any{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, decoded(t, out)["supportedVersions"]) != "" {
		t.Errorf("%s %+v", out, failed)
	}
}

func TestWhatIsNotConfiguredWellIsSaid(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		code   int
		want   string
	}{
		"not chained":     {func(w *world) { w.prev = "" }, 7, "is not chained"},
		"old version":     {func(w *world) { w.version = "0.2.0" }, 1, "incompatible CNI versions"},
		"unknown field":   {func(w *world) { w.extra = `, "socked": "x"` }, 7, `unknown field "socked"`},
		"no duration":     {func(w *world) { w.timeout = "30" }, 7, "such as 30s"},
		"past":            {func(w *world) { w.timeout = "-1s" }, 7, "no positive duration"},
		"no pod":          {func(w *world) { w.args = "" }, 4, "K8S_POD_NAMESPACE"},
		"no address":      {func(w *world) { w.prev = `{"cniVersion": "1.0.0", "dns": {}}` }, 7, "no address"},
		"broken result":   {func(w *world) { w.prev = `{"cniVersion": "1.0.0", "ips": 1}` }, 7, "cannot read the result"},
		"unknown command": {nil, 4, "unknown CNI_COMMAND"},
	} {
		t.Run(name, func(t *testing.T) {
			w, command := newWorld(t), "ADD"
			if c.change == nil {
				command = "FROB"
			} else {
				c.change(w)
			}
			w.serve(t, &agent{})
			if _, failed := w.call(t, command); failed == nil || failed.Code != c.code || !strings.Contains(failed.Msg+failed.Details, c.want) {
				t.Errorf("got %+v", failed)
			}
		})
	}
}
