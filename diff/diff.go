// Package diff finds what two Matrices decide differently: an old one and a
// new one, of two versions of the policies or of two clusters.
//
// Pods are compared with the pods of their name; where a workload's pods have
// other names on the two sides, they are taken one by one in the order of
// their names. Pods of one workload that neither side tells apart are one
// [End]; so are nodes, and the addresses outside the cluster, divided by the
// prefixes of both sides. The comparison is exact: every connection on which
// the sides disagree is in one [Change], and no other is. What is left out: a
// pod's traffic with itself and from its own node, which nothing shuts, and
// pods and nodes that only one side has, or has an address for.
//
// The cost follows what differs. Rows are compared once for each pair of rows,
// gates once for each pair of gates, and only pairs of ends at whose doors
// some rows differ are looked at. The package is pure; its tests hold it
// against engine/reference on random clusters.
package diff

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Level is how far a connection may go.
type Level uint8

// The levels, from shut to open. What is conditional passes only through the
// proxy; its conditions are not compared.
const (
	Shut Level = iota
	Conditional
	Open
)

func (l Level) String() string { return [...]string{"shut", "conditional", "open"}[l] }

// MarshalText writes the level as its word.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Family is a family of addresses; AnyFamily is all that both ends have.
type Family uint8

// The families.
const (
	AnyFamily Family = 0
	IPv4      Family = 4
	IPv6      Family = 6
)

// Pod is a pod as the two sides have it.
type Pod struct{ Old, New *model.Endpoint }

// NodeAddress is an address of a node, as the two sides have it.
type NodeAddress struct {
	Name     string
	Old, New netip.Addr
}

// End is one end of connections. One of Pods, Nodes and Blocks is set.
type End struct {
	Name   string
	Pods   []Pod
	Nodes  []NodeAddress
	Blocks []model.IPBlock // addresses outside the cluster: pods, nodes and free addresses of pod ranges in there are not meant
}

// Change is connections whose level is another one on the new side.
type Change struct {
	From, To *End
	Family   Family
	Was, Is  Level
	Ports    model.PortSet
}

// Opens says whether the change lets more pass, and not less.
func (c Change) Opens() bool { return c.Is > c.Was }

// Relation says what the new side is to the old one.
type Relation string

// The relations. They are about what both sides have.
const (
	Equivalent Relation = "equivalent"
	Wider      Relation = "wider"    // everything that the old side lets pass, and more
	Narrower   Relation = "narrower" // nothing but what the old side lets pass, and less
	Different  Relation = "different"
)

// Diff is how two Matrices differ.
type Diff struct {
	Changes  []Change // sorted by ends
	Removed  []string // pods, workloads and nodes that only the old side has
	Added    []string // those that only the new side has
	Compared int      // pods that both sides have
}

// Relation is what the new side is to the old one.
func (d *Diff) Relation() Relation {
	opens, closes := false, false
	for _, c := range d.Changes {
		opens, closes = opens || c.Opens(), closes || !c.Opens()
	}
	switch {
	case opens && closes:
		return Different
	case opens:
		return Wider
	case closes:
		return Narrower
	}
	return Equivalent
}

// Compare finds how the new Matrix differs from the old one.
func Compare(old, new *engine.Matrix) *Diff {
	c := newComparison(old, new)
	d := &Diff{}
	c.pods(d)
	c.nodes(d)
	c.outside()
	c.judge()
	d.Changes = c.changes
	slices.SortStableFunc(d.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.From.Name, b.From.Name), cmp.Compare(a.To.Name, b.To.Name), cmp.Compare(a.Family, b.Family),
			cmp.Compare(b.Is, a.Is), cmp.Compare(b.Was, a.Was))
	})
	return d
}

// comparison is a Compare on its way. Arrays of two are the old side and the
// new one, where nothing else is said.
type comparison struct {
	sides   [2]*engine.Matrix
	joint   joint
	doors   doors
	parties []party
	cells   []cell
	taken   map[netip.Addr]struct{} // addresses of pods and nodes of either side
	changes []Change
}

func newComparison(old, new *engine.Matrix) *comparison {
	c := &comparison{sides: [2]*engine.Matrix{old, new}, taken: map[netip.Addr]struct{}{}}
	c.joint.index = map[[2]engine.Identity]int{}
	c.doors.joint = &c.joint
	c.doors.index = map[door]int{}
	return c
}

// families are the indices of what a party has by family.
var families = [2]Family{IPv4, IPv6}

// judge compares every two parties at whose doors something differs.
func (c *comparison) judge() {
	c.doors.compare()
	byIdentity, inward := c.indexParties()
	var seen [2][]int
	for f := range seen {
		seen[f] = make([]int, len(c.parties))
	}
	var toCells, fromCells folding
	for s := range c.parties {
		p := &c.parties[s]
		var hits []hit
		for f, id := range p.ids {
			if id < 0 {
				continue
			}
			look := func(d int) {
				if seen[f][d] == s+1 || c.parties[d].ids[f] < 0 {
					return
				}
				seen[f][d] = s + 1
				if t := c.between(s, d, f); t != 0 {
					hits = append(hits, hit{party: d, family: f, what: t})
				}
			}
			c.doors.differs[p.doors[model.Egress]].each(func(j int) {
				for _, d := range byIdentity[f][j] {
					look(d)
				}
			})
			for _, d := range inward[id] {
				look(d)
			}
		}
		c.gather(s, hits, &toCells, &fromCells)
	}
	c.unfold(toCells, fromCells)
}

// hit is a party with which a connection changed, in one family.
type hit struct{ party, family, what int }

// indexParties lists the parties by joint identity, and those whose ingress
// differs for an identity.
func (c *comparison) indexParties() (byIdentity [2][][]int, inward [][]int) {
	for f := range byIdentity {
		byIdentity[f] = make([][]int, len(c.joint.ids))
	}
	inward = make([][]int, len(c.joint.ids))
	for i := range c.parties {
		for f, id := range c.parties[i].ids {
			if id >= 0 {
				byIdentity[f][id] = append(byIdentity[f][id], i)
			}
		}
		c.doors.differs[c.parties[i].doors[model.Ingress]].each(func(j int) { inward[j] = append(inward[j], i) })
	}
	return byIdentity, inward
}

// between is what changed from the party s to d in the family: a number of
// c.doors.whats, 0 for nothing.
func (c *comparison) between(s, d, f int) int {
	from, to := &c.parties[s], &c.parties[d]
	if s == d && from.members() == 1 || from.isOwnNode(to) {
		return 0
	}
	return c.doors.meet(from.doors[model.Egress], to.ids[f], to.doors[model.Ingress], from.ids[f])
}

// gather makes changes of the hits of one source. Those with addresses
// outside are kept, to be folded.
func (c *comparison) gather(s int, hits []hit, toCells, fromCells *folding) {
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(a.party-b.party, a.family-b.family) })
	for i := 0; i < len(hits); i++ {
		h := hits[i]
		switch {
		case c.parties[s].cell >= 0:
			fromCells.add(fold{party: h.party, what: h.what}, c.parties[s].cell)
		case c.parties[h.party].cell >= 0:
			toCells.add(fold{party: s, what: h.what}, c.parties[h.party].cell)
		case i+1 < len(hits) && hits[i+1].party == h.party && hits[i+1].what == h.what:
			c.add(&c.parties[s].end, &c.parties[h.party].end, AnyFamily, h.what)
			i++
		case c.parties[s].ids[1-h.family] >= 0 && c.parties[h.party].ids[1-h.family] >= 0:
			c.add(&c.parties[s].end, &c.parties[h.party].end, families[h.family], h.what)
		default:
			c.add(&c.parties[s].end, &c.parties[h.party].end, AnyFamily, h.what)
		}
	}
}

func (c *comparison) add(from, to *End, f Family, what int) {
	for _, t := range c.doors.whats[what] {
		c.changes = append(c.changes, Change{From: from, To: to, Family: f, Was: t.was, Is: t.is, Ports: t.ports})
	}
}

// folding is prefixes with which the same changed for the same party.
type folding struct {
	order []fold
	cells map[fold][]int
}

type fold struct{ party, what int }

func (f *folding) add(k fold, cell int) {
	if f.cells == nil {
		f.cells = map[fold][]int{}
	}
	if f.cells[k] == nil {
		f.order = append(f.order, k)
	}
	f.cells[k] = append(f.cells[k], cell)
}

// unfold makes changes of what was kept.
func (c *comparison) unfold(toCells, fromCells folding) {
	known := map[string]*End{}
	for _, k := range toCells.order {
		if end := c.blocks(toCells.cells[k], known); end != nil {
			c.add(&c.parties[k.party].end, end, AnyFamily, k.what)
		}
	}
	for _, k := range fromCells.order {
		if end := c.blocks(fromCells.cells[k], known); end != nil {
			c.add(end, &c.parties[k.party].end, AnyFamily, k.what)
		}
	}
}
