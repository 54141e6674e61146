package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protocol is an IANA protocol number; AnyProtocol stands for all of them.
type Protocol uint8

// The protocols that policies name.
const (
	AnyProtocol Protocol = 0
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58
	SCTP        Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case AnyProtocol:
		return "ANY"
	case ICMP:
		return "ICMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMPv6:
		return "ICMPv6"
	case SCTP:
		return "SCTP"
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads TCP, UDP, SCTP, ICMP or ICMPv6, in any case.
func ParseProtocol(s string) (Protocol, bool) {
	for _, p := range []Protocol{TCP, UDP, SCTP, ICMP, ICMPv6} {
		if strings.EqualFold(s, p.String()) {
			return p, true
		}
	}
	return 0, false
}

// PortKey is one point of the one-dimensional space that gates divide:
// protocol<<16 | destination port (for ICMP: type<<8 | code; for protocols
// without ports: 0). Connections, gates and the kernel's range table all use it.
type PortKey uint32

// MaxPortKey is the last point: protocol 255, port 65535.
const MaxPortKey PortKey = 0xff_ffff

// PortKeyOf packs a protocol and a port.
func PortKeyOf(p Protocol, port uint16) PortKey { return PortKey(p)<<16 | PortKey(port) }

// Protocol is the protocol part.
func (s PortKey) Protocol() Protocol { return Protocol(s >> 16) }

// Port is the port part.
func (s PortKey) Port() uint16 { return uint16(s) }

func (s PortKey) String() string { return fmt.Sprintf("%d/%s", s.Port(), s.Protocol()) }

// Interval is a closed interval of services, First ≤ Last.
type Interval struct{ First, Last PortKey }

// PortSet is a set of services: sorted, disjoint, non-adjacent intervals.
// The zero value is the empty set.
type PortSet []Interval

// AllPorts is every protocol and port.
func AllPorts() PortSet { return PortSet{{0, MaxPortKey}} }

// IsAll says whether the set is every protocol and port.
func (s PortSet) IsAll() bool { return len(s) == 1 && s[0] == Interval{0, MaxPortKey} }

// Contains says whether the service is in the set.
func (s PortSet) Contains(v PortKey) bool {
	i, _ := slices.BinarySearchFunc(s, v, func(iv Interval, v PortKey) int {
		switch {
		case iv.Last < v:
			return -1
		case iv.First > v:
			return 1
		}
		return 0
	})
	return i < len(s) && s[i].First <= v && v <= s[i].Last
}

// Union is the set of services in any of the intervals given.
func Union(intervals ...Interval) PortSet {
	if len(intervals) == 1 {
		return PortSet{intervals[0]}
	}
	sorted := slices.Clone(intervals)
	slices.SortFunc(sorted, func(a, b Interval) int { return int(int64(a.First) - int64(b.First)) })
	var out PortSet
	for _, iv := range sorted {
		if n := len(out); n > 0 && uint64(iv.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, iv.Last)
			continue
		}
		out = append(out, iv)
	}
	return out
}

// Union is the set of services in either set.
func (s PortSet) Union(t PortSet) PortSet { return Union(append(slices.Clone(s), t...)...) }

// Intersect is the set of services in both sets.
func (s PortSet) Intersect(t PortSet) PortSet {
	var out PortSet
	for i, j := 0, 0; i < len(s) && j < len(t); {
		first, last := max(s[i].First, t[j].First), min(s[i].Last, t[j].Last)
		if first <= last {
			out = append(out, Interval{first, last})
		}
		if s[i].Last < t[j].Last {
			i++
		} else {
			j++
		}
	}
	return out
}

// Subtract is the set of services in s and not in t.
func (s PortSet) Subtract(t PortSet) PortSet { return s.Intersect(t.complement()) }

func (s PortSet) complement() PortSet {
	var out PortSet
	next := PortKey(0)
	for _, iv := range s {
		if iv.First > next {
			out = append(out, Interval{next, iv.First - 1})
		}
		next = iv.Last + 1
	}
	if next <= MaxPortKey {
		out = append(out, Interval{next, MaxPortKey})
	}
	return out
}

// String writes the set in the form of the matrix's CSV: "All", or
// "TCP 80,443,8000-8080; UDP 53", protocols in the order TCP, UDP, SCTP, then
// by number. All ports of a protocol are "TCP 1-65535"; a protocol without
// ports is its name or number alone. The empty set is "".
func (s PortSet) String() string {
	if s.IsAll() {
		return "All"
	}
	var parts []string
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if ports := s.portsOf(p); ports != "" {
			parts = append(parts, p.String()+" "+ports)
		}
	}
	others := s
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		others = others.Subtract(PortSet{{PortKeyOf(p, 0), PortKeyOf(p, 65535)}})
	}
	if len(others) > 0 {
		parts = append(parts, others.otherProtocols()...)
	}
	return strings.Join(parts, "; ")
}

func (s PortSet) portsOf(p Protocol) string {
	var ports []string
	for _, iv := range s.Intersect(PortSet{{PortKeyOf(p, 0), PortKeyOf(p, 65535)}}) {
		first, last := max(iv.First.Port(), 1), iv.Last.Port()
		switch {
		case last == 0: // port 0 alone never carries a connection
		case first == last:
			ports = append(ports, strconv.Itoa(int(first)))
		default:
			ports = append(ports, fmt.Sprintf("%d-%d", first, last))
		}
	}
	return strings.Join(ports, ",")
}

// otherProtocols names whole protocols; runs of them are folded as "protocols
// 0-5". What begins or ends within a protocol is named with its numbers.
func (s PortSet) otherProtocols() []string {
	var out []string
	for _, iv := range s {
		a, b := int(iv.First.Protocol()), int(iv.Last.Protocol())
		first, last := iv.First.Port(), iv.Last.Port()
		switch {
		case a == b && (first > 0 || last < 65535):
			out = append(out, fmt.Sprintf("%s %d-%d", Protocol(a), first, last))
			continue
		case first > 0:
			out = append(out, fmt.Sprintf("%s %d-65535", Protocol(a), first))
			a++
		}
		whole := b
		if last < 65535 {
			whole--
		}
		switch {
		case a == whole && (Protocol(a) == ICMP || Protocol(a) == ICMPv6):
			out = append(out, Protocol(a).String())
		case a == whole:
			out = append(out, fmt.Sprintf("protocol %d", a))
		case a < whole:
			out = append(out, fmt.Sprintf("protocols %d-%d", a, whole))
		}
		if whole < b {
			out = append(out, fmt.Sprintf("%s 0-%d", Protocol(b), last))
		}
	}
	return out
}

// Port is what a rule asks of the destination port: a protocol with an
// interval of port numbers, or with a name that each destination resolves by
// its own container ports.
type Port struct {
	Protocol Protocol // AnyProtocol without Through: every protocol; First, Last and Name are then unused
	Through  Protocol // if above Protocol: every protocol from that one to this; First, Last and Name are then unused
	First    uint16   // with Last: inclusive; 0 to 65535 is every port of the protocol
	Last     uint16
	Name     string // a named port: First and Last are unused
	Source   Source
}

// Interval is the port's interval of services. It is meaningless for a named port.
func (p Port) Interval() Interval {
	switch {
	case p.Through > p.Protocol:
		return Interval{PortKeyOf(p.Protocol, 0), PortKeyOf(p.Through, 65535)}
	case p.Protocol == AnyProtocol:
		return Interval{0, MaxPortKey}
	}
	return Interval{PortKeyOf(p.Protocol, p.First), PortKeyOf(p.Protocol, p.Last)}
}

func (p Port) String() string {
	switch {
	case p.Through > p.Protocol:
		return fmt.Sprintf("protocols %d-%d", p.Protocol, p.Through)
	case p.Protocol == AnyProtocol:
		return "any port"
	case p.Name != "":
		return p.Name + "/" + p.Protocol.String()
	case p.Protocol == ICMP || p.Protocol == ICMPv6:
		return p.icmp()
	case p.First == 0 && p.Last == 65535:
		return "any " + p.Protocol.String() + " port"
	case p.First == p.Last:
		return fmt.Sprintf("%d/%s", p.First, p.Protocol)
	}
	return fmt.Sprintf("%d-%d/%s", p.First, p.Last, p.Protocol)
}

// icmp names the types and codes: those are the two bytes of an ICMP port.
func (p Port) icmp() string {
	switch first, last := p.First>>8, p.Last>>8; {
	case p.First == 0 && p.Last == 65535:
		return p.Protocol.String()
	case p.First == p.Last:
		return fmt.Sprintf("%s type %d code %d", p.Protocol, first, p.First&0xff)
	case first == last:
		return fmt.Sprintf("%s type %d", p.Protocol, first)
	default:
		return fmt.Sprintf("%s types %d-%d", p.Protocol, first, last)
	}
}

// ICMPPort is the port that stands for an ICMP type with every code, or with
// one; a code below 0 is every code.
func ICMPPort(p Protocol, icmpType uint8, code int) Port {
	first := uint16(icmpType) << 8
	if code < 0 {
		return Port{Protocol: p, First: first, Last: first | 0xff}
	}
	return Port{Protocol: p, First: first | uint16(code), Last: first | uint16(code)}
}
