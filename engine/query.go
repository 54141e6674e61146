package engine

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Endpoint finds a pod by "namespace/name", or nil.
func (m *Matrix) Endpoint(key string) *model.Endpoint {
	if e := m.endpoints[key]; e != nil {
		return e.Endpoint
	}
	return nil
}

// Endpoints lists the pods, sorted by namespace and name.
func (m *Matrix) Endpoints() []*model.Endpoint {
	out := make([]*model.Endpoint, 0, len(m.endpoints))
	for _, e := range m.byKey() {
		out = append(out, e.Endpoint)
	}
	return out
}

// Count is the number of pods and of policies.
func (m *Matrix) Count() (endpoints, policies int) { return len(m.endpoints), len(m.policies) }

func (m *Matrix) byKey() []*endpoint {
	if m.sorted == nil {
		m.sorted = make([]*endpoint, 0, len(m.endpoints))
		for _, e := range m.endpoints {
			m.sorted = append(m.sorted, e)
		}
		slices.SortFunc(m.sorted, func(a, b *endpoint) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
	}
	return m.sorted
}

// EndpointAt finds the pod that has the address, or nil.
func (m *Matrix) EndpointAt(a netip.Addr) *model.Endpoint {
	if o, ok := m.addresses[a.Unmap()]; ok {
		return o.endpoint.Endpoint
	}
	return nil
}

// Gate is the pod's gate in the direction; nil is an open door. A hostNetwork
// pod and one that does not exist have none.
func (m *Matrix) Gate(key string, d model.Direction) *Gate {
	e := m.endpoints[key]
	if e == nil || e.class == nil {
		return nil
	}
	return m.gate(e.class, d)
}

// AddressIdentity is the identity of any address: a pod's, or by longest
// matching prefix. It is 0 inside a pod range where neither a pod nor a node
// has the address.
func (m *Matrix) AddressIdentity(a netip.Addr) Identity {
	a = a.Unmap()
	if o, ok := m.addresses[a]; ok {
		return o.unit.identity
	}
	if _, isNode := m.nodeOf[a]; !isNode && m.inPodRange(a) {
		return 0
	}
	return m.longest(a, a.BitLen()).external.identity
}

func (m *Matrix) inPodRange(a netip.Addr) bool {
	return slices.ContainsFunc(m.podRanges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// PrefixIdentity is the identity of addresses whose longest prefix among
// Prefixes this is and that are no pod's; 0 for a prefix that is not among them.
func (m *Matrix) PrefixIdentity(p netip.Prefix) Identity {
	i, found := slices.BinarySearchFunc(m.prefixes, p, func(n *prefixNode, p netip.Prefix) int { return model.ComparePrefixes(n.prefix, p) })
	if !found {
		return 0
	}
	return m.prefixes[i].external.identity
}

// Prefixes lists every prefix that tells addresses apart, sorted; 0.0.0.0/0
// and ::/0 are always among them.
func (m *Matrix) Prefixes() []netip.Prefix {
	out := make([]netip.Prefix, len(m.prefixes))
	for i, n := range m.prefixes {
		out[i] = n.prefix
	}
	return out
}

// PodRanges lists the prefixes in which an address that is no pod's or node's
// is closed.
func (m *Matrix) PodRanges() []netip.Prefix { return slices.Clone(m.podRanges) }

// Identities is the number of identity slots in use: every Identity is below it.
func (m *Matrix) Identities() int { return len(m.sizes) }

// Policies lists the policies in order of evaluation.
func (m *Matrix) Policies() []*model.Policy {
	compiled := make([]*policy, 0, len(m.policies))
	for _, p := range m.policies {
		compiled = append(compiled, p)
	}
	slices.SortFunc(compiled, comparePolicies)
	out := make([]*model.Policy, len(compiled))
	for i, p := range compiled {
		out[i] = p.Policy
	}
	return out
}

// at finds the range that the port key falls into.
func (g *Gate) at(key model.PortKey) *Range { return &g.Ranges[g.index(key)] }

func (g *Gate) index(key model.PortKey) int {
	i, found := slices.BinarySearchFunc(g.Ranges, key, func(r Range, key model.PortKey) int { return cmp.Compare(r.First, key) })
	if !found {
		i--
	}
	return i
}

// At is the range that decides about the port key.
func (g *Gate) At(key model.PortKey) Range { return *g.at(key) }

// PortSet is everything that the identity may use of the gate; a nil gate
// lets everything pass.
func (g *Gate) PortSet(id Identity) model.PortSet {
	if g == nil {
		return model.AllPorts()
	}
	var out []model.Interval
	for i := range g.Ranges {
		if !g.Ranges[i].Allow.Has(id) {
			continue
		}
		last := model.MaxPortKey
		if i+1 < len(g.Ranges) {
			last = g.Ranges[i+1].First - 1
		}
		out = append(out, model.Interval{First: g.Ranges[i].First, Last: last})
	}
	return model.Union(out...)
}

// Outside lists one address for each prefix that has addresses which are no
// pod's and not in a pod range: together they stand for everything outside.
func (m *Matrix) Outside() []netip.Addr {
	var out []netip.Addr
	for _, n := range m.prefixes {
		if a, ok := m.representative(n); ok && m.nodeOf[a] == "" && !m.inPodRange(a) {
			out = append(out, a)
		}
	}
	return out
}

// ordinary are addresses that a packet can really carry, for prefixes such as
// 0.0.0.0/0 whose first address is none.
var ordinary = []netip.Addr{
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("8.0.0.1"),
	netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2600::1"),
}

// representative finds an address whose longest prefix the node is and that is
// no machine's: it steps over the node's children.
func (m *Matrix) representative(n *prefixNode) (netip.Addr, bool) {
	for _, a := range ordinary {
		if m.longest(a, a.BitLen()) == n && m.nodeOf[a] == "" {
			return a, true
		}
	}
	for a := n.prefix.Addr(); a.IsValid() && n.prefix.Contains(a); {
		inner := m.longest(a, a.BitLen())
		if inner == n && m.nodeOf[a] == "" {
			return a, true
		}
		if inner == n {
			a = a.Next()
			continue
		}
		for inner.parent != n {
			inner = inner.parent
		}
		a = model.LastAddr(inner.prefix).Next()
	}
	return netip.Addr{}, false
}

// Selected lists the pods that the selector selects, sorted by key.
func (m *Matrix) Selected(s model.EndpointSelector) []*model.Endpoint {
	var out []*model.Endpoint
	for _, e := range m.byKey() {
		if !e.HostNetwork && (s.Namespace == "" || s.Namespace == e.Namespace) &&
			s.Namespaces.Matches(m.namespaceLabels(e.Namespace)) && s.Pods.Match(m.labelsOf(e.Endpoint)) {
			out = append(out, e.Endpoint)
		}
	}
	return out
}

// PrefixOf is the longest of Prefixes that contains the address.
func (m *Matrix) PrefixOf(a netip.Addr) netip.Prefix { return m.longest(a, a.BitLen()).prefix }

// Nodes lists the nodes that have addresses, sorted by name.
func (m *Matrix) Nodes() []model.Node {
	var out []model.Node
	for _, n := range m.nodes {
		if len(n.IPs) > 0 {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b model.Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
