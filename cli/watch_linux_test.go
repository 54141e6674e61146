package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/sallyport-dev/sallyport/lab"
)

const watchedPods = `
apiVersion: v1
kind: Pod
metadata: {name: friend, namespace: a, labels: {app: friend}}
spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: a, labels: {app: server}}
status: {podIP: 10.244.3.3}
spec: {containers: [{name: c, ports: [{containerPort: 90, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: a, labels: {app: stranger}}
spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}
`

// letIn is the policy that lets only one app reach the server.
func letIn(app string) string {
	return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: a}
spec:
  podSelector: {matchLabels: {app: server}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: ` + app + `}}}]
`
}

// console collects what a lab says.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

// take waits for a text and returns all that was said up to now; the next take
// begins behind it.
func (c *console) take(t testing.TB, want string) string {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		said := c.text.String()
		found := strings.Contains(said, want)
		if found {
			c.text.Reset()
		}
		c.mu.Unlock()
		if found {
			return said
		}
	}
	t.Fatalf("nobody said %q, but:\n%s", want, c.text.String())
	return ""
}

// watchedLab is a lab that follows a folder.
type watchedLab struct {
	folder, beside string // beside is outside of the folder, for renames
	stderr         console
}

func startWatchedLab(t testing.TB) *watchedLab {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
			t.Fatal("this test needs root, and SALLYPORT_REQUIRE_ROOT is set")
		}
		t.Skip("SKIPPED, NOT TESTED: needs root for network namespaces and BPF")
	}
	root := t.TempDir()
	l := &watchedLab{folder: filepath.Join(root, "manifests"), beside: root}
	must(t, os.Mkdir(l.folder, 0o755))
	l.write(t, "pods.yaml", watchedPods)
	l.write(t, "policy.yaml", letIn("friend"))
	s := &session{stdin: strings.NewReader(""), stdout: &l.stderr, stderr: &l.stderr, files: []string{l.folder}, nodes: 1}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- s.lab(ctx, labFlags{watch: true}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	l.stderr.take(t, "run a command in a pod")
	return l
}

// write puts a file into the folder at once, and says when.
func (l *watchedLab) write(t testing.TB, name, text string) time.Time {
	t.Helper()
	next := filepath.Join(l.beside, "next")
	must(t, os.WriteFile(next, []byte(text), 0o644))
	now := time.Now()
	must(t, os.Rename(next, filepath.Join(l.folder, name)))
	return now
}

// pinger asks the server from a pod every millisecond.
type pinger struct {
	conn    net.Conn
	asked   atomic.Int64 // how many questions
	replied atomic.Int64 // when the last answer came, in nanoseconds
	upTo    atomic.Int64 // how many had been asked then
	done    sync.WaitGroup
}

func startPinger(t testing.TB, from string) *pinger {
	t.Helper()
	state, err := lab.ReadState()
	must(t, err)
	p := &pinger{}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := netns.GetFromName(state.Pods[from].NetNS)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			p.conn, err = net.Dial("udp4", "10.244.3.3:90")
		}
		ready <- err
	}()
	must(t, <-ready)
	p.done.Go(func() {
		for {
			if _, err := p.conn.Write([]byte("?")); errors.Is(err, net.ErrClosed) {
				return
			}
			p.asked.Add(1)
			time.Sleep(time.Millisecond)
		}
	})
	p.done.Go(func() {
		buf := make([]byte, 64)
		for {
			if _, err := p.conn.Read(buf); err == nil {
				p.replied.Store(time.Now().UnixNano())
				p.upTo.Store(p.asked.Load())
			} else if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	})
	t.Cleanup(func() {
		p.conn.Close()
		p.done.Wait()
	})
	return p
}

// answered waits for an answer after the time and says when the first came.
func (p *pinger) answered(after time.Time) (time.Time, bool) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if at := time.Unix(0, p.replied.Load()); at.After(after) {
			return at, true
		}
	}
	return time.Time{}, false
}

// silent waits until no answers come any more and says when the last one did.
// It goes by questions, of which few are asked while the machine is busy.
func (p *pinger) silent(patience int64) (time.Time, bool) {
	const quiet = 100
	begin := p.asked.Load()
	for p.asked.Load() < begin+patience {
		time.Sleep(time.Millisecond)
		at := time.Unix(0, p.replied.Load())
		if p.asked.Load()-max(begin, p.upTo.Load()) > quiet {
			return at, true
		}
	}
	return time.Time{}, false
}

// expect says which of two pingers gets answers.
func expect(t *testing.T, when string, open, shut *pinger) {
	t.Helper()
	if _, ok := open.answered(time.Now()); !ok {
		t.Errorf("%s: who is let in does not get through", when)
	}
	if _, ok := shut.silent(1000); !ok {
		t.Errorf("%s: who is not let in gets through", when)
	}
}

// What is wrong in a watched folder is named with its place and changes
// nothing; when it is repaired it is applied.
func TestBrokenInputLeavesTheLastGoodState(t *testing.T) {
	l := startWatchedLab(t)
	apps := [2]string{"friend", "stranger"}
	pods := [2]*pinger{startPinger(t, "a/friend"), startPinger(t, "a/stranger")}
	expect(t, "at first", pods[0], pods[1])
	policy, extra := filepath.Join(l.folder, "policy.yaml"), filepath.Join(l.folder, "extra.yaml")
	for i, x := range []struct {
		name   string
		damage func(next string) // next is the policy that is wanted
		says   string
	}{
		{"broken YAML", func(next string) {
			l.write(t, "policy.yaml", strings.Replace(next, "spec:", "spec: {", 1))
		}, policy + ":"},
		{"unknown field", func(next string) {
			l.write(t, "policy.yaml", strings.Replace(next, "podSelector", "podSelectr", 1))
		}, policy + ":6:3: error"},
		{"half a file", func(next string) {
			must(t, os.WriteFile(policy, []byte(next[:len(next)-8]), 0o644)) // not by a rename
		}, policy + ":"},
		{"policy twice", func(next string) { l.write(t, "extra.yaml", next) }, policy + ":2:1: error"},
		{"link to nowhere", func(next string) {
			l.write(t, "policy.yaml", next)
			must(t, os.Symlink(filepath.Join(l.beside, "nowhere"), extra))
		}, extra},
		{"folder with a file's name", func(next string) {
			l.write(t, "policy.yaml", next)
			must(t, os.Symlink(l.beside, extra))
		}, extra},
		{"folder gone", func(next string) {
			must(t, os.Rename(l.folder, l.folder+"-away"))
		}, l.folder},
	} {
		before, after := i%2, 1-i%2
		l.stderr.take(t, "")
		x.damage(letIn(apps[after]))
		said := l.stderr.take(t, "the last good state holds")
		if !strings.Contains(said, x.says) {
			t.Errorf("%s: said %q, which does not name %s", x.name, said, x.says)
		}
		expect(t, x.name, pods[before], pods[after])
		// The repair.
		if _, err := os.Stat(l.folder); err != nil {
			must(t, os.Rename(l.folder+"-away", l.folder))
			l.stderr.take(t, "applied")
		}
		l.write(t, "policy.yaml", letIn(apps[after]))
		_ = os.Remove(extra)
		l.stderr.take(t, "applied")
		expect(t, x.name+", repaired", pods[after], pods[before])
		if t.Failed() {
			return
		}
	}
}

// changes lets the friend in and shuts it out n times by turns, and says how
// long after the file each change was enforced.
func (l *watchedLab) changes(t testing.TB, friend *pinger, n int) (took []time.Duration) {
	t.Helper()
	for i := range n {
		// Begin when what was before is plainly seen.
		if i%2 == 0 {
			if _, ok := friend.answered(time.Now()); !ok {
				t.Fatal("the friend does not get through")
			}
			began := l.write(t, "policy.yaml", letIn("stranger"))
			last, ok := friend.silent(5000)
			if !ok {
				t.Fatal("the change is never enforced")
			}
			took = append(took, last.Add(time.Millisecond).Sub(began)) // the first that was not answered
			continue
		}
		began := l.write(t, "policy.yaml", letIn("friend"))
		first, ok := friend.answered(began)
		if !ok {
			t.Fatal("the change is never enforced")
		}
		took = append(took, first.Sub(began))
	}
	return took
}

func TestAChangedFileIsEnforced(t *testing.T) {
	l := startWatchedLab(t)
	took := l.changes(t, startPinger(t, "a/friend"), 20)
	t.Logf("from the rename to the first probe: %v", took)
}

// BenchmarkAChangedFile is how soon a packet meets a changed policy. It fails
// if that takes long, which a test cannot ask of a machine that may be busy.
func BenchmarkAChangedFile(b *testing.B) {
	l := startWatchedLab(b)
	friend := startPinger(b, "a/friend")
	var took []time.Duration
	for b.Loop() {
		took = append(took, l.changes(b, friend, 20)...)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	b.ReportMetric(float64(median.Microseconds())/1000, "median-ms")
	if median > 100*time.Millisecond || took[0] < settle {
		b.Errorf("from the rename to the first probe: %v", took)
	}
}

// A watcher tells of what has changed since it was made, of folders that come
// anew and of what is in them, even if the watched folder itself is replaced;
// and of nothing beside it. Files that are never quiet are told of as well.
func TestWatcher(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "manifests")
	link := filepath.Join(root, "link")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Symlink(dir, link))
	for _, path := range []string{dir, link} {
		w, err := watch([]string{path})
		must(t, err)
		touch := func(name string) { must(t, os.WriteFile(filepath.Join(root, name), []byte("x"), 0o644)) }
		touch("manifests/a.yaml") // before anybody listens
		ctx, cancel := context.WithCancel(context.Background())
		told := make(chan error, 100)
		over := make(chan error, 1)
		go func() { over <- w.run(ctx, func(err error) { told <- err }) }()
		expect := func(what string, want bool) {
			t.Helper()
			select {
			case err := <-told:
				if !want || err != nil {
					t.Errorf("%s: %s: told, %v", filepath.Base(path), what, err)
				}
			case <-time.After(map[bool]time.Duration{true: time.Minute, false: 100 * time.Millisecond}[want]):
				if want {
					t.Errorf("%s: %s: not told", filepath.Base(path), what)
				}
			}
		}
		expect("a change before run", true)
		touch("other.yaml")
		expect("a file beside the folder", false)
		must(t, os.MkdirAll(filepath.Join(dir, "sub", "deeper"), 0o755))
		expect("new folders", true)
		touch("manifests/sub/deeper/b.yaml")
		expect("a file in a new folder", true)
		must(t, os.RemoveAll(dir))
		expect("the folder removed", true)
		must(t, os.Mkdir(dir, 0o755))
		if path == dir {
			expect("the folder made anew", true)
			touch("manifests/c.yaml")
			expect("a file in the folder made anew", true)
			busy, stop := context.WithCancel(ctx)
			var writer sync.WaitGroup
			writer.Go(func() {
				for i := 0; busy.Err() == nil; i++ {
					touch(fmt.Sprint("manifests/busy-", i%2))
					time.Sleep(settle / 4)
				}
			})
			expect("a folder that is never quiet", true)
			stop()
			writer.Wait()
		}
		cancel()
		must(t, <-over)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
