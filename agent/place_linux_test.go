package agent

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// attach makes a veth between two namespaces, as CNI plugins do, and gives the
// pod's end its addresses.
func attach(t *testing.T, node, pod *netlink.Handle, podNS netns.NsHandle, name string, master int, addrs ...string) uint32 {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, master
	must(t, node.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(podNS)}))
	host, err := node.LinkByName(name)
	must(t, err)
	must(t, node.LinkSetUp(host))
	eth0, err := pod.LinkByName("eth0")
	must(t, err)
	for _, a := range addrs {
		parsed, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, pod.AddrAdd(eth0, parsed))
	}
	must(t, pod.LinkSetUp(eth0))
	return uint32(host.Attrs().Index)
}

// newNS makes a network namespace that ends with the test.
func newNS(t *testing.T) (netns.NsHandle, *netlink.Handle) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	ns, err := netns.New()
	must(t, err)
	must(t, netns.Set(here))
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { h.Close(); ns.Close() })
	return ns, h
}

// newBridge makes the bridge cni0 with an address, as CNI plugins do.
func newBridge(t *testing.T, node *netlink.Handle) (ifindex int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cni0"
	must(t, node.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	bridge, err := node.LinkByName("cni0")
	must(t, err)
	must(t, node.LinkSetUp(bridge))
	gateway, err := netlink.ParseAddr("10.244.0.1/24")
	must(t, err)
	must(t, node.AddrAdd(bridge, gateway))
	return bridge.Attrs().Index
}

func TestPlacesOfRoutedAndBridgedPods(t *testing.T) {
	needRoot(t)
	node, nodeLinks := newNS(t)
	var pods [4]netns.NsHandle
	var podLinks [4]*netlink.Handle
	for i := range pods {
		pods[i], podLinks[i] = newNS(t)
	}
	bridge := newBridge(t, nodeLinks)

	p, err := newPlaces(fmt.Sprintf("/proc/self/fd/%d", node))
	must(t, err)
	defer p.close()
	changed, done := make(chan struct{}, 1), make(chan struct{})
	defer close(done)
	must(t, p.subscribe(done, changed))

	want := map[string]uint32{}
	want["10.244.0.2"] = attach(t, nodeLinks, podLinks[0], pods[0], "veth0", bridge, "10.244.0.2/24", "fd00::2/64")
	want["fd00::2"] = want["10.244.0.2"]
	want["10.244.0.3"] = attach(t, nodeLinks, podLinks[1], pods[1], "veth1", bridge, "10.244.0.3/24")
	want["10.99.0.7"] = attach(t, nodeLinks, podLinks[2], pods[2], "veth2", 0, "10.99.0.7/32")
	<-changed
	must(t, p.refresh())
	for a, index := range want {
		if got := p.deviceOf(netip.MustParseAddr(a)); got != index {
			t.Errorf("%s is behind device %d, want %d", a, got, index)
		}
	}
	if got := p.deviceOf(netip.MustParseAddr("10.244.0.9")); got != 0 {
		t.Errorf("an address that nobody has is behind device %d", got)
	}
	if len(p.own) != 1 || p.own[0] != netip.MustParseAddr("10.244.0.1") {
		t.Errorf("the node has %v", p.own)
	}

	if got := fmt.Sprint(p.network); got != "map[10.244.0.2:10.244.0.0/24 10.244.0.3:10.244.0.0/24 fd00::2:fd00::/64]" {
		t.Errorf("the pods' addresses are of %s", got)
	}
	// Of a device whose other end has no address, the host route says it.
	quiet := netlink.NewLinkAttrs()
	quiet.Name = "quiet0"
	must(t, nodeLinks.LinkAdd(&netlink.Veth{LinkAttrs: quiet, PeerName: "quiet1"}))
	link, err := nodeLinks.LinkByName("quiet0")
	must(t, err)
	must(t, nodeLinks.LinkSetUp(link))
	_, host, _ := net.ParseCIDR("10.99.0.8/32")
	must(t, nodeLinks.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host, Scope: netlink.SCOPE_LINK}))
	if got := p.deviceOf(netip.MustParseAddr("10.99.0.8")); got != uint32(link.Attrs().Index) {
		t.Errorf("an address with a host route is behind device %d, want %d", got, link.Attrs().Index)
	}

	// The address moves to another pod.
	must(t, nodeLinks.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth2", Index: int(want["10.99.0.7"])}}))
	now := attach(t, nodeLinks, podLinks[3], pods[3], "veth3", 0, "10.99.0.7/32")
	must(t, p.refresh())
	if got := p.deviceOf(netip.MustParseAddr("10.99.0.7")); got != now {
		t.Errorf("the address that moved is behind device %d, want %d", got, now)
	}
}
