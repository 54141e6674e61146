package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// peer is an alternative of an atom that asks more than labels alone or a
// prefix alone. Everything that it asks must hold.
type peer struct {
	nobody  bool
	pods    []*picked
	within  [][]model.IPBlock // in some block of each
	nodes   *model.NodeSelector
	node    string // where the subject is, for nodes; "" if that does not matter
	outside bool
	not     []peer
}

// picked is a pod selector with the classes that it selects.
type picked struct {
	selector *model.EndpointSelector
	classes  bitset
}

// isDirect says whether the peer asks one thing only, labels or a prefix: most do.
func isDirect(p *model.Peer) bool {
	return (p.Pods != nil) != (p.Block != nil) && p.Nodes == nil && p.Sets == nil && p.Services == nil && p.Names == nil &&
		!p.Outside && len(p.Not) == 0
}

// isRelative says whether the peer is another one for pods of another node.
func isRelative(p *model.Peer) bool {
	return p.Nodes != nil && p.Nodes.Which != model.AnyNode ||
		slices.ContainsFunc(p.Not, func(n model.Peer) bool { return isRelative(&n) })
}

// looksAtNodes says whether the peer tells nodes' addresses from others.
func looksAtNodes(p *model.Peer) bool {
	return p.Nodes != nil || p.Outside || p.Services != nil && p.Services.Behind == model.BehindPods ||
		slices.ContainsFunc(p.Not, func(n model.Peer) bool { return looksAtNodes(&n) })
}

// resolve makes the alternatives that a peer stands for, as a pod of the node
// sees it: sets and Services are replaced by what they are now. Wide says that
// the closed side is to match more rather than less: for a rule that denies.
func (m *Matrix) resolve(p *model.Peer, node string, wide bool) []peer {
	base := peer{nobody: len(p.Names) > 0, outside: p.Outside, nodes: p.Nodes}
	if p.Nodes != nil && p.Nodes.Which != model.AnyNode {
		base.node = node
	}
	if p.Pods != nil {
		base.pods = append(base.pods, &picked{selector: p.Pods})
	}
	if p.Block != nil {
		base.within = append(base.within, []model.IPBlock{*p.Block})
	}
	if p.Sets != nil {
		base.within = append(base.within, m.blocksOf(p.Sets, wide))
	}
	for i := range p.Not {
		base.not = append(base.not, m.resolve(&p.Not[i], node, !wide)...)
	}
	if p.Services == nil {
		return []peer{base}
	}
	var out []peer
	for _, s := range m.servicesOf(p.Services) {
		out = append(out, base.behind(s, p.Services.Behind))
	}
	return out
}

// behind narrows the peer to what stands behind the Service.
func (p peer) behind(s *model.Service, how model.Behind) peer {
	if how == model.BehindPods && s.Selector != nil {
		selector := &model.EndpointSelector{Namespace: s.Namespace, Pods: model.MatchLabels(s.Selector)}
		p.pods = append(slices.Clip(p.pods), &picked{selector: selector})
		return p
	}
	p.outside = p.outside || how == model.BehindPods
	var blocks []model.IPBlock
	for i := range s.Ports {
		for _, b := range s.Ports[i].Backends {
			blocks = append(blocks, hostBlock(b.IP))
		}
	}
	p.within = append(slices.Clip(p.within), tidy(blocks))
	return p
}

func hostBlock(a netip.Addr) model.IPBlock {
	return model.IPBlock{CIDR: netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())}
}

// tidy sorts blocks without exceptions and drops those written twice.
func tidy(blocks []model.IPBlock) []model.IPBlock {
	slices.SortFunc(blocks, func(a, b model.IPBlock) int { return model.ComparePrefixes(a.CIDR, b.CIDR) })
	return slices.CompactFunc(blocks, func(a, b model.IPBlock) bool { return a.CIDR == b.CIDR })
}

// blocksOf lists the prefixes of the sets that the selector selects.
func (m *Matrix) blocksOf(s *model.SetSelector, wide bool) []model.IPBlock {
	var out []model.IPBlock
	for _, set := range m.sets {
		if m.selectsSet(s, set) {
			if set.Unreadable && wide {
				return []model.IPBlock{{CIDR: roots[0]}, {CIDR: roots[1]}}
			}
			for _, b := range set.Blocks {
				out = append(out, model.IPBlock{CIDR: b})
			}
		}
	}
	return tidy(out)
}

func (m *Matrix) selectsSet(s *model.SetSelector, set *model.AddressSet) bool {
	switch {
	case s.Family != set.Family, s.Name != "" && s.Name != set.Name, s.Namespace != "" && s.Namespace != set.Namespace,
		s.Namespaced && set.Namespace == "", s.Global && set.Namespace != "":
		return false
	}
	if s.Namespaces.Op != model.SelectAll && (set.Namespace == "" || !s.Namespaces.Matches(m.namespaceLabels(set.Namespace))) {
		return false
	}
	return s.Labels.Match(func(key string) (string, bool) {
		if key[0] == model.Implied {
			return m.namespaced(set.Namespace, key)
		}
		v, ok := set.Labels[key]
		return v, ok
	})
}

// servicesOf lists the Services that the selector selects, sorted by key.
func (m *Matrix) servicesOf(s *model.ServiceSelector) []*model.Service {
	var out []*model.Service
	if s.Namespace != "" && s.Name != "" {
		if found := m.services[s.Namespace+"/"+s.Name]; found != nil && s.Labels.Matches(found.Labels) {
			out = append(out, found)
		}
		return out
	}
	for _, found := range m.services {
		if selectsService(s, found) {
			out = append(out, found)
		}
	}
	slices.SortFunc(out, func(a, b *model.Service) int { return cmp.Compare(a.Key(), b.Key()) })
	return out
}

func selectsService(s *model.ServiceSelector, found *model.Service) bool {
	return (s.Namespace == "" || s.Namespace == found.Namespace) && (s.Name == "" || s.Name == found.Name) && s.Labels.Matches(found.Labels)
}

// appendKey appends an unambiguous encoding of what the peer matches.
func (p *peer) appendKey(b []byte) []byte {
	if p.nobody {
		return append(b, 'x')
	}
	for _, s := range p.pods {
		b = s.selector.AppendKey(append(b, 'p'))
	}
	for _, blocks := range p.within {
		b = append(b, 'w')
		for i := range blocks {
			b = appendBlock(b, &blocks[i])
		}
	}
	if p.nodes != nil {
		b = p.nodes.Labels.AppendKey(append(b, 'n', '0'+byte(p.nodes.Which)))
		b = strconv.AppendQuote(b, p.node)
	}
	if p.outside {
		b = append(b, 'o')
	}
	for i := range p.not {
		b = append(p.not[i].appendKey(append(b, '!', '(')), ')')
	}
	return b
}

func appendBlock(b []byte, block *model.IPBlock) []byte {
	b = block.CIDR.AppendTo(append(b, 'b'))
	for _, e := range block.Except {
		b = e.AppendTo(append(b, '-'))
	}
	return b
}

// eachPicked calls f with every pod selector in the peer.
func (p *peer) eachPicked(f func(*picked)) {
	for _, s := range p.pods {
		f(s)
	}
	for i := range p.not {
		p.not[i].eachPicked(f)
	}
}

// eachBlock calls f with every block in the peer.
func (p *peer) eachBlock(f func(*model.IPBlock)) {
	for _, blocks := range p.within {
		for i := range blocks {
			f(&blocks[i])
		}
	}
	for i := range p.not {
		p.not[i].eachBlock(f)
	}
}

// matches says whether the unit's addresses satisfy the peer.
func (m *Matrix) matches(p *peer, u *unit) bool {
	switch {
	case p.nobody, p.outside && (u.class != nil || u.node.node != ""), p.nodes != nil && !m.onNode(p, u):
		return false
	}
	for _, s := range p.pods {
		if u.class == nil || !s.classes.has(u.class.id) {
			return false
		}
	}
	for _, blocks := range p.within {
		if !slices.ContainsFunc(blocks, func(b model.IPBlock) bool { return covers(&b, u.node) }) {
			return false
		}
	}
	for i := range p.not {
		if m.matches(&p.not[i], u) {
			return false
		}
	}
	return true
}

// onNode says whether the unit is an address of a node that the peer means.
func (m *Matrix) onNode(p *peer, u *unit) bool {
	name := u.node.node
	switch {
	case u.class != nil, name == "", p.nodes.Which == model.OwnNode && name != p.node, p.nodes.Which == model.OtherNode && name == p.node:
		return false
	}
	return p.nodes.Labels.Matches(m.nodes[name].Labels)
}

// candidates calls f with units among which are all that satisfy the peer.
func (m *Matrix) candidates(p *peer, f func(*unit)) {
	switch {
	case p.nobody:
	case len(p.pods) > 0:
		p.pods[0].classes.each(func(i int) {
			for _, u := range m.classes[i].units {
				f(u)
			}
		})
	case len(p.within) > 0:
		for i := range p.within[0] {
			for _, n := range m.subtree(p.within[0][i].CIDR) {
				f(n.external)
				for _, u := range m.podUnits[n] {
					f(u)
				}
			}
		}
	case p.nodes != nil:
		for _, n := range m.prefixes {
			if n.node != "" {
				f(n.external)
			}
		}
	default:
		for _, u := range m.units {
			f(u)
		}
	}
}
