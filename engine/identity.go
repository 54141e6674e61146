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
	satisfied := slices.Grow(m.satisfied[:0], len(m.atoms))[:len(m.atoms)]
	candidates := append(m.likely[:0], m.liveIdentities...)
	m.satisfied, m.likely = satisfied, candidates
	for i, a := range m.atoms {
		if satisfied[i] = m.has(a, u); satisfied[i] {
			candidates.and(a.ids)
		}
	}
	m.exclude(candidates, satisfied)
	if id := candidates.first(); id >= 0 {
		m.join(u, Identity(id))
		return
	}
	id := m.allocIdentity()
	for i, a := range m.atoms {
		a.ids.put(int(id), satisfied[i])
	}
	for _, r := range m.rows {
		(*bitset)(&r.Bits).put(int(id), r.passes(int(id)))
	}
	m.join(u, id)
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

// few are as many identities as are looked at one by one.
const few = 64

// exclude drops the identities that satisfy an atom which they should not:
// mostly few are left.
func (m *Matrix) exclude(candidates bitset, satisfied []bool) {
	if candidates.count() <= few {
		var room [few]int
		list := room[:0]
		candidates.each(func(id int) { list = append(list, id) })
		clear(candidates)
		for i, a := range m.atoms {
			if len(list) == 0 {
				return
			}
			if !satisfied[i] {
				list = slices.DeleteFunc(list, a.ids.has)
			}
		}
		for _, id := range list {
			candidates.set(id)
		}
		return
	}
	for i, a := range m.atoms {
		if !satisfied[i] {
			candidates.andNot(a.ids)
		}
	}
}

// settle computes the identities of a new atom, dividing those that it tells apart.
func (m *Matrix) settle(a *atom) {
	m.selectAtom(a)
	members := m.members(a, nil)
	m.copyColumns(m.refine(members))
	for _, u := range members {
		a.ids.set(int(u.identity))
	}
}
