package model

import "net/netip"

// Direction is the door a policy governs.
type Direction uint8

// The two doors of a pod.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// MarshalText writes the direction as its lower-case word.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Action is what a rule does with the connections it matches.
type Action uint8

// The actions. Log emits and goes on to the next rule; Pass leaves the tier.
const (
	Allow Action = iota
	Deny
	Pass
	Log
)

func (a Action) String() string { return [...]string{"allow", "deny", "pass", "log"}[a] }

// Family is the group of policies that know of each other. Where policies of
// Calico's family and of Cilium's both select a pod, both must allow.
type Family uint8

// The families. FamilyCluster is the ordered tiers around all others.
const (
	FamilyKubernetes Family = iota
	FamilyCluster
	FamilyCalico
	FamilyCilium
)

// Policy is one policy of any dialect. An object with several rule sets of
// their own subjects is several policies, told apart by Part.
type Policy struct {
	Source  Source
	Part    int // 0, 1, … of the object
	Family  Family
	Tier    string  // name of the tier
	Order   float64 // within the tier, lower first; +Inf is last
	Staged  bool    // evaluated in the shadow plane only
	Log     string  // what the author wants to read beside its verdicts; mostly ""
	Subject EndpointSelector
	Ingress *Section // nil: the policy does not govern ingress
	Egress  *Section // nil: the policy does not govern egress
}

// Section returns the policy's section for the direction, or nil.
func (p *Policy) Section(d Direction) *Section {
	if d == Ingress {
		return p.Ingress
	}
	return p.Egress
}

// Section is what a policy says about one direction. The subject is isolated
// in that direction by the section's mere presence if DefaultDeny is set.
type Section struct {
	DefaultDeny bool
	Ordered     bool // first matching rule decides; else the rules are an unordered set
	Rules       []Rule
}

// Rule matches a connection if one of its peers and one of its ports do.
type Rule struct {
	Name    string // as the author calls it; mostly ""
	Action  Action
	Subject *EndpointSelector // nil: every pod that the policy selects; else of those only the pods it selects
	AnyPeer bool              // any address at all; Peers is then empty
	Peers   []Peer            // none: matches nothing, unless AnyPeer
	AnyPort bool              // any protocol and port; Ports is then empty
	Ports   []Port            // none: matches nothing, unless AnyPort
	Source  Source
	L7      *L7 // conditions that a proxy must check; nil: none
}

// Peer is one alternative of a rule's from or to. Everything that is set must
// hold; a Peer with nothing set is any address.
type Peer struct {
	Pods     *EndpointSelector // pods by labels, never hostNetwork ones
	Block    *IPBlock          // addresses by prefix
	Nodes    *NodeSelector     // the addresses of nodes
	Sets     *SetSelector      // addresses that an [AddressSet] lists
	Services *ServiceSelector  // what stands behind Services
	Names    []NamePattern     // addresses that DNS gave for a name
	Outside  bool              // no pod's and no node's address
	Not      []Peer            // none of these
	Source   Source
}

// Which tells a node's own addresses from those of others, as the subject sees it.
type Which uint8

// The nodes, seen from a pod.
const (
	AnyNode   Which = iota
	OwnNode         // that the pod runs on
	OtherNode       // every other one
)

// NodeSelector selects nodes by labels, and with them their addresses.
type NodeSelector struct {
	Which  Which
	Labels Selector
}

// SetSelector selects [AddressSet]s of a family. All that is set must hold.
type SetSelector struct {
	Family     Family
	Name       string   // exact name; "" does not restrict
	Namespace  string   // exact namespace; "" does not restrict
	Namespaces Selector // over the labels of a set's namespace; a set without one has none
	Namespaced bool     // only sets that have a namespace
	Global     bool     // only sets that have none
	Labels     Selector // over the set's labels; NamespaceName and NamespaceLabels can be asked, too
}

// Behind is how a peer is what stands behind a Service.
type Behind uint8

// The ways.
const (
	BehindPods      Behind = iota // pods by the Service's selector, ready or not; without one, the addresses, where they are outside
	BehindAddresses               // the addresses of its endpoints, of whatever they are
	BehindPorts                   // the same, each with its own ports only; the rule's Ports do not count
)

// ServiceSelector selects Services. All that is set must hold.
type ServiceSelector struct {
	Namespace string // "" does not restrict
	Name      string // "" does not restrict
	Labels    Selector
	Behind    Behind
}

// IPBlock is a prefix without some of its parts. It matches every address in
// it: of pods, of nodes and of anybody else.
type IPBlock struct {
	CIDR   netip.Prefix // masked
	Except []netip.Prefix
}

// Contains says whether the address is in the block. An IPv4 address never
// matches an IPv6 prefix, also when it is written as a mapped one.
func (b IPBlock) Contains(a netip.Addr) bool {
	if !b.CIDR.Contains(a) {
		return false
	}
	for _, e := range b.Except {
		if e.Contains(a) {
			return false
		}
	}
	return true
}

// EndpointSelector selects pods (never hostNetwork ones): by exact namespace
// or by the labels of the namespace, and by the pod's own labels. All that is
// set must hold; the zero value selects every pod.
type EndpointSelector struct {
	Namespace  string   // exact name; "" does not restrict
	Namespaces Selector // over namespace labels
	Pods       Selector // over pod labels, and what else is known of pods: see [Implied]
}

// AppendKey appends an unambiguous encoding of the selector.
func (s EndpointSelector) AppendKey(b []byte) []byte {
	b = append(append(b, s.Namespace...), '|')
	b = append(s.Namespaces.AppendKey(b), '|')
	return s.Pods.AppendKey(b)
}

func (s EndpointSelector) String() string {
	var out string
	switch {
	case s.Namespace != "":
		out = "namespace " + s.Namespace
	case s.Namespaces.Op != SelectAll:
		out = "namespaces " + s.Namespaces.String()
	default:
		out = "all namespaces"
	}
	if s.Pods.Op != SelectAll {
		out += ", pods " + s.Pods.String()
	}
	return out
}
