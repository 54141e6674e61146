package engine

import (
	"net/netip"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// Identity is a small dense number for a class of addresses that no policy in
// force can tell apart. 0 is no identity: an address that nobody knows.
type Identity uint32

// Row is a set of identities. Its bits change only when identities appear.
type Row struct {
	// All is set on the row that holds every identity, now and later.
	All bool
	// None is set on the row that holds no identity, now or later.
	None bool
	// Bits holds one bit per identity, identity i in word i/64.
	Bits []uint64

	terms []term // the expression that the bits are the value of
	plane plane
	slot  int // in Matrix.rows
}

// Has says whether the identity is in the row.
func (r *Row) Has(i Identity) bool {
	return r.All || (int(i/64) < len(r.Bits) && r.Bits[i/64]>>(i%64)&1 == 1)
}

// Range is one interval of a gate: from First up to the next range's First.
// No row is ever nil.
type Range struct {
	First       model.PortKey
	Allow       *Row // may pass
	Shadow      *Row // may pass in the shadow plane (staged policies enforced)
	Conditional *Row // may pass only through the proxy
	Log         *Row // to be reported
}

// Gate is the compiled policies of one subject in one direction. A nil *Gate
// is an open door: the subject is not isolated. Gates are interned: equal
// pointers are equal gates, and a gate never changes but for new identities.
type Gate struct {
	Ranges    []Range         // sorted; the first starts at 0
	Policies  []*model.Policy // those that govern this door, in order of evaluation
	Direction model.Direction

	key  string
	refs int
	rows []*rowSet
	walk []step // of the enforced policies, once somebody has asked for reasons
}

// Delta says what a change touched, for a publisher that keeps a mirror.
type Delta struct {
	Full       bool           // compare everything
	Identities []Identity     // columns that are new: every row is to be rewritten there
	Freed      []Identity     // columns no address uses any more
	Endpoints  []string       // keys of endpoints added, removed, or whose identity or gates changed
	Prefixes   []netip.Prefix // prefixes added, removed, or whose identity changed
}

// Change is a set of changes to a cluster, applied as one.
type Change struct {
	Endpoints        []*model.Endpoint // added or replaced, by Key
	DeletedEndpoints []string
	Policies         []*model.Policy        // added or replaced, by PolicyKey
	DeletedPolicies  []string               // PolicyKey of each
	Namespaces       []model.Namespace      // added or replaced; one that is gone has its name as its only label
	Nodes            []model.Node           // added or replaced; one that is gone has no addresses
	PodRanges        *[]netip.Prefix        // all of them, if not nil
	Accounts         []model.ServiceAccount // added or replaced; one that is gone has no labels
	Tiers            []model.Tier           // added or replaced, by name
	DeletedTiers     []string
	Sets             []*model.AddressSet // added or replaced, by Key
	DeletedSets      []string
	Services         []*model.Service // added or replaced, by Key; those that no policy asks for cost nothing
	DeletedServices  []string
}

// PolicyKey identifies a policy: "apiVersion kind namespace/name", and for the
// later parts of an object "#" and the part.
func PolicyKey(p *model.Policy) string {
	key := p.Source.APIVersion + " " + p.Source.Kind + " " + p.Source.Namespace + "/" + p.Source.Name
	if p.Part > 0 {
		key += "#" + strconv.Itoa(p.Part)
	}
	return key
}

// Party is one end of a connection: a pod (Endpoint set), a node, or any
// other address. Addr is the address that the connection uses; a pod's may be
// left invalid, its first one is meant then.
type Party struct {
	Endpoint *model.Endpoint
	Addr     netip.Addr
	Node     string // name of the node whose own address this is; "" for others
}

// Reason says why a door is open or shut.
type Reason string

// The reasons of a door.
const (
	NoDoor      Reason = "no-door"      // the party is no pod: nobody judges here
	SamePod     Reason = "same-pod"     // a pod always reaches itself
	OwnNode     Reason = "own-node"     // a pod's own node always reaches it
	NotIsolated Reason = "not-isolated" // no policy governs this door
	ByRule      Reason = "rule"         // Rule of Policy decided
	ByCondition Reason = "conditional"  // Rule of Policy allows it under conditions that only a proxy can check
	DefaultDeny Reason = "default-deny" // Policies isolate and no rule allows
	UnknownPeer Reason = "unknown-peer" // the other end is an address in a pod range that nobody has
)

// Said is what a tier says about a connection.
type Said string

// What a tier can say. A stage that passes leaves the connection to the next.
const (
	Undecided   Said = ""
	SaidAllow   Said = "allow"
	SaidAllowL7 Said = "allow-conditional"
	SaidDeny    Said = "deny"
	SaidPass    Said = "pass"
	EndDeny     Said = "end-deny" // no rule matched, and the end of the tier denies
	EndPass     Said = "end-pass" // no rule matched; the next tier decides
)

// Stage is one tier on a connection's way through a door.
type Stage struct {
	Pipeline int // 0, and where both must allow 1: what governs the door as Cilium counts it
	Tier     string
	Policies []*model.Policy // of the tier that govern the door
	Said     Said
	Policy   *model.Policy // whose rule matched, if one did
	Rule     *model.Rule
	Logs     []*model.Rule // that matched before, with action Log
}

// Door is the verdict of one end of a connection.
type Door struct {
	Direction model.Direction
	Allowed   bool
	Reason    Reason
	Policies  []*model.Policy // those that govern the door
	Policy    *model.Policy   // with ByRule: whose rule decided
	Rule      *model.Rule     // with ByRule: the rule that decided
}

// Verdict is the verdict of a connection: allowed if both doors are open.
type Verdict struct {
	Allowed         bool
	Egress, Ingress Door
}
