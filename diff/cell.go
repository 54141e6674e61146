package diff

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// cell is the addresses of a prefix without those of the longer prefixes that
// either side knows.
type cell struct {
	prefix netip.Prefix
	parent int // -1 for the roots
	ids    [2]engine.Identity
	nobody bool // no address that is outside the cluster: free in a pod range, or taken
	known  bool // nobody is
}

// outside makes the parties of the addresses outside the cluster.
func (c *comparison) outside() {
	x := c.doors.number(door{none: [2]bool{true, true}})
	prefixes := append(c.sides[0].Prefixes(), c.sides[1].Prefixes()...)
	slices.SortFunc(prefixes, model.ComparePrefixes)
	prefixes = slices.Compact(prefixes)
	parent := -1
	for _, p := range prefixes {
		for parent >= 0 && !model.Inside(p, c.cells[parent].prefix) {
			parent = c.cells[parent].parent
		}
		here := cell{prefix: p, parent: parent}
		for side, m := range c.sides {
			if here.ids[side] = m.PrefixIdentity(p); here.ids[side] == 0 {
				here.ids[side] = c.cells[parent].ids[side]
			}
		}
		parent = len(c.cells)
		c.cells = append(c.cells, here)
	}
	for i := range c.cells {
		c.closePodRanges(&c.cells[i])
		f := familyIndex(c.cells[i].prefix.Addr())
		p := party{ids: [2]int{-1, -1}, doors: [2]int{x, x}, cell: i}
		p.ids[f] = c.joint.of(c.cells[i].ids[0], c.cells[i].ids[1])
		c.parties = append(c.parties, p)
	}
}

// closePodRanges takes the identity from a cell inside a side's pod range.
func (c *comparison) closePodRanges(here *cell) {
	for side, m := range c.sides {
		if slices.ContainsFunc(m.PodRanges(), func(r netip.Prefix) bool { return model.Inside(here.prefix, r) }) {
			here.ids[side] = 0
		}
	}
	if here.ids == [2]engine.Identity{} {
		here.nobody, here.known = true, true
	}
}

// isNobody says whether the cell has no address that is outside the cluster.
func (c *comparison) isNobody(i int) bool {
	here := &c.cells[i]
	if !here.known {
		here.nobody, here.known = !c.hasOutside(i), true
	}
	return here.nobody
}

// hasOutside looks for an address of the cell that nobody has: it steps over
// the longer prefixes and the addresses that are taken.
func (c *comparison) hasOutside(i int) bool {
	p := c.cells[i].prefix
	next := i + 1
	for a := p.Addr(); a.IsValid() && p.Contains(a); {
		for next < len(c.cells) && c.cells[next].parent != i && model.Inside(c.cells[next].prefix, p) {
			next++
		}
		if next < len(c.cells) && c.cells[next].parent == i && c.cells[next].prefix.Contains(a) {
			a = model.LastAddr(c.cells[next].prefix).Next()
			next++
			continue
		}
		if _, ok := c.taken[a]; !ok {
			return true
		}
		a = a.Next()
	}
	return false
}

// blocks is the end of the cells, which are sorted, as few prefixes with
// exceptions; nil if no address outside is among them. Equal ends are one.
func (c *comparison) blocks(cells []int, known map[string]*End) *End {
	chosen := map[int]bool{}
	any := false
	for _, i := range cells {
		chosen[i] = true
		any = any || !c.isNobody(i)
	}
	if !any {
		return nil
	}
	end := &End{}
	for _, i := range cells {
		if c.isNobody(i) || c.covered(c.cells[i].parent, chosen) {
			continue
		}
		b := model.IPBlock{CIDR: c.cells[i].prefix}
		for j := i + 1; j < len(c.cells) && model.Inside(c.cells[j].prefix, b.CIDR); j++ {
			n := len(b.Except)
			if !chosen[j] && !c.isNobody(j) && (n == 0 || !model.Inside(c.cells[j].prefix, b.Except[n-1])) {
				b.Except = append(b.Except, c.cells[j].prefix)
			}
		}
		end.Blocks = append(end.Blocks, b)
	}
	end.Name = nameOf(end.Blocks)
	if same := known[end.Name]; same != nil {
		return same
	}
	known[end.Name] = end
	return end
}

// covered says whether a block that is chosen reaches down to the cell.
func (c *comparison) covered(i int, chosen map[int]bool) bool {
	for ; i >= 0; i = c.cells[i].parent {
		if chosen[i] && !c.isNobody(i) {
			return true
		}
		if !c.isNobody(i) {
			return false
		}
	}
	return false
}

// nameOf writes blocks as "10.0.0.0/8 except 10.1.0.0/16, 192.0.2.0/24".
func nameOf(blocks []model.IPBlock) string {
	var parts []string
	for i := range blocks {
		parts = append(parts, blocks[i].String())
	}
	return strings.Join(parts, ", ")
}
