package diff

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// bitset is a set of joint identities; absent words are zero.
type bitset []uint64

func (b *bitset) set(i int) {
	for i>>6 >= len(*b) {
		*b = append(*b, 0)
	}
	(*b)[i>>6] |= 1 << (i & 63)
}

func (b bitset) word(w int) uint64 {
	if w < len(b) {
		return b[w]
	}
	return 0
}

// each calls f for every member, in order.
func (b bitset) each(f func(i int)) {
	for w, word := range b {
		for ; word != 0; word &= word - 1 {
			f(w<<6 + bits.TrailingZeros64(word))
		}
	}
}

// joint is the identities of both sides together: what neither side tells
// apart is one pair of identities.
type joint struct {
	ids   [][2]engine.Identity
	index map[[2]engine.Identity]int
	rows  [2]map[*engine.Row]bitset
	by    [2][][]int // joint identities, by the identity of the side
}

func (j *joint) of(old, new engine.Identity) int {
	k := [2]engine.Identity{old, new}
	i, ok := j.index[k]
	if !ok {
		i = len(j.ids)
		j.index[k] = i
		j.ids = append(j.ids, k)
	}
	return i
}

// close ends the making of identities, and begins that of rows.
func (j *joint) close() {
	for side := range j.rows {
		j.rows[side] = map[*engine.Row]bitset{}
		for i, ids := range j.ids {
			id := int(ids[side])
			for id >= len(j.by[side]) {
				j.by[side] = append(j.by[side], nil)
			}
			j.by[side][id] = append(j.by[side][id], i)
		}
	}
}

// Rows of doors that have no gate. noDoor also lets in what nobody knows.
var (
	noDoor = &engine.Row{All: true}
	all    = &engine.Row{All: true}
	none   = &engine.Row{None: true}
)

// row is the side's row in joint identities.
func (j *joint) row(side int, r *engine.Row) bitset {
	b, ok := j.rows[side][r]
	if ok {
		return b
	}
	b = make(bitset, 0, (len(j.ids)+63)/64)
	switch {
	case r.All:
		for i, ids := range j.ids {
			if r == noDoor || ids[side] != 0 {
				b.set(i)
			}
		}
	case !r.None:
		bitset(r.Bits).each(func(id int) {
			if id < len(j.by[side]) && id != 0 {
				for _, i := range j.by[side][id] {
					b.set(i)
				}
			}
		})
	}
	j.rows[side][r] = b
	return b
}

// door is a party's door in one direction.
type door struct {
	gates [2]*engine.Gate
	none  [2]bool // there is no door at all: not a pod
}

// rows decide about a range of port keys on one side.
type rows struct{ allow, conditional *engine.Row }

// segment is a range of port keys that no gate of the door divides.
type segment struct {
	model.Interval
	sides [2]rows
}

// segments divides the port keys as the gates of both sides do.
func (d door) segments(yield func(segment)) {
	var at [2]int
	for first := model.PortKey(0); ; {
		s := segment{Interval: model.Interval{First: first, Last: model.MaxPortKey}}
		for side, g := range d.gates {
			switch {
			case d.none[side]:
				s.sides[side] = rows{noDoor, none}
			case g == nil:
				s.sides[side] = rows{all, none}
			default:
				r := &g.Ranges[at[side]]
				s.sides[side] = rows{r.Allow, r.Conditional}
				if at[side]+1 < len(g.Ranges) {
					s.Last = min(s.Last, g.Ranges[at[side]+1].First-1)
				}
			}
		}
		yield(s)
		if s.Last == model.MaxPortKey {
			return
		}
		first = s.Last + 1
		for side, g := range d.gates {
			if !d.none[side] && g != nil && at[side]+1 < len(g.Ranges) && g.Ranges[at[side]+1].First == first {
				at[side]++
			}
		}
	}
}

// profile is what an identity may use of a door, on both sides.
type profile struct{ open, passes [2]model.PortSet } // passes: also through the proxy

// transition is ports whose level changed.
type transition struct {
	was, is Level
	ports   model.PortSet
}

// doors are all doors, by number; what stands behind one is numbers, too.
type doors struct {
	joint *joint
	list  []door
	index map[door]int

	differs  []bitset // per door: the identities for which the sides differ
	rowPairs map[[2]rows]bitset
	profiles []profile
	numbers  map[string]uint32
	values   [][]uint32 // per door, if asked for: the profile of each identity
	whats    [][]transition
	meets    map[[2]uint32]int
}

func (d *doors) number(x door) int {
	n, ok := d.index[x]
	if !ok {
		n = len(d.list)
		d.index[x] = n
		d.list = append(d.list, x)
	}
	return n
}

// compare finds for every door for whom the sides differ.
func (d *doors) compare() {
	d.joint.close()
	d.rowPairs, d.numbers, d.meets = map[[2]rows]bitset{}, map[string]uint32{}, map[[2]uint32]int{}
	d.differs, d.values = make([]bitset, len(d.list)), make([][]uint32, len(d.list))
	d.whats = [][]transition{nil}
	for i, x := range d.list {
		x.segments(func(s segment) {
			if b := d.rowsDiffer(s.sides); b != nil {
				d.differs[i] = union(d.differs[i], b)
			}
		})
	}
}

func union(a, b bitset) bitset {
	for len(a) < len(b) {
		a = append(a, 0)
	}
	for w, word := range b {
		a[w] |= word
	}
	return a
}

// rowsDiffer is the identities for which the rows of the sides differ; nil for none.
func (d *doors) rowsDiffer(sides [2]rows) bitset {
	if b, ok := d.rowPairs[sides]; ok {
		return b
	}
	out, any := make(bitset, (len(d.joint.ids)+63)/64), uint64(0)
	for _, r := range [][2]*engine.Row{{sides[0].allow, sides[1].allow}, {sides[0].conditional, sides[1].conditional}} {
		a, b := d.joint.row(0, r[0]), d.joint.row(1, r[1])
		for w := range out {
			out[w] |= a.word(w) ^ b.word(w)
			any |= out[w]
		}
	}
	if any == 0 {
		out = nil
	}
	d.rowPairs[sides] = out
	return out
}

// meet is what changed for a connection through two doors: a number of whats.
func (d *doors) meet(egress, destination, ingress, source int) int {
	k := [2]uint32{d.value(egress)[destination], d.value(ingress)[source]}
	n, ok := d.meets[k]
	if !ok {
		if t := transitions(d.profiles[k[0]], d.profiles[k[1]]); len(t) > 0 {
			n = len(d.whats)
			d.whats = append(d.whats, t)
		}
		d.meets[k] = n
	}
	return n
}

// never is what no connection has: protocol 0, and port 0 of what has ports.
var never = model.Union(
	model.Interval{Last: model.PortKeyOf(0, 65535)},
	model.Interval{First: model.PortKeyOf(model.TCP, 0), Last: model.PortKeyOf(model.TCP, 0)},
	model.Interval{First: model.PortKeyOf(model.UDP, 0), Last: model.PortKeyOf(model.UDP, 0)},
	model.Interval{First: model.PortKeyOf(model.SCTP, 0), Last: model.PortKeyOf(model.SCTP, 0)},
)

// transitions compares what passes both doors.
func transitions(egress, ingress profile) []transition {
	var sides [2][3]model.PortSet // by level
	for side := range sides {
		open, passes := egress.open[side].Intersect(ingress.open[side]), egress.passes[side].Intersect(ingress.passes[side])
		sides[side] = [3]model.PortSet{Shut: model.AllPorts().Subtract(passes), Conditional: passes.Subtract(open), Open: open}
	}
	var out []transition
	for was := Shut; was <= Open; was++ {
		for is := Shut; is <= Open; is++ {
			if was == is {
				continue
			}
			if ports := sides[0][was].Intersect(sides[1][is]); len(ports.Subtract(never)) > 0 {
				out = append(out, transition{was, is, ports})
			}
		}
	}
	return out
}

// value is the profile number of every identity at the door. Identities that
// no row of the door tells apart share the work.
func (d *doors) value(n int) []uint32 {
	if d.values[n] != nil {
		return d.values[n]
	}
	out := make([]uint32, len(d.joint.ids))
	for _, class := range d.divide(d.list[n]) {
		first, number := true, uint32(0)
		class.each(func(i int) {
			if first {
				first, number = false, d.profileOf(d.list[n], i)
			}
			out[i] = number
		})
	}
	d.values[n] = out
	return out
}

// divide sorts all identities by the rows of the door that they are in.
func (d *doors) divide(x door) []bitset {
	everybody := make(bitset, (len(d.joint.ids)+63)/64)
	for i := range d.joint.ids {
		everybody.set(i)
	}
	classes := []bitset{everybody}
	var seen [2][]*engine.Row
	x.segments(func(s segment) {
		for side, r := range s.sides {
			for _, r := range []*engine.Row{r.allow, r.conditional} {
				if slices.Contains(seen[side], r) {
					continue
				}
				seen[side] = append(seen[side], r)
				classes = split(classes, d.joint.row(side, r))
			}
		}
	})
	return classes
}

// split divides every class into its members in the row and the others.
func split(classes []bitset, row bitset) []bitset {
	for i, n := 0, len(classes); i < n; i++ {
		var anyIn, anyOut uint64
		for w, word := range classes[i] {
			anyIn |= word & row.word(w)
			anyOut |= word &^ row.word(w)
		}
		if anyIn == 0 || anyOut == 0 {
			continue
		}
		in := make(bitset, len(classes[i]))
		for w, word := range classes[i] {
			in[w] = word & row.word(w)
			classes[i][w] = word &^ row.word(w)
		}
		classes = append(classes, in)
	}
	return classes
}

// profileOf is the number of the identity's profile at the door.
func (d *doors) profileOf(x door, id int) uint32 {
	has := func(side int, r *engine.Row) bool { return d.joint.row(side, r).word(id>>6)>>(id&63)&1 == 1 }
	var open, passes [2][]model.Interval
	x.segments(func(s segment) {
		for side, r := range s.sides {
			switch {
			case has(side, r.allow):
				open[side] = append(open[side], s.Interval)
				passes[side] = append(passes[side], s.Interval)
			case has(side, r.conditional):
				passes[side] = append(passes[side], s.Interval)
			}
		}
	})
	var p profile
	var key []byte
	for side := range open {
		p.open[side], p.passes[side] = model.Union(open[side]...), model.Union(passes[side]...)
		for _, set := range []model.PortSet{p.open[side], p.passes[side]} {
			key = binary.AppendUvarint(key, uint64(len(set)))
			for _, iv := range set {
				key = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(key, uint32(iv.First)), uint32(iv.Last))
			}
		}
	}
	n, ok := d.numbers[string(key)]
	if !ok {
		n = uint32(len(d.profiles))
		d.numbers[string(key)] = n
		d.profiles = append(d.profiles, p)
	}
	return n
}
