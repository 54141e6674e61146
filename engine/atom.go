package engine

import (
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
	listed   int // the last walk of Matrix.walks that listed it
}

// atom is the peer list of a rule as a whole, the finest thing that a policy
// can ask of an address. With a base it is that atom's destinations whose
// named port has the number.
type atom struct {
	id        int
	key       string
	refs      int
	any       bool
	selectors []*model.EndpointSelector // of peers that are pods by labels
	blocks    []*model.IPBlock          // of peers that are a prefix
	peers     []peer                    // all others
	picked    []*picked                 // in peers
	base      *atom
	port      named
	number    uint16
	classes   bitset // by selectors; of a base atom only
	ids       bitset // identities
	listed    int    // the last walk of Matrix.walks that listed it
}

// internAtom finds or makes the atom of a rule's peers and takes a reference.
func (m *Matrix) internAtom(r *rule, peers []peer) (a *atom, added bool) {
	key := peersKey(m.keyBuf[:0], r, peers)
	m.keyBuf = key
	if a := m.atomByKey[string(key)]; a != nil {
		a.refs++
		return a, false
	}
	a = &atom{key: string(key), refs: 1, any: r.any, peers: peers}
	for _, p := range r.direct {
		if p.Pods != nil {
			a.selectors = append(a.selectors, p.Pods)
		} else {
			a.blocks = append(a.blocks, p.Block)
		}
	}
	for i := range peers {
		peers[i].eachPicked(func(p *picked) { a.picked = append(a.picked, p) })
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
	a.eachSelector(func(s *model.EndpointSelector) { m.askers.add(s, a) })
	if a.isWide() {
		m.wide = append(m.wide, a)
	}
}

// isWide says whether not only its selectors decide who satisfies the atom.
func (a *atom) isWide() bool {
	return a.any || a.base != nil || len(a.blocks) > 0 || len(a.peers) > 0
}

// eachSelector visits the selectors of pods that the atom looks at.
func (a *atom) eachSelector(visit func(*model.EndpointSelector)) {
	for _, s := range a.selectors {
		visit(s)
	}
	for _, p := range a.picked {
		visit(p.selector)
	}
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
	a.ids.each(func(id int) { m.satisfies[id]-- })
	a.eachSelector(func(s *model.EndpointSelector) { m.askers.remove(s, a) })
	if a.isWide() {
		i := slices.Index(m.wide, a)
		m.wide[i] = m.wide[len(m.wide)-1]
		m.wide = m.wide[:len(m.wide)-1]
	}
	m.freeAtoms = append(m.freeAtoms, a.id)
	if a.base != nil {
		m.releaseAtom(a.base)
	}
}

func peersKey(b []byte, r *rule, peers []peer) []byte {
	if r.any {
		return append(b, '*')
	}
	for _, p := range r.direct {
		b = append(b, '/')
		if p.Pods != nil {
			b = p.Pods.AppendKey(append(b, 'p'))
		} else {
			b = appendBlock(b, p.Block)
		}
	}
	for i := range peers {
		b = peers[i].appendKey(append(b, '+'))
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
func (m *Matrix) has(a *atom, u *unit) bool {
	if a.base != nil {
		if u.class == nil {
			return false
		}
		number, ok := u.class.namedPort(a.port)
		return ok && number == a.number && m.has(a.base, u)
	}
	if a.any || u.class != nil && a.classes.has(u.class.id) || a.coversNode(u.node) {
		return true
	}
	for i := range a.peers {
		if m.matches(&a.peers[i], u) {
			return true
		}
	}
	return false
}

func (a *atom) coversNode(n *prefixNode) bool {
	for i := range a.blocks {
		if covers(a.blocks[i], n) {
			return true
		}
	}
	return false
}

// selectAtom computes which classes the atom's selectors select.
func (m *Matrix) selectAtom(a *atom) {
	for i := range a.selectors {
		a.classes.or(m.selectClasses(a.selectors[i]))
	}
	for _, p := range a.picked {
		p.classes.or(m.selectClasses(p.selector))
	}
}

// selectFor sees which of the atom's selectors select a class that is new.
func (m *Matrix) selectFor(a *atom, c *class) {
	if slices.ContainsFunc(a.selectors, func(s *model.EndpointSelector) bool { return m.selects(s, c) }) {
		a.classes.set(c.id)
	}
	for _, p := range a.picked {
		if m.selects(p.selector, c) {
			p.classes.set(c.id)
		}
	}
}

// forget takes the class, whose number another one may get, out of the atom.
func (a *atom) forget(c *class) {
	a.classes.clear(c.id)
	for _, p := range a.picked {
		p.classes.clear(c.id)
	}
}

// inherit has the child be to the atom what its parent is.
func (a *atom) inherit(parent, child *class) {
	if a.classes.has(parent.id) {
		a.classes.set(child.id)
	}
	for _, p := range a.picked {
		if p.classes.has(parent.id) {
			p.classes.set(child.id)
		}
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
		kept := slices.DeleteFunc(out[first:], func(u *unit) bool { return !m.has(a, u) })
		return out[:first+len(kept)]
	case len(a.peers) > 0:
		return m.membersByPeer(a, out)
	case len(a.blocks) > 0:
		return m.membersByBlock(a, out)
	}
	a.classes.each(func(i int) { out = append(out, m.classes[i].units...) })
	return out
}

// membersByPeer lists the units of an atom that has peers which ask more than
// one thing, each once.
func (m *Matrix) membersByPeer(a *atom, out []*unit) []*unit {
	m.walks++
	first := len(out)
	out = m.membersByBlock(a, out)
	for _, u := range out[first:] {
		u.listed = m.walks
	}
	for i := range a.peers {
		m.candidates(&a.peers[i], func(u *unit) {
			if u.listed != m.walks && m.matches(&a.peers[i], u) {
				u.listed = m.walks
				out = append(out, u)
			}
		})
	}
	return out
}

// membersByBlock lists the units of an atom that has blocks: a bit set over
// prefix nodes decides about them, so that a unit in two blocks counts once.
func (m *Matrix) membersByBlock(a *atom, out []*unit) []*unit {
	a.classes.each(func(i int) { out = append(out, m.classes[i].units...) })
	if len(a.blocks) == 0 {
		return out
	}
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
