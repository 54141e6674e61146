// Package recommend makes least-privilege policies from observed connections:
// one per workload and direction, that allow what was seen there and isolate
// the workload's pods from everything else. What existing policies allow
// already is not proposed again. What becomes of a proposal in some policy
// language is compiled and tried: a [Trial] says which flows pass, and how far
// the pods reach before and after.
//
// The package is pure. Its tests are random clusters and flows.
package recommend

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// Proposal is policies, and the flows that they are made of.
type Proposal struct {
	Policies []*model.Policy
	Notes    []string      // what the author should know of
	Flows    int           // different connections that were observed and allowed
	Gone     []flow.Record // whose pods are not there any more: nothing can be said of them

	cluster  *model.Cluster
	matrix   *engine.Matrix
	admitted []admitted
}

// Trial is what comes of policies beside those that are there.
type Trial struct {
	Refused []flow.Record // that do not pass: other policies deny them, or the language cannot say them
	Before  Reach
	After   Reach
}

// Reach is how far all pods reach: pairs of a pod and another pod or prefix
// outside, and how many ports of TCP, UDP and SCTP are open between them.
type Reach struct{ Pairs, Ports int }

// need is what a workload needs in one direction.
type need struct {
	workload workload
	d        model.Direction
	peers    map[string]*peer
}

// peer is one other end and what is spoken with it.
type peer struct {
	model.Peer
	address netip.Addr // outside, or a node's; else a workload is
	keys    map[model.PortKey]struct{}
}

// maker gathers proposals.
type maker struct {
	cluster   *model.Cluster
	matrix    *engine.Matrix
	workloads *workloads
	services  map[netip.Addr]*model.Service
	needs     map[string]*need
	out       Proposal
}

// admitted is a flow with its ends as they are now.
type admitted struct {
	record   flow.Record
	from, to engine.Party
	key      model.PortKey
}

func newMaker(c *model.Cluster) *maker {
	m := &maker{
		cluster: c, matrix: engine.Compile(c), workloads: newWorkloads(c), services: map[netip.Addr]*model.Service{}, needs: map[string]*need{},
	}
	m.out.cluster, m.out.matrix = c, m.matrix
	for i := range c.Services {
		for _, a := range c.Services[i].ClusterIPs {
			m.services[a] = &c.Services[i]
		}
	}
	return m
}

// FromFlows makes policies of flows. Those that were denied propose nothing.
func FromFlows(c *model.Cluster, records []flow.Record) *Proposal {
	m := newMaker(c)
	seen := map[flow.Record]struct{}{}
	for _, r := range records {
		if _, again := seen[r]; again || !r.Allowed {
			continue
		}
		seen[r] = struct{}{}
		m.observe(r)
	}
	m.out.Flows = len(seen)
	m.addDNS()
	m.write()
	m.shadowed()
	return &m.out
}

// shadowed proposes what rules allow that no longer come to have a say, once
// the policies isolate: those of tiers behind the default one.
// Each round may isolate more pods; what is refused for the same reason as the
// round before is refused for good.
func (m *maker) shadowed() {
	for before := -1; ; {
		refused := m.out.refused(m.out.with(m.out.Policies))
		if len(refused) == 0 || len(refused) == before {
			return
		}
		before = len(refused)
		for _, a := range m.out.admitted {
			if slices.Contains(refused, a.record) {
				m.allow(model.Egress, a.from, a.to, a.key)
				m.allow(model.Ingress, a.to, a.from, a.key)
			}
		}
		m.write()
	}
}

// FromServices makes policies of what Services declare: their target ports are
// open to every pod, and to everybody where there is a node port. Workloads
// without a Service are reached by nobody.
func FromServices(c *model.Cluster) *Proposal {
	m := newMaker(c)
	for i := range c.Endpoints {
		if e := &c.Endpoints[i]; !e.HostNetwork {
			m.needOf(m.workloads.of(e), model.Ingress)
		}
	}
	for i := range c.Services {
		for _, p := range c.Services[i].Ports {
			for _, b := range p.Backends {
				e := m.matrix.EndpointAt(b.IP)
				if e == nil || e.HostNetwork {
					continue
				}
				x := &peer{Peer: model.Peer{Pods: &model.EndpointSelector{}}}
				if p.NodePort != 0 {
					x = &peer{}
				}
				m.needOf(m.workloads.of(e), model.Ingress).add(x, model.PortKeyOf(p.Protocol, b.Port))
			}
		}
	}
	m.write()
	return &m.out
}

// observe notes what a flow needs at both of its doors.
func (m *maker) observe(r flow.Record) {
	from, ok := m.party(r.Source, r.SourcePod)
	if !ok {
		m.out.Gone = append(m.out.Gone, r)
		return
	}
	ends := m.behind(r)
	if ends == nil {
		to, ok := m.party(r.Destination, r.DestinationPod)
		if !ok {
			m.out.Gone = append(m.out.Gone, r)
			return
		}
		ends = []admitted{{to: to, key: r.Key}}
	}
	for _, a := range ends {
		a.record, a.from = r, from
		if samePod(a.from, a.to) {
			continue
		}
		m.out.admitted = append(m.out.admitted, a)
		v := m.matrix.Verdict(a.from, a.to, a.key)
		m.need(v.Egress, a.from, a.to, a.key)
		m.need(v.Ingress, a.to, a.from, a.key)
	}
}

func samePod(a, b engine.Party) bool { return a.Endpoint != nil && a.Endpoint == b.Endpoint }

// behind lists the backends of a Service that a flow was recorded to before
// its address was translated.
func (m *maker) behind(r flow.Record) (out []admitted) {
	s := m.services[r.Destination]
	if s == nil || r.DestinationPod != "" {
		return nil
	}
	for _, p := range s.Ports {
		if model.PortKeyOf(p.Protocol, p.Port) != r.Key {
			continue
		}
		for _, b := range p.Backends {
			out = append(out, admitted{to: m.at(b.IP), key: model.PortKeyOf(p.Protocol, b.Port)})
		}
	}
	return out
}

// party is the end of a flow as it is now. A pod that is gone is nobody.
func (m *maker) party(a netip.Addr, pod string) (engine.Party, bool) {
	if pod != "" {
		e := m.matrix.Endpoint(pod)
		if e == nil {
			return engine.Party{}, false
		}
		p := engine.Party{Endpoint: e, Addr: a}
		if !slices.Contains(e.IPs, a) {
			p.Addr = netip.Addr{}
			if len(e.IPs) > 0 {
				p.Addr = e.IPs[0]
			}
		}
		return p, true
	}
	if !a.IsValid() {
		return engine.Party{}, false
	}
	p := m.at(a)
	return p, p.Endpoint != nil || m.matrix.AddressIdentity(a) != 0
}

// at is who has the address. HostNetwork pods are their node.
func (m *maker) at(a netip.Addr) engine.Party {
	return engine.Party{Addr: a, Endpoint: m.matrix.EndpointAt(a)}
}

// need notes what must be allowed at a door, unless policies allow it already
// or no policy can be about it.
func (m *maker) need(door engine.Door, subject, other engine.Party, key model.PortKey) {
	switch {
	case subject.Endpoint == nil || subject.Endpoint.HostNetwork,
		door.Reason == engine.NoDoor, door.Reason == engine.SamePod, door.Reason == engine.OwnNode,
		door.Allowed && door.Reason == engine.ByRule:
		return
	}
	m.allow(door.Direction, subject, other, key)
}

func (m *maker) allow(d model.Direction, subject, other engine.Party, key model.PortKey) {
	if subject.Endpoint == nil || subject.Endpoint.HostNetwork {
		return
	}
	w := m.workloads.of(subject.Endpoint)
	m.needOf(w, d).add(m.peer(w, other), key)
}

func (m *maker) needOf(w workload, d model.Direction) *need {
	name := w.String() + "/" + d.String()
	if m.needs[name] == nil {
		m.needs[name] = &need{workload: w, d: d, peers: map[string]*peer{}}
	}
	return m.needs[name]
}

// add notes that the peer speaks on the port.
func (n *need) add(x *peer, key model.PortKey) {
	name := string(x.AppendKey(nil))
	if n.peers[name] == nil {
		x.keys = map[model.PortKey]struct{}{}
		n.peers[name] = x
	}
	n.peers[name].keys[key] = struct{}{}
}

// peer is the other end as the policy of a workload names it.
func (m *maker) peer(w workload, other engine.Party) *peer {
	out := &peer{}
	if e := other.Endpoint; e != nil && !e.HostNetwork {
		o := m.workloads.of(e)
		s := &model.EndpointSelector{Pods: m.workloads.selector(o), Namespace: o.Namespace}
		if o.Namespace != w.Namespace {
			s.Namespace, s.Namespaces = "", model.MatchLabels(map[string]string{model.MetadataName: o.Namespace})
		}
		out.Pods = s
		return out
	}
	out.address = other.Addr
	out.Block = &model.IPBlock{CIDR: netip.PrefixFrom(other.Addr, other.Addr.BitLen())}
	return out
}

// addDNS lets every workload whose egress is proposed ask for names.
func (m *maker) addDNS() {
	var dns *model.Service
	for i := range m.cluster.Services {
		if s := &m.cluster.Services[i]; s.Namespace == "kube-system" && (s.Name == "kube-dns" || s.Name == "coredns") {
			dns = s
		}
	}
	if dns == nil {
		return
	}
	for _, n := range m.needs {
		if n.d != model.Egress || n.workload.Namespace == dns.Namespace {
			continue
		}
		for _, port := range dns.Ports {
			for _, b := range port.Backends {
				n.add(m.peer(n.workload, m.at(b.IP)), model.PortKeyOf(port.Protocol, b.Port))
			}
		}
	}
}

// write makes the policies.
func (m *maker) write() {
	m.out.Policies = nil
	for _, name := range slices.Sorted(maps.Keys(m.needs)) {
		p := m.needs[name]
		section := &model.Section{DefaultDeny: true, Rules: rules(p)}
		policy := &model.Policy{
			Source: model.Source{
				APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: p.workload.Namespace,
				Name: objectName(p.workload.Name + "-" + p.d.String()),
			},
			Family: model.FamilyKubernetes, Tier: model.TierDefault, Order: model.KubernetesOrder,
			Subject: model.EndpointSelector{Namespace: p.workload.Namespace, Pods: m.workloads.selector(p.workload)},
		}
		if p.d == model.Ingress {
			policy.Ingress = section
		} else {
			policy.Egress = section
		}
		m.out.Policies = append(m.out.Policies, policy)
	}
	m.out.Notes = m.workloads.notes()
}

// objectName is a valid name of an object.
func objectName(s string) string {
	s = strings.ToLower(strings.Trim(s, "-."))
	if len(s) > 253 {
		s = s[:253]
	}
	return s
}

// rules are the peers, those with the same ports together, and addresses
// folded to the largest blocks that hold no other address.
func rules(p *need) []model.Rule {
	type group struct {
		keys  []model.PortKey
		peers []model.Peer
		at    []netip.Addr
	}
	groups := map[string]*group{}
	for _, name := range slices.Sorted(maps.Keys(p.peers)) {
		x := p.peers[name]
		keys := slices.Sorted(maps.Keys(x.keys))
		id := ""
		for _, k := range keys {
			id += k.String() + " "
		}
		if groups[id] == nil {
			groups[id] = &group{keys: keys}
		}
		if x.address.IsValid() {
			groups[id].at = append(groups[id].at, x.address)
		} else {
			groups[id].peers = append(groups[id].peers, x.Peer)
		}
	}
	var out []model.Rule
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		g := groups[id]
		for _, prefix := range fold(g.at) {
			g.peers = append(g.peers, model.Peer{Block: &model.IPBlock{CIDR: prefix}})
		}
		r := model.Rule{Action: model.Allow, Peers: g.peers, Ports: ports(g.keys)}
		if r.AnyPeer = slices.ContainsFunc(g.peers, func(p model.Peer) bool { return p.Pods == nil && p.Block == nil }); r.AnyPeer {
			r.Peers = nil
		}
		out = append(out, r)
	}
	return out
}

// ports folds neighbouring keys into ranges.
func ports(keys []model.PortKey) []model.Port {
	var out []model.Port
	for _, k := range keys {
		n := len(out) - 1
		switch {
		case n >= 0 && out[n].Protocol == k.Protocol() && out[n].Last+1 == k.Port() && k.Port() != 0:
			out[n].Last = k.Port()
		default:
			out = append(out, model.Port{Protocol: k.Protocol(), First: k.Port(), Last: k.Port()})
		}
	}
	return out
}

// fold joins addresses that fill a block.
func fold(addresses []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addresses {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	out = slices.Compact(out)
	for i := 0; i+1 < len(out); {
		a, b := out[i], out[i+1]
		parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
		if a.Bits() == b.Bits() && a.Bits() > 0 && parent.Addr() == a.Addr() && parent.Contains(b.Addr()) && parent.Addr().Is4() == b.Addr().Is4() {
			out = slices.Replace(out, i, i+2, parent)
			i = max(i-1, 0)
			continue
		}
		i++
	}
	return out
}

// Try compiles policies, which the proposal became in some language, beside
// those that are there and tries every flow.
func (p *Proposal) Try(policies []*model.Policy) Trial {
	after := p.with(policies)
	outside := after.Outside() // the policies name more prefixes: both sides are measured by these
	return Trial{Refused: p.refused(after), Before: reach(p.matrix, outside), After: reach(after, outside)}
}

// with compiles the policies beside those that are there.
func (p *Proposal) with(policies []*model.Policy) *engine.Matrix {
	c := *p.cluster
	c.Policies = append(slices.Clone(p.cluster.Policies), policies...)
	return engine.Compile(&c)
}

// refused lists the flows that do not pass.
func (p *Proposal) refused(after *engine.Matrix) []flow.Record {
	var out []flow.Record
	for _, a := range p.admitted {
		if !after.Verdict(a.from, a.to, a.key).Allowed && !slices.Contains(out, a.record) {
			out = append(out, a.record)
		}
	}
	return out
}

// reach measures a Matrix.
func reach(m *engine.Matrix, outside []netip.Addr) (out Reach) {
	groups := m.Groups()
	add := func(pairs int, open model.PortSet) {
		if n := size(open); n > 0 {
			out.Pairs += pairs
			out.Ports += pairs * n
		}
	}
	for pair, open := range m.EachPair() {
		s, d := len(groups[pair[0]].Endpoints), len(groups[pair[1]].Endpoints)
		if pair[0] == pair[1] {
			d--
		}
		add(s*d, open)
	}
	for _, g := range groups {
		for _, a := range outside {
			pod, other := engine.Party{Endpoint: g.Endpoints[0]}, engine.Party{Addr: a}
			if own, ok := model.SameFamily(g.Endpoints[0].IPs, a); ok {
				pod.Addr = own
				add(len(g.Endpoints), m.Connections(pod, other))
				add(len(g.Endpoints), m.Connections(other, pod))
			}
		}
	}
	return out
}

// size is how many ports of TCP, UDP and SCTP are in the set.
func size(set model.PortSet) (n int) {
	for _, p := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		for _, iv := range set.Intersect(model.PortSet{{First: model.PortKeyOf(p, 1), Last: model.PortKeyOf(p, 65535)}}) {
			n += int(iv.Last-iv.First) + 1
		}
	}
	return n
}
