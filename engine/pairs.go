package engine

import (
	"cmp"
	"encoding/binary"
	"iter"
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
	for _, e := range m.byKey() {
		k := key{e.Namespace, e.Workload, e.class, m.end(Party{Endpoint: e.Endpoint}).identity}
		i, ok := index[k]
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
		for s := range p.groups {
			if !p.row(s, yield) {
				return
			}
		}
	}
}

// pairing holds, per gate, the port set of every identity as a small number.
type pairing struct {
	groups []Group
	egress [][]uint32 // per group; nil is an open door
	inward [][]uint32
	ids    []Identity
	sets   []model.PortSet // 0 is empty, 1 is all
	index  map[string]uint32
	meets  map[uint64]uint32
	dense  []uint32 // meets by a<<10|b for numbers below 1,024; 0 is unknown, else the number plus 1; nil if not worth it
}

const (
	denseSets = 1 << 10
	denseFrom = 128 // groups; fewer are not worth the table
)

func (m *Matrix) newPairing() *pairing {
	p := &pairing{
		groups: m.Groups(), sets: []model.PortSet{nil, model.AllPorts()}, index: map[string]uint32{},
		meets: map[uint64]uint32{},
	}
	if len(p.groups) > denseFrom {
		p.dense = make([]uint32, denseSets*denseSets)
	}
	p.index[setKey(p.sets[0])], p.index[setKey(p.sets[1])] = 0, 1
	tables := map[*Gate][]uint32{}
	table := func(c *class, d model.Direction) []uint32 {
		if c == nil {
			return nil
		}
		g := m.gate(c, d)
		if g == nil {
			return nil
		}
		t, ok := tables[g]
		if !ok {
			t = p.table(g, len(m.sizes))
			tables[g] = t
		}
		return t
	}
	for i := range p.groups {
		g := &p.groups[i]
		p.egress = append(p.egress, table(g.class, model.Egress))
		p.inward = append(p.inward, table(g.class, model.Ingress))
		p.ids = append(p.ids, g.identity)
	}
	return p
}

// cell is a set of identities that have had the same ranges so far.
type cell struct {
	ids       bitset
	intervals []model.Interval
}

// table computes the port set of every identity at the gate. It divides the
// identities range by range into cells, a word of 64 at a time, and names the
// sets of the few cells at the end.
func (p *pairing) table(g *Gate, identities int) []uint32 {
	cells := []cell{{ids: full(identities)}}
	for i, r := range g.Ranges {
		if r.Allow.None {
			continue
		}
		iv := model.Interval{First: r.First, Last: model.MaxPortKey}
		if i+1 < len(g.Ranges) {
			iv.Last = g.Ranges[i+1].First - 1
		}
		cells = divide(cells, r.Allow, iv)
	}
	out := make([]uint32, identities)
	for _, c := range cells {
		if n := p.number(model.Union(c.intervals...)); n != 0 {
			c.ids.each(func(id int) { out[id] = n })
		}
	}
	return out
}

// divide gives the interval to the part of each cell that is in the row.
func divide(cells []cell, r *Row, iv model.Interval) []cell {
	for i, n := 0, len(cells); i < n; i++ {
		c := &cells[i]
		if r.All {
			c.intervals = append(c.intervals, iv)
			continue
		}
		in, out := c.ids.split(r.Bits)
		switch {
		case in == nil:
		case out == nil:
			c.intervals = append(c.intervals, iv)
		default:
			with := append(slices.Clone(c.intervals), iv)
			cells[i].ids = out
			cells = append(cells, cell{in, with})
		}
	}
	return cells
}

func setKey(s model.PortSet) string {
	var b []byte
	for _, iv := range s {
		b = binary.BigEndian.AppendUint32(b, uint32(iv.First))
		b = binary.BigEndian.AppendUint32(b, uint32(iv.Last))
	}
	return string(b)
}

func (p *pairing) number(s model.PortSet) uint32 {
	k := setKey(s)
	n, ok := p.index[k]
	if !ok {
		n = uint32(len(p.sets))
		p.index[k] = n
		p.sets = append(p.sets, s)
	}
	return n
}

// row yields the source's pairs.
func (p *pairing) row(s int, yield func([2]int, model.PortSet) bool) bool {
	id, out := p.ids[s], p.egress[s]
	if id == 0 {
		return true
	}
	for d := range p.groups {
		a := uint32(1)
		if out != nil {
			if a = out[p.ids[d]]; a == 0 {
				continue
			}
		}
		if in := p.inward[d]; in != nil {
			if b := in[id]; b != a && b != 1 {
				a = p.meet(a, b)
			}
		}
		if a == 0 || p.ids[d] == 0 || d == s && len(p.groups[d].Endpoints) == 1 {
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
	if a == 1 || b == 0 {
		return b
	}
	if p.dense != nil && a < denseSets && b < denseSets {
		slot := &p.dense[a*denseSets+b]
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
