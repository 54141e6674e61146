package bpf

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/flow"
)

// Reason says why a packet passed or not. The values are those of enum reason
// in tables.h.
type Reason uint8

// The reasons. Packets of the first two passed; LostEvents is no verdict but
// counts, in [Stats], events that were not delivered.
const (
	Allowed Reason = iota
	Unjudged
	EgressDenied
	IngressDenied
	Conditional
	SpoofedSource
	UnknownPeer
	Fragment
	Malformed
	Invalid
	Untracked
	ICMPError
	LostEvents
	reasons
)

var reasonNames = [reasons]string{
	"allowed", "unjudged", "egress", "ingress", "conditional", "spoofed-source", "unknown-peer",
	"fragment", "malformed", "invalid", "untracked", "icmp-error", "lost-events",
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return strconv.Itoa(int(r))
}

// Passed says whether packets with the reason pass.
func (r Reason) Passed() bool { return r <= Unjudged }

// Flags of an event.
const (
	EventShadow      = 1 << iota // the shadow plane decides otherwise
	EventLog                     // a rule asks for a report
	EventReply                   // the packet went in the reply direction
	EventConditional             // a door opens only with the redirect mark
)

// Event is a new connection, or a packet that was dropped. Addresses, ports
// and identities are those of the connection's original direction; a door
// that was not asked has gate 0. Twin: struct event.
type Event struct {
	Time                                uint64 // CLOCK_MONOTONIC, nanoseconds, of the processor's first event in a tick
	Revision                            uint32
	EgressGate, IngressGate             uint32
	SourceIdentity, DestinationIdentity uint32
	SourceSubject, DestinationSubject   uint32
	InIfindex, OutIfindex               uint32
	SourcePort, DestinationPort         uint16 // ICMP: 0, and type<<8|code
	SourceIP, DestinationIP             [16]byte
	Protocol                            uint8
	Hook                                uint8 // 1 LOCAL_IN, 2 FORWARD, 3 LOCAL_OUT
	Reason                              Reason
	Flags                               uint8
	Sequence                            uint32 // on its processor
}

// Source is the source address.
func (e *Event) Source() netip.Addr { return netip.AddrFrom16(e.SourceIP).Unmap() }

// Destination is the destination address.
func (e *Event) Destination() netip.Addr { return netip.AddrFrom16(e.DestinationIP).Unmap() }

// Flow is the event as package flow decodes it.
func (e *Event) Flow() flow.Event {
	return flow.Event{
		Time: time.Duration(e.Time), Revision: e.Revision,
		Hook: flow.Hook(e.Hook), Reason: flow.Reason(e.Reason),
		Source: e.Source(), Destination: e.Destination(),
		SourcePort: e.SourcePort, DestinationPort: e.DestinationPort, Protocol: e.Protocol,
		SourceSubject: e.SourceSubject, DestinationSubject: e.DestinationSubject,
		SourceIdentity: e.SourceIdentity, DestinationIdentity: e.DestinationIdentity,
		EgressGate: e.EgressGate, IngressGate: e.IngressGate,
		InIfindex: e.InIfindex, OutIfindex: e.OutIfindex,
		Shadow: e.Flags&EventShadow != 0, Log: e.Flags&EventLog != 0,
		Reply: e.Flags&EventReply != 0, Redirected: e.Flags&EventConditional != 0 && e.Reason.Passed(),
	}
}

// Events hands over every event until the context ends, within about 20 ms of
// its packet; the event is the caller's until handle returns. Only one reader
// at a time sees them all.
func (p *Program) Events(ctx context.Context, handle func(*Event)) error {
	j, err := p.openJournal()
	if err != nil {
		return err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		batch := j.read()
		for i := range batch {
			handle(&batch[i])
		}
		select {
		case <-ctx.Done():
			return j.close()
		case <-ticker.C:
		}
	}
}

// Stats is the number of packets by reason, since the maps were made.
type Stats [reasons]uint64

// Stats sums the counters of all processors.
func (p *Program) Stats() (Stats, error) {
	var out Stats
	var perCPU []uint64
	for r := range out {
		if err := p.objects.Stats.Lookup(uint32(r), &perCPU); err != nil {
			return Stats{}, fmt.Errorf("cannot read statistics: %w", err)
		}
		for _, n := range perCPU {
			out[r] += n
		}
	}
	return out, nil
}
