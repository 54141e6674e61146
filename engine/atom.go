package engine

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// unit is a class's addresses within one prefix node, or, without a class, the
// node's addresses that are no pod's. All its addresses have one identity.
type unit struct {
	class    *class
	node     *prefixNode
	identity Identity
}

// atom is the peer list of a rule as a whole, the finest thing that a policy
// can ask of an address. With a base it is that atom's destinations whose
// named port has the number.
type atom struct {
	id        int
	key       string
	refs      int
	any       bool
	selectors []*model.EndpointSelector
	blocks    []*model.IPBlock
	base      *atom
	port      named
	number    uint16
	classes   bitset // by selectors; of a base atom only
	ids       bitset // identities
}

// internAtom finds or makes the atom of a rule's peers and takes a reference.
func (m *Matrix) internAtom(r *model.Rule) (a *atom, added bool) {
	key := peersKey(m.keyBuf[:0], r)
	m.keyBuf = key
	if a := m.atomByKey[string(key)]; a != nil {
		a.refs++
		return a, false
	}
	a = &atom{key: string(key), refs: 1, any: r.AnyPeer}
	for i := range r.Peers {
		p := &r.Peers[i]
		if p.Pods != nil {
			a.selectors = append(a.selectors, p.Pods)
		}
		if p.Block != nil {
			a.blocks = append(a.blocks, p.Block)
		}
	}
	m.addAtom(a)
	return a, true
}

func (m *Matrix) addAtom(a *atom) {
	if n := len(m.freeAtoms); n > 0 {
		a.id = m.freeAtoms[n-1]
		m.freeAtoms = m.freeAtoms[:n-1]
	} else {
		a.id = m.nextAtom
		m.nextAtom++
	}
	m.atomByKey[a.key] = a
	m.atoms = append(m.atoms, a)
}

// releaseAtom gives a reference back; the identities that only it told apart
// stay apart until the next compilation from scratch.
func (m *Matrix) releaseAtom(a *atom) {
	if a.refs--; a.refs > 0 {
		return
	}
	delete(m.atomByKey, a.key)
	i := slices.Index(m.atoms, a)
	m.atoms = slices.Delete(m.atoms, i, i+1)
	m.freeAtoms = append(m.freeAtoms, a.id)
	if a.base != nil {
		m.releaseAtom(a.base)
	}
}

func peersKey(b []byte, r *model.Rule) []byte {
	if r.AnyPeer {
		return append(b, '*')
	}
	for i := range r.Peers {
		b = append(b, '/')
		if p := r.Peers[i].Pods; p != nil {
			b = p.AppendKey(append(b, 'p'))
		}
		if p := r.Peers[i].Block; p != nil {
			b = p.CIDR.AppendTo(append(b, 'b'))
			for _, e := range p.Except {
				b = e.AppendTo(append(b, '-'))
			}
		}
	}
	return b
}

// restrict finds or makes the atom of the base's destinations whose named
// port has the number, and takes a reference.
func (m *Matrix) restrict(base *atom, n named, number uint16) (a *atom, added bool) {
	key := restrictedKey(base, n, number)
	if a := m.atomByKey[key]; a != nil {
		a.refs++
		return a, false
	}
	base.refs++
	a = &atom{key: key, refs: 1, base: base, port: n, number: number}
	m.addAtom(a)
	return a, true
}

func restrictedKey(base *atom, n named, number uint16) string {
	return "@" + strconv.Itoa(base.id) + "/" + strconv.Itoa(int(n.protocol)) + "/" + strconv.Itoa(int(number)) + "/" + n.name
}

// has says whether the unit's addresses satisfy the atom.
func (a *atom) has(u *unit) bool {
	if a.base != nil {
		if u.class == nil {
			return false
		}
		number, ok := u.class.namedPort(a.port)
		return ok && number == a.number && a.base.has(u)
	}
	return a.any || u.class != nil && a.classes.has(u.class.id) || a.coversNode(u.node)
}

func (a *atom) coversNode(n *prefixNode) bool {
	for i := range a.blocks {
		if covers(a.blocks[i], n) {
			return true
		}
	}
	return false
}

// prefixesOf lists every prefix that the atom's blocks name.
func (a *atom) prefixesOf(out []netip.Prefix) []netip.Prefix {
	for i := range a.blocks {
		out = append(append(out, a.blocks[i].CIDR), a.blocks[i].Except...)
	}
	return out
}

// selectAtom computes which classes the atom's selectors select.
func (m *Matrix) selectAtom(a *atom) {
	for i := range a.selectors {
		a.classes.or(m.selectClasses(a.selectors[i]))
	}
}

// members lists the units that satisfy the atom.
func (m *Matrix) members(a *atom, out []*unit) []*unit {
	switch {
	case a.any:
		return append(out, m.units...)
	case a.base != nil:
		first := len(out)
		out = m.members(a.base, out)
		kept := slices.DeleteFunc(out[first:], func(u *unit) bool { return !a.has(u) })
		return out[:first+len(kept)]
	case len(a.blocks) > 0:
		return m.membersByBlock(a, out)
	}
	a.classes.each(func(i int) { out = append(out, m.classes[i].units...) })
	return out
}

// membersByBlock lists the units of an atom that has blocks: a bit set over
// prefix nodes decides about them, so that a unit in two blocks counts once.
func (m *Matrix) membersByBlock(a *atom, out []*unit) []*unit {
	a.classes.each(func(i int) { out = append(out, m.classes[i].units...) })
	seen := map[*prefixNode]bool{}
	for i := range a.blocks {
		for _, n := range m.subtree(a.blocks[i].CIDR) {
			if seen[n] || !covers(a.blocks[i], n) {
				continue
			}
			seen[n] = true
			out = append(out, n.external)
			for _, u := range m.podUnits[n] {
				if !a.classes.has(u.class.id) {
					out = append(out, u)
				}
			}
		}
	}
	return out
}
