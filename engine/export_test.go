package engine

import "fmt"

// CheckCounts holds what is kept beside the atoms against the atoms.
func (m *Matrix) CheckCounts() error {
	wide := map[*atom]bool{}
	for _, a := range m.wide {
		wide[a] = true
	}
	for _, a := range m.atoms {
		if a.isWide() != wide[a] {
			return fmt.Errorf("atom %q: in the list of wide ones %t", a.key, wide[a])
		}
	}
	if n := len(wide); n != len(m.wide) {
		return fmt.Errorf("%d wide atoms, %d of them once", len(m.wide), n)
	}
	for id := range m.sizes {
		if !m.liveIdentities.has(id) {
			continue
		}
		satisfied := 0
		for _, a := range m.atoms {
			if a.ids.has(id) {
				satisfied++
			}
		}
		if m.satisfies[id] != satisfied {
			return fmt.Errorf("identity %d satisfies %d atoms, counted are %d", id, satisfied, m.satisfies[id])
		}
	}
	return nil
}
