package agent

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/lab"
)

// held is what a process holds of the machine.
type held struct{ descriptors, goroutines int }

func holding(t *testing.T) held {
	t.Helper()
	descriptors, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return held{len(descriptors), runtime.NumGoroutine()}
}

// wantHeld waits until the process holds no more than it did, since goroutines
// of connections that were closed end a moment later.
func wantHeld(t *testing.T, want held) {
	t.Helper()
	var got held
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if got = holding(t); got.descriptors <= want.descriptors && got.goroutines <= want.goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("holds %+v, before it was %+v\n%s", got, want, stacks[:runtime.Stack(stacks, true)])
}

// wantNothingLeft looks for network namespaces, pins and state of labs whose
// names have the part.
func wantNothingLeft(t *testing.T, part string) {
	t.Helper()
	for folder, prefix := range map[string]string{"/run/netns": lab.NamePrefix, LabPins: "", lab.StateDir: ""} {
		list, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range list {
			if strings.HasPrefix(e.Name(), prefix) && strings.Contains(e.Name(), part) {
				t.Errorf("%s/%s is left", folder, e.Name())
			}
		}
	}
}

// leaky is a cluster whose nodes and pods have names that no other lab's have.
func leaky(client, server string) string {
	return strings.ReplaceAll(`
apiVersion: v1
kind: Node
metadata: {name: leaky-0}
`+village(client, server), "namespace: a", "namespace: leaky")
}

// Labs that start, change, and end, and labs that cannot start, leave nothing:
// no descriptor, goroutine, network namespace or pin.
func TestLabsLeaveNothing(t *testing.T) {
	needRoot(t)
	live := func() {
		l, err := StartLab(context.Background(), cluster(t, leaky("[]", "[{}]")+podNamed("zoe", "")))
		must(t, err)
		unlock := l.unlock
		l.unlock = func() {
			wantNothingLeft(t, "")
			unlock()
		}
		events, quit := context.WithCancel(context.Background())
		over := make(chan error, 1)
		var seen atomic.Int64
		a := l.agents["leaky-0"]
		go func() { over <- a.Events(events, func(flow.Event) { seen.Add(1) }) }()
		if !connects(l, "leaky/client", "leaky/server", true) {
			t.Error("the lab does not work")
		}
		err = l.Update(context.Background(), cluster(t, leaky("[{}]", "[]")+podNamed("zoey", "")))
		if !connects(l, "leaky/server", "leaky/client", true) {
			t.Error("the lab does not follow")
		}
		for end := time.Now().Add(time.Minute); seen.Load() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		quit()
		must(t, errors.Join(err, <-over, l.Stop()))
		if seen.Load() == 0 {
			t.Error("no event was seen")
		}
	}
	live() // what is made once
	time.Sleep(100 * time.Millisecond)
	before := holding(t)
	for range 20 {
		live()
		if t.Failed() {
			return
		}
	}
	wantHeld(t, before)
	for range 5 {
		if _, err := startLab(context.Background(), cluster(t, leaky("[]", "[]")), datapath.Limits{Subjects: 2}); err == nil {
			t.Fatal("a lab that does not fit has started")
		}
		soon, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		if l, err := StartLab(soon, cluster(t, leaky("[]", "[]"))); err == nil {
			must(t, l.Stop())
		}
		cancel()
		wantNothingLeft(t, "leaky")
	}
	wantHeld(t, before)
}
