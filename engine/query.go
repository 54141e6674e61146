package engine

import (
	"iter"
	"net/netip"

	"github.com/sallyport-dev/sallyport/model"
)

// Matrix is the compiled state of a cluster.
type Matrix struct{}

// Compile compiles a cluster from scratch.
func Compile(c *model.Cluster) *Matrix { panic("in work") }

// Apply changes the Matrix and says what the change touched.
func (m *Matrix) Apply(ch Change) Delta { panic("in work") }

// Verdict judges one connection at both of its doors.
func (m *Matrix) Verdict(src, dst Party, key model.PortKey) Verdict { panic("in work") }

// Connections is everything that src may open towards dst.
func (m *Matrix) Connections(src, dst Party) model.PortSet { panic("in work") }

// Group is a set of pods of one workload that no policy tells apart.
type Group struct {
	Endpoints []*model.Endpoint // sorted by name, never empty
}

// Groups lists the groups, sorted by namespace, workload and first pod.
func (m *Matrix) Groups() []Group { panic("in work") }

// EachPair yields, for every ordered pair of groups (indices into Groups) that
// has any connection, the connections between a pod of the one and another
// pod of the other, sorted by source, then destination.
func (m *Matrix) EachPair() iter.Seq2[[2]int, model.PortSet] { panic("in work") }

// Endpoint finds a pod by "namespace/name", or nil.
func (m *Matrix) Endpoint(key string) *model.Endpoint { panic("in work") }

// Endpoints lists the pods, sorted by key.
func (m *Matrix) Endpoints() []*model.Endpoint { panic("in work") }

// Gate is the pod's gate in the direction; nil is an open door.
func (m *Matrix) Gate(key string, d model.Direction) *Gate { panic("in work") }

// AddressIdentity is the identity of any address: a pod's, or by longest
// matching prefix. It is 0 inside a pod range where no pod has the address.
func (m *Matrix) AddressIdentity(a netip.Addr) Identity { panic("in work") }

// PrefixIdentity is the identity of addresses whose longest prefix (among
// Prefixes) this is and that are no pod's; 0 for a prefix that is none.
func (m *Matrix) PrefixIdentity(p netip.Prefix) Identity { panic("in work") }

// Prefixes lists every prefix that tells addresses apart, with 0.0.0.0/0 and
// ::/0 always among them; sorted.
func (m *Matrix) Prefixes() []netip.Prefix { panic("in work") }

// PodRanges lists the prefixes in which an address that is no pod's or node's
// is closed.
func (m *Matrix) PodRanges() []netip.Prefix { panic("in work") }

// Identities is the number of identity slots in use: every Identity is below it.
func (m *Matrix) Identities() int { panic("in work") }
