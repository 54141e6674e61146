package engine

import (
	"cmp"
	"encoding/binary"
	"iter"
	"math/bits"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Group is a set of pods of one workload that no policy tells apart.
type Group struct {
	Endpoints []*model.Endpoint // sorted by name, never empty

	class    *class // nil: hostNetwork
	identity Identity
}

// Groups lists the groups, sorted by namespace, workload kind and name, and
// first pod.
func (m *Matrix) Groups() []Group {
	type key struct {
		namespace string
		workload  model.Workload
		class     *class
		identity  Identity
	}
	index := map[key]int{}
	var out []Group
	var last key
	i := -1
	for _, e := range m.byKey() {
		k := key{e.Namespace, e.Workload, e.class, m.end(Party{Endpoint: e.Endpoint}).identity}
		ok := i >= 0 && k == last
		if last = k; !ok {
			i, ok = index[k]
		}
		if !ok {
			i = len(out)
			index[k] = i
			out = append(out, Group{class: k.class, identity: k.identity})
		}
		out[i].Endpoints = append(out[i].Endpoints, e.Endpoint)
	}
	slices.SortFunc(out, func(a, b Group) int {
		x, y := a.Endpoints[0], b.Endpoints[0]
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Workload.Name, y.Workload.Name),
			cmp.Compare(x.Workload.Kind, y.Workload.Kind), cmp.Compare(x.Name, y.Name))
	})
	return out
}

// EachPair yields, for every ordered pair of groups (indices into Groups) that
// has any connection, what a pod of the one may open towards another pod of
// the other, by their first addresses; sorted by source, then destination.
// Equal PortSets are one slice. Traffic of a hostNetwork pod is judged as that
// of another node than the destination's.
func (m *Matrix) EachPair() iter.Seq2[[2]int, model.PortSet] {
	return func(yield func([2]int, model.PortSet) bool) {
		p := m.newPairing()
		out := make([]uint32, len(m.sizes))
		for s := range p.groups {
			if !p.row(s, out, yield) {
				return
			}
		}
	}
}

// pairing is all doors in numbers: a port set is a small number, and a door
// lists those beyond it whom it is open to. Going by what is open makes the
// cost follow the connections that exist and not the pairs.
type pairing struct {
	groups []Group
	ids    []Identity
	used   bitset          // identities that some group has
	egress []door          // per group, to identities
	inward [][]opening     // per identity, to groups, sorted
	sets   []model.PortSet // 0 is empty, 1 is all
	index  map[string]uint32
	key    []byte // scratch of number
	meets  map[uint64]uint32
	dense  [][]uint32 // meets of numbers below denseSets: 0 is unknown, else the number plus 1
}

// door is one group's door in one direction.
type door struct {
	panels []panel // for disjoint identities
	rest   uint32  // the set of all other identities
}

// panel is the part of a door that leads to some of 64 identities.
type panel struct {
	ids  uint64
	word uint32 // ids are from 64*word on
	set  uint32
}

// each calls f with every identity of the panel.
func (p panel) each(f func(id int)) {
	for ids := p.ids; ids != 0; ids &= ids - 1 {
		f(int(p.word)<<6 + bits.TrailingZeros64(ids))
	}
}

// opening is a group that lets an identity in, and on what.
type opening struct {
	group uint32
	set   uint32 // never 0
}

const denseSets = 1 << 10

func (m *Matrix) newPairing() *pairing {
	p := &pairing{
		groups: m.Groups(), index: map[string]uint32{},
		meets: map[uint64]uint32{}, dense: make([][]uint32, denseSets),
	}
	p.number(nil)
	p.number(model.AllPorts())
	for i := range p.groups {
		p.ids = append(p.ids, p.groups[i].identity)
		p.used.set(int(p.groups[i].identity))
	}
	p.used.clear(0)
	p.doors(m)
	return p
}

// doors opens both doors of every group.
func (p *pairing) doors(m *Matrix) {
	s := &sorter{pairing: p, memo: map[*Gate]door{}}
	through := func(c *class, d model.Direction) door {
		if c != nil {
			if g := m.gate(c, d); g != nil {
				return s.door(g)
			}
		}
		return door{rest: 1}
	}
	ingress := make([]door, len(p.groups))
	p.egress = make([]door, len(p.groups))
	count := make([]int, len(m.sizes))
	everybody := 0
	for i := range p.groups {
		p.egress[i] = through(p.groups[i].class, model.Egress)
		ingress[i] = through(p.groups[i].class, model.Ingress)
		if ingress[i].rest != 0 {
			everybody++
			continue
		}
		for _, p := range ingress[i].panels {
			p.each(func(id int) { count[id]++ })
		}
	}
	p.inward = make([][]opening, len(m.sizes))
	p.used.each(func(id int) { p.inward[id] = make([]opening, 0, everybody+count[id]) })
	scratch := make([]uint32, len(m.sizes))
	for i, in := range ingress {
		switch {
		case p.ids[i] == 0:
		case in.rest != 0:
			in.fill(scratch)
			p.used.each(func(id int) {
				if scratch[id] != 0 {
					p.inward[id] = append(p.inward[id], opening{uint32(i), scratch[id]})
				}
			})
		default:
			for _, x := range in.panels {
				x.each(func(id int) { p.inward[id] = append(p.inward[id], opening{uint32(i), x.set}) })
			}
		}
	}
}

// fill writes the set of every identity.
func (d door) fill(sets []uint32) {
	if d.rest == 0 {
		clear(sets)
	} else {
		for i := range sets {
			sets[i] = d.rest
		}
	}
	for _, p := range d.panels {
		p.each(func(id int) { sets[id] = p.set })
	}
}

// sorter sorts the identities beyond a gate by the ports that are open to them.
type sorter struct {
	*pairing
	memo      map[*Gate]door
	rows      []*Row
	parts     []part
	names     []named64
	slab      []panel
	intervals []model.Interval // scratch of name
}

// part is the identities of one word with the same membership in the rows: bit
// k of rows says whether they are in row k.
type part struct{ ids, rows uint64 }

// named64 is the number of the port set that a membership stands for.
type named64 struct {
	rows uint64
	set  uint32
}

// rowsAtOnce is how many rows of a gate fit a part.
const rowsAtOnce = 64

// door opens the gate's door.
func (s *sorter) door(g *Gate) door {
	if d, ok := s.memo[g]; ok {
		return d
	}
	s.rows = s.rows[:0]
	for i := range g.Ranges {
		if r := g.Ranges[i].Allow; !r.None && !slices.Contains(s.rows, r) {
			s.rows = append(s.rows, r)
		}
	}
	var d door
	for rows := range slices.Chunk(s.rows, rowsAtOnce) {
		d = s.unite(d, s.sort(g, rows))
	}
	s.memo[g] = d
	return d
}

// unite joins what two parts of a gate's rows open.
func (s *sorter) unite(a, b door) door {
	if a.rest == 0 && a.panels == nil {
		return b
	}
	both := func(x, y uint32) uint32 { return s.number(s.sets[x].Union(s.sets[y])) }
	x, y := make([]uint32, 64*len(s.used)), make([]uint32, 64*len(s.used))
	a.fill(x)
	b.fill(y)
	out := door{rest: both(a.rest, b.rest)}
	s.used.each(func(id int) {
		if set := both(x[id], y[id]); set != out.rest {
			out.panels = append(out.panels, panel{1 << (id & 63), uint32(id >> 6), set})
		}
	})
	return out
}

// sort lists the identities in the rows with the ports of the ranges that
// have them.
func (s *sorter) sort(g *Gate, rows []*Row) door {
	s.names = s.names[:0]
	if cap(s.slab)-len(s.slab) < len(s.groups) {
		s.slab = make([]panel, 0, len(s.groups)+1<<14)
	}
	first, all := len(s.slab), uint64(0)
	for k, r := range rows {
		if r.All {
			all |= 1 << k
		}
	}
	for w, word := range s.used {
		if word == 0 {
			continue
		}
		s.divide(rows, w, word)
		for _, part := range s.parts {
			if part.rows == 0 {
				continue
			}
			s.slab = append(s.slab, panel{part.ids, uint32(w), s.name(g, rows, part.rows|all)})
		}
	}
	return door{panels: s.slab[first:len(s.slab):len(s.slab)], rest: s.name(g, rows, all)}
}

// divide makes the parts of one word of identities. Rows that hold every
// identity divide nothing.
func (s *sorter) divide(rows []*Row, w int, word uint64) {
	parts := append(s.parts[:0], part{ids: word})
	for k, r := range rows {
		if w >= len(r.Bits) || r.Bits[w]&word == 0 {
			continue
		}
		in := r.Bits[w]
		for i, n := 0, len(parts); i < n; i++ {
			switch both := parts[i].ids & in; both {
			case 0:
			case parts[i].ids:
				parts[i].rows |= 1 << k
			default:
				parts = append(parts, part{both, parts[i].rows | 1<<k})
				parts[i].ids &^= both
			}
		}
	}
	s.parts = parts
}

// name is the number of the ports of all ranges whose row is among the chosen.
func (s *sorter) name(g *Gate, rows []*Row, chosen uint64) uint32 {
	for _, n := range s.names {
		if n.rows == chosen {
			return n.set
		}
	}
	out := s.intervals[:0]
	for i := range g.Ranges {
		k := slices.Index(rows, g.Ranges[i].Allow)
		if k < 0 || chosen>>k&1 == 0 {
			continue
		}
		last := model.MaxPortKey
		if i+1 < len(g.Ranges) {
			last = g.Ranges[i+1].First - 1
		}
		if n := len(out); n > 0 && out[n-1].Last+1 == g.Ranges[i].First {
			out[n-1].Last = last
		} else {
			out = append(out, model.Interval{First: g.Ranges[i].First, Last: last})
		}
	}
	s.intervals = out
	set := s.number(out)
	s.names = append(s.names, named64{chosen, set})
	return set
}

// number is the set's number; a set that is new is copied.
func (p *pairing) number(s model.PortSet) uint32 {
	b := p.key[:0]
	for _, iv := range s {
		b = binary.BigEndian.AppendUint32(b, uint32(iv.First))
		b = binary.BigEndian.AppendUint32(b, uint32(iv.Last))
	}
	p.key = b
	n, ok := p.index[string(b)]
	if !ok {
		n = uint32(len(p.sets))
		p.index[string(b)] = n
		p.sets = append(p.sets, slices.Clone(s))
	}
	return n
}

// row yields the source's pairs. out is scratch, a set for every identity.
func (p *pairing) row(s int, out []uint32, yield func([2]int, model.PortSet) bool) bool {
	p.egress[s].fill(out)
	for _, in := range p.inward[p.ids[s]] {
		d := int(in.group)
		a := out[p.ids[d]]
		if a == 0 {
			continue
		}
		if in.set != 1 && in.set != a {
			if a = p.meet(a, in.set); a == 0 {
				continue
			}
		}
		if d == s && len(p.groups[d].Endpoints) == 1 {
			continue
		}
		if !yield([2]int{s, d}, p.sets[a]) {
			return false
		}
	}
	return true
}

// meet is the number of the intersection of two sets.
func (p *pairing) meet(a, b uint32) uint32 {
	if a == 1 {
		return b
	}
	if a < denseSets && b < denseSets {
		if p.dense[a] == nil {
			p.dense[a] = make([]uint32, denseSets)
		}
		slot := &p.dense[a][b]
		if *slot == 0 {
			*slot = p.number(p.sets[a].Intersect(p.sets[b])) + 1
		}
		return *slot - 1
	}
	k := uint64(a)<<32 | uint64(b)
	n, ok := p.meets[k]
	if !ok {
		n = p.number(p.sets[a].Intersect(p.sets[b]))
		p.meets[k] = n
	}
	return n
}
