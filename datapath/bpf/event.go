package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

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
	Time                                uint64 // CLOCK_MONOTONIC, nanoseconds
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
// its packet. Only one reader at a time sees them all.
func (p *Program) Events(ctx context.Context, handle func(*Event)) error {
	const patience = 20 * time.Millisecond
	reader, err := ringbuf.NewReader(p.objects.Events)
	if err != nil {
		return fmt.Errorf("cannot read events: %w", err)
	}
	defer reader.Close()
	var record ringbuf.Record
	for ctx.Err() == nil {
		reader.SetDeadline(time.Now().Add(patience))
		err := reader.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read events: %w", err)
		}
		if len(record.RawSample) >= int(unsafe.Sizeof(Event{})) {
			handle(readEvent(record.RawSample))
		}
	}
	return nil
}

// readEvent copies an event out of the ring.
func readEvent(raw []byte) *Event {
	event := *(*Event)(unsafe.Pointer(&raw[0]))
	return &event
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
