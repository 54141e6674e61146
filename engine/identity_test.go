package engine

import "testing"

// A row may know none of the identities that are divided, and end before them;
// what comes off may have a number that was used before.
func TestDividingWhatARowDoesNotReach(t *testing.T) {
	var m Matrix
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
}
