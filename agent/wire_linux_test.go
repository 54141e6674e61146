package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/lab"
)

// outsideNS is the network namespace that stands for what is not of the cluster.
const outsideNS = "/run/netns/" + lab.NamePrefix + "outside"

// podNS is the path of a pod's network namespace.
func podNS(t *testing.T, key string) string {
	t.Helper()
	s, err := lab.ReadState()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join("/run/netns", s.Pods[key].NetNS)
}

// inside runs f on a thread in the network namespace. What f opens stays
// there. A thread that cannot go back is not used again.
func inside(t *testing.T, path string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			origin, err := netns.Get()
			if err != nil {
				return err
			}
			defer origin.Close()
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return err
			}
			err = f()
			if netns.Set(origin) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("in %s: %v", path, err)
	}
}

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// mouth sends packets out of a namespace's eth0 as they are: the kernel there
// has no say.
type mouth struct {
	fd      int
	ifindex int
	mac     net.HardwareAddr // of the node
}

// podMouth is the mouth of a pod.
func podMouth(t *testing.T, l *Lab, key string) *mouth {
	t.Helper()
	index, ok := l.HostIfindex(key)
	if !ok {
		t.Fatalf("pod %s has no interface", key)
	}
	var mac net.HardwareAddr
	inside(t, l.NodeNetNS(l.Matrix.Endpoint(key).Node), func() error {
		link, err := netlink.LinkByIndex(int(index))
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return newMouth(t, podNS(t, key), mac)
}

// outsideMouth is a mouth outside of the cluster that speaks to a node.
func outsideMouth(t *testing.T, l *Lab, node string) *mouth {
	t.Helper()
	var mac net.HardwareAddr
	inside(t, l.NodeNetNS(node), func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return newMouth(t, outsideNS, mac)
}

func newMouth(t *testing.T, ns string, mac net.HardwareAddr) *mouth {
	t.Helper()
	m := &mouth{mac: mac}
	inside(t, ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		m.ifindex = eth0.Attrs().Index
		m.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(m.fd) })
	return m
}

func (m *mouth) say(t *testing.T, packets ...[]byte) {
	t.Helper()
	for _, p := range packets {
		to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: m.ifindex, Halen: 6}
		if p[0]>>4 == 6 {
			to.Protocol = htons(unix.ETH_P_IPV6)
		}
		copy(to.Addr[:], m.mac)
		if err := unix.Sendto(m.fd, p, 0, to); err != nil {
			t.Fatalf("cannot send % x: %v", p, err)
		}
	}
}

// ear hears what arrives somewhere. A node's gives IPv6 packets without their
// header.
type ear struct {
	fds    []int
	buffer []byte
	heard  [][]byte
}

func newEar(t *testing.T) *ear {
	e := &ear{buffer: make([]byte, 1<<16)}
	t.Cleanup(func() {
		for _, fd := range e.fds {
			_ = unix.Close(fd)
		}
	})
	return e
}

func (e *ear) open(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("cannot open a raw socket for %d/%d: %w", domain, protocol, err)
	}
	e.fds = append(e.fds, fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
}

// podEar hears every packet that comes in by a pod's interface.
func podEar(t *testing.T, key string) *ear {
	t.Helper()
	e := newEar(t)
	inside(t, podNS(t, key), func() error {
		return e.open(unix.AF_PACKET, unix.SOCK_DGRAM, int(htons(unix.ETH_P_ALL)))
	})
	return e
}

// nodeEar hears what the node's own sockets could: raw ones are behind the
// hook for what is delivered locally, where a packet socket is before it.
func nodeEar(t *testing.T, l *Lab, node string) *ear {
	t.Helper()
	e := newEar(t)
	inside(t, l.NodeNetNS(node), func() error {
		var errs []error
		for _, protocol := range []int{
			unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, protocolUDPLite, unix.IPPROTO_GRE, unix.IPPROTO_ESP,
			unix.IPPROTO_IPIP, protocolUnknown,
		} {
			errs = append(errs, e.open(unix.AF_INET, unix.SOCK_RAW, protocol), e.open(unix.AF_INET6, unix.SOCK_RAW, protocol))
		}
		errs = append(errs, e.open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), e.open(unix.AF_INET, unix.SOCK_RAW, protocolIGMP),
			e.open(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6))
		return errors.Join(errs...)
	})
	return e
}

// listen takes what has arrived out of the sockets.
func (e *ear) listen() {
	for _, fd := range e.fds {
		for {
			n, from, err := unix.Recvfrom(fd, e.buffer, 0)
			if err != nil {
				break
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && (link.Pkttype == unix.PACKET_OUTGOING || n < 20) {
				continue
			}
			e.heard = append(e.heard, slices.Clone(e.buffer[:n]))
		}
	}
}

// count is how many of the packets heard so far hold the bytes.
func (e *ear) count(mark []byte) int {
	e.listen()
	n := 0
	for _, packet := range e.heard {
		if bytes.Contains(packet, mark) {
			n++
		}
	}
	return n
}

// forget drops what has been heard.
func (e *ear) forget() {
	e.listen()
	e.heard = nil
}

// soon is how long we wait for what must come.
const soon = 10 * time.Second

// hears waits for the bytes.
func (e *ear) hears(mark []byte, patience time.Duration) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if e.count(mark) > 0 {
			return true
		}
	}
	return e.count(mark) > 0 // we may have slept too long
}

// marks are eight bytes each, all different. A fragment's border, at a
// multiple of eight, does not cut one that begins at such a multiple.
type marks int

func (m *marks) next() []byte {
	*m++
	return fmt.Appendf(nil, "~%06d~", *m)
}

// address is a pod's address of the family.
func address(t *testing.T, l *Lab, key string, v6 bool) netip.Addr {
	t.Helper()
	for _, a := range l.Matrix.Endpoint(key).IPs {
		if a.Is6() == v6 {
			return a
		}
	}
	t.Fatalf("pod %s has no address of this family", key)
	return netip.Addr{}
}

// nodeAddress is a node's address of the family.
func nodeAddress(t *testing.T, l *Lab, name string, v6 bool) netip.Addr {
	t.Helper()
	for _, n := range l.Cluster().Nodes {
		for _, a := range n.IPs {
			if n.Name == name && a.Is6() == v6 {
				return a
			}
		}
	}
	t.Fatalf("node %s has no address of this family", name)
	return netip.Addr{}
}

// deleteTable removes an nftables table from a namespace.
func deleteTable(t *testing.T, ns, name string) {
	t.Helper()
	inside(t, ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		return c.Flush()
	})
}

// addTable makes an nftables table of the test in a namespace, with one
// chain at prerouting. It goes with the namespace.
func addTable(t *testing.T, ns string, priority *nftables.ChainPriority, fill func(*nftables.Conn, *nftables.Chain)) error {
	t.Helper()
	var failed error
	inside(t, ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "attack", Family: nftables.TableFamilyINet})
		fill(c, c.AddChain(&nftables.Chain{
			Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: priority,
		}))
		failed = c.Flush()
		return nil
	})
	return failed
}

// dial connects from inside a namespace.
func dial(t *testing.T, ns, network string, local net.Addr, to netip.AddrPort, patience time.Duration) (c net.Conn, failed error) {
	t.Helper()
	inside(t, ns, func() error {
		d := net.Dialer{LocalAddr: local, Timeout: patience, KeepAlive: -1}
		c, failed = d.Dial(network, to.String())
		return nil
	})
	if failed == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, failed
}

// listenTCP accepts connections inside a namespace until the test ends.
func listenTCP(t *testing.T, ns string, port uint16, handle func(net.Conn)) {
	t.Helper()
	inside(t, ns, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					handle(c)
				}()
			}
		}()
		return nil
	})
}
