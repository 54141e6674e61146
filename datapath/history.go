package datapath

import (
	"slices"
	"sync"

	"github.com/sallyport-dev/sallyport/engine"
)

// History remembers what the slots of the last revisions stood for, so that a
// packet's report (revision, slot) can be explained after the tables moved on.
// It may be asked from any goroutine.
type History struct {
	mu       sync.RWMutex
	keep     Revision
	oldest   Revision // the first revision that is known of
	latest   Revision
	gates    map[uint32][]record[*engine.Gate]
	subjects map[uint32][]record[door]
	ended    []ended // in the order of their ends
}

// door is what one subject slot stood for.
type door struct {
	key             string
	egress, ingress uint32
}

// record holds from the revision from until before to; to is 0 while it lasts.
type record[T any] struct {
	from, to Revision
	value    T
}

type ended struct {
	at      Revision
	slot    uint32
	subject bool
}

func newHistory(keep uint32) *History {
	return &History{keep: Revision(keep), gates: map[uint32][]record[*engine.Gate]{}, subjects: map[uint32][]record[door]{}}
}

// Gate is the gate that the slot held at the revision, and the endpoints whose
// door it was. It is false for revisions that are too old or not published.
func (h *History) Gate(revision, slot uint32) (*engine.Gate, []string, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !h.knows(Revision(revision)) {
		return nil, nil, false
	}
	g, ok := at(h.gates[slot], Revision(revision))
	if !ok {
		return nil, nil, false
	}
	var keys []string
	for _, records := range h.subjects {
		if d, ok := at(records, Revision(revision)); ok && (d.egress == slot || d.ingress == slot) {
			keys = append(keys, d.key)
		}
	}
	slices.Sort(keys)
	return g, slices.Compact(keys), true
}

// Subject is the key of the endpoint that the subject slot stood for at the
// revision. It is false for revisions that are too old or not published.
func (h *History) Subject(revision, slot uint32) (string, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if !h.knows(Revision(revision)) {
		return "", false
	}
	d, ok := at(h.subjects[slot], Revision(revision))
	return d.key, ok
}

func (h *History) knows(r Revision) bool {
	return r >= h.oldest && r <= h.latest && h.latest-r < h.keep
}

func at[T any](records []record[T], r Revision) (value T, ok bool) {
	for _, v := range slices.Backward(records) {
		if v.from <= r && (v.to == 0 || r < v.to) {
			return v.value, true
		}
	}
	return value, false
}

// update runs the changes of one publication and forgets the oldest.
func (h *History) update(r Revision, change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.oldest == 0 {
		h.oldest = r
	}
	h.latest = r
	change()
	for len(h.ended) > 0 && h.ended[0].at+h.keep <= r {
		e := h.ended[0]
		h.ended = h.ended[1:]
		if e.subject {
			forget(h.subjects, e)
		} else {
			forget(h.gates, e)
		}
	}
}

func forget[T any](records map[uint32][]record[T], e ended) {
	left := slices.DeleteFunc(records[e.slot], func(r record[T]) bool { return r.to != 0 && r.to <= e.at })
	if len(left) == 0 {
		delete(records, e.slot)
		return
	}
	records[e.slot] = left
}

func (h *History) startGate(slot uint32, g *engine.Gate) {
	h.gates[slot] = append(h.gates[slot], record[*engine.Gate]{from: h.latest, value: g})
}

func (h *History) endGate(slot uint32) {
	if end(h.gates[slot], h.latest) {
		h.ended = append(h.ended, ended{h.latest, slot, false})
	}
}

func (h *History) startSubject(slot uint32, d door) {
	h.endSubject(slot)
	h.subjects[slot] = append(h.subjects[slot], record[door]{from: h.latest, value: d})
}

func (h *History) endSubject(slot uint32) {
	if end(h.subjects[slot], h.latest) {
		h.ended = append(h.ended, ended{h.latest, slot, true})
	}
}

func end[T any](records []record[T], r Revision) bool {
	if n := len(records); n > 0 && records[n-1].to == 0 {
		records[n-1].to = r
		return true
	}
	return false
}
