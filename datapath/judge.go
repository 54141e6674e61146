package datapath

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// CTInfo is conntrack's word about a packet, as in the kernel's ip_conntrack_info.
type CTInfo uint8

// The states. With no conntrack entry (HasCT false) the packet is invalid,
// unless its state is Untracked.
const (
	CTEstablished  CTInfo = 0
	CTRelated      CTInfo = 1
	CTNew          CTInfo = 2
	CTReply        CTInfo = 3
	CTRelatedReply CTInfo = 4
	CTNewReply     CTInfo = 5
	CTUntracked    CTInfo = 7
)

// Tuple is one direction of a connection. For ICMP the destination port is
// type<<8 | code and the source port 0.
type Tuple struct {
	Src, Dst         netip.Addr
	Proto            model.Protocol
	SrcPort, DstPort uint16
}

// Packet is all that the program looks at of a packet at a hook.
type Packet struct {
	Tuple         // as the headers have it
	Hook          flow.Hook
	In, Out, Mark uint32 // In is the bridge port for bridged packets
	CTInfo        CTInfo
	HasCT         bool
	Original      Tuple // of the conntrack entry: source before SNAT, destination after DNAT; RELATED only
	HopLimit      uint8
	Fragment      bool // not the first one
	Malformed     bool
}

// Verdict is what the program decides and reports. Flow, gates and identities
// are those of the connection's original direction.
type Verdict struct {
	Accept                             bool
	Reason                             flow.Reason
	Flow                               Tuple // in the original direction
	Revision                           Revision
	EgressGate, IngressGate            uint32
	SrcSubject, DstSubject             uint32
	SrcIdentity, DstIdentity           uint32
	Shadow, Log, Conditional, Reversed bool // Shadow: the shadow plane decides otherwise
}

const loopback = 1 // ifindex of lo

// Judge decides the packet at the published revision.
func (f *Fake) Judge(p Packet) Verdict { return f.JudgeAt(p, f.Revision) }

// JudgeAt decides a packet that read the revision earlier.
func (f *Fake) JudgeAt(p Packet, r Revision) Verdict {
	j := judge{fake: f, packet: p, revision: r, tuple: p.Tuple}
	j.verdict.Revision = r
	reason := j.run()
	v := j.verdict
	v.Reason, v.Accept = reason, reason.Accepts()
	v.SrcSubject, v.DstSubject = j.src.subject, j.dst.subject
	v.SrcIdentity, v.DstIdentity = j.src.identity, j.dst.identity
	v.Flow, v.Reversed = j.tuple, j.reply
	v.Shadow = reason <= flow.Conditional && reason != flow.Unjudged && j.shadowShut == (reason == flow.Allowed)
	return v
}

// judge is one judgement under way. Its methods are the program's functions.
type judge struct {
	fake       *Fake
	packet     Packet
	revision   Revision
	tuple      Tuple // turned to the original direction
	reply      bool
	src, dst   peer
	shadowShut bool
	verdict    Verdict
}

// peer is what the tables say of an address.
type peer struct{ identity, subject, ifindex, flags uint32 }

func (j *judge) run() flow.Reason {
	p := &j.packet
	switch {
	case p.Hook == flow.LocalIn && p.In == loopback:
		return flow.Unjudged
	case j.revision == 0 && p.Hook == flow.Forward:
		return flow.UnknownPeer
	case j.revision == 0: // the node itself stays reachable
		return flow.Unjudged
	case p.Malformed || p.Src.Is4() != p.Dst.Is4() || p.Src.Is4In6() || p.Dst.Is4In6():
		return flow.Malformed
	case p.Fragment:
		return flow.Fragment
	case j.housekeeping():
		return flow.Unjudged
	}
	if p.HasCT && (p.CTInfo == CTRelated || p.CTInfo == CTRelatedReply) && icmpError(p) {
		return j.judgeError()
	}
	j.reply = p.CTInfo == CTReply || p.CTInfo == CTNewReply
	if j.reply {
		j.tuple = swap(j.tuple)
	}
	return j.judgePacket()
}

func (j *judge) housekeeping() bool {
	p := &j.packet
	if p.Src.Is4() {
		return p.Proto == 2 && p.Dst.IsMulticast()
	}
	if p.Proto != model.ICMPv6 {
		return false
	}
	t := p.DstPort >> 8
	if t >= 133 && t <= 137 {
		return p.HopLimit == 255
	}
	return (t >= 130 && t <= 132 || t == 143) && p.HopLimit == 1 && p.Dst.IsMulticast()
}

func icmpError(p *Packet) bool {
	t := p.DstPort >> 8
	if p.Proto == model.ICMP {
		return t == 3 || t == 11 || t == 12
	}
	return p.Proto == model.ICMPv6 && t >= 1 && t <= 4
}

// swap turns a reply's tuple to the original direction.
func swap(t Tuple) Tuple {
	t.Src, t.Dst = t.Dst, t.Src
	switch t.Proto {
	case model.ICMP:
		t.DstPort = icmpRequest(t.DstPort, map[uint16]uint16{0: 8, 14: 13, 16: 15, 18: 17})
	case model.ICMPv6:
		t.DstPort = icmpRequest(t.DstPort, map[uint16]uint16{129: 128, 140: 139})
	default:
		t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	}
	return t
}

// icmpRequest is the type and code of the request that a reply answers.
func icmpRequest(port uint16, requests map[uint16]uint16) uint16 {
	if t, ok := requests[port>>8]; ok {
		return t<<8 | port&0xff
	}
	return port
}

func (j *judge) lookUp(a netip.Addr) peer {
	if e, ok := j.fake.Addresses[a]; ok {
		return peer{e.Identity.At(j.revision), e.Subject, e.Ifindex, e.Flags}
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		x, err := a.Prefix(bits)
		if err != nil {
			return peer{}
		}
		e, ok := j.fake.Prefixes[x]
		switch {
		case !ok:
		case e.Flags&FlagClosed != 0:
			return peer{flags: e.Flags}
		default:
			return peer{identity: e.Identity.At(j.revision), flags: e.Flags}
		}
	}
	return peer{}
}

// spoofed checks the packet's actual source against its device.
func (j *judge) spoofed(source *peer, a netip.Addr) bool {
	p := &j.packet
	switch {
	case p.Hook == flow.LocalOut:
		return false
	case source.flags&FlagNode != 0 && source.subject == SubjectNone:
		return true
	case source.subject != SubjectNone:
		return source.ifindex != p.In
	}
	owner := j.fake.Devices[p.In]
	if owner == SubjectNone {
		return false
	}
	if p.Hook == flow.LocalIn && a.Is6() && a.IsLinkLocalUnicast() {
		source.subject = owner
		return false
	}
	return true
}

// judgeError judges an ICMP error by the connection it speaks of.
func (j *judge) judgeError() flow.Reason {
	sender := j.lookUp(j.tuple.Src)
	if j.spoofed(&sender, j.tuple.Src) {
		return flow.SpoofedSource
	}
	j.tuple = j.packet.Original
	if j.tuple.Src.Is4In6() || j.tuple.Dst.Is4In6() {
		return flow.Malformed
	}
	j.src, j.dst = j.lookUp(j.tuple.Src), j.lookUp(j.tuple.Dst)
	if j.packet.Hook == flow.LocalOut {
		sender.subject = SubjectNone
	}
	if sender.subject != SubjectNone && sender.subject != j.src.subject && sender.subject != j.dst.subject {
		return flow.ICMPError
	}
	if j.judgeFlow() == flow.Allowed || j.concernsNodeOnly() {
		return flow.Allowed
	}
	return flow.ICMPError
}

func (j *judge) judgePacket() flow.Reason {
	p := &j.packet
	j.src, j.dst = j.lookUp(j.tuple.Src), j.lookUp(j.tuple.Dst)
	actual := &j.src
	if j.reply {
		actual = &j.dst
	}
	if j.spoofed(actual, p.Src) {
		return flow.SpoofedSource
	}
	if p.Hook != flow.LocalOut {
		return j.judgeFlow()
	}
	if j.reply {
		if j.tuple.Src.Is6() && j.tuple.Src.IsLinkLocalUnicast() && j.src.subject == SubjectNone {
			j.src.subject = j.fake.Devices[p.Out]
		}
		return j.judgeFlow()
	}
	if p.CTInfo != CTUntracked && p.HasCT {
		return flow.Unjudged
	}
	j.src.flags |= FlagNode
	return j.judgeFlow()
}

func (j *judge) judgeFlow() flow.Reason {
	switch j.packet.Hook {
	case flow.Forward:
		if j.src.identity == IdentityUnknown || j.dst.identity == IdentityUnknown {
			return flow.UnknownPeer
		}
	case flow.LocalIn:
		actual := j.src
		if j.reply {
			actual = j.dst
		}
		if j.src.subject == SubjectNone && actual.identity == IdentityUnknown {
			return flow.UnknownPeer
		}
	}
	switch {
	case j.concernsNodeOnly():
		return flow.Unjudged
	case j.packet.CTInfo == CTUntracked:
		return j.judgeUntracked()
	case !j.packet.HasCT:
		return flow.Invalid
	}
	return j.doors(j.tuple, j.src, j.dst)
}

// concernsNodeOnly says that neither end of the node's own traffic is a pod here.
func (j *judge) concernsNodeOnly() bool {
	return j.packet.Hook != flow.Forward && j.src.subject == SubjectNone && j.dst.subject == SubjectNone
}

func (j *judge) judgeUntracked() flow.Reason {
	if j.doors(j.tuple, j.src, j.dst) != flow.Allowed || j.doors(swap(j.tuple), j.dst, j.src) != flow.Allowed {
		return flow.Untracked
	}
	return flow.Allowed
}

// doors takes the flow to both doors.
func (j *judge) doors(t Tuple, from, to peer) flow.Reason {
	key := uint32(model.PortKeyOf(t.Proto, portOf(t)))
	if from.subject != SubjectNone && from.subject == to.subject {
		return flow.Allowed
	}
	out, in := true, true
	if from.subject != SubjectNone {
		j.verdict.EgressGate = j.fake.Subjects[from.subject].Egress.At(j.revision)
		out = j.pass(j.verdict.EgressGate, key, to.identity)
	}
	if to.subject != SubjectNone && from.flags&FlagNode == 0 {
		j.verdict.IngressGate = j.fake.Subjects[to.subject].Ingress.At(j.revision)
		in = j.pass(j.verdict.IngressGate, key, from.identity)
	}
	switch {
	case !out:
		return flow.EgressDenied
	case !in:
		return flow.IngressDenied
	case j.verdict.Conditional && !j.marked():
		return flow.Conditional
	}
	return flow.Allowed
}

// portOf is the port part of the tuple's port key: 0 for protocols without.
func portOf(t Tuple) uint16 {
	switch t.Proto {
	case model.TCP, model.UDP, model.SCTP, model.ICMP, model.ICMPv6:
		return t.DstPort
	}
	return 0
}

func (j *judge) marked() bool {
	f := j.fake
	return j.packet.Hook == flow.LocalIn && f.RedirectMask != 0 && j.packet.Mark&f.RedirectMask == f.RedirectMark
}

// pass takes the identity to one gate.
func (j *judge) pass(gate, key, identity uint32) bool {
	if gate == GateOpen {
		return true
	}
	r, ok := j.fake.find(gate, key)
	if !ok {
		j.shadowShut = true
		return false
	}
	allow := j.fake.rowHas(r.Allow, identity)
	conditional := !allow && j.fake.rowHas(r.Conditional, identity)
	j.verdict.Conditional = j.verdict.Conditional || conditional
	j.verdict.Log = j.verdict.Log || j.fake.rowHas(r.Log, identity)
	j.shadowShut = j.shadowShut || !j.fake.rowHas(r.Shadow, identity)
	return allow || conditional
}

// find is the last range of the gate that starts at or before the key.
func (f *Fake) find(gate, key uint32) (Range, bool) {
	g := f.Gates[gate]
	if x := f.Indexes[g.Index]; x != nil {
		if n, ok := x.count(key); ok {
			r := f.Ranges[g.First+n-1]
			return r, n > 0 && n <= g.Count && r.Start <= key
		}
	}
	starts := make([]uint32, g.Count)
	for i := range starts {
		starts[i] = f.Ranges[g.First+uint32(i)].Start
	}
	i, found := slices.BinarySearch(starts, key)
	if !found {
		i--
	}
	if i < 0 {
		return Range{}, false
	}
	return f.Ranges[g.First+uint32(i)], true
}

func (f *Fake) rowHas(row, identity uint32) bool {
	switch row {
	case RowNone:
		return false
	case RowAll:
		return true
	}
	words := f.Rows[[2]uint32{row, identity / ChunkColumns}].Words
	return words[identity/64%uint32(len(words))]>>(identity%64)&1 == 1
}
