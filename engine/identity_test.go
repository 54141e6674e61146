package engine

import "testing"

// A row may know none of the identities that are divided, and end before them;
// what comes off may have a number that was used before.
func TestDividingWhatARowDoesNotReach(t *testing.T) {
	m := Matrix{satisfies: make([]int, 601)}
	m.satisfies[5], m.satisfies[600] = 7, 1
	near, far := &atom{}, &atom{}
	near.ids.set(3)
	far.ids.set(3)
	far.ids.set(600)
	m.atoms = append(m.atoms, near, far)
	m.copyColumns([]split{{from: 600, to: 5}})
	if near.ids.has(5) || near.ids.has(600) || !near.ids.has(3) {
		t.Errorf("what had not the divided identity: %v", near.ids)
	}
	if !far.ids.has(5) || !far.ids.has(600) {
		t.Errorf("what had the divided identity: %v", far.ids)
	}
	if n := m.satisfies[5]; n != 1 {
		t.Errorf("what came off satisfies %d atoms, want 1 as the divided one", n)
	}
}
