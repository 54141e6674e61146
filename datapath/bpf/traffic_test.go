package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/flow"
)

// bed is two pods behind a node, A with slot 1 and B with slot 2.
type bed struct {
	node, a, b string // namespaces
	p          *Program
	ifindex    map[string]int // the node's side of the pod's device
	linkLocal  map[string]netip.Addr
}

const (
	nodeIP4, ip4A, ip4B = "10.0.0.254", "10.0.0.1", "10.0.0.2"
	nodeIP6, ip6A, ip6B = "fd00::fe", "fd00::1", "fd00::2"
)

func newBed(t testing.TB) *bed {
	b := newWires(t)
	b.p = loadIn(t, b.node)
	ops := roots()
	for _, x := range []struct {
		ns, v4, v6        string
		identity, subject uint32
	}{{b.a, ip4A, ip6A, podA, subjectA}, {b.b, ip4B, ip6B, podB, subjectB}} {
		index := uint32(b.ifindex[x.ns])
		entry := datapath.Address{Identity: fixed(x.identity), Subject: x.subject, Ifindex: index}
		ops = append(ops, datapath.SetAddress{Addr: addr(x.v4), Address: entry},
			datapath.SetAddress{Addr: addr(x.v6), Address: entry},
			datapath.SetDevice{Ifindex: index, Subject: x.subject})
	}
	self := datapath.Address{Identity: fixed(node), Flags: datapath.FlagNode}
	ops = append(ops, datapath.SetAddress{Addr: addr(nodeIP4), Address: self}, datapath.SetAddress{Addr: addr(nodeIP6), Address: self})
	apply(t, b.p, ops...)
	return b
}

// newWires makes the node, the pods and what connects them, without a program.
func newWires(t testing.TB) *bed {
	b := &bed{node: newNS(t), a: newNS(t), b: newNS(t), ifindex: map[string]int{}, linkLocal: map[string]netip.Addr{}}
	in(t, b.node, func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/default/rp_filter", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	b.wire(t, b.a, "a", ip4A, ip6A)
	b.wire(t, b.b, "b", ip4B, ip6B)
	return b
}

// wire makes a veth pair between the node and a pod, routed by /32 and /128.
func (b *bed) wire(t testing.TB, pod, name, v4, v6 string) {
	t.Helper()
	file, err := os.Open(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	in(t, b.node, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p" + name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(file.Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		b.ifindex[pod] = veth.Attrs().Index
		return bringUp("p"+name, []string{nodeIP4 + "/32", nodeIP6 + "/128"}, []string{v4 + "/32", v6 + "/128"}, "")
	})
	in(t, pod, func() error {
		return bringUp("eth0", []string{v4 + "/32", v6 + "/128"}, []string{nodeIP4 + "/32", nodeIP6 + "/128"}, "default")
	})
	in(t, b.node, func() error {
		l, err := netlink.LinkByIndex(b.ifindex[pod])
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		for _, a := range addrs {
			if ll, _ := netip.AddrFromSlice(a.IP); ll.IsLinkLocalUnicast() {
				b.linkLocal[pod] = ll
			}
		}
		return err
	})
}

func bringUp(name string, addrs, routes []string, gateway string) error {
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0)
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("address %s: %w", s, err)
		}
	}
	for _, s := range routes {
		_, dst, err := net.ParseCIDR(s)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route %s: %w", s, err)
		}
	}
	if gateway == "" {
		return nil
	}
	return errors.Join(
		netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(nodeIP4), Flags: int(netlink.FLAG_ONLINK)}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(nodeIP6), Flags: int(netlink.FLAG_ONLINK)}))
}

// serve echoes on TCP and UDP of every address, port 80, until the test ends.
func serve(t testing.TB, ns string) {
	t.Helper()
	in(t, ns, func() error {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", ":80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go stream(c)
			}
		}()
		go func() {
			buffer := make([]byte, 2048)
			for {
				n, from, err := u.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(buffer[:n], from)
			}
		}()
		return nil
	})
}

// stream keeps sending, whether anybody listens or not.
func stream(c net.Conn) {
	defer c.Close()
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// soon is how long we wait for what must come.
const soon = 10 * time.Second

// reaches says whether something comes back from port 80. It is patient if that
// is wanted.
func reaches(t testing.TB, ns, network, host string, want bool) bool {
	t.Helper()
	ok := false
	in(t, ns, func() error {
		patience := 150 * time.Millisecond
		if want {
			patience = soon
		}
		c, err := net.DialTimeout(network, net.JoinHostPort(host, "80"), patience)
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write([]byte("hello"))
		n, _ := c.Read(make([]byte, 10))
		ok = n > 0
		return nil
	})
	return ok
}

func (b *bed) expect(t *testing.T, when, ns string, want bool, hosts ...string) {
	t.Helper()
	for _, host := range hosts {
		for _, network := range []string{"tcp", "udp"} {
			if got := reaches(t, ns, network, host, want); got != want {
				stats, _ := b.p.Stats()
				t.Errorf("%s: %s to %s: passed %v, want %v (counters %v)", when, network, host, got, want, stats)
			}
		}
	}
}

func TestDoors(t *testing.T) {
	b := newBed(t)
	serve(t, b.a)
	serve(t, b.b)
	serve(t, b.node)
	b.expect(t, "open", b.a, true, ip4B, ip6B, nodeIP4, nodeIP6)

	apply(t, b.p, append(gateOf(1), doors(b.p, subjectA, 1, 0))...)
	b.expect(t, "egress shut", b.a, false, ip4B, ip6B, nodeIP4, nodeIP6, b.linkLocal[b.a].String()+"%eth0")
	b.expect(t, "the other direction", b.b, true, ip4A, ip6A)
	b.expect(t, "the node reaches its pod", b.node, true, ip4A, ip6A)

	apply(t, b.p, append(gateOf(2, podB), doors(b.p, subjectA, 2, 1))...)
	b.expect(t, "egress to B", b.a, true, ip4B, ip6B)
	b.expect(t, "not to the node", b.a, false, nodeIP4, nodeIP6, b.linkLocal[b.a].String()+"%eth0")
	b.expect(t, "ingress shut", b.b, false, ip4A, ip6A)

	apply(t, b.p, append(gateOf(3, node), doors(b.p, subjectA, 3, 1))...)
	b.expect(t, "egress to the node", b.a, true, nodeIP4, nodeIP6, b.linkLocal[b.a].String()+"%eth0")
	b.expect(t, "not to B", b.a, false, ip4B, ip6B)
}

func TestPortsAndProtocols(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	ops := []datapath.Op{datapath.SetGate{ID: 4, Gate: datapath.Gate{First: 10, Count: 5}}}
	for i, r := range []datapath.Range{
		{Start: 0}, {Start: 6<<16 | 79}, {Start: 6<<16 | 80, Allow: datapath.RowAll}, {Start: 6<<16 | 81}, {Start: 17<<16 | 81, Allow: datapath.RowAll},
	} {
		ops = append(ops, datapath.SetRange{Index: uint32(10 + i), Range: r})
	}
	apply(t, b.p, append(ops, doors(b.p, subjectB, 0, 4))...)
	for network, want := range map[string]bool{"tcp": true, "udp": false} {
		for _, host := range []string{ip4B, ip6B} {
			if got := reaches(t, b.a, network, host, want); got != want {
				t.Errorf("%s to %s: %v, want %v", network, host, got, want)
			}
		}
	}
}

// TestConditional drops what only a conditional row lets through: at FORWARD
// always, at LOCAL_IN without the redirect mark.
func TestConditional(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	serve(t, b.node)
	apply(t, b.p, datapath.SetRange{Index: 20, Range: datapath.Range{Conditional: datapath.RowAll, Shadow: datapath.RowAll}},
		datapath.SetGate{ID: 6, Gate: datapath.Gate{First: 20, Count: 1}}, doors(b.p, subjectA, 6, 0))
	for _, host := range []string{ip4B, ip6B, nodeIP4, nodeIP6} {
		b.counted(t, host, Conditional, func() { b.expect(t, "conditional", b.a, false, host) })
	}
}

// TestRedirectMark passes a conditional row at LOCAL_IN with the mark, and
// only there.
func TestRedirectMark(t *testing.T) {
	b := newBed(t)
	apply(t, b.p, datapath.SetRange{Index: 20, Range: datapath.Range{Conditional: datapath.RowAll}},
		datapath.SetGate{ID: 6, Gate: datapath.Gate{First: 20, Count: 1}}, doors(b.p, subjectA, 6, 0))
	b.counted(t, "without mark", Conditional, func() { send4(t, b.a, udp4(ip4A, nodeIP4), nodeIP4) })
	in(t, b.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "mark", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "mark", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Immediate{Register: 1, Data: []byte{0x40, 0, 0, 0}},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		}})
		return c.Flush()
	})
	b.counted(t, "with mark at LOCAL_IN", Allowed, func() { send4(t, b.a, udp4(ip4A, nodeIP4), nodeIP4) })
	b.counted(t, "with mark at FORWARD", Conditional, func() { send4(t, b.a, udp4(ip4A, ip4B), ip4B) })
}

// TestCut closes a door while the server sends: nothing more may come through.
func TestCut(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	for _, host := range []string{ip4B, ip6B} {
		apply(t, b.p, doors(b.p, subjectA, 0, 0))
		var c net.Conn
		in(t, b.a, func() (err error) {
			c, err = net.DialTimeout("tcp", net.JoinHostPort(host, "80"), soon)
			return err
		})
		buffer := make([]byte, 4096)
		for range 5 {
			if _, err := c.Read(buffer); err != nil {
				t.Fatal(err)
			}
		}
		apply(t, b.p, append(gateOf(5), doors(b.p, subjectA, 5, 0))...)
		time.Sleep(200 * time.Millisecond)
		drained, err := drain(c) // what was under way
		time.Sleep(300 * time.Millisecond)
		if n, again := drain(c); n > 0 || err != nil || again != nil {
			t.Errorf("%s: %d bytes came through a shut door (%d before, %v)", host, n, drained, errors.Join(err, again))
		}
		c.Close()
	}
}

// drain takes what is in the socket, and does not wait for more.
func drain(c net.Conn) (n int, err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buffer := make([]byte, 4096)
		for {
			got, err := unix.Read(int(fd), buffer)
			switch {
			case err == unix.EAGAIN:
				return true
			case err == unix.EINTR:
				continue
			case err == nil && got == 0:
				err = io.EOF
			}
			if err != nil {
				failed = err
				return true
			}
			n += got
		}
	})
	return n, errors.Join(err, failed)
}

// send4 sends a raw IPv4 packet out of the namespace.
func send4(t *testing.T, ns string, packet []byte, to string) {
	t.Helper()
	in(t, ns, func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, packet, 0, &unix.SockaddrInet4{Addr: addr(to).As4()})
	})
}

func udp4(src, dst string) []byte {
	b := packet4(src, dst, 17, 0, 80)
	binary.BigEndian.PutUint16(b[24:], 20) // length; checksum 0: none
	return b
}

func udp6(src, dst string) []byte {
	b := make([]byte, 52)
	b[0], b[5], b[6], b[7] = 0x60, 12, 17, 64
	source, destination := addr(src).As16(), addr(dst).As16()
	copy(b[8:], source[:])
	copy(b[24:], destination[:])
	binary.BigEndian.PutUint16(b[40:], 40000)
	binary.BigEndian.PutUint16(b[42:], 80)
	binary.BigEndian.PutUint16(b[44:], 12)
	binary.BigEndian.PutUint16(b[46:], checksum6(b))
	return b
}

func checksum6(b []byte) uint16 {
	sum := uint32(17 + 12)
	for i := 8; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func send6(t *testing.T, ns string, packet []byte, to string) {
	t.Helper()
	in(t, ns, func() error {
		s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, packet, 0, &unix.SockaddrInet6{Addr: addr(to).As16()})
	})
}

func (b *bed) counted(t *testing.T, what string, reason Reason, do func()) {
	t.Helper()
	before, err := b.p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	do()
	for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		after, err := b.p.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if after[reason] > before[reason] {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s: no packet counted as %s: %v -> %v", what, reason, before, after)
			return
		}
	}
}

func TestForgedAndInvalid(t *testing.T) {
	b := newBed(t)
	serve(t, b.a)
	serve(t, b.b)
	b.expect(t, "neighbours known", b.a, true, ip4B, ip6B)
	b.expect(t, "neighbours known", b.b, true, ip4A, ip6A)
	for _, source := range []string{ip4B, "192.0.2.7", "10.9.0.3"} {
		b.counted(t, "source "+source, SpoofedSource, func() { send4(t, b.a, udp4(source, ip4B), ip4B) })
		b.counted(t, "source "+source+" to the node", SpoofedSource, func() { send4(t, b.a, udp4(source, nodeIP4), nodeIP4) })
	}
	// The kernel itself drops its own source from outside with IPv4, not with
	// IPv6, and link-local and mapped sources with IPv6.
	for _, source := range []string{ip6B, nodeIP6, "2001:db8::7"} {
		b.counted(t, "source "+source, SpoofedSource, func() { send6(t, b.a, udp6(source, ip6B), ip6B) })
	}
	b.counted(t, "unknown peer", UnknownPeer, func() {
		in(t, b.node, func() error {
			_, dst, _ := net.ParseCIDR("10.9.0.3/32")
			return netlink.RouteReplace(&netlink.Route{LinkIndex: b.ifindex[b.b], Dst: dst, Scope: netlink.SCOPE_LINK})
		})
		send4(t, b.a, udp4(ip4A, "10.9.0.3"), "10.9.0.3")
	})
	synRst := packet4(ip4A, ip4B, 6, 0, 80)
	synRst[32], synRst[33] = 0x50, 6
	b.counted(t, "SYN and RST", Invalid, func() { send4(t, b.a, synRst, ip4B) })
}

// TestForgedAnswer has a pod answer from an address that the tables expect at
// another device, whatever they let through the other way.
func TestForgedAnswer(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	b.expect(t, "answers", b.a, true, ip4B, ip6B)
	elsewhere := datapath.Address{Identity: fixed(podB), Subject: subjectB, Ifindex: uint32(b.ifindex[b.a])}
	nobodys := datapath.Address{Identity: fixed(world)}
	for name, entry := range map[string]datapath.Address{"another device": elsewhere, "no pod's": nobodys} {
		apply(t, b.p, datapath.SetAddress{Addr: addr(ip4B), Address: entry}, datapath.SetAddress{Addr: addr(ip6B), Address: entry})
		b.counted(t, name, SpoofedSource, func() {
			for range 3 {
				b.expect(t, name, b.a, false, ip4B, ip6B)
			}
		})
	}
}

// TestUntracked makes the node not track: both orientations must be open then.
func TestUntracked(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	in(t, b.node, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "raw", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "notrack", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Notrack{}}})
		return c.Flush()
	})
	b.expect(t, "open", b.a, true, ip4B, ip6B)
	apply(t, b.p, append(gateOf(6), doors(b.p, subjectB, 6, 0))...)
	b.expect(t, "the way back is shut", b.a, false, ip4B, ip6B)
}

// TestICMPError sees an error of an allowed flow come back to its sender.
func TestICMPError(t *testing.T) {
	b := newBed(t)
	for _, host := range []string{ip4B, ip6B} {
		apply(t, b.p, append(append(gateOf(7, podB), gateOf(8)...), doors(b.p, subjectA, 7, 8), doors(b.p, subjectB, 8, 0))...)
		if err := refused(t, b.a, host); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want the port unreachable", host, err)
		}
	}
}

func refused(t *testing.T, ns, host string) (err error) {
	t.Helper()
	in(t, ns, func() error {
		c, e := net.Dial("udp", net.JoinHostPort(host, "9"))
		if e != nil {
			return e
		}
		defer c.Close()
		_, _ = c.Write([]byte("x"))
		_ = c.SetDeadline(time.Now().Add(soon))
		_, err = c.Read(make([]byte, 1))
		return nil
	})
	return err
}

// TestEvents sees a denied and an allowed connection with their attribution.
func TestEvents(t *testing.T) {
	b := newBed(t)
	serve(t, b.b)
	apply(t, b.p, append(gateOf(9), doors(b.p, subjectB, 0, 9))...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var seen []Event
	found, done := make(chan struct{}), make(chan error)
	find := sync.OnceFunc(func() { close(found) })
	revision := uint32(b.p.Revision())
	go func() {
		done <- b.p.Events(ctx, func(e *Event) {
			seen = append(seen, *e)
			if e.Reason == IngressDenied && e.Source() == addr(ip4A) && e.Destination() == addr(ip4B) && e.DestinationPort == 80 &&
				e.IngressGate == 9 && e.SourceIdentity == podA && e.DestinationIdentity == podB && e.Hook == 2 &&
				e.Revision == revision && e.Flow().Reason == flow.IngressDenied {
				find()
			}
		})
	}()
	b.expect(t, "ingress shut", b.a, false, ip4B)
	late := false
	select {
	case <-found:
	case <-time.After(soon):
		late = true
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if late {
		t.Errorf("no event of the denied connection in %+v", seen)
	}
}

// TestKeepsEnforcing closes the program, as SIGKILL does, and loads another
// over it under traffic: the shut door never opens, and what is open stays so.
func TestKeepsEnforcing(t *testing.T) {
	b := newBed(t)
	serve(t, b.a)
	serve(t, b.b)
	apply(t, b.p, append(gateOf(1), doors(b.p, subjectA, 1, 0))...)
	pin := b.p.pin
	if err := b.p.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if reaches(t, b.a, "udp", ip4B, false) {
			t.Error("shut door opened")
		}
		if !reaches(t, b.b, "tcp", ip4A, true) {
			t.Error("open door shut")
		}
		p := loadAt(t, pin, b.node)
		if p.Revision() == 0 {
			t.Error("the revision is lost")
		}
	}
	b.p = loadAt(t, pin, b.node)
	apply(t, b.p, doors(b.p, subjectA, 0, 0))
	b.expect(t, "opened again", b.a, true, ip4B, ip6B)
}
