package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// selecting is a policy for the pods of a role.
func selecting(name, role, rules string) string {
	return fmt.Sprintf(`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: a}
spec: {podSelector: {matchLabels: {role: %s}}, %s}
`, name, role, rules)
}

// Where egress to its node is denied, a pod does not get there by another of
// the node's addresses either, be it one that only their link knows.
func TestAttackOnTheNodeByItsOtherAddresses(t *testing.T) {
	s := besiege(t, walls)
	others := []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:99::9")}
	inside(t, s.NodeNetNS(node0), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range others {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}); err != nil {
				return err
			}
		}
		return nil
	})
	onLink := []netip.Addr{
		netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("255.255.255.255"),
	}
	named := []netip.Addr{s.at(node0, false), s.at(node0, true)}
	worldButNode := selecting("out", "mallory", fmt.Sprintf(
		`policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [%s/32]}}, {ipBlock: {cidr: "::/0", except: ["%s/128"]}}]}]`, named[0], named[1]))
	for _, step := range []struct {
		name, policies string
		targets        []netip.Addr
		pass           bool
	}{
		{"all but the victims denied", walls, slices.Concat(named, others, onLink), false},
		{"the world but the node allowed", worldButNode, slices.Concat(named, onLink), false},
		{"the world but the node allowed", worldButNode, others, true}, // a block means the addresses in it
		{"all allowed", "", slices.Concat(named, others, onLink), true},
	} {
		s.update(step.policies)
		sent := map[string][]byte{}
		for _, to := range step.targets {
			sources := []netip.Addr{s.pod(mallory, to.Is6())}
			if to.Is6() {
				sources = append(sources, netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::77"))
			}
			for _, src := range sources {
				mark := s.marks.next()
				s.mouths[mallory].say(t, udp(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(to, 8472), mark))
				sent[fmt.Sprintf("%s to %s", src, to)] = mark
			}
		}
		if !step.pass {
			time.Sleep(quiet)
		}
		for name, mark := range sent {
			if got := s.ears[node0].count(mark) > 0 || step.pass && s.ears[node0].hears(mark, soon); got != step.pass {
				t.Errorf("%s: %s: arrived %v, want %v", step.name, name, got, step.pass)
			}
		}
	}
}

// Where nothing at all is allowed, a pod and its node still find each other's
// hardware addresses over IPv6: the node reaches its pod.
func TestNeighbourDiscoveryUnderAttack(t *testing.T) {
	shut := selecting("shut", "mallory", "policyTypes: [Ingress, Egress]")
	s := besiege(t, shut)
	addr := s.pod(mallory, true)
	index, _ := s.HostIfindex(mallory)
	gateway := netip.MustParseAddr("fe80::1")
	eth0 := s.mouths[mallory].ifindex
	for _, end := range []struct {
		ns string
		n  *netlink.Neigh
	}{
		{s.NodeNetNS(node0), &netlink.Neigh{LinkIndex: int(index), IP: addr.AsSlice(), Family: unix.AF_INET6}},
		{podNS(t, mallory), &netlink.Neigh{LinkIndex: eth0, IP: gateway.AsSlice(), Family: unix.AF_INET6}},
	} {
		inside(t, end.ns, func() error { return netlink.NeighDel(end.n) })
	}
	probe := []lab.Probe{{From: lab.NodeOrigin(node0), To: addr, Protocol: model.TCP, Port: 80}}
	if got := s.Probe(context.Background(), probe, soon)[0]; got != lab.Connected {
		t.Errorf("the node's probe of its pod: %s", got)
	}
	for ns, want := range map[string]netip.Addr{s.NodeNetNS(node0): addr, podNS(t, mallory): gateway} {
		var found bool
		inside(t, ns, func() error {
			list, err := netlink.NeighList(0, unix.AF_INET6)
			for _, n := range list {
				found = found || addressOf(n.IP) == want && n.State&netlink.NUD_PERMANENT == 0 && len(n.HardwareAddr) == 6
			}
			return err
		})
		if !found {
			t.Errorf("%s was not found by neighbour discovery", want)
		}
	}
}

// trust lets mallory and friend have flows to the victims, which answer nobody
// of their own accord.
var trust = walls +
	selecting("mute", "victim", "policyTypes: [Egress]") +
	selecting("deaf", "friend", "policyTypes: [Ingress]")

// An ICMP error passes if it is of an end of a flow that is allowed, and about
// that flow; whatever else calls itself an error does not.
func TestAttackWithICMPErrors(t *testing.T) {
	s := besiege(t, trust)
	var list []assault
	for _, v6 := range []bool{false, true} {
		for _, victim := range []string{near, far} {
			// A true error comes back: nobody listens on the port.
			for from, m := range map[string]*mouth{friend: s.mouths[friend], mallory: s.mouths[mallory]} {
				mark := s.marks.next()
				m.say(t, udp(netip.AddrPortFrom(s.pod(from, v6), 5555), netip.AddrPortFrom(s.pod(victim, v6), openPort), mark))
				s.delivered("a datagram from "+from, victim, mark)
				s.delivered(family(v6)+" the error about a datagram", from, mark)
			}
			list = append(list, s.falseErrors(victim, v6)...)
		}
		list = append(list, s.errorsToNode(v6)...)
	}
	s.repel(list)
}

// falseErrors are errors from mallory to a victim that has flows with friend
// and with mallory.
func (s *siege) falseErrors(victim string, v6 bool) []assault {
	me, it := s.pod(mallory, v6), s.pod(victim, v6)
	another := map[string]string{near: far, far: near}[victim]
	flow := func(peer netip.Addr, port uint16) []byte {
		return udp(netip.AddrPortFrom(it, openPort), netip.AddrPortFrom(peer, port), nil)
	}
	theirs, mine, none := flow(s.pod(friend, v6), 5555), flow(me, 5555), flow(me, 5556)
	var list []assault
	add := func(name, victim string, make func(about []byte) []byte, about []byte) {
		mark := s.marks.next()
		about = append(slices.Clone(about), mark...)
		list = append(list, assault{family(v6) + " error " + name, mallory, victim, mark, [][]byte{make(about)}})
	}
	from := func(src netip.Addr) func([]byte) []byte {
		return func(about []byte) []byte { return unreachable(src, it, about) }
	}
	add("about another's flow", victim, from(me), theirs)
	add("about a flow that is none", victim, from(me), none)
	add("about nothing", victim, from(me), nil)
	for who, src := range map[string]netip.Addr{"friend": s.pod(friend, v6), "ally": s.pod(ally, v6), "the node": s.at(node0, v6), "an outsider": outsider[v6]} {
		add("about another's flow as "+who, victim, from(src), theirs)
		add("about its own flow as "+who, victim, from(src), mine)
	}
	add("about its own flow to somebody else", another, func(about []byte) []byte { return unreachable(me, s.pod(another, v6), about) }, mine)
	kinds := []byte{4, 5}
	if v6 {
		kinds = []byte{5, 100, 137}
	}
	for _, kind := range kinds {
		add(fmt.Sprintf("of type %d about another's flow", kind), victim, func(about []byte) []byte { return toVictim(icmp(me, it, kind, 0, 0, about)) }, theirs)
		add(fmt.Sprintf("of type %d about its own flow", kind), victim, func(about []byte) []byte { return toVictim(icmp(me, it, kind, 0, 0, about)) }, mine)
	}
	return list
}

// toVictim makes an IPv6 redirect look as if it came from the link.
func toVictim(packet []byte) []byte {
	if packet[0]>>4 == 6 {
		return hopping(packet, 255)
	}
	return packet
}

// errorsToNode are errors from mallory about what its node has with others.
func (s *siege) errorsToNode(v6 bool) []assault {
	node, other := s.at(node0, v6), s.at(node1, v6)
	local := netip.AddrPortFrom(node, 6666)
	c, err := dial(s.t, s.NodeNetNS(node0), "udp", net.UDPAddrFromAddrPort(local), netip.AddrPortFrom(other, 9), soon)
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	var list []assault
	for name, about := range map[string][]byte{
		"its flow":      udp(local, netip.AddrPortFrom(other, 9), nil),
		"mallory's":     udp(netip.AddrPortFrom(s.pod(near, v6), openPort), netip.AddrPortFrom(s.pod(mallory, v6), 5555), nil),
		"no known flow": udp(local, netip.AddrPortFrom(other, 10), nil),
	} {
		mark := s.marks.next()
		list = append(list, assault{
			family(v6) + " error to the node about " + name, mallory, node0, mark,
			[][]byte{unreachable(s.pod(mallory, v6), node, append(about, mark...))},
		})
	}
	return list
}

// Errors about a flow stop with the permission of the flow, in both directions.
func TestAttackWithICMPErrorsOfAFlowThatWasAllowed(t *testing.T) {
	s := besiege(t, trust)
	// exchange has both ends send an error about the flow.
	exchange := func(v6, pass bool) {
		m, v := netip.AddrPortFrom(s.pod(mallory, v6), 5555), netip.AddrPortFrom(s.pod(near, v6), openPort)
		there, back := s.marks.next(), s.marks.next()
		s.mouths[mallory].say(t, unreachable(m.Addr(), v.Addr(), append(udp(v, m, nil), there...)))
		s.mouths[near].say(t, unreachable(v.Addr(), m.Addr(), append(udp(m, v, nil), back...)))
		s.arrives("an error from mallory", near, there, pass)
		s.arrives("an error to mallory", mallory, back, pass)
	}
	for _, v6 := range []bool{false, true} {
		s.update(trust)
		mark := s.marks.next()
		s.mouths[mallory].say(t, udp(netip.AddrPortFrom(s.pod(mallory, v6), 5555), netip.AddrPortFrom(s.pod(near, v6), openPort), mark))
		s.delivered("a datagram", near, mark)
		exchange(v6, true)
		s.update(selecting("in", "victim", "policyTypes: [Ingress]"))
		exchange(v6, false)
	}
}

// arrives waits for what is to arrive, and some time for what is not.
func (s *siege) arrives(name, victim string, mark []byte, want bool) {
	s.t.Helper()
	patience := soon
	if !want {
		patience = 100 * time.Millisecond
	}
	if got := s.ears[victim].hears(mark, patience); got != want {
		s.t.Errorf("%s to %s: arrived %v, want %v", name, victim, got, want)
	}
}

// ftp lets the node expect the connections that an FTP client on near asks
// for, and counts them. Without the kernel's helper for FTP, the ruleset
// itself expects them: to conntrack they are the same.
func (s *siege) ftp(data uint16) (related func() uint64) {
	s.t.Helper()
	fill := func(object *nftables.NamedObj) func(*nftables.Conn, *nftables.Chain) {
		return func(c *nftables.Conn, chain *nftables.Chain) {
			object.Table, object.Name = chain.Table, "data"
			c.AddObj(object)
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(21)},
				&expr.Objref{Type: int(object.Type), Name: "data"},
			}})
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
				&expr.Bitwise{
					SourceRegister: 1, DestRegister: 1, Len: 4,
					Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitRELATED), Xor: binaryutil.NativeEndian.PutUint32(0),
				},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
				&expr.Counter{},
			}})
		}
	}
	ns := s.NodeNetNS(node0)
	err := addTable(s.t, ns, nftables.ChainPriorityFilter, fill(&nftables.NamedObj{
		Type: nftables.ObjTypeCtHelper, Obj: &expr.CtHelper{Name: "ftp", L4Proto: unix.IPPROTO_TCP},
	}))
	if err != nil {
		s.t.Logf("this kernel has no conntrack helper for FTP (%v): the ruleset expects the connections instead", err)
		err = addTable(s.t, ns, nftables.ChainPriorityFilter, fill(&nftables.NamedObj{
			Type: nftables.ObjTypeCtExpect, Obj: &expr.CtExpect{L4Proto: unix.IPPROTO_TCP, DPort: data, Timeout: 10000, Size: 4},
		}))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return func() (n uint64) {
		inside(s.t, ns, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			table := &nftables.Table{Name: "attack", Family: nftables.TableFamilyINet}
			rules, err := c.GetRules(table, &nftables.Chain{Name: "prerouting", Table: table})
			for _, r := range rules {
				for _, e := range r.Exprs {
					if counter, ok := e.(*expr.Counter); ok {
						n += counter.Packets
					}
				}
			}
			return err
		})
		return n
	}
}

// A connection that conntrack expects, because of what was said on another
// one, is judged like any other: near is a client of the FTP server mallory and
// asks it to connect, which mallory may not.
func TestAttackWithAnExpectedConnection(t *testing.T) {
	s := besiege(t, walls)
	const data = 4242
	related := s.ftp(data)
	listenTCP(t, podNS(t, mallory), 21, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	listenTCP(t, podNS(t, near), data, func(net.Conn) {})
	open := walls + selecting("data-out", "mallory", "policyTypes: [Egress], egress: [{ports: [{port: 4242}]}]") +
		selecting("data-in", "victim", "policyTypes: [Ingress], ingress: [{ports: [{port: 4242}]}]")
	for _, v6 := range []bool{false, true} {
		for _, step := range []struct {
			policies string
			want     bool
		}{{walls, false}, {open, true}, {walls, false}} {
			s.update(step.policies)
			before := related()
			if got := s.askForData(v6, data, step.want); got != step.want {
				t.Errorf("%s: the expected connection: %v, want %v", family(v6), got, step.want)
			}
			if related() == before {
				t.Errorf("%s: conntrack did not expect the connection, so it says nothing", family(v6))
			}
		}
	}
}

// askForData has near ask mallory for a connection, and says whether mallory
// can make it. It is patient if that is wanted.
func (s *siege) askForData(v6 bool, port uint16, want bool) bool {
	s.t.Helper()
	control, err := dial(s.t, podNS(s.t, near), "tcp", nil, netip.AddrPortFrom(s.pod(mallory, v6), 21), soon)
	if err != nil {
		s.t.Fatalf("near cannot reach its FTP server: %v", err)
	}
	me := s.pod(near, v6)
	command := fmt.Sprintf("EPRT |2|%s|%d|\r\n", me, port)
	if !v6 {
		b := me.As4()
		command = fmt.Sprintf("PORT %d,%d,%d,%d,%d,%d\r\n", b[0], b[1], b[2], b[3], port>>8, port&0xff)
	}
	// The helper looks only behind the end of a line that it has seen.
	for _, line := range []string{"USER near\r\n", command} {
		if _, err := io.WriteString(control, line); err != nil {
			s.t.Fatal(err)
		}
		if !s.ears[mallory].hears([]byte(line), soon) {
			s.t.Fatal("near's command does not arrive")
		}
		s.ears[mallory].forget()
	}
	patience := 150 * time.Millisecond
	if want {
		patience = soon
	}
	_, err = dial(s.t, podNS(s.t, mallory), "tcp", nil, netip.AddrPortFrom(me, port), patience)
	return err == nil
}

// The node does not track: then only what is allowed both ways gets through,
// whatever it makes itself look like.
func TestAttackUntracked(t *testing.T) {
	s := besiege(t, walls)
	for _, node := range s.Nodes() {
		err := addTable(t, s.NodeNetNS(node), nftables.ChainPriorityRaw, func(c *nftables.Conn, chain *nftables.Chain) {
			c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Notrack{}}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.update(walls + selecting("no-answer", "mallory", "policyTypes: [Ingress]"))
	for _, v6 := range []bool{false, true} {
		mark := s.marks.next()
		s.mouths[mallory].say(t, udp(netip.AddrPortFrom(s.pod(mallory, v6), 7777), netip.AddrPortFrom(s.pod(near, v6), openPort), mark))
		s.arrives(family(v6)+" what may not be answered", near, mark, false)
	}
	s.update(walls)
	var list []assault
	for _, v6 := range []bool{false, true} {
		for _, d := range denied {
			me, it := s.pod(d.attacker, v6), s.at(d.victim, v6)
			for name, make := range rawPackets(me, it, d.victim != node0) {
				mark := s.marks.next()
				list = append(list, assault{family(v6) + " " + name, d.attacker, d.victim, mark, [][]byte{make(slices.Repeat(mark, 4))}})
			}
			mark := s.marks.next()
			about := append(udp(netip.AddrPortFrom(it, 80), netip.AddrPortFrom(me, 7777), nil), mark...)
			list = append(list, assault{family(v6) + " ICMP error", d.attacker, d.victim, mark, [][]byte{unreachable(me, it, about)}})
			if mayTalk(d.attacker, d.victim) {
				s.greet(d.victim, v6)
			}
		}
	}
	s.repel(list)
}

// What a connection was allowed says nothing of what comes later with its
// addresses and ports: they are judged by the policies of now.
func TestAttackWithAReusedConnection(t *testing.T) {
	open := selecting("in", "victim", "policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {role: mallory}}}]}]")
	shutters := map[string]string{
		"ingress shut": selecting("in", "victim", "policyTypes: [Ingress]"),
		"egress shut":  open + selecting("out", "mallory", "policyTypes: [Egress]"),
	}
	s := besiege(t, open)
	// exchange sends there and back what a living connection could carry.
	exchange := func(when string, pass bool) {
		t.Helper()
		type letter struct {
			name, to string
			mark     []byte
		}
		var letters []letter
		for _, v6 := range []bool{false, true} {
			for _, victim := range []string{near, far} {
				m, v := netip.AddrPortFrom(s.pod(mallory, v6), 5555), netip.AddrPortFrom(s.pod(victim, v6), 1001)
				post := func(name, to string, by *mouth, make func(mark []byte) []byte) {
					mark := s.marks.next()
					by.say(t, make(mark))
					letters = append(letters, letter{family(v6) + " " + name, to, mark})
				}
				post("UDP", victim, s.mouths[mallory], func(d []byte) []byte { return udp(m, v, d) })
				post("TCP SYN", victim, s.mouths[mallory], func(d []byte) []byte { return tcp(m, v, tcpSyn, d) })
				patience := 20 * time.Millisecond
				if pass {
					patience = soon
				}
				s.ears[victim].hears(letters[len(letters)-1].mark, patience)
				post("UDP reply", mallory, s.mouths[victim], func(d []byte) []byte { return udp(v, m, d) })
			}
		}
		if !pass {
			time.Sleep(100 * time.Millisecond)
		}
		for _, l := range letters {
			if pass {
				s.delivered(when+": "+l.name, l.to, l.mark)
			} else if s.ears[l.to].count(l.mark) > 0 {
				t.Errorf("%s: %s got through to %s", when, l.name, l.to)
			}
		}
	}
	exchange("open", true)
	for name, policies := range shutters {
		s.update(policies)
		exchange(name, false)
		s.update(open)
		exchange("open again after "+name, true)
	}
}

// A pod that gets the address of another that was trusted gets no part of the
// trust, nor of the connections that live on.
func TestAttackWithAReusedAddress(t *testing.T) {
	s := besiege(t, walls)
	addrs := map[bool]netip.Addr{false: s.pod(friend, false), true: s.pod(friend, true)}
	send := func(m *mouth, v6 bool) []byte {
		mark := s.marks.next()
		m.say(t, udp(netip.AddrPortFrom(addrs[v6], 5555), netip.AddrPortFrom(s.pod(near, v6), 1001), mark))
		return mark
	}
	for _, v6 := range []bool{false, true} {
		s.delivered("a datagram from friend", near, send(s.mouths[friend], v6))
	}
	for _, step := range []struct {
		role string
		want bool
	}{{"stranger", false}, {"friend", true}} {
		c := *s.Cluster()
		c.Endpoints = slices.Clone(c.Endpoints)
		for i, e := range c.Endpoints {
			if e.Key() == friend || e.Name == "heir" {
				c.Endpoints[i].Name, c.Endpoints[i].Labels = "heir", map[string]string{"role": step.role}
			}
		}
		if err := s.Update(context.Background(), &c); err != nil {
			t.Fatal(err)
		}
		m := podMouth(t, s.Lab, "a/heir")
		for _, v6 := range []bool{false, true} {
			s.arrives(family(v6)+" from the heir as "+step.role, near, send(m, v6), step.want)
		}
	}
}
