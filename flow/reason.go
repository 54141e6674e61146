package flow

import "fmt"

// Reason says why the kernel let a packet pass or dropped it. Twin: enum reason
// in datapath/bpf; the numbers are the kernel's and their order is its.
type Reason uint8

// The reasons. Allowed and Unjudged let the packet pass, the others drop it.
const (
	Allowed       Reason = iota // both doors are open to it
	Unjudged                    // neighbour discovery, MLD, IGMP, loopback, the node's own traffic
	EgressDenied                // the source's egress gate is shut to it
	IngressDenied               // the destination's ingress gate is shut to it
	Conditional                 // allowed only through the proxy, and not on its way there
	SpoofedSource               // the source is not what this device may carry
	UnknownPeer                 // an address of a pod range that nobody has
	Fragment                    // a fragment that is not the first
	Malformed                   // the headers cannot be read
	Invalid                     // conntrack calls the packet invalid, or does not run
	Untracked                   // conntrack was told to ignore it, and one orientation is denied
	ICMPError                   // an ICMP error of a connection that is not allowed
	LostEvents                  // no verdict: events that were not delivered (a counter's name only)

	reasons // the number of reasons
)

var reasonNames = [reasons]string{
	Allowed: "allowed", Unjudged: "unjudged",
	EgressDenied: "egress-denied", IngressDenied: "ingress-denied", Conditional: "conditional",
	SpoofedSource: "spoofed-source", UnknownPeer: "unknown-peer",
	Fragment: "fragment", Malformed: "malformed", Invalid: "invalid", Untracked: "untracked",
	ICMPError: "icmp-error", LostEvents: "lost-events",
}

// Accepts says whether packets with this reason pass.
func (r Reason) Accepts() bool { return r <= Unjudged }

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

// UnmarshalText reads a hook by its name.
func (h *Hook) UnmarshalText(text []byte) error {
	for _, known := range []Hook{LocalIn, Forward, LocalOut} {
		if known.String() == string(text) {
			*h = known
			return nil
		}
	}
	return fmt.Errorf("unknown hook %q", text)
}
