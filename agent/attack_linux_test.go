package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// castle is two nodes. On node-0 are mallory, who attacks, friend, whom the
// victims trust, and near, a victim; on node-1 are ally, trusted too, rogue, whom
// they do not trust, and far, a victim.
const castle = `
apiVersion: v1
kind: Pod
metadata: {name: mallory, namespace: a, labels: {role: mallory}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, namespace: a, labels: {role: friend}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: a, labels: {role: victim}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 81, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: ally, namespace: a, labels: {role: friend}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: rogue, namespace: a, labels: {role: rogue}}
spec: {nodeName: node-1, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: a, labels: {role: victim}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 81, protocol: UDP}]}]}
`

// walls let the victims be reached by those whom they trust, and mallory reach
// nobody but the victims, on UDP port 774.
const walls = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: a}
spec:
  podSelector: {matchLabels: {role: victim}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {role: friend}}
    - ipBlock: {cidr: 203.0.113.0/24}
    - ipBlock: {cidr: "2001:db8:7::/48"}
    - ipBlock: {cidr: 172.30.0.0/16}
    - ipBlock: {cidr: "fd00:172:30::/64"}
  - from: [{podSelector: {matchLabels: {role: mallory}}}]
    ports: [{port: 774, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: a}
spec:
  podSelector: {matchLabels: {role: mallory}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {role: victim}}}]
    ports: [{port: 774, protocol: UDP}]
`

const (
	mallory, rogue, friend, ally, near, far = "a/mallory", "a/rogue", "a/friend", "a/ally", "a/near", "a/far"

	node0, node1 = "node-0", "node-1"

	// openPort is where mallory may reach the victims. Its bytes, 3 and 6, are
	// also the beginning of an IP option.
	openPort = 3<<8 | 6
)

// denied are those between whom walls stand: before friend and the node only
// mallory's own door, before rogue only the victims', before mallory both.
var denied = []struct{ attacker, victim string }{
	{mallory, near}, {mallory, far}, {mallory, friend}, {mallory, node0}, {rogue, near}, {rogue, far},
}

// mayTalk says whether walls leave the open port to the attacker.
func mayTalk(attacker, victim string) bool {
	return attacker == mallory && (victim == near || victim == far)
}

var outsider = map[bool]netip.Addr{false: netip.MustParseAddr("203.0.113.7"), true: netip.MustParseAddr("2001:db8:7::7")}

// build is the castle with the policies.
func build(t *testing.T, policies string) *model.Cluster {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"in": []byte(castle + policies)}, []string{"in"}, manifest.Options{Nodes: 2, DualStack: true})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r.Cluster
}

// siege is a castle under attack, with ears at everybody.
type siege struct {
	*Lab
	t      *testing.T
	marks  marks
	ears   map[string]*ear
	mouths map[string]*mouth
}

// besiege starts the castle. Its nodes' kernels are made to accept what they
// would refuse by themselves: that is no merit of the policies.
func besiege(t *testing.T, policies string) *siege {
	t.Helper()
	needRoot(t)
	s := &siege{Lab: start(t, build(t, policies)), t: t, ears: map[string]*ear{}, mouths: map[string]*mouth{}}
	for _, key := range []string{mallory, rogue, friend, ally, near, far} {
		s.ears[key], s.mouths[key] = podEar(t, key), podMouth(t, s.Lab, key)
	}
	for _, node := range s.Nodes() {
		s.ears[node] = nodeEar(t, s.Lab, node)
		inside(t, s.NodeNetNS(node), func() error {
			for _, name := range []string{"accept_local", "route_localnet"} {
				if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+name, []byte("1"), 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return s
}

// update changes the policies.
func (s *siege) update(policies string) {
	s.t.Helper()
	if err := s.Update(context.Background(), build(s.t, policies)); err != nil {
		s.t.Fatal(err)
	}
}

// surrender ends the enforcement and conntrack with it: the nodes just route.
func (s *siege) surrender() {
	s.t.Helper()
	for _, node := range s.Nodes() {
		if err := s.nodeDown(node); err != nil {
			s.t.Fatal(err)
		}
		deleteTable(s.t, s.NodeNetNS(node), "sallyport-lab")
	}
}

func (s *siege) pod(key string, v6 bool) netip.Addr { return address(s.t, s.Lab, key, v6) }

// at is the address of a pod or of a node.
func (s *siege) at(name string, v6 bool) netip.Addr {
	if name == node0 || name == node1 {
		return nodeAddress(s.t, s.Lab, name, v6)
	}
	return s.pod(name, v6)
}

// assault is packets that are to reach a victim whom they may not.
type assault struct {
	name     string
	attacker string
	victim   string
	mark     []byte
	packets  [][]byte
}

// quiet is how long nobody may hear anything before we say that nothing came.
const quiet = 250 * time.Millisecond

// repel runs the assaults, of which none may arrive, and then, when nobody
// defends any more, the very same, which all must.
func (s *siege) repel(list []assault) {
	s.t.Helper()
	for _, a := range list {
		s.mouths[a.attacker].say(s.t, a.packets...)
	}
	time.Sleep(quiet)
	for _, a := range list {
		if s.ears[a.victim].count(a.mark) > 0 {
			s.t.Errorf("%s: got through from %s to %s", a.name, a.attacker, a.victim)
		}
	}
	s.surrender()
	for _, a := range list {
		s.mouths[a.attacker].say(s.t, a.packets...)
	}
	end := time.Now().Add(soon)
	for _, a := range list {
		if !s.ears[a.victim].hears(a.mark, time.Until(end)) {
			s.t.Errorf("%s: does not reach %s from %s without policies either, so it says nothing", a.name, a.victim, a.attacker)
		}
	}
	s.t.Logf("%d assaults", len(list))
}

// delivered says that what was sent to somebody who may receive it arrives.
func (s *siege) delivered(name, victim string, mark []byte) {
	s.t.Helper()
	if !s.ears[victim].hears(mark, soon) {
		s.t.Errorf("%s: does not reach %s", name, victim)
	}
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// A pod that claims another's address gets nothing of what the other may do.
func TestAttackWithForgedSource(t *testing.T) {
	s := besiege(t, walls)
	var list []assault
	for _, v6 := range []bool{false, true} {
		claims := map[string]netip.Addr{
			"a local pod": s.pod(friend, v6), "a remote pod": s.pod(ally, v6), "the victim near": s.pod(near, v6), "an outsider": outsider[v6],
			"its node": s.at(node0, v6), "another node": s.at(node1, v6),
		}
		if v6 {
			claims["an unknown pod"] = s.pod(ally, true).Next().Next().Next().Next().Next().Next()
		} else {
			claims["an unknown pod"] = netip.MustParseAddr("10.244.200.200")
			claims["a link-local address"] = netip.MustParseAddr("169.254.7.7")
			claims["loopback"] = netip.MustParseAddr("127.0.0.1")
		}
		for _, victim := range []string{near, far, node0} {
			claims := claims
			if v6 && victim == node0 {
				// Routers do not forward it, so that the node alone can be meant.
				claims = maps.Clone(claims)
				claims["a link-local address"] = netip.MustParseAddr("fe80::77")
				claims["nobody"] = netip.IPv6Unspecified()
			}
			for who, src := range claims {
				for _, make := range []func(from, to netip.AddrPort, mark []byte) []byte{
					udp, func(from, to netip.AddrPort, mark []byte) []byte { return tcp(from, to, tcpSyn, mark) },
				} {
					mark := s.marks.next()
					p := make(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(s.at(victim, v6), 80), mark)
					list = append(list, assault{fmt.Sprintf("%s protocol %d as %s", family(v6), protocolOf(p), who), mallory, victim, mark, [][]byte{p}})
				}
			}
		}
		s.rightfulOwners(v6)
	}
	s.forgeFromOutside()
	s.repel(list)
}

// rightfulOwners send what mallory forges: it is not for want of permission
// that the forged packets do not arrive.
func (s *siege) rightfulOwners(v6 bool) {
	s.t.Helper()
	for src, m := range map[netip.Addr]*mouth{
		s.pod(friend, v6): s.mouths[friend], s.pod(ally, v6): s.mouths[ally],
		outsider[v6]: outsideMouth(s.t, s.Lab, node0),
	} {
		mark := s.marks.next()
		m.say(s.t, udp(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(s.pod(near, v6), 80), mark))
		s.delivered("what "+src.String()+" sends itself", near, mark)
	}
}

// forgeFromOutside claims, from outside, addresses that are on the node: they
// cannot come in by its uplink.
func (s *siege) forgeFromOutside() {
	s.t.Helper()
	m := outsideMouth(s.t, s.Lab, node0)
	for _, v6 := range []bool{false, true} {
		for _, src := range []netip.Addr{s.pod(friend, v6), s.pod(near, v6), s.at(node0, v6)} {
			mark := s.marks.next()
			m.say(s.t, udp(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(s.pod(near, v6), 80), mark))
			if s.ears[near].hears(mark, 30*time.Millisecond) {
				s.t.Errorf("%s, claimed from outside, got through", src)
			}
		}
	}
}

// Packets that are no good beginning of anything do not get through, to pods
// of both nodes and to the node itself.
func TestAttackWithRawPackets(t *testing.T) {
	s := besiege(t, walls)
	var list []assault
	for _, v6 := range []bool{false, true} {
		for _, d := range denied {
			for name, make := range rawPackets(s.pod(d.attacker, v6), s.at(d.victim, v6), d.victim != node0) {
				mark := s.marks.next()
				list = append(list, assault{family(v6) + " " + name, d.attacker, d.victim, mark, [][]byte{make(slices.Repeat(mark, 4))}})
			}
			if mayTalk(d.attacker, d.victim) {
				s.greet(d.victim, v6)
			}
		}
	}
	s.repel(list)
}

// greet sends what mallory may, plain and dressed up, to a victim.
func (s *siege) greet(victim string, v6 bool) {
	s.t.Helper()
	from, to := netip.AddrPortFrom(s.pod(mallory, v6), 7777), netip.AddrPortFrom(s.pod(victim, v6), openPort)
	dress := optioned
	if v6 {
		dress = func(p []byte) []byte { return extended(p, unix.IPPROTO_DSTOPTS) }
	}
	for name, change := range map[string]func([]byte) []byte{"plain": func(p []byte) []byte { return p }, "dressed up": dress} {
		mark := s.marks.next()
		s.mouths[mallory].say(s.t, change(udp(from, to, mark)))
		s.delivered(family(v6)+" what is allowed, "+name, victim, mark)
	}
}

// rawPackets are makers of packets around some data. Neighbour discovery that
// comes from the link is the node's to hear, so only pods are no good place for it.
func rawPackets(src, dst netip.Addr, toPod bool) map[string]func(data []byte) []byte {
	from, to := netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(dst, 80)
	server := netip.AddrPortFrom(src, 80) // as if replying
	out := map[string]func(data []byte) []byte{
		"UDP":                    func(d []byte) []byte { return udp(from, to, d) },
		"UDP from a server":      func(d []byte) []byte { return udp(server, netip.AddrPortFrom(dst, 7777), d) },
		"UDP from the open port": func(d []byte) []byte { return udp(netip.AddrPortFrom(src, openPort), to, d) },
		"UDP of no port":         func(d []byte) []byte { return udp(netip.AddrPortFrom(src, openPort), netip.AddrPortFrom(dst, 0), d) },
		"UDP, bad checksum":      func(d []byte) []byte { return flawed(udp(from, to, d)) },
		"TCP, bad checksum":      func(d []byte) []byte { return flawed(tcp(from, to, tcpSyn, d)) },
		"SCTP":                   func(d []byte) []byte { return ip(src, dst, unix.IPPROTO_SCTP, append(ports(from, to), d...)) },
		"no protocol's header":   func(d []byte) []byte { return ip(src, dst, protocolUDPLite, d) },
		"UDP in IP in IP": func(d []byte) []byte {
			return ip(src, dst, unix.IPPROTO_IPIP, udp(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 1), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), openPort), d))
		},
	}
	for _, protocol := range []byte{unix.IPPROTO_GRE, unix.IPPROTO_ESP, protocolUnknown} {
		out[fmt.Sprintf("protocol %d", protocol)] = func(d []byte) []byte { return ip(src, dst, protocol, d) }
	}
	for _, flags := range []byte{
		tcpSyn, tcpAck, tcpSyn | tcpAck, tcpRst, tcpRst | tcpAck, tcpFin, tcpFin | tcpAck, tcpPsh | tcpAck, tcpSyn | tcpRst, tcpSyn | tcpFin,
		tcpFin | tcpPsh | tcpUrg, 0,
	} {
		out[fmt.Sprintf("TCP flags %#x", flags)] = func(d []byte) []byte { return tcp(from, to, flags, d) }
		out[fmt.Sprintf("TCP flags %#x from a server", flags)] = func(d []byte) []byte { return tcp(server, netip.AddrPortFrom(dst, 7777), flags, d) }
	}
	kinds := []byte{0, 5, 8, 13, 14}
	if src.Is6() {
		kinds = []byte{128, 129, 139, 140, 200}
	}
	for _, kind := range kinds {
		out[fmt.Sprintf("ICMP type %d", kind)] = func(d []byte) []byte { return icmp(src, dst, kind, 0, 7<<16|7, d) }
	}
	if src.Is4() {
		out["IGMP"] = func(d []byte) []byte { return ip(src, dst, protocolIGMP, d) }
		out["UDP behind options"] = func(d []byte) []byte { return optioned(udp(from, to, d)) }
		out["UDP without checksum"] = func(d []byte) []byte {
			p := udp(from, to, d)
			p[26], p[27] = 0, 0
			return p
		}
		return out
	}
	out["UDP behind an extension that looks like it"] = func(d []byte) []byte { return extended(udp(from, to, d), unix.IPPROTO_DSTOPTS) }
	out["UDP behind extensions"] = func(d []byte) []byte {
		return extended(udp(from, to, d), unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS)
	}
	if !toPod {
		return out
	}
	out["no next header"] = func(d []byte) []byte { return ip(src, dst, protocolNone, d) }
	out["UDP behind many extensions"] = func(d []byte) []byte {
		return extended(udp(from, to, d), slices.Repeat([]byte{unix.IPPROTO_DSTOPTS}, 12)...)
	}
	for kind := byte(133); kind <= 137; kind++ {
		out[fmt.Sprintf("ICMP type %d as from the link", kind)] = func(d []byte) []byte { return hopping(icmp(src, dst, kind, 0, 0, d), 255) }
	}
	out["ICMP type 143"] = func(d []byte) []byte { return icmp(src, dst, 143, 0, 0, d) }
	return out
}

// Fragments tell no other story than the whole: what they make up is judged.
func TestAttackWithFragments(t *testing.T) {
	s := besiege(t, walls)
	var list []assault
	var id byte
	for _, v6 := range []bool{false, true} {
		for _, d := range denied {
			src, dst := s.pod(d.attacker, v6), s.at(d.victim, v6)
			open := func(d []byte) []byte { return udp(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(dst, openPort), d) }
			shut := func(d []byte) []byte { return udp(netip.AddrPortFrom(src, 7777), netip.AddrPortFrom(dst, 80), d) }
			for name, make := range fragments(open, shut, v6) {
				if d.victim == node0 && name != "shut, in two" {
					continue // only pods are reached by pieces
				}
				mark := s.marks.next()
				id++
				list = append(list, assault{family(v6) + " " + name, d.attacker, d.victim, mark, make(mark, id)})
			}
			if !mayTalk(d.attacker, d.victim) {
				continue
			}
			for name, borders := range map[string][]int{"two": {0, 24, 0}, "tiny ones": {0, 8, 16, 0}} {
				mark := s.marks.next()
				id++
				whole := open(slices.Repeat(mark, 4))
				for i, from := range borders[:len(borders)-1] {
					s.mouths[mallory].say(t, fragment(whole, id, from, borders[i+1]))
				}
				s.delivered(family(v6)+" open, in "+name, d.victim, mark)
			}
		}
	}
	s.repel(list)
}

// fragments are the pieces of datagrams to an open and to a shut port.
func fragments(open, shut func(data []byte) []byte, v6 bool) map[string]func(mark []byte, id byte) [][]byte {
	dull := slices.Repeat([]byte("........"), 4)
	out := map[string]func(mark []byte, id byte) [][]byte{
		"shut, in two": func(mark []byte, id byte) [][]byte {
			p := shut(slices.Repeat(mark, 4))
			return [][]byte{fragment(p, id, 0, 24), fragment(p, id, 24, 0)}
		},
		"shut, in tiny ones, last first": func(mark []byte, id byte) [][]byte {
			p := shut(slices.Repeat(mark, 4))
			return [][]byte{fragment(p, id, 16, 0), fragment(p, id, 8, 16), fragment(p, id, 0, 8)}
		},
		"the last one alone": func(mark []byte, id byte) [][]byte {
			return [][]byte{fragment(open(slices.Repeat(mark, 4)), id, 24, 0)}
		},
		"the first one alone": func(mark []byte, id byte) [][]byte {
			return [][]byte{fragment(open(slices.Repeat(mark, 4)), id, 0, 24)}
		},
		"open, then a header of shut over it": func(mark []byte, id byte) [][]byte {
			return [][]byte{fragment(open(dull), id, 0, 24), fragment(shut(slices.Repeat(mark, 4)), id, 0, 16), fragment(open(dull), id, 24, 0)}
		},
		"shut, then a header of open over it": func(mark []byte, id byte) [][]byte {
			p := shut(slices.Repeat(mark, 4))
			return [][]byte{fragment(p, id, 0, 16), fragment(open(dull), id, 0, 24), fragment(p, id, 16, 0)}
		},
		"open, with data over it": func(mark []byte, id byte) [][]byte {
			return [][]byte{fragment(open(dull), id, 0, 24), fragment(shut(slices.Repeat(mark, 4)), id, 8, 0)}
		},
		"open, far beyond its end": func(mark []byte, id byte) [][]byte {
			far := slices.Repeat(mark, 8190)
			return [][]byte{fragment(open(dull), id, 0, 24), fragment(open(far), id, 65400, 0)}
		},
	}
	if !v6 {
		return out
	}
	out["shut, one that is all"] = func(mark []byte, id byte) [][]byte { return [][]byte{fragment(shut(slices.Repeat(mark, 4)), id, 0, 0)} }
	out["shut, its header in the second"] = func(mark []byte, id byte) [][]byte {
		p := extended(shut(slices.Repeat(mark, 4)), unix.IPPROTO_DSTOPTS)
		return [][]byte{fragment(p, id, 0, 16), fragment(p, id, 16, 0)}
	}
	out["open, then a header of shut over it, behind an extension"] = func(mark []byte, id byte) [][]byte {
		a, b := extended(open(dull), unix.IPPROTO_DSTOPTS), extended(shut(slices.Repeat(mark, 4)), unix.IPPROTO_DSTOPTS)
		return [][]byte{fragment(a, id, 0, 32), fragment(b, id, 16, 0)}
	}
	return out
}
