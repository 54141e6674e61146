package datapath

import (
	"fmt"
	"maps"
	"slices"
)

// Limits are the sizes of the kernel's tables, in entries. Columns is the
// number of identities that rows have bits for; History the number of
// revisions whose slots can still be attributed. Gates that find no Index free
// do without.
type Limits struct {
	Subjects, Gates, Ranges, Rows, Columns uint32
	Indexes                                uint32
	Addresses, Prefixes, Devices           uint32
	History                                uint32
}

// DefaultLimits are the sizes that the BPF program's maps are made with.
func DefaultLimits() Limits {
	return Limits{
		Subjects: 4096, Gates: 16384, Ranges: 262144, Rows: 16384, Columns: 65536,
		Indexes:   128,
		Addresses: 131072, Prefixes: 131072, Devices: 4096, History: 64,
	}
}

// FullError says which table a plan does not fit into. Nothing of the plan is
// written: what was published holds.
type FullError struct {
	Table string
	Size  uint32 // in entries
}

func (e *FullError) Error() string {
	return fmt.Sprintf("cannot plan the change: table %s is full (%d entries); %s, or begin anew with a larger limit for %[1]s", e.Table, e.Size, remedies[e.Table])
}

// remedies say what takes less of a table. What changes needs room beside what
// it replaces.
var remedies = map[string]string{
	"subjects":  "run fewer pods on this node",
	"devices":   "run fewer pods on this node",
	"gates":     "let fewer different sets of policies select this node's pods, or change them a few at a time",
	"ranges":    "name fewer different ports in the policies of this node's pods, or change them a few at a time",
	"rows":      "name fewer different sets of peers in the policies of this node's pods, or change them a few at a time",
	"columns":   "tell fewer kinds of pods and ipBlocks apart in policies",
	"addresses": "run fewer pods in the cluster",
	"prefixes":  "name fewer different ipBlocks in policies",
}

// span is a run of neighbouring slots.
type span struct{ first, count uint32 }

// slots hands out runs of slots of one table. A run that is put back rests
// until the grace period has passed; take prefers runs that have rested.
type slots struct {
	table   string
	size    uint32
	next    uint32 // never used before
	free    []span // sorted, not adjacent
	resting []span
}

// take finds a run. early is set if runs have not rested that are free now, also
// if none will do: the grace period must pass before they are written to.
func (s *slots) take(count uint32) (first uint32, early bool, err error) {
	if first, ok := takeFrom(&s.free, count); ok {
		return first, false, nil
	}
	if s.size-s.next >= count {
		first = s.next
		s.next += count
		return first, false, nil
	}
	early = len(s.resting) > 0
	s.rest()
	if first, ok := takeFrom(&s.free, count); ok {
		return first, early, nil
	}
	return 0, early, &FullError{s.table, s.size}
}

func takeFrom(spans *[]span, count uint32) (uint32, bool) {
	i := slices.IndexFunc(*spans, func(f span) bool { return f.count >= count })
	if i < 0 {
		return 0, false
	}
	f := &(*spans)[i]
	first := f.first
	f.first += count
	f.count -= count
	if f.count == 0 {
		*spans = slices.Delete(*spans, i, i+1)
	}
	return first, true
}

// adopt takes the slots of a predecessor, as runs, before any is handed out.
// Those between them are free: the grace period passes before the first write.
func (s *slots) adopt(used map[uint32]struct{}) (held []span) {
	for _, slot := range slices.Sorted(maps.Keys(used)) {
		if slot < s.next || slot >= s.size {
			continue // reserved, or no slot of ours
		}
		if n := len(held); n > 0 && slot == s.next {
			held[n-1].count++
		} else {
			held = append(held, span{slot, 1})
		}
		if slot > s.next {
			s.undo(s.next, slot-s.next)
		}
		s.next = slot + 1
	}
	return held
}

// put gives a run back that packets may still see.
func (s *slots) put(first, count uint32) { s.resting = append(s.resting, span{first, count}) }

// undo gives a run back that no packet has seen.
func (s *slots) undo(first, count uint32) {
	i, _ := slices.BinarySearchFunc(s.free, first, func(f span, first uint32) int { return int(int64(f.first) - int64(first)) })
	s.free = slices.Insert(s.free, i, span{first, count})
	if i+1 < len(s.free) && first+count == s.free[i+1].first {
		s.free[i].count += s.free[i+1].count
		s.free = slices.Delete(s.free, i+1, i+2)
	}
	if i > 0 && s.free[i-1].first+s.free[i-1].count == first {
		s.free[i-1].count += s.free[i].count
		s.free = slices.Delete(s.free, i, i+1)
	}
}

// rest frees the runs that were put back: the grace period has passed, or will
// have before the next write.
func (s *slots) rest() {
	for _, r := range s.resting {
		s.undo(r.first, r.count)
	}
	s.resting = s.resting[:0]
}

// used is the number of slots that are neither free nor resting nor fresh.
func (s *slots) used() uint32 {
	n := s.next
	for _, f := range s.free {
		n -= f.count
	}
	for _, f := range s.resting {
		n -= f.count
	}
	return n
}
