package flow

import "fmt"

// Reason says why the kernel let a packet pass or dropped it. Twin: enum reason
// in datapath/bpf; the numbers are the kernel's and never change meaning.
type Reason uint8

// The reasons. Those up to [Established] let the packet pass, the others drop it.
const (
	Allowed     Reason = iota // both doors are open to it
	Unjudged                  // neighbour discovery, MLD, IGMP, loopback: nobody judges these
	OwnNode                   // from the node itself to one of its own pods, or to anybody
	SamePod                   // a pod always reaches itself
	NoDoor                    // neither end is a pod of this node
	Redirected                // conditional, and on its way to the proxy
	Established               // from the flow cache: an earlier packet was judged at this revision

	PolicyDenied  // a door is shut: SubjectGate and PeerGate say which
	UnknownPeer   // an address of a pod range that nobody has
	SpoofedSource // the source is not what this device may carry
	Invalid       // conntrack calls the packet invalid, or does not run
	Untracked     // conntrack was told to ignore it, and one orientation is denied
	Related       // an expected connection's or an error's connection is not allowed
	Fragment      // a fragment that is not the first
	Malformed     // the headers cannot be read
	Conditional   // allowed only through the proxy, and not on its way there

	reasons // the number of reasons
)

var reasonNames = [reasons]string{
	Allowed: "allowed", Unjudged: "unjudged", OwnNode: "own-node", SamePod: "same-pod", NoDoor: "no-door",
	Redirected: "redirected", Established: "established",
	PolicyDenied: "policy-denied", UnknownPeer: "unknown-peer", SpoofedSource: "spoofed-source",
	Invalid: "invalid", Untracked: "untracked", Related: "related", Fragment: "fragment",
	Malformed: "malformed", Conditional: "conditional",
}

// Accepts says whether packets with this reason pass.
func (r Reason) Accepts() bool { return r <= Established }

func (r Reason) String() string {
	if r >= reasons {
		return fmt.Sprintf("reason-%d", uint8(r))
	}
	return reasonNames[r]
}

// MarshalText writes the reason as its name.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a reason by its name.
func (r *Reason) UnmarshalText(text []byte) error {
	for i, name := range reasonNames {
		if name == string(text) {
			*r = Reason(i)
			return nil
		}
	}
	return fmt.Errorf("cannot read reason %q: unknown name", text)
}

// Reasons lists all of them, in the kernel's order.
func Reasons() []Reason {
	out := make([]Reason, reasons)
	for i := range out {
		out[i] = Reason(i)
	}
	return out
}

// Hook is where the kernel judged the packet.
type Hook uint8

// The hooks, by their numbers in the kernel's netfilter.
const (
	LocalIn  Hook = 1
	Forward  Hook = 2
	LocalOut Hook = 3
)

func (h Hook) String() string {
	switch h {
	case LocalIn:
		return "local-in"
	case Forward:
		return "forward"
	case LocalOut:
		return "local-out"
	}
	return fmt.Sprintf("hook-%d", uint8(h))
}

// MarshalText writes the hook as its name.
func (h Hook) MarshalText() ([]byte, error) { return []byte(h.String()), nil }
