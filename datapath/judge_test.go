package datapath

import (
	"net/netip"
	"testing"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// The node of these tests, in both families: pods a and b are here behind
// devices 10 and 11, pod r is elsewhere behind device 2. Egress of a is open to
// b and to the node at TCP 80 and for echo requests, and to r with the redirect
// mark only; ingress of b is open to a likewise. There is no other gate.
const (
	idWorld = 1 + iota
	idNode
	idA
	idB
	idR

	subjectA = 1
	subjectB = 2
	deviceA  = 10
	deviceB  = 11
	uplink   = 2
	gateA    = 2
	gateB    = 3
)

// family is the addresses of one family.
type family struct {
	a, b, r, node, unknown, world, group netip.Addr
	icmp                                 model.Protocol
	echo, answer, unreachable            uint16
}

var families = map[string]family{
	"IPv4": {ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.1.1"), ip("172.31.0.1"), ip("10.0.0.99"), ip("192.0.2.1"), ip("224.0.0.22"),
		model.ICMP, 8 << 8, 0, 3<<8 | 3},
	"IPv6": {ip("fd00::1"), ip("fd00::2"), ip("fd00::1:1"), ip("fd31::1"), ip("fd00::99"), ip("2001:db8::1"), ip("ff02::16"),
		model.ICMPv6, 128 << 8, 129 << 8, 1<<8 | 4},
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func always(v uint32) Versioned { return Versioned{Old: v, New: v} }

// judgedNode is a Fake with the node's tables.
func judgedNode() *Fake {
	f := &Fake{RedirectMark: 0x40, RedirectMask: 0xf0}
	var tx Tx
	row := func(slot uint32, identities ...uint32) {
		r := SetRow{Row: slot}
		for _, id := range identities {
			r.Words[0] |= 1 << id
		}
		tx = append(tx, r)
	}
	row(2, idB, idNode)
	row(3, idR)
	row(4, idA)
	ranges, first := uint32(0), uint32(0)
	gate := func(id, allow, conditional uint32) {
		first = ranges
		for _, port := range []uint32{1<<16 | 8<<8, 6<<16 | 80, 58<<16 | 128<<8} {
			tx = append(tx, SetRange{ranges, Range{Start: port, Allow: allow, Shadow: allow, Conditional: conditional, Log: 3}}, SetRange{ranges + 1, Range{Start: port + 1}})
			ranges += 2
		}
		tx = append(tx, SetGate{id, Gate{First: first, Count: ranges - first}})
	}
	gate(gateA, 2, 3)
	gate(gateB, 4, RowNone)
	tx = append(tx, SetSubject{subjectA, Subject{Egress: always(gateA)}}, SetSubject{subjectB, Subject{Ingress: always(gateB)}},
		SetDevice{deviceA, subjectA}, SetDevice{deviceB, subjectB})
	for _, x := range families {
		tx = append(tx, SetAddress{x.a, Address{Identity: always(idA), Subject: subjectA, Ifindex: deviceA}},
			SetAddress{x.b, Address{Identity: always(idB), Subject: subjectB, Ifindex: deviceB}},
			SetAddress{x.r, Address{Identity: always(idR)}},
			SetAddress{x.node, Address{Identity: always(idNode), Flags: FlagNode}})
	}
	for prefix, entry := range map[string]Prefix{
		"0.0.0.0/0": {Identity: always(idWorld)}, "::/0": {Identity: always(idWorld)}, "fe80::/10": {Identity: always(idNode)},
		"10.0.0.0/16": {Flags: FlagClosed}, "fd00::/64": {Flags: FlagClosed},
	} {
		tx = append(tx, SetPrefix{netip.MustParsePrefix(prefix), entry})
	}
	if err := f.Apply(append(tx, Publish{1})); err != nil {
		panic(err)
	}
	return f
}

// The packets below are tracked and new unless they say otherwise.
func packet(hook flow.Hook, in uint32, src, dst netip.Addr, proto model.Protocol, port uint16) Packet {
	p := Packet{Hook: hook, In: in, HasCT: true, CTInfo: CTNew, HopLimit: 64, Tuple: Tuple{Src: src, Dst: dst, Proto: proto, DstPort: port}}
	if proto != model.ICMP && proto != model.ICMPv6 {
		p.SrcPort = 40000
	}
	return p
}

func forward(in uint32, src, dst netip.Addr, port uint16) Packet {
	return packet(flow.Forward, in, src, dst, model.TCP, port)
}

func localIn(in uint32, src, dst netip.Addr, port uint16) Packet {
	return packet(flow.LocalIn, in, src, dst, model.TCP, port)
}

func localOut(src, dst netip.Addr, port uint16) Packet {
	return packet(flow.LocalOut, 0, src, dst, model.TCP, port)
}

// reply answers the packet, by the device of the answerer.
func reply(p Packet, in uint32, icmp uint16) Packet {
	p.Src, p.Dst, p.SrcPort, p.DstPort, p.In, p.CTInfo = p.Dst, p.Src, p.DstPort, p.SrcPort, in, CTReply
	if p.Proto == model.ICMP || p.Proto == model.ICMPv6 {
		p.SrcPort, p.DstPort = 0, icmp
	}
	return p
}

// failure is the packet of an ICMP error, about p.
func failure(p, of Packet) Packet {
	p.CTInfo, p.Original = CTRelated, of.Tuple
	return p
}

func with(p Packet, change func(*Packet)) Packet {
	change(&p)
	return p
}

func untracked(p *Packet) { p.CTInfo, p.HasCT = CTUntracked, false }
func invalid(p *Packet)   { p.CTInfo, p.HasCT = CTEstablished, false }

func TestJudge(t *testing.T) {
	f := judgedNode()
	for name, x := range families {
		toB, echo := forward(deviceA, x.a, x.b, 80), packet(flow.Forward, deviceA, x.a, x.b, x.icmp, x.echo)
		refused := forward(deviceA, x.a, x.b, 81)
		cases := []struct {
			name   string
			packet Packet
			want   flow.Reason
		}{
			{"both doors open", toB, flow.Allowed},
			{"port before", forward(deviceA, x.a, x.b, 79), flow.EgressDenied},
			{"port behind", refused, flow.EgressDenied},
			{"other protocol", packet(flow.Forward, deviceA, x.a, x.b, model.UDP, 80), flow.EgressDenied},
			{"protocol without ports", packet(flow.Forward, deviceA, x.a, x.b, 47, 0), flow.EgressDenied},
			{"no gate either side", forward(deviceB, x.b, x.a, 9), flow.Allowed},
			{"ingress shut to the world", forward(uplink, x.world, x.b, 80), flow.IngressDenied},
			{"to itself", forward(deviceA, x.a, x.a, 9), flow.Allowed},
			{"conditional", forward(deviceA, x.a, x.r, 80), flow.Conditional},
			{"conditional, marked, not at LOCAL_IN", with(forward(deviceA, x.a, x.r, 80), func(p *Packet) { p.Mark = 0x40 }), flow.Conditional},
			{"marked at LOCAL_IN", with(localIn(deviceA, x.a, x.r, 80), func(p *Packet) { p.Mark = 0x10040 }), flow.Allowed},
			{"marked otherwise at LOCAL_IN", with(localIn(deviceA, x.a, x.r, 80), func(p *Packet) { p.Mark = 0x50 }), flow.Conditional},
			{"strangers through the node", forward(uplink, x.world, x.r, 9), flow.Allowed},

			{"another's device", forward(deviceB, x.a, x.b, 80), flow.SpoofedSource},
			{"a pod's source from outside", forward(uplink, x.a, x.b, 80), flow.SpoofedSource},
			{"a stranger's source from a pod", forward(deviceA, x.world, x.b, 80), flow.SpoofedSource},
			{"the node's source from outside", forward(uplink, x.node, x.b, 80), flow.SpoofedSource},
			{"unknown destination", forward(deviceA, x.a, x.unknown, 80), flow.UnknownPeer},
			{"unknown source", forward(uplink, x.unknown, x.b, 80), flow.UnknownPeer},

			{"echo", echo, flow.Allowed},
			{"echo the other way", packet(flow.Forward, deviceB, x.b, x.a, x.icmp, x.echo), flow.Allowed},
			{"unasked echo reply", with(packet(flow.Forward, deviceA, x.a, x.b, x.icmp, x.answer), invalid), flow.Invalid},
			{"echo reply", reply(echo, deviceB, x.answer), flow.Allowed},
			{"echo reply by another's device", reply(echo, deviceA, x.answer), flow.SpoofedSource},

			{"reply", reply(toB, deviceB, 0), flow.Allowed},
			{"established", with(toB, func(p *Packet) { p.CTInfo = CTEstablished }), flow.Allowed},
			{"established at a shut door", with(refused, func(p *Packet) { p.CTInfo = CTEstablished }), flow.EgressDenied},
			{"reply of what is shut", reply(refused, deviceB, 0), flow.EgressDenied},
			{"related connection", with(refused, func(p *Packet) { p.CTInfo = CTRelated }), flow.EgressDenied},
			{"reply by a wrong device", reply(toB, uplink, 0), flow.SpoofedSource},
			{"invalid", with(toB, invalid), flow.Invalid},
			{"invalid of a stranger to a stranger", with(forward(uplink, x.world, x.r, 9), invalid), flow.Invalid},

			{"untracked, shut", with(forward(uplink, x.r, x.b, 80), untracked), flow.Untracked},
			{"untracked, shut the other way", with(forward(deviceB, x.b, x.world, 9), untracked), flow.Untracked},
			{"untracked, open both ways", with(forward(deviceB, x.b, x.a, 9), func(p *Packet) { untracked(p); p.SrcPort = 80 }), flow.Allowed},
			{"untracked, spoofed", with(forward(deviceB, x.world, x.r, 9), untracked), flow.SpoofedSource},
			{"untracked of strangers", with(forward(uplink, x.world, x.r, 9), untracked), flow.Allowed},

			{"error of an open connection", failure(packet(flow.Forward, deviceB, x.b, x.a, x.icmp, x.unreachable), toB), flow.Allowed},
			{"error of a shut connection", failure(packet(flow.Forward, deviceB, x.b, x.a, x.icmp, x.unreachable), refused), flow.ICMPError},
			{"error by a wrong device", failure(packet(flow.Forward, deviceA, x.b, x.a, x.icmp, x.unreachable), toB), flow.SpoofedSource},
			{"error from a router", failure(packet(flow.Forward, uplink, x.world, x.a, x.icmp, x.unreachable), toB), flow.Allowed},
			{"error of a third pod", failure(packet(flow.Forward, deviceB, x.b, x.r, x.icmp, x.unreachable), forward(uplink, x.r, x.a, 9)), flow.ICMPError},
			{"error of a conditional connection", failure(packet(flow.Forward, uplink, x.r, x.a, x.icmp, x.unreachable), forward(deviceA, x.a, x.r, 80)), flow.ICMPError},
			{"error about the node's own", failure(packet(flow.LocalIn, uplink, x.world, x.node, x.icmp, x.unreachable), localOut(x.node, x.world, 9)), flow.Allowed},
			{"error about the node's own, from a pod", failure(packet(flow.LocalIn, deviceB, x.b, x.node, x.icmp, x.unreachable), localOut(x.node, x.world, 9)), flow.ICMPError},
			{"error of the node to a pod", failure(packet(flow.LocalOut, 0, x.node, x.a, x.icmp, x.unreachable), localIn(deviceA, x.a, x.node, 80)), flow.Allowed},
			{"error of the node to a pod about what is shut", failure(packet(flow.LocalOut, 0, x.node, x.a, x.icmp, x.unreachable), localIn(deviceA, x.a, x.node, 81)), flow.ICMPError},
			{"error without a connection", with(packet(flow.Forward, deviceB, x.b, x.a, x.icmp, x.unreachable), invalid), flow.Invalid},

			{"pod to its node", localIn(deviceA, x.a, x.node, 80), flow.Allowed},
			{"pod to its node, shut", localIn(deviceA, x.a, x.node, 81), flow.EgressDenied},
			{"pod to its node, invalid", with(localIn(deviceA, x.a, x.node, 80), invalid), flow.Invalid},
			{"stranger to the node", localIn(uplink, x.world, x.node, 22), flow.Unjudged},
			{"stranger to the node, invalid", with(localIn(uplink, x.world, x.node, 22), invalid), flow.Unjudged},
			{"stranger to the node, untracked", with(localIn(uplink, x.world, x.node, 22), untracked), flow.Unjudged},
			{"unknown to the node", localIn(uplink, x.unknown, x.node, 22), flow.UnknownPeer},
			{"pod to its node by another's device", localIn(deviceB, x.a, x.node, 80), flow.SpoofedSource},
			{"stranger's source from a pod to the node", localIn(deviceA, x.world, x.node, 22), flow.SpoofedSource},
			{"the node's own source at LOCAL_IN", localIn(uplink, x.node, x.node, 22), flow.SpoofedSource},
			{"loopback", localIn(loopback, x.node, x.node, 22), flow.Unjudged},
			{"reply of a pod to the node", reply(localOut(x.node, x.b, 9), deviceB, 0), flow.Allowed},
			{"reply of a pod to the node, spoofed", with(reply(localOut(x.node, x.b, 9), deviceA, 0), func(p *Packet) { p.Hook = flow.LocalIn }), flow.SpoofedSource},
			{"reply of a stranger to the node", with(reply(localOut(x.node, x.world, 9), uplink, 0), func(p *Packet) { p.Hook = flow.LocalIn }), flow.Unjudged},

			{"the node to its pod", localOut(x.node, x.b, 9), flow.Unjudged},
			{"another address of the node to its pod", localOut(x.world, x.b, 9), flow.Unjudged},
			{"the node to its pod, invalid", with(localOut(x.node, x.b, 9), invalid), flow.Invalid},
			{"the node to its pod, untracked, shut back", with(localOut(x.node, x.a, 9), untracked), flow.Untracked},
			{"the node to its pod, untracked, open back", with(localOut(x.node, x.b, 9), untracked), flow.Allowed},
			{"the node to a stranger", localOut(x.node, x.world, 9), flow.Unjudged},
			{"the node to a stranger, invalid", with(localOut(x.node, x.world, 9), invalid), flow.Unjudged},
			{"the node's reply", with(reply(localIn(deviceA, x.a, x.node, 80), 0, 0), func(p *Packet) { p.Hook = flow.LocalOut }), flow.Allowed},
			{"the node's reply to what is shut", with(reply(localIn(deviceA, x.a, x.node, 81), 0, 0), func(p *Packet) { p.Hook = flow.LocalOut }), flow.EgressDenied},
			{"the node's reply to a stranger", with(reply(localIn(uplink, x.world, x.node, 22), 0, 0), func(p *Packet) { p.Hook = flow.LocalOut }), flow.Unjudged},

			{"fragment", with(toB, func(p *Packet) { p.Fragment = true }), flow.Fragment},
			{"malformed", with(toB, func(p *Packet) { p.Malformed = true }), flow.Malformed},
			{"two families", forward(deviceA, x.a, map[bool]netip.Addr{true: families["IPv6"].b, false: families["IPv4"].b}[x.a.Is4()], 80), flow.Malformed},
		}
		for _, c := range cases {
			if got := f.Judge(c.packet); got.Reason != c.want || got.Accept != c.want.Accepts() {
				t.Errorf("%s, %s: %+v, want %s", name, c.name, got, c.want)
			}
		}
	}
}

// TestJudgeHousekeeping passes what a link needs, from the link only.
func TestJudgeHousekeeping(t *testing.T) {
	f := judgedNode()
	v6, neighbour := families["IPv6"], ip("fe80::1")
	nd := func(kind uint16, hop uint8, dst netip.Addr) Packet {
		p := packet(flow.Forward, deviceA, neighbour, dst, model.ICMPv6, kind<<8)
		p.HopLimit = hop
		untracked(&p)
		return p
	}
	igmp := func(dst netip.Addr) Packet { return packet(flow.LocalIn, deviceA, families["IPv4"].world, dst, 2, 0) }
	for name, c := range map[string]struct {
		packet Packet
		want   flow.Reason
	}{
		"solicitation":             {nd(135, 255, v6.b), flow.Unjudged},
		"advertisement":            {nd(136, 255, v6.b), flow.Unjudged},
		"redirect":                 {nd(137, 255, v6.b), flow.Unjudged},
		"routed solicitation":      {nd(135, 254, v6.b), flow.SpoofedSource},
		"routed advertisement":     {nd(134, 64, v6.b), flow.SpoofedSource},
		"after redirect":           {nd(138, 255, v6.b), flow.SpoofedSource},
		"group report":             {nd(143, 1, v6.group), flow.Unjudged},
		"old group report":         {nd(131, 1, v6.group), flow.Unjudged},
		"group report to a pod":    {nd(143, 1, v6.b), flow.SpoofedSource},
		"group report, routed":     {nd(143, 64, v6.group), flow.SpoofedSource},
		"IGMP":                     {igmp(families["IPv4"].group), flow.Unjudged},
		"IGMP to the node":         {igmp(families["IPv4"].node), flow.SpoofedSource},
		"protocol 2 over IPv6":     {packet(flow.Forward, deviceA, neighbour, v6.group, 2, 0), flow.SpoofedSource},
		"ICMPv6 over IPv4":         {with(packet(flow.Forward, deviceA, families["IPv4"].world, families["IPv4"].b, model.ICMPv6, 135<<8), func(p *Packet) { p.HopLimit = 255 }), flow.SpoofedSource},
		"mapped source":            {forward(uplink, ip("::ffff:192.0.2.1"), v6.b, 80), flow.Malformed},
		"mapped destination":       {forward(deviceA, v6.a, ip("::ffff:10.0.0.2"), 80), flow.Malformed},
		"error about a mapped one": {failure(packet(flow.LocalOut, 0, v6.node, v6.a, model.ICMPv6, 1<<8), forward(deviceA, v6.a, ip("::ffff:10.0.0.2"), 80)), flow.Malformed},
	} {
		if got := f.Judge(c.packet); got.Reason != c.want {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
}

// TestJudgeLinkLocal takes a link-local address for the pod whose device it
// comes by, at LOCAL_IN and in what the node answers.
func TestJudgeLinkLocal(t *testing.T) {
	f := judgedNode()
	pod, node := ip("fe80::a"), ip("fe80::1")
	open, shut := localIn(deviceA, pod, node, 80), localIn(deviceA, pod, node, 81)
	answer := func(p Packet, out uint32) Packet {
		p = reply(p, 0, 0)
		p.Hook, p.Out = flow.LocalOut, out
		return p
	}
	for name, c := range map[string]struct {
		packet  Packet
		want    flow.Reason
		subject uint32
	}{
		"open":                    {open, flow.Allowed, subjectA},
		"shut":                    {shut, flow.EgressDenied, subjectA},
		"from no pod":             {localIn(uplink, pod, node, 81), flow.Unjudged, 0},
		"forwarded":               {forward(deviceA, pod, families["IPv6"].b, 80), flow.SpoofedSource, 0},
		"IPv4":                    {localIn(deviceA, ip("169.254.1.1"), families["IPv4"].node, 80), flow.SpoofedSource, 0},
		"answer":                  {answer(open, deviceA), flow.Allowed, subjectA},
		"answer to what is shut":  {answer(shut, deviceA), flow.EgressDenied, subjectA},
		"answer by another way":   {answer(shut, uplink), flow.Unjudged, 0},
		"the node's own to a pod": {localOut(node, pod, 81), flow.Unjudged, 0},
	} {
		if got := f.Judge(c.packet); got.Reason != c.want || got.SrcSubject != c.subject {
			t.Errorf("%s: %+v, want %s and subject %d", name, got, c.want, c.subject)
		}
	}
}

// TestJudgeAttribution reports the original direction, whichever way the packet
// goes, and the gates that were asked.
func TestJudgeAttribution(t *testing.T) {
	f := judgedNode()
	for name, x := range families {
		toB := forward(deviceA, x.a, x.b, 80)
		want := Verdict{
			Accept: true, Revision: 1, Flow: toB.Tuple, EgressGate: gateA, IngressGate: gateB,
			SrcSubject: subjectA, DstSubject: subjectB, SrcIdentity: idA, DstIdentity: idB,
		}
		if got := f.Judge(toB); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if got := f.Judge(failure(packet(flow.Forward, deviceB, x.b, x.a, x.icmp, x.unreachable), toB)); got != want {
			t.Errorf("%s, error: %+v, want %+v", name, got, want)
		}
		want.Reversed = true
		if got := f.Judge(reply(toB, deviceB, 0)); got != want {
			t.Errorf("%s, reply: %+v, want %+v", name, got, want)
		}
		echo := packet(flow.Forward, deviceA, x.a, x.b, x.icmp, x.echo)
		if got := f.Judge(reply(echo, deviceB, x.answer)); got.Flow != echo.Tuple {
			t.Errorf("%s, echo reply: of %+v, want %+v", name, got.Flow, echo.Tuple)
		}
		got := f.Judge(forward(deviceA, x.a, x.r, 80))
		if !got.Conditional || !got.Log || got.Shadow || got.Accept {
			t.Errorf("%s, conditional: %+v", name, got)
		}
	}
	if got := f.JudgeAt(forward(deviceA, families["IPv4"].a, families["IPv4"].b, 80), 0); got.Reason != flow.UnknownPeer {
		t.Errorf("before the first publication: %+v", got)
	}
	if got := f.JudgeAt(localIn(deviceA, families["IPv4"].a, families["IPv4"].node, 81), 0); got.Reason != flow.Unjudged {
		t.Errorf("to the node before the first publication: %+v", got)
	}
}

// TestJudgeShadow says where the shadow plane would decide otherwise.
func TestJudgeShadow(t *testing.T) {
	x := families["IPv4"]
	for _, c := range []struct {
		allow, shadow uint32
		want          bool
	}{{RowAll, RowAll, false}, {RowAll, RowNone, true}, {RowNone, RowAll, true}, {RowNone, RowNone, false}} {
		f := judgedNode()
		f.Ranges[2] = Range{Start: 6<<16 | 80, Allow: c.allow, Shadow: c.shadow}
		if got := f.Judge(forward(deviceA, x.a, x.b, 80)); got.Shadow != c.want || got.Accept != (c.allow == RowAll) {
			t.Errorf("allow row %d, shadow row %d: %+v", c.allow, c.shadow, got)
		}
	}
}
