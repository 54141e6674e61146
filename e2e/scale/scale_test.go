package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/poll"
)

func TestMain(m *testing.M) { Main(m) }

// seconds is how long a part takes: SALLYPORT_SCALE_SECONDS, or a minute.
func seconds(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SALLYPORT_SCALE_SECONDS")
	if text == "" {
		return time.Minute
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const mb = 1 << 20

// What an agent in a large cluster may cost, and how fast it must be.
const (
	wantMemory  = 120 * mb
	wantCPU     = 0.1 // cores, while 100 pods a second change
	wantInSync  = 3 * time.Second
	wantMedian  = 50 * time.Millisecond
	wantSlowest = 500 * time.Millisecond // of a hundred
)

// TestLargeCluster measures the agent with 10,000 pods, 100 nodes and 2,000
// policies: at rest, while pods change, while everything changes, and when it
// is killed.
func TestLargeCluster(t *testing.T) {
	Needed(t)
	ctx := t.Context()
	must(t, connectPods())
	s, err := Serve(ctx, os.Stderr)
	must(t, err)
	t.Cleanup(func() { keepLogs(t) })
	must(t, s.Apply(ctx, "../../deploy/sallyport.yaml"))
	city := NewCity(s, 1)
	begin := time.Now()
	must(t, city.Populate(ctx))
	t.Logf("%d pods, %d nodes and %d policies after %s", pods, nodes, policies, time.Since(begin).Round(time.Second))

	a, err := NewAgent(s)
	must(t, err)
	must(t, a.Ready(ctx))
	shut, open := ears(t)
	t.Run("Memory", func(t *testing.T) { testMemory(t, a) })
	t.Run("CPU", func(t *testing.T) { testCPU(t, a, city) })
	t.Run("Churn", func(t *testing.T) { testChurn(t, a, city) })
	t.Run("Restart", func(t *testing.T) { testRestart(t, a, open) })
	h, err := shut.Heard()
	must(t, err)
	if h.Packets > 0 {
		t.Errorf("%d packets came to a pod that policies always forbid to reach", h.Packets)
	}
}

// ears listen where nothing may come and where everything does.
func ears(t *testing.T) (shut, open *Ear) {
	t.Helper()
	var err error
	shut, err = Listen("shut")
	must(t, err)
	open, err = Listen("open")
	must(t, err)
	must(t, Talk())
	must(t, poll.Until(t.Context(), 10*time.Second, func() error {
		h, err := open.Heard()
		if err == nil && h.Packets == 0 {
			err = fmt.Errorf("nothing comes to a pod that policies allow to reach")
		}
		return err
	}))
	return shut, open
}

func testMemory(t *testing.T, a *Agent) {
	after, err := a.InSync()
	must(t, err)
	at := a.use(t)
	cpu, _, err := a.CPU()
	must(t, err)
	time.Sleep(20 * time.Second)
	rest := a.use(t)
	t.Logf("in force %s after the first list, with %s of CPU; RSS %d MB, at rest %d MB (%d MB of it its own), at most %d MB; heap %d MB",
		after.Round(time.Millisecond), cpu, at.RSS/mb, rest.RSS/mb, rest.Anon/mb, rest.Peak/mb, rest.HeapInUse/mb)
	a.keep(t, "heap", "heap")
	if rest.Peak > wantMemory {
		t.Errorf("at most %d MB of memory, want %d", rest.Peak/mb, wantMemory/mb)
	}
	a.wantAudit(t)
}

func testCPU(t *testing.T, a *Agent, city *City) {
	m, err := a.Metrics()
	must(t, err)
	calls := city.Calls
	profiled := make(chan struct{})
	go func() {
		defer close(profiled)
		if err := a.Save("profile?seconds=30", file("cpu")); err != nil {
			t.Error(err)
		}
	}()
	before, kernelBefore, err := a.CPU()
	must(t, err)
	begin := time.Now()
	must(t, city.Churn(t.Context(), time.Minute, 100, false))
	after, kernel, err := a.CPU()
	must(t, err)
	took := time.Since(begin).Seconds()
	cores, inKernel := (after-before).Seconds()/took, (kernel-kernelBefore).Seconds()/took
	<-profiled
	now, err := a.Metrics()
	must(t, err)
	median, n := Latencies(m, now, 0.5)
	slow, _ := Latencies(m, now, 0.99)
	t.Logf("%.3f cores (%.3f of them in the kernel) for %.0f pods a second; %d publications, half within %s, 99%% within %s",
		cores, inKernel, float64(city.Calls-calls)/took, n, median, slow)
	if cores > wantCPU {
		t.Errorf("%.3f cores, want %.3f", cores, wantCPU)
	}
	if u := a.use(t); u.Peak > wantMemory {
		t.Errorf("at most %d MB of memory, want %d", u.Peak/mb, wantMemory/mb)
	}
}

func testChurn(t *testing.T, a *Agent, city *City) {
	m, err := a.Metrics()
	must(t, err)
	limit, calls := seconds(t), city.Calls
	var uses []Use
	cpu, _, err := a.CPU()
	must(t, err)
	for range 3 {
		must(t, city.Churn(t.Context(), limit/3, 50, true))
		time.Sleep(2 * time.Second)
		uses = append(uses, a.use(t))
	}
	end, _, err := a.CPU()
	must(t, err)
	now, err := a.Metrics()
	must(t, err)
	median, n := Latencies(m, now, 0.5)
	slow, _ := Latencies(m, now, 0.99)
	t.Logf("%d changes of everything in %s: %.3f cores; %d publications, half within %s, 99%% within %s",
		city.Calls-calls, limit, (end-cpu).Seconds()/limit.Seconds(), n, median, slow)
	first, last := uses[0], uses[2]
	t.Logf("after the first third: %+v", first)
	t.Logf("after the last third: %+v", last)
	a.keep(t, "goroutine?debug=1", "goroutines")
	a.keep(t, "heap", "heap-after-churn")
	a.wantAudit(t)
	if median > wantMedian || slow > wantSlowest {
		t.Errorf("half of all changes within %s and 99%% within %s, want %s and %s", median, slow, wantMedian, wantSlowest)
	}
	for _, x := range []struct {
		what             string
		first, last, may int
	}{
		{"goroutines", first.Goroutines, last.Goroutines, 5},
		{"descriptors", first.Descriptors, last.Descriptors, 5},
		{"BPF maps", first.Maps, last.Maps, 0},
		{"network namespaces", first.NetNS, last.NetNS, 0},
		{"bytes of memory", first.RSS, last.RSS, 10 * mb},
	} {
		if x.last > x.first+x.may {
			t.Errorf("%d %s after the first third of the changes, %d after the last", x.first, x.what, x.last)
		}
	}
	if last.Peak > wantMemory {
		t.Errorf("at most %d MB of memory, want %d", last.Peak/mb, wantMemory/mb)
	}
}

func testRestart(t *testing.T, a *Agent, open *Ear) {
	_, err := open.Heard()
	must(t, err)
	before := a.use(t)
	must(t, a.Kill())
	time.Sleep(time.Second)
	must(t, a.Start())
	must(t, a.Ready(t.Context()))
	ready := time.Since(a.Started)
	time.Sleep(time.Second)
	after, err := a.InSync()
	must(t, err)
	h, err := open.Heard()
	must(t, err)
	u := a.use(t)
	t.Logf("ready %s after the start, in force %s after the first list; %d packets passed, no longer than %s without one; at most %d MB",
		ready.Round(time.Millisecond), after.Round(time.Millisecond), h.Packets, h.Silence.Round(time.Millisecond), u.Peak/mb)
	// A quiet agent has forgotten what is gone.
	t.Logf("%d identities before the restart, %d after it", before.Identities, u.Identities)
	if 8*before.Identities > 9*u.Identities+8*200 {
		t.Errorf("%d identities before the restart, and %d after it", before.Identities, u.Identities)
	}
	if after > wantInSync {
		t.Errorf("in force %s after the first list, want %s", after, wantInSync)
	}
	if h.Silence > time.Second {
		t.Errorf("nothing passed for %s", h.Silence)
	}
	a.wantAudit(t)
}

func (a *Agent) use(t *testing.T) Use {
	t.Helper()
	u, err := a.Use()
	must(t, err)
	return u
}

func (a *Agent) wantAudit(t *testing.T) {
	t.Helper()
	out, err := a.Audit(t.Context(), 200)
	if err != nil {
		t.Errorf("the kernel does not enforce what the API server has: %v", err)
		return
	}
	t.Log(out)
}

func (a *Agent) keep(t *testing.T, profile, as string) {
	t.Helper()
	must(t, a.Save(profile, file(as)))
}

// keepLogs keeps logs and profiles of a test that failed.
func keepLogs(t *testing.T) {
	if !t.Failed() && os.Getenv("SALLYPORT_SCALE_KEEP") == "" {
		return
	}
	to := filepath.Join(os.TempDir(), "sallyport-scale")
	must(t, os.MkdirAll(to, 0o755))
	for _, name := range []string{"agent.log", "etcd.log", "kube-apiserver.log", "heap", "heap-after-churn", "cpu", "goroutines"} {
		if text, err := os.ReadFile(file(name)); err == nil {
			must(t, os.WriteFile(filepath.Join(to, name), text, 0o644))
		}
	}
	t.Logf("logs and profiles are in %s", to)
}
