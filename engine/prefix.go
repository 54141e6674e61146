package engine

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// prefixNode is a prefix that some block names, a pod range, or a root. An
// address belongs to the longest node that contains it.
type prefixNode struct {
	prefix   netip.Prefix
	parent   *prefixNode // nil for the two roots
	external *unit       // the addresses of the node that are no pod's
	node     string      // whose address this is; "" for all prefixes but those
}

var roots = [2]netip.Prefix{
	netip.PrefixFrom(netip.IPv4Unspecified(), 0),
	netip.PrefixFrom(netip.IPv6Unspecified(), 0),
}

// setPrefixes builds the whole tree from the prefixes, in any order.
func (m *Matrix) setPrefixes(prefixes []netip.Prefix) {
	prefixes = append(prefixes, roots[:]...)
	slices.SortFunc(prefixes, model.ComparePrefixes)
	prefixes = slices.Compact(prefixes)
	nodes := make([]prefixNode, len(prefixes))
	m.prefixes = make([]*prefixNode, len(prefixes))
	var parent *prefixNode
	for i, p := range prefixes {
		for parent != nil && !model.Inside(p, parent.prefix) {
			parent = parent.parent
		}
		nodes[i] = prefixNode{prefix: p, parent: parent}
		m.prefixes[i] = &nodes[i]
		parent = &nodes[i]
	}
}

// insertPrefix adds one node, or finds it.
func (m *Matrix) insertPrefix(p netip.Prefix) (n *prefixNode, added bool) {
	i, found := slices.BinarySearchFunc(m.prefixes, p, func(n *prefixNode, p netip.Prefix) int { return model.ComparePrefixes(n.prefix, p) })
	if found {
		return m.prefixes[i], false
	}
	n = &prefixNode{prefix: p, parent: m.longest(p.Addr(), p.Bits())}
	m.prefixes = slices.Insert(m.prefixes, i, n)
	for _, child := range m.prefixes[i+1:] {
		if !model.Inside(child.prefix, p) {
			break
		}
		if child.parent == n.parent {
			child.parent = n
		}
	}
	return n, true
}

// longest finds the longest node of at most maxBits bits that contains the address.
func (m *Matrix) longest(a netip.Addr, maxBits int) *prefixNode {
	i, _ := slices.BinarySearchFunc(m.prefixes, a, func(n *prefixNode, a netip.Addr) int {
		if n.prefix.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	n := m.prefixes[i-1] // the roots' addresses are the smallest of their family
	for n.prefix.Bits() > maxBits || !n.prefix.Contains(a) {
		n = n.parent
	}
	return n
}

// subtree is the range of nodes inside the prefix, which is itself a node.
func (m *Matrix) subtree(p netip.Prefix) []*prefixNode {
	i, found := slices.BinarySearchFunc(m.prefixes, p, func(n *prefixNode, p netip.Prefix) int { return model.ComparePrefixes(n.prefix, p) })
	if !found {
		return nil
	}
	j := i
	for j < len(m.prefixes) && model.Inside(m.prefixes[j].prefix, p) {
		j++
	}
	return m.prefixes[i:j]
}

// covers says whether the node's addresses are in the block. The block's own
// prefixes are nodes, so a node is inside or outside as a whole.
func covers(b *model.IPBlock, n *prefixNode) bool {
	if !model.Inside(n.prefix, b.CIDR) {
		return false
	}
	for _, e := range b.Except {
		if model.Inside(n.prefix, e) {
			return false
		}
	}
	return true
}
