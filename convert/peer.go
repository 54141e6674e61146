package convert

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// kind is what a peer is made of.
type kind uint8

const (
	anyone  kind = iota
	pods         // by conditions
	nodes        // the addresses of nodes
	block        // every address of a prefix, of pods and nodes, too
	outside      // the addresses of a prefix that are no pod's and no node's
)

// peer is one alternative of a rule, of one kind: what a peer of the model
// asks at once, or leaves out, is worked into it.
type peer struct {
	kind   kind
	pods   clause
	nodes  model.NodeSelector
	block  model.IPBlock // of block and outside
	source model.Source
}

var (
	everyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everyIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// facts is what a conversion may know of the cluster.
type facts struct {
	podAddresses, nodeAddresses []netip.Addr
	podRanges                   []netip.Prefix
}

func factsOf(c *model.Cluster) facts {
	f := facts{podRanges: c.PodRanges}
	for i := range c.Endpoints {
		if !c.Endpoints[i].HostNetwork {
			f.podAddresses = append(f.podAddresses, c.Endpoints[i].IPs...)
		}
	}
	for i := range c.Nodes {
		f.nodeAddresses = append(f.nodeAddresses, c.Nodes[i].IPs...)
	}
	return f
}

// share is how much of something a block holds.
type share uint8

const (
	nothing share = iota
	some
	everything
)

// pods is how many of the pods' addresses, those that pods may get among them,
// are in the block.
func (f facts) pods(b model.IPBlock) share {
	in, out := count(f.podAddresses, b)
	for _, r := range f.podRanges {
		switch rest := cut(model.IPBlock{CIDR: r}, b); {
		case len(rest) == 0:
			in = true
		case len(rest) == 1 && sameBlock(rest[0], model.IPBlock{CIDR: r}):
			out = true
		default:
			in, out = true, true
		}
	}
	return shareOf(in, out)
}

// nodes is how many of the nodes' addresses are in the block.
func (f facts) nodes(b model.IPBlock) share { return shareOf(count(f.nodeAddresses, b)) }

func count(addresses []netip.Addr, b model.IPBlock) (in, out bool) {
	for _, a := range addresses {
		if b.Contains(a) {
			in = true
		} else {
			out = true
		}
	}
	return in, out
}

func shareOf(in, out bool) share {
	switch {
	case !in:
		return nothing
	case out:
		return some
	}
	return everything
}

func sameBlock(a, b model.IPBlock) bool { return a.CIDR == b.CIDR && slices.Equal(a.Except, b.Except) }

func contains(outer, p netip.Prefix) bool {
	return outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

// cut is the addresses of a that are not in b.
func cut(a, b model.IPBlock) []model.IPBlock {
	if !a.CIDR.Overlaps(b.CIDR) {
		return []model.IPBlock{a}
	}
	var out []model.IPBlock
	if b.CIDR.Bits() > a.CIDR.Bits() {
		out = append(out, without(a, b.CIDR))
	}
	for _, e := range b.Except {
		if m, ok := meetBlocks(a, model.IPBlock{CIDR: e}); ok {
			out = append(out, m)
		}
	}
	return out
}

// without takes a prefix, which is a proper part, out of the block.
func without(b model.IPBlock, p netip.Prefix) model.IPBlock {
	if slices.ContainsFunc(b.Except, func(e netip.Prefix) bool { return contains(e, p) }) {
		return b
	}
	except := slices.DeleteFunc(slices.Clone(b.Except), func(e netip.Prefix) bool { return contains(p, e) })
	b.Except = append(except, p)
	slices.SortFunc(b.Except, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	return b
}

// meetBlocks is the addresses in both blocks.
func meetBlocks(a, b model.IPBlock) (out model.IPBlock, ok bool) {
	if !a.CIDR.Overlaps(b.CIDR) {
		return out, false
	}
	if b.CIDR.Bits() > a.CIDR.Bits() {
		a, b = b, a
	}
	for _, e := range b.Except {
		switch {
		case contains(e, a.CIDR):
			return out, false
		case contains(a.CIDR, e):
			a = without(a, e)
		}
	}
	return a, true
}

// parts divides a peer that is of several kinds.
func (f facts) parts(p peer) (out []peer, ok bool) {
	switch p.kind {
	case anyone:
		return []peer{
			{kind: pods, source: p.source}, {kind: nodes, source: p.source},
			{kind: outside, block: model.IPBlock{CIDR: everyIPv4}, source: p.source}, {kind: outside, block: model.IPBlock{CIDR: everyIPv6}, source: p.source},
		}, true
	case block:
		out = []peer{{kind: outside, block: p.block, source: p.source}}
		inPods, inNodes := f.pods(p.block), f.nodes(p.block)
		if inPods == everything {
			out = append(out, peer{kind: pods, source: p.source})
		}
		if inNodes == everything {
			out = append(out, peer{kind: nodes, source: p.source})
		}
		return out, inPods != some && inNodes != some
	}
	return []peer{p}, true
}

// minus is whoever a is and b is not; ok is false if that has no form here.
func (f facts) minus(a, b peer) (out []peer, ok bool) {
	switch {
	case b.kind == anyone:
		return nil, true
	case a.kind == anyone && (b.kind == block || b.kind == outside && f.pods(b.block) == nothing && f.nodes(b.block) == nothing):
		for _, every := range []netip.Prefix{everyIPv4, everyIPv6} {
			for _, rest := range cut(model.IPBlock{CIDR: every}, b.block) {
				out = append(out, peer{kind: block, block: rest, source: a.source})
			}
		}
		return out, true
	case a.kind == anyone, a.kind == block && b.kind != block:
		return f.each(a, func(part peer) ([]peer, bool) { return f.minus(part, b) })
	case a.kind == pods && b.kind == pods:
		rest, ok := a.pods.minus([]clause{b.pods})
		for _, c := range rest {
			out = append(out, peer{kind: pods, pods: c, source: a.source})
		}
		return out, ok
	case a.kind == nodes && b.kind == nodes:
		return nodesMinus(a, b)
	case b.kind == block && (a.kind == pods || a.kind == nodes):
		in := f.pods(b.block)
		if a.kind == nodes {
			in = f.nodes(b.block)
		}
		if in == nothing {
			out = []peer{a}
		}
		return out, in != some
	case (a.kind == block || a.kind == outside) && (b.kind == block || b.kind == outside):
		for _, rest := range cut(a.block, b.block) {
			out = append(out, peer{kind: a.kind, block: rest, source: a.source})
		}
		return out, true
	}
	return []peer{a}, true
}

// each gathers what f makes of the parts of a peer.
func (f facts) each(p peer, do func(peer) ([]peer, bool)) (out []peer, ok bool) {
	parts, ok := f.parts(p)
	for _, part := range parts {
		more, good := do(part)
		out, ok = append(out, more...), ok && good
	}
	return out, ok
}

func nodesMinus(a, b peer) ([]peer, bool) {
	switch {
	case b.nodes.Which != model.AnyNode && a.nodes.Which != b.nodes.Which && a.nodes.Which != model.AnyNode:
		return []peer{a}, true
	case b.nodes.Labels.Op != model.SelectAll:
		return nil, false
	case b.nodes.Which == model.AnyNode || a.nodes.Which == b.nodes.Which:
		return nil, true
	}
	a.nodes.Which = model.OtherNode
	if b.nodes.Which == model.OtherNode {
		a.nodes.Which = model.OwnNode
	}
	return []peer{a}, true
}

// meet is whoever both are; ok is false if that has no form here.
func (f facts) meet(a, b peer) (out []peer, ok bool) {
	switch {
	case a.kind == anyone:
		return []peer{b}, true
	case b.kind == anyone:
		return []peer{a}, true
	case a.kind == block && b.kind != block:
		return f.meet(b, a)
	case a.kind == pods && b.kind == pods:
		if c, ok := join(a.pods, b.pods); ok {
			out = []peer{{kind: pods, pods: c, source: a.source}}
		}
		return out, true
	case a.kind == nodes && b.kind == nodes:
		return meetNodes(a, b), true
	case b.kind == block && (a.kind == pods || a.kind == nodes):
		in := f.pods(b.block)
		if a.kind == nodes {
			in = f.nodes(b.block)
		}
		if in == everything {
			out = []peer{a}
		}
		return out, in != some
	case (a.kind == block || a.kind == outside) && (b.kind == block || b.kind == outside):
		if m, ok := meetBlocks(a.block, b.block); ok {
			out = []peer{{kind: a.kind, block: m, source: a.source}}
		}
		return out, true
	}
	return nil, true
}

func meetNodes(a, b peer) []peer {
	switch {
	case a.nodes.Which == model.AnyNode:
		a.nodes.Which = b.nodes.Which
	case b.nodes.Which != model.AnyNode && b.nodes.Which != a.nodes.Which:
		return nil
	}
	a.nodes.Labels = model.And(a.nodes.Labels, b.nodes.Labels)
	return []peer{a}
}
