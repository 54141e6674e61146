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

// Tier names and orders that are reserved; Kubernetes NetworkPolicies stand
// as one step at KubernetesOrder inside the default tier.
const (
	TierAdmin       = "kube-admin"
	TierDefault     = "default"
	TierBaseline    = "kube-baseline"
	KubernetesOrder = 1000
)

// Policy is one policy of any dialect.
type Policy struct {
	Source  Source
	Family  Family
	Tier    string  // name of the tier
	Order   float64 // within the tier, lower first; +Inf is last
	Staged  bool    // evaluated in the shadow plane only
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
	Action  Action
	AnyPeer bool   // any address at all; Peers is then empty
	Peers   []Peer // none: matches nothing, unless AnyPeer
	AnyPort bool   // any protocol and port; Ports is then empty
	Ports   []Port // none: matches nothing, unless AnyPort
	Source  Source
	L7      *L7 // conditions that a proxy must check; nil: none
}

// L7 is what a rule asks beyond addresses and ports. A connection that only
// such a rule allows is conditional: the kernel hands it to the proxy or drops it.
type L7 struct {
	HTTP           []HTTPMatch
	DNSNames       []string
	ServerNames    []string
	Authentication bool
}

// HTTPMatch is one HTTP alternative; its fields are ANDed, empty is any.
type HTTPMatch struct {
	Method, Path, Host string
	Headers            []string
}

// Peer is one alternative of a rule's from or to: either pods by labels, or
// addresses by prefix. Exactly one of Pods and Block is set.
type Peer struct {
	Pods   *EndpointSelector
	Block  *IPBlock
	Source Source
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
	Namespace       string   // exact name; "" does not restrict
	Namespaces      Selector // over namespace labels
	Pods            Selector // over pod labels
	ServiceAccounts Selector // over service-account labels
}

// AppendKey appends an unambiguous encoding of the selector.
func (s EndpointSelector) AppendKey(b []byte) []byte {
	b = append(append(b, s.Namespace...), '|')
	b = append(s.Namespaces.AppendKey(b), '|')
	b = append(s.Pods.AppendKey(b), '|')
	return s.ServiceAccounts.AppendKey(b)
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
