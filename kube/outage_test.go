package kube

import (
	"strings"
	"testing"
	"time"
)

// patient waits for an hour for an API server that is away, if nobody wakes it.
func patient() *pace {
	return &pace{silence: time.Hour, backoff: time.Hour, refused: time.Millisecond, longest: time.Hour, probe: 50 * time.Millisecond, discover: time.Hour}
}

func failing(w *Watcher) (n int) {
	for _, h := range w.Health() {
		if h.Err != nil {
			n++
		}
	}
	return n
}

// required is how many resources every cluster has.
func requiredOf(w *Watcher) (n int) {
	for _, h := range w.Health() {
		if !h.Optional {
			n++
		}
	}
	return n
}

// TestAnAPIServerThatReturns: nobody waits for his own turn to try again.
func TestAnAPIServerThatReturns(t *testing.T) {
	s := world(t)
	f := following(t, s, patient())
	f.next()
	f.settle() // a watch without an event would be one that does not work
	watched := 0
	for _, h := range f.w.Health() {
		if h.Synced {
			watched++
		}
	}
	for _, gone := range []*bool{&s.away, &s.down} {
		s.set(func() { *gone, s.unready = true, true })
		s.cut()
		s.Server.CloseClientConnections()
		eventually(t, func() bool { return failing(f.w) >= watched })
		said := Outages(f.w.Health())
		if len(said) != 1 || !strings.HasPrefix(said[0], "the API server is away since ") || strings.Contains(said[0], "/api/v1") {
			t.Errorf("says %q", said)
		}
		watches := s.count("WATCH /api/v1/pods")
		s.set(func() { *gone = false })
		asked := s.count("LIST /readyz")
		eventually(t, func() bool { return s.count("LIST /readyz") > asked+3 })
		if n := failing(f.w); n < watched || s.count("WATCH /api/v1/pods") != watches {
			t.Errorf("the API server was asked for pods before it was ready; %d resources fail", n)
		}
		s.set(func() { s.unready = false })
		eventually(t, func() bool { return failing(f.w) == 0 })
		if said := Outages(f.w.Health()); len(said) > 0 {
			t.Errorf("says %q", said)
		}
		f.caughtUp()
	}
}

// TestAnAPIServerThatIsAwayAtFirst: also those that look for optional resources
// go on at once.
func TestAnAPIServerThatIsAwayAtFirst(t *testing.T) {
	s := world(t)
	s.down = true
	f := following(t, s, patient())
	eventually(t, func() bool { return failing(f.w) == len(resources) })
	s.set(func() { s.down = false })
	f.next()
}

// TestOneResourceThatCannotBeRead is no reason to ask for it again and again.
func TestOneResourceThatCannotBeRead(t *testing.T) {
	s := world(t)
	path := pathOf(resourceNamed("services"))
	s.broken[path] = true
	f := following(t, s, patient())
	eventually(t, func() bool { return failing(f.w) == 1 && s.count("LIST /readyz") == 1 })
	time.Sleep(500 * time.Millisecond) // ten questions, were it asked on
	if n, asked := s.count("LIST "+path)+s.count("WATCH "+path), s.count("LIST /readyz"); n != 1 || asked != 1 {
		t.Errorf("it was asked for %d times, and the API server %d times whether it is ready", n, asked)
	}
	if said := Outages(f.w.Health()); len(said) != 1 || !strings.HasPrefix(said[0], "services: since ") {
		t.Errorf("says %q", said)
	}
}
