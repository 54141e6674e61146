package engine

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// setNode takes a node over, or what changed of it.
func (m *Matrix) setNode(n model.Node) {
	old := m.nodes[n.Name]
	m.nameNode(n)
	if !m.watchNodes {
		return
	}
	for _, a := range n.IPs {
		m.addPrefix(netip.PrefixFrom(a, a.BitLen()))
	}
	m.markNodes()
	for _, a := range append(slices.Clone(old.IPs), n.IPs...) {
		if node := m.longest(a, a.BitLen()); node.prefix.IsSingleIP() {
			m.reidentify(node.external)
		}
	}
}

// markNodes notes on the prefixes which node's address each is.
func (m *Matrix) markNodes() {
	for _, n := range m.prefixes {
		if n.prefix.IsSingleIP() {
			n.node = m.nodeOf[n.prefix.Addr()]
		}
	}
}

// relabelAccounts takes ServiceAccounts over: the pods that run as one whose
// labels changed come anew.
func (m *Matrix) relabelAccounts(accounts []model.ServiceAccount) {
	changed := map[string]struct{}{}
	for _, a := range accounts {
		if maps.Equal(m.accounts[a.Key()], a.Labels) {
			continue
		}
		changed[a.Key()] = struct{}{}
		if len(a.Labels) == 0 {
			delete(m.accounts, a.Key())
		} else {
			m.accounts[a.Key()] = a.Labels
		}
	}
	if len(changed) == 0 || !m.asksForAccounts() {
		return
	}
	for _, e := range slices.Collect(maps.Values(m.endpoints)) {
		if _, ok := changed[e.Namespace+"/"+e.ServiceAccount]; ok {
			m.setEndpoint(e.Endpoint)
		}
	}
}

func (m *Matrix) asksForAccounts() bool {
	i, _ := slices.BinarySearch(m.labelKeys, model.AccountLabels)
	return i < len(m.labelKeys) && len(m.labelKeys[i]) > len(model.AccountLabels) && m.labelKeys[i][:len(model.AccountLabels)] == model.AccountLabels
}

// references is what changed of what policies refer to, as it was and as it is.
type references struct {
	tiers    map[string]struct{}
	sets     []*model.AddressSet
	allSets  bool             // also what namespaces imply of any set
	services []*model.Service // in their selector, too
	backends []*model.Service // all that changed
}

// changeReferences takes over tiers, address sets and Services, and lists the
// policies that are others for it. They are compiled anew.
func (m *Matrix) changeReferences(ch *Change, relabelled bool) []*model.Policy {
	x := references{allSets: relabelled}
	m.changeTiers(ch, &x)
	m.changeSets(ch, &x)
	m.changeServices(ch, &x)
	if !relabelled && len(x.tiers)+len(x.sets)+len(x.backends) == 0 {
		return nil
	}
	replaced := map[string]struct{}{}
	for _, p := range ch.Policies {
		replaced[PolicyKey(p)] = struct{}{}
	}
	for _, key := range ch.DeletedPolicies {
		replaced[key] = struct{}{}
	}
	var out []*model.Policy
	for _, key := range slices.Sorted(maps.Keys(m.policies)) {
		p := m.policies[key]
		if _, ok := replaced[key]; ok {
			continue
		}
		if _, ok := x.tiers[p.Tier]; ok || p.refers && m.refers(p.Policy, &x) {
			out = append(out, p.Policy)
		}
	}
	return out
}

func (m *Matrix) changeTiers(ch *Change, x *references) {
	x.tiers = map[string]struct{}{}
	reserved := func(name string) bool {
		return slices.ContainsFunc(model.ReservedTiers(), func(t model.Tier) bool { return t.Name == name })
	}
	for _, t := range ch.Tiers {
		if old := m.tier(t.Name); !reserved(t.Name) {
			m.tiers[t.Name] = t
			if old.Order != t.Order || old.Pass != t.Pass {
				x.tiers[t.Name] = struct{}{}
			}
		}
	}
	for _, name := range ch.DeletedTiers {
		if _, ok := m.tiers[name]; ok && !reserved(name) {
			delete(m.tiers, name)
			x.tiers[name] = struct{}{}
		}
	}
}

func (m *Matrix) changeSets(ch *Change, x *references) {
	for _, s := range ch.Sets {
		old := m.sets[s.Key()]
		if old != nil && reflect.DeepEqual(old, s) {
			continue
		}
		if old != nil {
			x.sets = append(x.sets, old)
		}
		m.sets[s.Key()] = s
		x.sets = append(x.sets, s)
	}
	for _, key := range ch.DeletedSets {
		if old := m.sets[key]; old != nil {
			delete(m.sets, key)
			x.sets = append(x.sets, old)
		}
	}
}

func (m *Matrix) changeServices(ch *Change, x *references) {
	note := func(old, s *model.Service) {
		if old != nil {
			x.backends = append(x.backends, old)
		}
		x.backends = append(x.backends, s)
		if old == nil || !maps.Equal(old.Selector, s.Selector) || !maps.Equal(old.Labels, s.Labels) || s.Selector == nil {
			x.services = x.backends
		}
	}
	for _, s := range ch.Services {
		if old := m.services[s.Key()]; old == nil || !reflect.DeepEqual(old, s) {
			m.services[s.Key()] = s
			note(old, s)
		}
	}
	for _, key := range ch.DeletedServices {
		if old := m.services[key]; old != nil {
			delete(m.services, key)
			note(nil, old)
		}
	}
}

// eachPeer calls f with the peers of all rules.
func eachPeer(p *model.Policy, f func(*model.Peer)) {
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		s := p.Section(d)
		if s == nil {
			continue
		}
		for i := range s.Rules {
			for j := range s.Rules[i].Peers {
				f(&s.Rules[i].Peers[j])
			}
		}
	}
}

// refers says whether some peer of the policy selects something that changed.
func (m *Matrix) refers(p *model.Policy, x *references) (found bool) {
	eachPeer(p, func(peer *model.Peer) { found = found || m.peerRefers(peer, x) })
	return found
}

func (m *Matrix) peerRefers(p *model.Peer, x *references) bool {
	services := x.backends
	if p.Services != nil && p.Services.Behind == model.BehindPods {
		services = x.services
	}
	return p.Sets != nil && (x.allSets || slices.ContainsFunc(x.sets, func(s *model.AddressSet) bool { return m.selectsSet(p.Sets, s) })) ||
		p.Services != nil && slices.ContainsFunc(services, func(s *model.Service) bool { return selectsService(p.Services, s) }) ||
		slices.ContainsFunc(p.Not, func(n model.Peer) bool { return m.peerRefers(&n, x) })
}

// mayRefer says whether the peer names sets or Services at all.
func mayRefer(p *model.Peer) bool {
	return p.Sets != nil || p.Services != nil || slices.ContainsFunc(p.Not, func(n model.Peer) bool { return mayRefer(&n) })
}
