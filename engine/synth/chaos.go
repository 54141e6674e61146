package synth

import (
	"math/rand/v2"
	"net/netip"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// Chaos makes small hostile clusters: few labels so that selectors collide,
// addresses and ports at the edges of blocks and ranges.
type Chaos struct {
	*rand.Rand
	Tiers   bool // also tiers, Deny, Pass, Log and ordered sections
	Vendors bool // also what only the policies of vendors can say
	next    int
}

// NewChaos makes the generator of a seed: a third are NetworkPolicies alone, a
// third have tiers, a third everything.
func NewChaos(seed uint64) *Chaos {
	return &Chaos{Rand: rand.New(rand.NewPCG(seed, 1)), Tiers: seed%3 != 1, Vendors: seed%3 == 2}
}

func pick[T any](c *Chaos, list ...T) T { return list[c.IntN(len(list))] }

func (c *Chaos) labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"a", "b", "c"} {
		if c.IntN(3) > 0 {
			out[k] = pick(c, "1", "2", "12")
		}
	}
	return out
}

func (c *Chaos) selector(depth int) model.Selector {
	s := model.Selector{Key: pick(c, "a", "b", "c")}
	if c.Vendors && c.IntN(4) == 0 {
		return c.implied()
	}
	switch n := c.IntN(12); {
	case n < 2:
		return model.Selector{}
	case n < 5:
		s.Op, s.Values = model.SelectIn, []string{pick(c, "1", "2", "12", "unused")}
	case n == 5:
		s.Op, s.Values = model.SelectIn, []string{"1", pick(c, "2", "12")}
	case n == 6:
		s.Op, s.Values = model.SelectNotIn, []string{pick(c, "1", "2", "12", "unused")}
	case n == 7:
		s.Op = pick(c, model.SelectExists, model.SelectNotExists)
	case n == 8:
		s.Op, s.Values = pick(c, model.SelectPrefix, model.SelectSuffix, model.SelectContains), []string{pick(c, "1", "2")}
	case depth > 2:
		s.Op, s.Key = model.SelectNone, ""
	case n == 9:
		return model.Selector{Op: model.SelectNot, Args: []model.Selector{c.selector(depth + 1)}}
	default:
		return model.Selector{Op: pick(c, model.SelectAnd, model.SelectOr), Args: []model.Selector{c.selector(depth + 1), c.selector(depth + 1)}}
	}
	return s
}

// implied asks for something that is no label of the pod's own.
func (c *Chaos) implied() model.Selector {
	s := model.Selector{Op: pick(c, model.SelectIn, model.SelectNotIn), Values: []string{pick(c, "1", "2", "12")}}
	switch c.IntN(7) {
	case 0:
		s.Key, s.Values = model.ClusterName, []string{pick(c, "default", "other")}
	case 1:
		s.Key, s.Values = model.NamespaceName, []string{c.namespace()}
	case 2:
		s.Key = model.NamespaceLabels + pick(c, "a", "b")
	case 3:
		s.Key, s.Values = model.AccountName, []string{pick(c, "robot", "default")}
	case 4:
		s.Key = model.AccountLabels + pick(c, "a", "b")
	case 5:
		s.Key, s.Values = model.PodName, []string{"p" + strconv.Itoa(1+c.IntN(8))}
	case 6:
		return model.Selector{Op: pick(c, model.SelectExists, model.SelectNotExists), Key: model.InPrefix + pick(c, "10.244.0.0/30", "10.244.0.4/31", "0.0.0.0/0")}
	}
	return s
}

func (c *Chaos) namespace() string { return pick(c, "x", "y", "z") }

func (c *Chaos) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(c.IntN(2)), byte(1 + c.IntN(40))})
}

func (c *Chaos) pod() model.Endpoint {
	c.next++
	e := model.Endpoint{
		Namespace: c.namespace(), Name: "p" + strconv.Itoa(c.next), Labels: c.labels(), Node: pick(c, "n0", "n1"),
		Workload: model.Workload{Kind: "Pod", Name: "p" + strconv.Itoa(c.next)},
		IPs:      []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(c.next / 200 % 2), byte(1 + c.next%200)})},
	}
	e.ServiceAccount = pick(c, "default", "robot")
	for _, name := range []string{"http", "dns"} {
		if c.IntN(2) == 0 {
			e.Ports = append(e.Ports, model.ContainerPort{Name: name, Protocol: pick(c, model.TCP, model.UDP), Number: pick[uint16](c, 53, 80, 8080)})
		}
	}
	if c.IntN(8) == 0 {
		e.HostNetwork = true
		e.IPs = []netip.Addr{nodeAddr(e.Node)}
	}
	return e
}

func nodeAddr(name string) netip.Addr {
	return netip.MustParseAddr("172.30.0." + strconv.Itoa(1+int(name[1]-'0')))
}

func (c *Chaos) block() *model.IPBlock {
	b := &model.IPBlock{CIDR: netip.MustParsePrefix(pick(c, "0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.0.0/27", "172.30.0.0/16", "172.30.0.2/32", "203.0.113.0/24", "203.0.113.128/25", "::/0"))}
	for range c.IntN(3) {
		e := netip.MustParsePrefix(pick(c, "10.244.0.16/28", "10.244.0.5/32", "203.0.113.0/25", "203.0.113.200/29", "172.30.0.1/32", "10.244.1.0/24"))
		if b.CIDR.Contains(e.Addr()) && e.Bits() > b.CIDR.Bits() {
			b.Except = append(b.Except, e)
		}
	}
	return b
}

func (c *Chaos) port() model.Port {
	p := model.Port{Protocol: pick(c, model.TCP, model.UDP, model.SCTP)}
	switch c.IntN(5) {
	case 0:
		p.Name = pick(c, "http", "dns", "nobody")
	case 1:
		p.Last = 65535
	case 2:
		p.First, p.Last = pick[uint16](c, 1, 53, 80), pick[uint16](c, 80, 8080, 65535)
	default:
		p.First = pick[uint16](c, 53, 80, 8080)
		p.Last = p.First
	}
	return p
}

func (c *Chaos) rule() model.Rule {
	r := model.Rule{AnyPeer: c.IntN(6) == 0, AnyPort: c.IntN(3) == 0}
	if c.Tiers {
		r.Action = pick(c, model.Allow, model.Allow, model.Deny, model.Pass, model.Log)
	}
	if c.Vendors && c.IntN(6) == 0 && r.Action == model.Allow {
		r.L7 = &model.L7{Authentication: model.AuthRequired}
	}
	if c.Vendors && c.IntN(4) == 0 {
		s := c.endpointSelector()
		r.Subject = &s
	}
	for range c.IntN(4) {
		switch {
		case r.AnyPeer:
		case c.Vendors && c.IntN(2) == 0:
			r.Peers = append(r.Peers, c.vendorPeer(0))
		case c.IntN(3) == 0:
			r.Peers = append(r.Peers, model.Peer{Block: c.block()})
		default:
			s := c.endpointSelector()
			r.Peers = append(r.Peers, model.Peer{Pods: &s})
		}
	}
	for range c.IntN(3) {
		if !r.AnyPort {
			r.Ports = append(r.Ports, c.port())
		}
	}
	return r
}

// vendorPeer asks for several things at once.
func (c *Chaos) vendorPeer(depth int) model.Peer {
	var p model.Peer
	if c.IntN(3) == 0 {
		s := c.endpointSelector()
		p.Pods = &s
	}
	if c.IntN(3) == 0 {
		p.Block = c.block()
	}
	if c.IntN(4) == 0 {
		p.Nodes = &model.NodeSelector{Which: pick(c, model.AnyNode, model.OwnNode, model.OtherNode)}
		if c.IntN(2) == 0 {
			p.Nodes.Labels = model.MatchLabels(map[string]string{"a": pick(c, "1", "2")})
		}
	}
	if c.IntN(5) == 0 {
		p.Sets = &model.SetSelector{Family: pick(c, model.FamilyCalico, model.FamilyCalico, model.FamilyCilium), Namespaced: c.IntN(4) == 0, Global: c.IntN(4) == 0}
		switch c.IntN(3) {
		case 0:
			p.Sets.Name = "s" + strconv.Itoa(c.IntN(3))
		case 1:
			p.Sets.Labels = c.selector(1)
		default:
			p.Sets.Namespaces = model.MatchLabels(map[string]string{"a": pick(c, "1", "2")})
		}
	}
	if c.IntN(5) == 0 {
		p.Services = &model.ServiceSelector{Behind: pick(c, model.BehindPods, model.BehindAddresses)}
		if depth == 0 && c.IntN(3) == 0 {
			p.Services.Behind = model.BehindPorts
		}
		switch c.IntN(3) {
		case 0:
			p.Services.Namespace, p.Services.Name = c.namespace(), "v"+strconv.Itoa(c.IntN(2))
		case 1:
			p.Services.Labels = model.MatchLabels(map[string]string{"a": pick(c, "1", "2")})
		default:
			p.Services.Name = "v0"
		}
		if p.Services.Behind == model.BehindPorts && p.Nodes != nil {
			p.Nodes.Which = model.AnyNode
		}
	}
	if c.IntN(12) == 0 {
		p.Names = []model.NamePattern{{Text: "a.example"}}
	}
	p.Outside = c.IntN(6) == 0
	for depth < 2 && c.IntN(3) == 0 {
		not := c.vendorPeer(depth + 1)
		if p.Services != nil && p.Services.Behind == model.BehindPorts && relative(&not) {
			continue
		}
		p.Not = append(p.Not, not)
	}
	return p
}

func relative(p *model.Peer) bool {
	for i := range p.Not {
		if relative(&p.Not[i]) {
			return true
		}
	}
	return p.Nodes != nil && p.Nodes.Which != model.AnyNode
}

func (c *Chaos) set(i int) model.AddressSet {
	s := model.AddressSet{
		Family: pick(c, model.FamilyCalico, model.FamilyCalico, model.FamilyCilium), Namespace: pick(c, "", "x", "y"), Name: "s" + strconv.Itoa(i), Labels: c.labels(),
		Source: model.Source{Kind: "NetworkSet", Name: "s" + strconv.Itoa(i)},
	}
	for range c.IntN(3) {
		s.Blocks = append(s.Blocks, c.block().CIDR)
	}
	s.Unreadable = c.IntN(6) == 0
	return s
}

func (c *Chaos) service(namespace, name string) model.Service {
	s := model.Service{Namespace: namespace, Name: name, Labels: c.labels()}
	if c.IntN(2) == 0 {
		s.Selector = map[string]string{pick(c, "a", "b"): pick(c, "1", "2")}
	}
	p := model.ServicePort{Protocol: pick(c, model.TCP, model.UDP)}
	for range c.IntN(4) {
		p.Backends = append(p.Backends, model.Backend{IP: netip.MustParseAddr(pick(c, "203.0.113.128", "172.30.0.1", "172.30.9.9", "10.244.0.1", "10.244.0.3", "8.8.8.8")), Port: pick[uint16](c, 53, 80, 8080)})
	}
	s.Ports = []model.ServicePort{p}
	return s
}

func (c *Chaos) tier(name string) model.Tier {
	return model.Tier{Name: name, Order: pick(c, 100, 5000, 1e6, 2e7), Pass: c.IntN(2) == 0}
}

func (c *Chaos) account(name string) model.ServiceAccount {
	return model.ServiceAccount{Namespace: name, Name: "robot", Labels: c.labels()}
}

// references are what policies refer to.
func (c *Chaos) references(out *model.Cluster) {
	out.Name = pick(c, "", "other")
	for i := range 3 {
		out.Sets = append(out.Sets, c.set(i))
	}
	for _, n := range []string{"x", "y"} {
		out.Accounts = append(out.Accounts, c.account(n))
		out.Services = append(out.Services, c.service(n, "v0"), c.service(n, "v1"))
	}
	out.Tiers = append(out.Tiers, c.tier("mine"))
	for i := range out.Nodes {
		out.Nodes[i].Labels = c.labels()
	}
}

// changeReferences changes one thing that policies refer to.
func (c *Chaos) changeReferences(cl, out *model.Cluster) {
	out.Sets, out.Accounts = append([]model.AddressSet(nil), cl.Sets...), append([]model.ServiceAccount(nil), cl.Accounts...)
	out.Services, out.Tiers = append([]model.Service(nil), cl.Services...), append([]model.Tier(nil), cl.Tiers...)
	out.Nodes = append([]model.Node(nil), cl.Nodes...)
	switch c.IntN(6) {
	case 0:
		if i := c.IntN(4); i < len(out.Sets) {
			was := out.Sets[i]
			out.Sets[i] = c.set(i)
			out.Sets[i].Name, out.Sets[i].Source = was.Name, was.Source
			out.Sets[i].Namespace = was.Namespace
		} else if len(out.Sets) > 0 {
			out.Sets = out.Sets[1:]
		}
	case 1:
		i := c.IntN(len(out.Accounts))
		out.Accounts[i] = c.account(out.Accounts[i].Namespace)
	case 2:
		if len(out.Services) > 0 {
			i := c.IntN(len(out.Services))
			out.Services[i] = c.service(out.Services[i].Namespace, out.Services[i].Name)
			if c.IntN(4) == 0 {
				out.Services = append(out.Services[:i:i], out.Services[i+1:]...)
			}
		}
	case 3:
		out.Tiers = nil
		if c.IntN(4) > 0 {
			out.Tiers = append(out.Tiers, c.tier("mine"))
		}
	case 4:
		i := c.IntN(len(out.Nodes))
		out.Nodes[i].Labels = c.labels()
	case 5:
		i := c.IntN(len(out.Nodes))
		a := nodeAddr(out.Nodes[i].Name)
		if c.IntN(2) == 0 {
			a = netip.MustParseAddr("172.30.9." + strconv.Itoa(9+i))
		}
		out.Nodes[i].IPs = []netip.Addr{a}
	}
}

func (c *Chaos) endpointSelector() model.EndpointSelector {
	s := model.EndpointSelector{Pods: c.selector(0)}
	if c.IntN(2) == 0 {
		s.Namespace = c.namespace()
	} else {
		s.Namespaces = c.selector(0)
	}
	return s
}

// Policy makes a policy.
func (c *Chaos) Policy() *model.Policy {
	c.next++
	p := &model.Policy{
		Source: model.Source{Kind: "NetworkPolicy", Namespace: c.namespace(), Name: "q" + strconv.Itoa(c.next)},
		Tier:   model.TierDefault, Order: model.KubernetesOrder, Subject: c.endpointSelector(),
	}
	if c.Tiers {
		p.Tier, p.Order = pick(c, model.TierAdmin, model.TierDefault, model.TierBaseline, "mine"), float64(c.IntN(3))
		p.Staged = c.IntN(8) == 0
	}
	if c.Vendors {
		p.Family = pick(c, model.FamilyKubernetes, model.FamilyCluster, model.FamilyCalico, model.FamilyCalico, model.FamilyCilium, model.FamilyCilium)
		p.Source.Kind = "Policy" + strconv.Itoa(int(p.Family))
		if p.Family == model.FamilyCalico && c.IntN(8) == 0 {
			p.Tier = model.TierProfiles
		}
	}
	for _, s := range []**model.Section{&p.Ingress, &p.Egress} {
		if c.IntN(3) == 0 {
			continue
		}
		*s = &model.Section{DefaultDeny: !c.Tiers || c.IntN(2) == 0, Ordered: c.Tiers && c.IntN(2) == 0}
		for range c.IntN(4) {
			(*s).Rules = append((*s).Rules, c.rule())
		}
	}
	return p
}

// Cluster makes a cluster of two nodes with a few pods and policies.
func (c *Chaos) Cluster() *model.Cluster {
	out := &model.Cluster{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	for _, n := range []string{"n0", "n1"} {
		out.Nodes = append(out.Nodes, model.Node{Name: n, IPs: []netip.Addr{nodeAddr(n)}})
	}
	for _, n := range []string{"x", "y"} { // z is declared by nobody
		out.Namespaces = append(out.Namespaces, c.namespaceObject(n))
	}
	if c.Vendors {
		c.references(out)
	}
	for range 3 + c.IntN(8) {
		out.Endpoints = append(out.Endpoints, c.pod())
	}
	for range c.IntN(7) {
		out.Policies = append(out.Policies, c.Policy())
	}
	return out
}

func (c *Chaos) namespaceObject(name string) model.Namespace {
	l := c.labels()
	l[model.MetadataName] = name
	return model.Namespace{Name: name, Labels: l}
}

// Key is a port at or beside the edge of some rule.
func (c *Chaos) Key() model.PortKey {
	p := pick(c, model.TCP, model.TCP, model.UDP, model.SCTP, model.ICMP)
	return model.PortKeyOf(p, pick[uint16](c, 1, 52, 53, 54, 79, 80, 81, 8079, 8080, 8081, 65535))
}

// Mutate returns a cluster with one to three things changed.
func (c *Chaos) Mutate(cl *model.Cluster) *model.Cluster {
	out := *cl
	out.Endpoints = append([]model.Endpoint(nil), cl.Endpoints...)
	out.Policies = append([]*model.Policy(nil), cl.Policies...)
	out.Namespaces = append([]model.Namespace(nil), cl.Namespaces...)
	for range 1 + c.IntN(3) {
		switch n := c.IntN(12); {
		case n > 9 && c.Vendors:
			c.changeReferences(&out, &out)
		case n == 9:
			ranges := []string{"10.244.0.0/16", "10.244.0.0/24", "10.244.0.0/30", "0.0.0.0/0", "10.244.1.0/24", "10.244.2.0/23"}
			out.PodRanges = nil
			for range c.IntN(3) {
				out.PodRanges = append(out.PodRanges, netip.MustParsePrefix(ranges[c.IntN(len(ranges))]))
			}
		case n < 2:
			out.Endpoints = append(out.Endpoints, c.pod())
		case n == 2 && len(out.Endpoints) > 1:
			i := c.IntN(len(out.Endpoints))
			out.Endpoints = append(out.Endpoints[:i:i], out.Endpoints[i+1:]...)
		case n == 3 && len(out.Endpoints) > 0:
			out.Endpoints[c.IntN(len(out.Endpoints))].Labels = c.labels()
		case n < 6:
			out.Policies = append(out.Policies, c.Policy())
		case n == 6 && len(out.Policies) > 0:
			i := c.IntN(len(out.Policies))
			p := c.Policy()
			p.Source = out.Policies[i].Source
			out.Policies[i] = p
		case n == 7 && len(out.Policies) > 0:
			i := c.IntN(len(out.Policies))
			out.Policies = append(out.Policies[:i:i], out.Policies[i+1:]...)
		case n == 8:
			i := c.IntN(len(out.Namespaces))
			out.Namespaces[i] = c.namespaceObject(out.Namespaces[i].Name)
		}
	}
	for i := range out.Endpoints { // a node's addresses are those of its hostNetwork pods
		for _, n := range out.Nodes {
			if e := &out.Endpoints[i]; e.HostNetwork && e.Node == n.Name {
				e.IPs = n.IPs
			}
		}
	}
	return &out
}
