//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/model"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const bridgeName = "fabric"

var (
	fabricNet    = netip.MustParsePrefix("172.30.0.0/16")
	outsideAddr4 = netip.MustParseAddr("172.30.255.254")
	outsideAddr6 = netip.MustParseAddr("fd5a:11:30::fffe")
	outsideLink6 = netip.MustParseAddr("fe80::5a11:ffff:fffe")
	default4     = netip.MustParsePrefix("0.0.0.0/0")
	default6     = netip.MustParsePrefix("::/0")
)

// node is a node's namespace.
type node struct {
	*space
	model  model.Node
	number int // tells the nodes' link-local addresses apart
	eth0   int
	routes map[netip.Prefix]hop
	rules  string // what the service rules were made from
}

// linkLocal is the address that others send this node's IPv6 traffic to.
func (n *node) linkLocal() netip.Addr {
	a := netip.MustParseAddr("fe80::5a11:0:0").As16()
	a[14], a[15] = byte(n.number>>8), byte(n.number)
	return netip.AddrFrom16(a)
}

// via is the gateway to this node for addresses of a's family.
func (n *node) via(a netip.Addr) (netip.Addr, bool) {
	if a.Is6() {
		return n.linkLocal(), true
	}
	for _, ip := range n.model.IPs {
		if ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// mac is the hardware address of the node's eth0.
func (n *node) mac() net.HardwareAddr {
	if a, ok := n.via(outsideAddr4); ok {
		return fabricMAC(a)
	}
	return fabricMAC(n.linkLocal())
}

// outside is the namespace that stands for everything outside of the cluster.
type outside struct {
	*space
	eth0    int
	routes  map[netip.Prefix]hop
	addrs   map[netip.Addr]bool
	servers map[service]*server
}

// newFabric makes the namespace with the bridge.
func newFabric() (*space, error) {
	s, err := newSpace(fabricName, quietIPv6, []setting{
		{"bridge/bridge-nf-call-iptables", "0", true},
		{"bridge/bridge-nf-call-ip6tables", "0", true},
	})
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot add the bridge: %w", err), s.close())
	}
	if err := s.up(bridgeName); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// fabricMAC is the hardware address that goes with an address on the fabric.
// A node that comes back is then where its neighbours remember it.
func fabricMAC(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	return net.HardwareAddr{0x02, 0x5a, b[12], b[13], b[14], b[15]}
}

// plug joins s to the fabric's bridge with its interface eth0.
func (l *Lab) plug(s *space, mac net.HardwareAddr) (int, error) {
	port, eth0, err := l.fabric.addVeth("sp"+shortHash(s.name), s, "eth0")
	if err != nil {
		return 0, err
	}
	if err := s.nl.LinkSetHardwareAddr(eth0, mac); err != nil {
		return 0, fmt.Errorf("cannot set the hardware address of %s: %w", s.name, err)
	}
	bridge, err := l.fabric.nl.LinkByName(bridgeName)
	if err != nil {
		return 0, fmt.Errorf("cannot find the bridge: %w", err)
	}
	if err := l.fabric.nl.LinkSetMaster(port, bridge); err != nil {
		return 0, fmt.Errorf("cannot join %s to the bridge: %w", s.name, err)
	}
	return eth0.Attrs().Index, nil
}

// settle waits for what the kernel does later than it says: IPv6 addresses
// become local some time after they were added, and until then their packets
// are answered with "unreachable".
func (l *Lab) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	waiting := l.settling
	l.settling = nil
	for _, p := range waiting {
		for !p.space.isLocal(p.addr) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("address %s in %s does not become ready: %w", p.addr, p.space.name, ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

// place is an address in a namespace.
type place struct {
	space *space
	addr  netip.Addr
}

// isLocal says whether the namespace takes packets for the address.
func (s *space) isLocal(a netip.Addr) bool {
	routes, err := s.nl.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// addOutside makes the outside namespace.
func (l *Lab) addOutside() error {
	s, err := newSpace(outsideNS, quietIPv6, forwarding)
	if err != nil {
		return err
	}
	l.outside = &outside{space: s, routes: map[netip.Prefix]hop{}, addrs: map[netip.Addr]bool{}, servers: map[service]*server{}}
	if l.outside.eth0, err = l.plug(s, fabricMAC(outsideAddr4)); err != nil {
		return err
	}
	return errors.Join(
		s.addAddr("eth0", netip.PrefixFrom(outsideAddr4, fabricNet.Bits())),
		s.addAddr("eth0", netip.PrefixFrom(outsideLink6, 64)),
		s.addAddr("eth0", single(outsideAddr6)),
	)
}

// addNode makes a node's namespace and its way to the outside.
func (l *Lab) addNode(m model.Node) error {
	s, err := newSpace(nodeNSName(m.Name), quietIPv6, forwarding)
	if err != nil {
		return err
	}
	l.lastNode++
	n := &node{space: s, model: m, number: l.lastNode, routes: map[netip.Prefix]hop{}}
	l.nodes[m.Name] = n
	err = l.connectNode(n)
	if err == nil && l.cfg.NodeUp != nil {
		err = l.cfg.NodeUp(m.Name)
	}
	if err != nil {
		return errors.Join(err, l.removeNode(m.Name))
	}
	return nil
}

// connectNode joins a node to the fabric and gives it its addresses.
func (l *Lab) connectNode(n *node) (err error) {
	if n.eth0, err = l.plug(n.space, n.mac()); err != nil {
		return err
	}
	for _, ip := range n.model.IPs {
		p := single(ip)
		if fabricNet.Contains(ip) {
			p = netip.PrefixFrom(ip, fabricNet.Bits())
		}
		if err := n.addAddr("eth0", p); err != nil {
			return err
		}
		l.settling = append(l.settling, place{n.space, ip})
	}
	return n.addAddr("eth0", netip.PrefixFrom(n.linkLocal(), 64))
}

// removeNode removes a node's namespace.
func (l *Lab) removeNode(name string) error {
	n := l.nodes[name]
	delete(l.nodes, name)
	var err error
	if l.cfg.NodeDown != nil {
		err = l.cfg.NodeDown(name)
	}
	// The fabric's end goes with the other end, but only once the kernel has
	// got round to it; a node of the same name may come before.
	if link, err := l.fabric.nl.LinkByName("sp" + shortHash(n.name)); err == nil {
		_ = l.fabric.nl.LinkDel(link)
	}
	return errors.Join(err, n.close())
}

// syncAllRoutes brings the routes of all nodes and of the outside up to date.
func (l *Lab) syncAllRoutes() error {
	for _, n := range l.nodes {
		want := l.wantRoutes(n, n.eth0)
		want[default4] = hop{n.eth0, outsideAddr4}
		want[default6] = hop{n.eth0, outsideLink6}
		if err := n.syncRoutes(n.routes, want); err != nil {
			return err
		}
	}
	return l.outside.syncRoutes(l.outside.routes, l.wantRoutes(nil, l.outside.eth0))
}

// wantRoutes are the routes to pods and nodes in the namespace of self, or of
// the outside if self is nil.
func (l *Lab) wantRoutes(self *node, eth0 int) map[netip.Prefix]hop {
	want := make(map[netip.Prefix]hop)
	for _, n := range l.nodes {
		if n == self {
			continue
		}
		for _, ip := range n.model.IPs {
			switch {
			case ip.Is6():
				want[single(ip)] = hop{eth0, n.linkLocal()}
			case !fabricNet.Contains(ip):
				want[single(ip)] = hop{link: eth0}
			}
		}
	}
	for _, p := range l.pods {
		if p.model.HostNetwork {
			continue
		}
		for _, ip := range p.model.IPs {
			if p.node == self {
				want[single(ip)] = hop{link: p.hostLink}
			} else if gw, ok := p.node.via(ip); ok {
				want[single(ip)] = hop{eth0, gw}
			}
		}
	}
	return want
}
