package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// TestParity publishes random policies to the Fake and to the kernel, and sends
// random packets through the node, policies changing in between. Every packet
// that comes to a hook is read by the witness just before the program; verdict,
// counter and event must be those that the Fake tells for it.
//
// SALLYPORT_CASES is the number of packets and SALLYPORT_SEED the first seed:
// SALLYPORT_SEED=7 SALLYPORT_CASES=2000 sends the packets of seed 7 again.
func TestParity(t *testing.T) {
	const perSeed, enough = 2000, 8000
	b := newParityBed(t)
	cases, first := number(t, "SALLYPORT_CASES", enough), number(t, "SALLYPORT_SEED", 1)
	for i := 0; i*perSeed < cases; i++ {
		seed := uint64(first + i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b.start(t, seed)
			for n := range min(perSeed, cases-i*perSeed) {
				if n%20 == 0 {
					b.check(t, "on its own", func() string { return "nothing was sent" })
					b.publish(t)
				}
				b.check(t, fmt.Sprintf("seed %d, packet %d", seed, n), b.shoot)
				if t.Failed() {
					return
				}
			}
		})
	}
	t.Logf("packets at the hooks by outcome: %v", b.seen)
	if cases >= enough && !t.Failed() {
		b.covered(t)
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// TestParityOfBytes runs packets that no IP stack would hand over, cut short and
// with bytes changed, through the program without sending them. No conntrack
// sees these, and they come by no device.
func TestParityOfBytes(t *testing.T) {
	k := both{&datapath.Fake{}, loadIn(t, newNS(t))}
	pod := datapath.Address{Identity: fixed(podA), Subject: subjectA, Ifindex: 9}
	tx := append(datapath.Tx(roots()), datapath.SetAddress{Addr: addr("10.0.0.1"), Address: pod}, datapath.SetAddress{Addr: addr("fd00:10::1"), Address: pod},
		datapath.SetAddress{Addr: nodeAddrs[0], Address: datapath.Address{Identity: fixed(node), Flags: datapath.FlagNode}}, datapath.Publish{Revision: 1})
	if err := k.Apply(tx); err != nil {
		t.Fatal(err)
	}
	seed := uint64(number(t, "SALLYPORT_SEED", 1))
	b := &parityBed{random: rand.New(rand.NewPCG(seed, 3)), devices: []device{{linkLocal: addr("fe80::1")}}}
	seen := map[outcome]int{}
	for n := range number(t, "SALLYPORT_CASES", 8000) {
		s := b.fresh()
		p := datapath.Packet{Hook: pick(b.random, flow.Forward, flow.LocalIn, flow.LocalOut)}
		raw := damage(b.random, s.bytes())
		readPacket(&p, raw, s.src.Is6())
		want := k.fake.Judge(p)
		if got := runAt(t, k.program, p.Hook, s.src.Is6(), raw); got != want.Reason {
			t.Fatalf("seed %d, packet %d: %s at %s as %x: kernel says %s, Fake %+v", seed, n, s, p.Hook, raw, got, want)
		}
		seen[outcome{p.Hook, s.src.Is6(), want.Reason}]++
	}
	t.Logf("packets at the hooks by outcome: %v", seen)
}

// damage changes bytes of the headers at random, or cuts the packet, but for
// the least that the kernel lets anybody run.
func damage(r *rand.Rand, raw []byte) []byte {
	least := 20
	if raw[0]>>4 == 6 {
		least = 40
	}
	if least == 40 && chance(r, 40) { // extension headers, some of them too many
		chain := pick(r, 1, 2, 7, 8, 9)
		next := raw[6]
		raw[6] = pick[byte](r, 0, 43, 44, 51, 60)
		var extensions []byte
		for i := range chain {
			kind := pick[byte](r, 0, 43, 44, 51, 60)
			if i == chain-1 {
				kind = next
			}
			extensions = append(extensions, kind, 0, 0, pick[byte](r, 0, 0, 0, 0, 0, 1, 8), 0, 0, 0, 0)
		}
		raw = slices.Concat(raw[:40], extensions, raw[40:])
	}
	for range pick(r, 0, 1, 1, 3) {
		at := r.IntN(len(raw))
		if chance(r, 60) {
			at = r.IntN(8)
		}
		raw[at] = byte(r.IntN(256))
	}
	if chance(r, 30) {
		raw = raw[:min(len(raw), least+r.IntN(len(raw)))]
	}
	return raw
}

// runAt runs the program on the packet at a hook and says what was counted.
func runAt(t *testing.T, p *Program, hook flow.Hook, v6 bool, raw []byte) flow.Reason {
	t.Helper()
	state := make([]byte, 48) // struct nf_hook_state
	state[0], state[1] = byte(hook), unix.NFPROTO_IPV4
	ethernet := append(make([]byte, 12), 8, 0)
	if v6 {
		state[1], ethernet[12], ethernet[13] = unix.NFPROTO_IPV6, 0x86, 0xdd
	}
	if hook != flow.LocalOut {
		raw = append(ethernet, raw...)
	}
	before, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := p.objects.Sallyport.Run(&ebpf.RunOptions{Data: raw, Context: state})
	if err != nil {
		t.Fatalf("%d bytes at %s: %v", len(raw), hook, err)
	}
	after, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range flow.Reasons() {
		if after[r] > before[r] && r != flow.LostEvents {
			if r.Accepts() != (verdict == 1) {
				t.Errorf("%x at %s: counted as %s, verdict %d", raw, hook, r, verdict)
			}
			return r
		}
	}
	t.Fatalf("%x at %s was not counted", raw, hook)
	return 0
}

// parityBed is a node whose pods and uplink are tun devices: a packet written to
// one is through all hooks when the call returns.
type parityBed struct {
	ns      string
	program *Program
	witness *witness
	events  *journal
	devices []device // of the pods, then the uplink
	raw     [3]int   // sockets that send as the node: IPv4, IPv4 in fragments, IPv6
	stats   Stats
	buffer  [1 << 16]byte

	seen   map[outcome]int
	states map[datapath.CTInfo]int // of packets with a conntrack entry, and untracked ones
	flags  struct{ shadow, log, reply, redirected int }

	*datapath.Publisher
	fake      *datapath.Fake
	random    *rand.Rand
	matrix    *engine.Matrix
	placement datapath.Placement
	memory    []segment // packets of late
}

// device is a tun device, from both sides.
type device struct {
	fd        int
	ifindex   uint32
	linkLocal netip.Addr
}

// outcome is what tells one kind of case from another.
type outcome struct {
	hook   flow.Hook
	v6     bool
	reason flow.Reason
}

func (o outcome) String() string {
	return fmt.Sprintf("%s IPv%d %s", o.hook, map[bool]int{false: 4, true: 6}[o.v6], o.reason)
}

const localPods = 4

var (
	podRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00:10::/64")}
	nodeAddrs = []netip.Addr{addr("172.31.0.1"), addr("10.0.0.254"), addr("fd00:31::1"), addr("fd00:10::fe")}
)

func newParityBed(t *testing.T) *parityBed {
	b := &parityBed{ns: newNS(t), seen: map[outcome]int{}, states: map[datapath.CTInfo]int{}, raw: [3]int{-1, -1, -1}}
	t.Cleanup(func() {
		for _, d := range b.devices {
			unix.Close(d.fd)
		}
		for _, s := range b.raw {
			unix.Close(s)
		}
		if b.witness != nil {
			unix.Close(b.witness.socket)
		}
	})
	in(t, b.ns, func() (err error) {
		for name, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/conf/all/accept_local": "1",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0", "ipv6/conf/all/forwarding": "1", "ipv4/icmp_echo_ignore_broadcasts": "0", "ipv4/ipfrag_time": "3600",
			"ipv6/conf/default/router_solicitations": "0", "ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/addr_gen_mode": "1", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		for i := range localPods + 1 {
			if err := b.addDevice(i); err != nil {
				return err
			}
		}
		if b.witness, err = newWitness(); err != nil {
			return fmt.Errorf("witness: %w", err)
		}
		if err := translate(); err != nil {
			return fmt.Errorf("address translation: %w", err)
		}
		return b.openRaw()
	})
	b.program = loadIn(t, b.ns)
	var err error
	if b.events, err = b.program.openJournal(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.events.close() })
	b.settle(t)
	return b
}

// settle waits until what the kernel says by itself on new devices is over, and
// forgets it: the witness has been here for longer than the program.
func (b *parityBed) settle(t *testing.T) {
	t.Helper()
	for quiet := time.Now(); time.Since(quiet) < 200*time.Millisecond; time.Sleep(time.Millisecond) {
		stats, err := b.program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if stats != b.stats {
			b.stats, quiet = stats, time.Now()
		}
	}
	b.witness.sightings(t)
}

func (b *parityBed) addDevice(i int) error {
	name := fmt.Sprint("tun", i)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	b.devices = append(b.devices, device{fd: fd})
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	addrs, routes := []string{}, []string{"0.0.0.0/0", "::/0"}
	for _, a := range nodeAddrs {
		addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()).String())
	}
	if i < localPods {
		addrs, routes = nil, nil
		for _, a := range podAddrs(i) {
			routes = append(routes, netip.PrefixFrom(a, a.BitLen()).String())
		}
	}
	d := &b.devices[i]
	d.linkLocal = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(1 + i)})
	if err := bringUp(name, append(addrs, d.linkLocal.String()+"/64"), routes, ""); err != nil {
		return err
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	d.ifindex = uint32(l.Attrs().Index)
	return nil
}

func (b *parityBed) openRaw() (err error) {
	for i, family := range []int{unix.AF_INET, unix.AF_INET, unix.AF_INET6} {
		if b.raw[i], err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if family == unix.AF_INET {
			err = unix.SetsockoptInt(b.raw[i], unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		}
	}
	return errors.Join(err, unix.SetsockoptInt(b.raw[1], unix.SOL_IP, unix.IP_NODEFRAG, 1))
}

// service is translated to serviceBackend; who speaks to masked does so as the
// node. Both IPv4 first.
var (
	service = []netip.Addr{addr("10.96.0.1"), addr("fd00:96::1")}
	masked  = []netip.Prefix{netip.MustParsePrefix("192.0.3.0/24"), netip.MustParsePrefix("2001:db8::2/127")}
)

const serviceBackend = 1 // pod

// translate makes the rules of the service and of the addresses that are masked.
func translate() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "translate", Family: nftables.TableFamilyINet})
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
	}
	before := chain("before", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	own := chain("own", nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	after := chain("after", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for family := range service {
		for _, to := range []*nftables.Chain{before, own} {
			match := netip.PrefixFrom(service[family], service[family].BitLen())
			c.AddRule(&nftables.Rule{Table: table, Chain: to, Exprs: translation(expr.NATTypeDestNAT, match, podAddrs(serviceBackend)[family])})
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: after, Exprs: translation(expr.NATTypeSourceNAT, masked[family], nodeAddrs[2*family])})
	}
	return c.Flush()
}

// translation is a rule for packets to the prefix.
func translation(kind expr.NATType, match netip.Prefix, to netip.Addr) []expr.Any {
	family, offset, length := uint32(unix.NFPROTO_IPV4), uint32(16), match.Addr().BitLen()/8
	if to.Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	mask := net.CIDRMask(match.Bits(), match.Addr().BitLen())
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(family)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(length), Mask: mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: match.Masked().Addr().AsSlice()},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: kind, Family: family, RegAddrMin: 1},
	}
}

// translated is the packet as its receiver sees it.
func translated(s segment) segment {
	family := map[bool]int{true: 1}[s.src.Is6()]
	if s.dst == service[family] {
		s.dst = podAddrs(serviceBackend)[family]
	}
	if masked[family].Contains(s.dst) {
		s.src = nodeAddrs[2*family]
	}
	return s
}

// podAddrs are the addresses of pod i; those from localPods on are elsewhere.
func podAddrs(i int) []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 0, byte(i / localPods), byte(1 + i)}),
		netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x10, 15: byte(1 + i)}),
	}
}

// start makes a new cluster for the seed, and a planner and a Fake that take
// over what the kernel holds.
func (b *parityBed) start(t *testing.T, seed uint64) {
	t.Helper()
	b.random = rand.New(rand.NewPCG(seed, 2))
	b.memory = nil
	b.matrix = engine.Compile(&model.Cluster{
		PodRanges:  podRanges,
		Namespaces: []model.Namespace{{Name: "n", Labels: map[string]string{model.MetadataName: "n"}}},
		Policies:   []*model.Policy{crowd([]int{0, 40, 1100}[seed%3])},
		Nodes:      []model.Node{{Name: "here", IPs: nodeAddrs}, {Name: "there", IPs: []netip.Addr{addr("172.31.0.2")}}},
	})
	b.placement = datapath.Placement{Local: map[string]uint32{}, Node: nodeAddrs, Nodes: []netip.Addr{addr("10.0.1.254")}}
	if b.fake == nil {
		b.fake = &datapath.Fake{RedirectMark: redirectMark, RedirectMask: redirectMark}
		for n := range 100 {
			b.check(t, fmt.Sprintf("seed %d, packet %d before the first publication", seed, n), b.shoot)
		}
	}
	snapshot, err := b.program.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b.Publisher = &datapath.Publisher{Planner: datapath.NewPlanner(datapath.DefaultLimits(), snapshot), Kernel: both{b.fake, b.program}, Ahead: seed%2 == 0}
	for i := range 2 * localPods {
		b.change(t, b.pod(i))
	}
}

// crowd is a policy that tells n addresses apart: the identities of
// pods, which come later, lie in other words and chunks of the rows then.
func crowd(n int) *model.Policy {
	p := &model.Policy{
		Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "n", Name: "crowd"},
		Tier:   model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": "none"})},
		Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{AnyPeer: true, AnyPort: true}}},
	}
	for i := range n {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		p.Ingress.Rules = append(p.Ingress.Rules, model.Rule{AnyPort: true, Peers: []model.Peer{{Block: &model.IPBlock{CIDR: netip.PrefixFrom(a, 32)}}}})
	}
	return p
}

// both is one kernel made of two.
type both struct {
	fake    *datapath.Fake
	program *Program
}

func (k both) Apply(tx datapath.Tx) error { return errors.Join(k.fake.Apply(tx), k.program.Apply(tx)) }
func (k both) WaitGrace() error           { return errors.Join(k.fake.WaitGrace(), k.program.WaitGrace()) }

// publish makes one random change.
func (b *parityBed) publish(t *testing.T) {
	t.Helper()
	name := fmt.Sprint("x", b.random.IntN(5))
	switch b.random.IntN(8) {
	case 0, 1:
		b.change(t, b.pod(b.random.IntN(2*localPods)))
	case 2:
		b.change(t, engine.Change{DeletedPolicies: []string{engine.PolicyKey(b.policy(name))}})
	case 3:
		key := fmt.Sprint("n/p", b.random.IntN(2*localPods))
		b.place(key, 0)
		b.change(t, engine.Change{DeletedEndpoints: []string{key}})
	default:
		b.change(t, engine.Change{Policies: []*model.Policy{b.policy(name)}})
	}
}

func (b *parityBed) change(t *testing.T, c engine.Change) {
	t.Helper()
	if err := b.Publish(b.matrix, b.matrix.Apply(c), b.placement); err != nil {
		t.Fatal(err)
	}
}

func (b *parityBed) pod(i int) engine.Change {
	e := &model.Endpoint{Namespace: "n", Name: fmt.Sprint("p", i), Labels: b.labels(), IPs: podAddrs(i)}
	if i < localPods {
		b.place(e.Key(), b.devices[i].ifindex)
	}
	return engine.Change{Endpoints: []*model.Endpoint{e}}
}

func (b *parityBed) place(key string, ifindex uint32) {
	local := map[string]uint32{}
	for k, v := range b.placement.Local {
		local[k] = v
	}
	if delete(local, key); ifindex != 0 {
		local[key] = ifindex
	}
	b.placement.Local = local
}

func (b *parityBed) labels() map[string]string {
	return map[string]string{"a": fmt.Sprint(b.random.IntN(3))}
}

// policy makes a random policy that uses all planes: allow, deny, log, through
// the proxy only, and staged.
func (b *parityBed) policy(name string) *model.Policy {
	p := &model.Policy{
		Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "n", Name: name},
		Tier:   model.TierDefault, Order: pick[float64](b.random, 1, model.KubernetesOrder, 2000), Staged: chance(b.random, 25),
		Subject: model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(b.labels())},
	}
	if chance(b.random, 60) {
		p.Ingress = b.section()
	}
	if p.Ingress == nil || chance(b.random, 60) {
		p.Egress = b.section()
	}
	return p
}

func (b *parityBed) section() *model.Section {
	s := &model.Section{DefaultDeny: chance(b.random, 90), Ordered: chance(b.random, 40)}
	for range b.random.IntN(6) {
		r := model.Rule{Action: pick(b.random, model.Allow, model.Allow, model.Allow, model.Allow, model.Deny, model.Log), AnyPort: chance(b.random, 60), AnyPeer: chance(b.random, 30)}
		if chance(b.random, 35) && r.Action == model.Allow {
			r.L7 = &model.L7{Authentication: model.AuthRequired}
		}
		for range 1 + b.random.IntN(3) {
			if !r.AnyPeer {
				r.Peers = append(r.Peers, b.peer())
			}
			if !r.AnyPort {
				r.Ports = append(r.Ports, b.port())
			}
		}
		if !r.AnyPort && chance(b.random, 15) {
			r.Ports = append(r.Ports, b.manyPorts()...)
		}
		s.Rules = append(s.Rules, r)
	}
	return s
}

func (b *parityBed) peer() model.Peer {
	if chance(b.random, 60) {
		return model.Peer{Pods: &model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(b.labels())}}
	}
	block := pick(b.random, "192.0.2.0/24", "192.0.2.128/25", "172.31.0.0/30", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "fd00:31::/64", "fd00::/8", "::/0", "fe80::/10")
	return model.Peer{Block: &model.IPBlock{CIDR: netip.MustParsePrefix(block)}}
}

// firstPort is where the ports of policies and packets begin; they lie in two
// pages of an index.
const firstPort = 95

// manyPorts make a gate so large that it has an index.
func (b *parityBed) manyPorts() (out []model.Port) {
	for i := range uint16(20) {
		first := pick[uint16](b.random, 0, firstPort, firstPort+1, 1000*i, 65500+i)
		out = append(out, model.Port{Protocol: pick(b.random, model.TCP, model.UDP), First: first, Last: first})
	}
	return out
}

func (b *parityBed) port() model.Port {
	protocol := pick(b.random, model.TCP, model.UDP, model.SCTP, model.ICMP, model.ICMPv6)
	if protocol == model.ICMP || protocol == model.ICMPv6 {
		first := pick[uint16](b.random, 0, 8<<8, 128<<8, 3<<8)
		return model.Port{Protocol: protocol, First: first, Last: first + 0x8ff}
	}
	first := firstPort - 1 + uint16(b.random.IntN(4))
	return model.Port{Protocol: protocol, First: first, Last: first + uint16(b.random.IntN(3))}
}

// shoot sends one random packet and says what it was.
func (b *parityBed) shoot() string {
	r := b.random
	s := b.fresh()
	if len(b.memory) > 0 && chance(r, 60) {
		old := pick(r, b.memory...)
		switch r.IntN(6) {
		case 0, 1, 2:
			s = old.reply()
		case 3:
			s = old
			if s.protocol == model.TCP && chance(r, 70) {
				s.flags = tcpACK
			}
		default:
			sender := old.dst
			if chance(r, 40) {
				sender = b.address(old.src.Is6())
			}
			s = old.failure(sender, r)
		}
	}
	if s.payload == nil {
		b.memory = append(b.memory, translated(s))
		b.memory = b.memory[max(0, len(b.memory)-24):]
	}
	return b.send(s)
}

// fresh is a packet that answers none.
func (b *parityBed) fresh() segment {
	r, v6 := b.random, chance(b.random, 50)
	s := segment{src: b.address(v6), dst: b.address(v6), hopLimit: 64, sport: uint16(40000 + r.IntN(3)), dport: firstPort - 1 + uint16(r.IntN(6))}
	own := chance(r, 20)
	if own { // a pod and its node
		family := map[bool]int{true: 1}[v6]
		s.src, s.dst = podAddrs(r.IntN(localPods))[family], nodeAddrs[2*family+r.IntN(2)]
	}
	if v6 && chance(r, 3) { // the node answers with an error about it
		s.dst = addr("::ffff:10.0.0.1")
	}
	s.protocol = pick(r, model.TCP, model.TCP, model.UDP, model.UDP, model.SCTP, model.ICMP, model.ICMPv6, model.Protocol(47), model.Protocol(2), model.Protocol(50))
	switch s.protocol {
	case model.TCP:
		s.flags = pick[byte](r, tcpSYN, tcpSYN, tcpSYN, tcpACK, tcpSYN|tcpACK, tcpSYN|tcpRST, tcpFIN|tcpACK, 0)
	case model.SCTP:
		s.flags = pick[byte](r, sctpInit, sctpInit, sctpData)
	case model.ICMP, model.ICMPv6:
		s.protocol, s.dport = model.ICMP, pick[uint16](r, 8, 8, 8, 0, 13, 14, 15, 17, 3, 11, 5)<<8
		if v6 {
			s.protocol, s.dport = model.ICMPv6, pick[uint16](r, 128, 128, 128, 129, 139, 1, 3, 130, 131, 143, 133, 134, 135, 136, 137, 200)<<8
			s.hopLimit = pick[byte](r, 255, 1, 64)
		}
		s.id = uint16(r.IntN(4))
	case 2:
		s.hopLimit = 1
	}
	s.tos = pick[byte](r, 0, 0, 0, 0, 0, tosUntracked, tosMarked)
	if own && chance(r, 40) {
		s.tos = tosMarked
	}
	s.options, s.badChecksum = chance(r, 10), chance(r, 4)
	return s
}

// address is a random address of any kind.
func (b *parityBed) address(v6 bool) netip.Addr {
	r, family := b.random, map[bool]int{true: 1}[v6]
	switch r.IntN(13) {
	case 12:
		return service[family]
	case 0, 1, 2, 3:
		return podAddrs(r.IntN(localPods))[family]
	case 4, 5:
		return podAddrs(localPods + r.IntN(localPods))[family]
	case 6:
		return [][]netip.Addr{{addr("10.0.0.200"), addr("10.0.1.254")}, {addr("fd00:10::dead"), addr("fd00:10::beef")}}[family][r.IntN(2)]
	case 7, 8:
		return nodeAddrs[2*family+r.IntN(2)]
	case 9:
		d := pick(r, b.devices...)
		return [][]netip.Addr{
			{addr("169.254.1.2"), addr("224.0.0.22"), addr("224.0.0.1"), addr("255.255.255.255"), addr("172.31.0.2")},
			{d.linkLocal, d.linkLocal, addr("fe80::77"), addr("ff02::1"), addr("ff02::16"), addr("fd00:31::2"), addr("::ffff:10.0.0.1")},
		}[family][r.IntN(5+2*family)]
	}
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0x0d, 3: 0xb8, 15: byte(r.IntN(3))})
	}
	return netip.AddrFrom4([4]byte{192, 0, byte(2 + r.IntN(2)), byte(r.IntN(256))})
}

// send hands the packet to the node: by the source's own device mostly, by
// another at times; the node's own packets from within.
func (b *parityBed) send(s segment) string {
	at := localPods
	for i := range localPods {
		if slices.Contains(podAddrs(i), s.src) {
			at = i
		}
	}
	own := slices.Contains(nodeAddrs, s.src) || slices.ContainsFunc(b.devices, func(d device) bool { return d.linkLocal == s.src })
	if !own && (s.src.IsLinkLocalUnicast() || s.dst.IsLinkLocalUnicast()) || chance(b.random, 12) {
		at, own = b.random.IntN(localPods+1), chance(b.random, 10)
	}
	raw := s.bytes()
	packets := [][]byte{raw}
	split := s.src.Is4() && len(raw) > 36 && chance(b.random, 4)
	if split {
		two := fragments(raw, 8)
		packets = two[:]
	}
	for _, p := range packets {
		if own {
			b.sendOwn(p, s.dst, split)
		} else {
			_, _ = unix.Write(b.devices[at].fd, p)
		}
	}
	return fmt.Sprintf("%v from device %d (own %v, split %v)", s, b.devices[at].ifindex, own, split)
}

// sendOwn sends as the node. What is dropped is an error to the sender.
func (b *parityBed) sendOwn(p []byte, dst netip.Addr, split bool) {
	switch {
	case dst.Is6():
		to := &unix.SockaddrInet6{Addr: dst.As16()}
		if dst.IsLinkLocalUnicast() || dst.IsMulticast() {
			to.ZoneId = pick(b.random, b.devices...).ifindex
		}
		_ = unix.Sendto(b.raw[2], p, unix.MSG_DONTWAIT, to)
	case split:
		_ = unix.Sendto(b.raw[1], p, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: dst.As4()})
	default:
		_ = unix.Sendto(b.raw[0], p, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: dst.As4()})
	}
}

// check compares whatever comes to the hooks while f sends.
func (b *parityBed) check(t *testing.T, name string, f func() string) {
	t.Helper()
	what := f()
	var (
		sightings []sighting
		before    = b.stats
		err       error
	)
	for deadline := time.Now().Add(soon); ; {
		sightings = append(sightings, b.witness.sightings(t)...)
		if b.stats, err = b.program.Stats(); err != nil {
			t.Fatal(err)
		}
		if sum(b.stats)-sum(before) == uint64(len(sightings)) || time.Now().After(deadline) {
			break
		}
	}
	var wanted Stats
	var events []flow.Event
	for _, s := range sightings {
		v := b.fake.Judge(s.packet)
		wanted[v.Reason]++
		if e, ok := eventOf(s.packet, v); ok {
			events = append(events, e)
			b.countFlags(e)
		}
		b.seen[outcome{s.packet.Hook, s.packet.Src.Is6(), v.Reason}]++
		if s.packet.HasCT || s.packet.CTInfo == datapath.CTUntracked {
			b.states[s.packet.CTInfo]++
		}
	}
	for r := range wanted {
		if b.stats[r]-before[r] != wanted[r] {
			t.Errorf("%s %d times, want %d", Reason(r), b.stats[r]-before[r], wanted[r])
		}
	}
	b.compareEvents(t, events)
	b.compareOutput(t, sightings)
	if t.Failed() {
		t.Logf("%s: %v", name, what)
		for _, s := range sightings {
			t.Logf("witness: %+v\nfake:    %+v", s.packet, b.fake.Judge(s.packet))
		}
	}
}

func (b *parityBed) countFlags(e flow.Event) {
	for n, set := range map[*int]bool{&b.flags.shadow: e.Shadow, &b.flags.log: e.Log, &b.flags.reply: e.Reply, &b.flags.redirected: e.Redirected} {
		if set {
			*n++
		}
	}
}

func sum(s Stats) (n uint64) {
	for r, count := range s {
		if Reason(r) != LostEvents {
			n += count
		}
	}
	return n
}

// eventOf is the event that the kernel has to emit: for what is dropped, and
// for new connections.
func eventOf(p datapath.Packet, v datapath.Verdict) (flow.Event, bool) {
	if v.Accept && (p.CTInfo != datapath.CTNew || v.Reason != flow.Allowed) {
		return flow.Event{}, false
	}
	e := flow.Event{
		Revision: uint32(v.Revision), Hook: p.Hook, Reason: v.Reason,
		Source: v.Flow.Src, Destination: v.Flow.Dst, SourcePort: v.Flow.SrcPort, DestinationPort: v.Flow.DstPort, Protocol: uint8(v.Flow.Proto),
		SourceSubject: v.SrcSubject, DestinationSubject: v.DstSubject, SourceIdentity: v.SrcIdentity, DestinationIdentity: v.DstIdentity,
		EgressGate: v.EgressGate, IngressGate: v.IngressGate, InIfindex: p.In, OutIfindex: p.Out,
		Shadow: v.Shadow, Log: v.Log, Reply: v.Reversed, Redirected: v.Conditional && v.Accept,
	}
	return plain(e), true
}

// plain leaves out what is known of a packet only by chance: of one whose
// headers nobody read, the headers.
func plain(e flow.Event) flow.Event {
	e.Time = 0
	if e.Reason == flow.Malformed || e.Reason == flow.Fragment || e.Revision == 0 {
		e.Source, e.Destination, e.SourcePort, e.DestinationPort, e.Protocol = netip.Addr{}, netip.Addr{}, 0, 0, 0
	}
	return e
}

func (b *parityBed) compareEvents(t *testing.T, wanted []flow.Event) {
	t.Helper()
	for _, event := range b.events.read() {
		e := plain(event.Flow())
		i := slices.Index(wanted, e)
		if i < 0 {
			t.Errorf("event %+v, want %+v", e, wanted)
			continue
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	if len(wanted) > 0 {
		t.Errorf("no event %+v", wanted)
	}
}

// compareOutput looks whether what passed FORWARD came out, and nothing else.
func (b *parityBed) compareOutput(t *testing.T, sightings []sighting) {
	t.Helper()
	var out [][]byte
	for _, d := range b.devices {
		for {
			n, err := unix.Read(d.fd, b.buffer[:])
			if err != nil {
				break
			}
			out = append(out, bytes.Clone(b.buffer[:n]))
		}
	}
	for _, s := range sightings {
		if s.packet.Hook != flow.Forward {
			continue
		}
		got := slices.ContainsFunc(out, func(p []byte) bool { return samePacket(p, s.raw) })
		want := b.fake.Judge(s.packet).Accept
		if want && !slices.Contains([]model.Protocol{model.TCP, model.UDP, model.SCTP}, s.packet.Proto) {
			continue // translation may make two connections without ports alike: conntrack drops one
		}
		if got != want {
			t.Errorf("%+v came out: %v, want %v", s.packet.Tuple, got, want)
		}
	}
}

// samePacket says whether the one that came out is the other: addresses may have
// been translated, and what came in fragments leaves in fragments.
func samePacket(out, p []byte) bool {
	if len(out) < 20 || out[0]>>4 != p[0]>>4 {
		return false
	}
	if p[0]>>4 == 4 { // identification, hop limit and protocol
		return bytes.Equal(out[4:6], p[4:6]) && bytes.Equal(out[8:10], p[8:10])
	}
	return len(out) == len(p) && bytes.Equal(out[4:8], p[4:8])
}

// covered fails if a kind of case that should be common did not occur.
func (b *parityBed) covered(t *testing.T) {
	t.Helper()
	for hook, reasons := range map[flow.Hook][]flow.Reason{
		flow.Forward:  {flow.Allowed, flow.EgressDenied, flow.IngressDenied, flow.Conditional, flow.SpoofedSource, flow.UnknownPeer, flow.Malformed, flow.Invalid, flow.Untracked, flow.ICMPError},
		flow.LocalIn:  {flow.Allowed, flow.Unjudged, flow.EgressDenied, flow.Conditional, flow.SpoofedSource, flow.UnknownPeer, flow.Invalid, flow.Untracked, flow.ICMPError},
		flow.LocalOut: {flow.Allowed, flow.Unjudged, flow.Fragment, flow.Invalid, flow.Untracked, flow.ICMPError},
	} {
		for _, reason := range reasons {
			if b.seen[outcome{hook, false, reason}]+b.seen[outcome{hook, true, reason}] == 0 {
				t.Errorf("no packet was %s at %s", reason, hook)
			}
		}
	}
	for _, info := range []datapath.CTInfo{datapath.CTEstablished, datapath.CTRelated, datapath.CTNew, datapath.CTReply, datapath.CTRelatedReply, datapath.CTUntracked} {
		if b.states[info] == 0 {
			t.Errorf("conntrack never said %d", info)
		}
	}
	if len(b.fake.Indexes) == 0 {
		t.Error("no gate had an index")
	}
	for name, n := range map[string]int{"shadow": b.flags.shadow, "log": b.flags.log, "reply": b.flags.reply, "redirected": b.flags.redirected} {
		if n == 0 {
			t.Errorf("no event said %s", name)
		}
	}
}
