package engine

import (
	"math/bits"
	"slices"
)

// newUnit makes a unit without an identity yet.
func (m *Matrix) newUnit(c *class, n *prefixNode) *unit {
	u := &unit{class: c, node: n}
	m.units = append(m.units, u)
	if c == nil {
		n.external = u
		return u
	}
	c.units = append(c.units, u)
	m.podUnits[n] = append(m.podUnits[n], u)
	return u
}

// unitOf finds the class's unit in the node, or nil.
func (c *class) unitOf(n *prefixNode) *unit {
	for _, u := range c.units {
		if u.node == n {
			return u
		}
	}
	return nil
}

func (m *Matrix) dropUnit(u *unit) {
	m.leave(u)
	i := slices.Index(m.units, u)
	m.units[i] = m.units[len(m.units)-1]
	m.units = m.units[:len(m.units)-1]
	inNode := m.podUnits[u.node]
	if i := slices.Index(inNode, u); i >= 0 {
		m.podUnits[u.node] = slices.Delete(inNode, i, i+1)
	}
}

// join gives the unit an identity that has a column already.
func (m *Matrix) join(u *unit, id Identity) {
	u.identity = id
	m.sizes[id]++
}

// leave takes the unit out of its identity; an identity without units is
// freed, and its column may be used again from the next change on.
func (m *Matrix) leave(u *unit) {
	m.sizes[u.identity]--
	if m.sizes[u.identity] == 0 {
		m.liveIdentities.clear(int(u.identity))
		m.delta.Freed = append(m.delta.Freed, u.identity)
	}
	u.identity = 0
}

func (m *Matrix) allocIdentity() Identity {
	var id Identity
	if n := len(m.freeIdentities); n > 0 {
		id = m.freeIdentities[n-1]
		m.freeIdentities = m.freeIdentities[:n-1]
	} else {
		id = Identity(len(m.sizes))
		m.sizes = append(m.sizes, 0)
		m.satisfies = append(m.satisfies, 0)
	}
	m.liveIdentities.set(int(id))
	m.delta.Identities = append(m.delta.Identities, id)
	return id
}

// split is an identity that came off another.
type split struct{ from, to Identity }

// refine divides identities so that none has both members and non-members.
func (m *Matrix) refine(members []*unit) []split {
	for len(m.touched) < len(m.sizes) {
		m.touched = append(m.touched, 0)
	}
	order := m.order[:0]
	for _, u := range members {
		if m.touched[u.identity] == 0 {
			order = append(order, u.identity)
		}
		m.touched[u.identity]++
	}
	m.order = order
	var splits []split
	for _, id := range order {
		divided := m.touched[id] < m.sizes[id]
		m.touched[id] = 0
		if divided {
			splits = append(splits, split{id, m.allocIdentity()})
			m.touched[id] = -len(splits)
		}
	}
	if len(splits) == 0 {
		return nil
	}
	for _, u := range members {
		if n := m.touched[u.identity]; n < 0 {
			m.sizes[u.identity]--
			m.join(u, splits[-n-1].to)
			m.noteMove(u)
		}
	}
	for _, s := range splits {
		m.touched[s.from] = 0
	}
	return splits
}

// touch reports the class's pods as changed.
func (m *Matrix) touch(c *class) {
	if m.moved != nil {
		m.moved[c] = struct{}{}
	}
}

// noteMove reports the unit's addresses as changed.
func (m *Matrix) noteMove(u *unit) {
	if u.class != nil {
		m.touch(u.class)
	} else {
		m.delta.Prefixes = append(m.delta.Prefixes, u.node.prefix)
	}
}

// copyColumns gives every identity that came off another the same bits. It
// goes by the bits that are set, for few are.
func (m *Matrix) copyColumns(splits []split) {
	if len(splits) == 0 {
		return
	}
	var from, to bitset
	target := map[int]int{}
	for _, s := range splits {
		from.set(int(s.from))
		to.set(int(s.to))
		target[int(s.from)] = int(s.to)
		m.satisfies[s.to] = m.satisfies[s.from]
	}
	inherit := func(b *bitset) {
		b.grow(len(to))
		b.andNot(to)
		for w := range min(len(from), len(*b)) { // it may end before the identities that are divided
			for hits := (*b)[w] & from[w]; hits != 0; hits &= hits - 1 {
				b.set(target[w<<6+bits.TrailingZeros64(hits)])
			}
		}
	}
	for _, a := range m.atoms {
		inherit(&a.ids)
	}
	for _, r := range m.rows {
		inherit((*bitset)(&r.Bits))
	}
}

// identify finds the identity of a new unit by the atoms that it satisfies,
// or makes one and fills its column.
func (m *Matrix) identify(u *unit) {
	satisfied := m.satisfiedBy(u)
	candidates := append(m.likely[:0], m.liveIdentities...)
	m.likely = candidates
	for _, a := range satisfied {
		candidates.and(a.ids)
	}
	// They satisfy all that the unit does; who satisfies no more is the same.
	same := Identity(0)
	candidates.each(func(id int) {
		if same == 0 && m.satisfies[id] == len(satisfied) {
			same = Identity(id)
		}
	})
	if same != 0 {
		m.join(u, same)
		return
	}
	id := m.allocIdentity()
	m.satisfies[id] = len(satisfied)
	for _, a := range m.atoms {
		a.ids.clear(int(id))
	}
	for _, a := range satisfied {
		a.ids.set(int(id))
	}
	for _, r := range m.rows {
		(*bitset)(&r.Bits).put(int(id), r.passes(int(id)))
	}
	m.join(u, id)
}

// satisfiedBy lists the atoms that the unit satisfies. It is good until the
// next call.
func (m *Matrix) satisfiedBy(u *unit) []*atom {
	m.walks++
	out := m.satisfied[:0]
	try := func(a *atom) {
		if a.listed != m.walks && m.has(a, u) {
			a.listed = m.walks
			out = append(out, a)
		}
	}
	for _, a := range m.wide {
		try(a)
	}
	if u.class != nil {
		for a := range m.askers.of(u.class) {
			try(a)
		}
	}
	m.satisfied = out
	return out
}

// reidentify finds the unit's identity anew, after what policies see of it
// changed, unless every atom says of it what it said.
func (m *Matrix) reidentify(u *unit) {
	if !slices.ContainsFunc(m.atoms, func(a *atom) bool { return m.has(a, u) != a.ids.has(int(u.identity)) }) {
		return
	}
	m.leave(u)
	m.identify(u)
	m.noteMove(u)
}

// settle computes the identities of a new atom, dividing those that it tells apart.
func (m *Matrix) settle(a *atom) {
	m.selectAtom(a)
	members := m.members(a, nil)
	m.copyColumns(m.refine(members))
	m.fillAtom(a, members)
}

// fillAtom gives an atom that has no identities yet those of its members.
func (m *Matrix) fillAtom(a *atom, members []*unit) {
	for _, u := range members {
		if !a.ids.has(int(u.identity)) {
			a.ids.set(int(u.identity))
			m.satisfies[u.identity]++
		}
	}
}
