package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
)

// What is below IP goes neither around the policies of pods on one bridge nor
// turns other pods' packets to itself.
func TestPodsOfOneBridgeBelowIP(t *testing.T) {
	needRoot(t)
	node, nodeLinks := newNS(t)
	path := fmt.Sprintf("/proc/self/fd/%d", node)
	bridge := newBridge(t, nodeLinks)

	var pods [3]*bridged
	c := &model.Cluster{
		Namespaces: []model.Namespace{{Name: "a", Labels: map[string]string{model.MetadataName: "a"}}},
		Nodes:      []model.Node{{Name: "n", IPs: []netip.Addr{netip.MustParseAddr("192.168.9.9")}}}, PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
	}
	for i := range pods {
		ns, links := newNS(t)
		addr := fmt.Sprintf("10.244.0.%d", 2+i)
		attach(t, nodeLinks, links, ns, fmt.Sprintf("veth%d", i), bridge, addr+"/24")
		pods[i] = newBridged(t, ns, links, netip.MustParseAddr(addr))
		c.Endpoints = append(c.Endpoints, model.Endpoint{Namespace: "a", Name: fmt.Sprint(i), Node: "n", Workload: model.Workload{Kind: "Pod", Name: fmt.Sprint(i)}, IPs: []netip.Addr{pods[i].addr}})
	}
	evil, victim, other := pods[0], pods[1], pods[2]
	everyone := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	attacks := map[string]func(mark []byte) []byte{
		"a protocol that is not IP": func(m []byte) []byte { return frame(victim.mac, evil.mac, 0x88b5, m) },
		"IP in a VLAN tag": func(m []byte) []byte {
			return frame(victim.mac, evil.mac, 0x8100, slices.Concat([]byte{0, 5, 8, 0}, ip(evil.addr, victim.addr, 17, m)))
		},
		"another pod's MAC": func(m []byte) []byte { return frame(victim.mac, other.mac, 0x0800, ip(evil.addr, victim.addr, 17, m)) },
		"an ARP answer for another pod": func(m []byte) []byte {
			return frame(everyone, evil.mac, 0x0806, arp(evil.mac, other.addr, victim.mac, victim.addr, m))
		},
		"a gratuitous ARP for the node": func(m []byte) []byte {
			gw := netip.MustParseAddr("10.244.0.1")
			return frame(everyone, evil.mac, 0x0806, arp(evil.mac, gw, everyone, gw, m))
		},
	}
	var m marks
	for what, make := range attacks { // without an agent all of this works
		eventually(t, func() string { // a bridge's port takes a moment to come up
			mark := m.next()
			evil.say(t, make(mark))
			if !victim.ear.hears(mark, 100*time.Millisecond) {
				return "without an agent, " + what + " does not arrive"
			}
			return ""
		})
	}

	w := world{updates: make(chan kube.Update)}
	n, err := NewNode(NodeConfig{Name: "n", World: w, Audit: 100 * time.Millisecond, Enforce: Config{Pin: fmt.Sprintf("/sys/fs/bpf/sallyport-bridge-%d", os.Getpid()), NetNS: path}})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
		must(t, Cleanup(n.config.Enforce))
	})
	w.updates <- apart(kube.Update{Cluster: c, Revisions: map[string]string{"round": "1"}})
	eventually(t, func() string {
		if s := n.Status(); !s.Ready || s.Realised["round"] != "1" || len(n.ports) != len(pods) {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	for what, make := range attacks {
		mark := m.next()
		evil.say(t, make(mark))
		if victim.ear.hears(mark, 200*time.Millisecond) {
			t.Errorf("%s arrives", what)
		}
	}
	own := m.next()
	evil.say(t, frame(everyone, evil.mac, 0x0806, arp(evil.mac, evil.addr, everyone, victim.addr, own)))
	if !victim.ear.hears(own, soon) {
		t.Error("a pod's own ARP does not arrive")
	}
}

// bridged is a pod that speaks and hears whole frames.
type bridged struct {
	addr    netip.Addr
	mac     net.HardwareAddr
	ifindex int
	fd      int
	ear     *ear
}

func newBridged(t *testing.T, ns netns.NsHandle, links *netlink.Handle, addr netip.Addr) *bridged {
	t.Helper()
	eth0, err := links.LinkByName("eth0")
	must(t, err)
	b := &bridged{addr: addr, mac: eth0.Attrs().HardwareAddr, ifindex: eth0.Attrs().Index, ear: newEar(t)}
	inside(t, fmt.Sprintf("/proc/self/fd/%d", ns), func() error {
		b.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = b.ear.open(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
		}
		return err
	})
	t.Cleanup(func() { _ = unix.Close(b.fd) })
	return b
}

func (b *bridged) say(t *testing.T, frame []byte) {
	t.Helper()
	must(t, unix.Sendto(b.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: b.ifindex, Halen: 6}))
}

func frame(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, kind), payload, bytes.Repeat([]byte{0}, 46))
}

// arp is an ARP answer with some bytes behind it.
func arp(mac net.HardwareAddr, ip netip.Addr, toMAC net.HardwareAddr, to netip.Addr, mark []byte) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac, ip.AsSlice(), toMAC, to.AsSlice(), mark)
}
