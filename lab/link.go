//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// space is an open network namespace with a netlink handle in it.
type space struct {
	name string
	ns   netns.NsHandle
	nl   *netlink.Handle
	sctp map[netip.Addr]*server // started when first asked
}

// newSpace makes a network namespace, applies settings and brings lo up.
func newSpace(name string, settings ...[]setting) (*space, error) {
	ns, err := createNS(name)
	if err != nil {
		return nil, err
	}
	s := &space{name: name, ns: ns}
	if err := s.prepare(settings); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *space) prepare(settings [][]setting) error {
	for _, list := range settings {
		if err := setSysctls(s.ns, list); err != nil {
			return err
		}
	}
	nl, err := netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink in %s: %w", s.name, err)
	}
	s.nl = nl
	return s.up("lo")
}

// close closes the handles and removes the network namespace.
func (s *space) close() error {
	for _, srv := range s.sctp {
		srv.close()
	}
	if s.nl != nil {
		s.nl.Close()
	}
	_ = s.ns.Close()
	return deleteNS(s.name)
}

// up brings the interface of that name up.
func (s *space) up(name string) error {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find interface %s in %s: %w", name, s.name, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring up %s in %s: %w", name, s.name, err)
	}
	return nil
}

// addAddr adds an address to an interface, without duplicate detection.
func (s *space) addAddr(name string, p netip.Prefix) error {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find interface %s in %s: %w", name, s.name, err)
	}
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := s.nl.AddrReplace(link, a); err != nil {
		return fmt.Errorf("cannot add address %s to %s in %s: %w", p, name, s.name, err)
	}
	return nil
}

// addNeigh adds a permanent neighbour.
func (s *space) addNeigh(ifindex int, ip netip.Addr, mac net.HardwareAddr) error {
	n := &netlink.Neigh{LinkIndex: ifindex, IP: ip.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: family(ip)}
	if err := s.nl.NeighSet(n); err != nil {
		return fmt.Errorf("cannot add neighbour %s in %s: %w", ip, s.name, err)
	}
	return nil
}

// hop is where a route leads: an interface and, maybe, a gateway on it.
type hop struct {
	link    int
	gateway netip.Addr
}

func (s *space) route(dst netip.Prefix, h hop) *netlink.Route {
	r := &netlink.Route{LinkIndex: h.link, Dst: ipNet(dst), Family: family(dst.Addr())}
	switch {
	case h.gateway.IsValid():
		r.Gw = h.gateway.AsSlice()
		r.Flags = int(netlink.FLAG_ONLINK)
	case dst.Addr().Is4():
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// setRoute adds or replaces a route.
func (s *space) setRoute(dst netip.Prefix, h hop) error {
	if err := s.nl.RouteReplace(s.route(dst, h)); err != nil {
		return fmt.Errorf("cannot set route %s in %s: %w", dst, s.name, err)
	}
	return nil
}

// syncRoutes changes the routes from have to want; have follows.
func (s *space) syncRoutes(have, want map[netip.Prefix]hop) error {
	for dst, h := range have {
		if want[dst] == h {
			continue
		}
		err := s.nl.RouteDel(s.route(dst, h))
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot delete route %s in %s: %w", dst, s.name, err)
		}
		delete(have, dst)
	}
	for dst, h := range want {
		if have[dst] == h {
			continue
		}
		if err := s.setRoute(dst, h); err != nil {
			return err
		}
		have[dst] = h
	}
	return nil
}

// addVeth makes a pair of interfaces: name in s, peer in other, both up.
func (s *space) addVeth(name string, other *space, peer string) (here, there netlink.Link, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(int(other.ns))}
	if err := s.nl.LinkAdd(v); err != nil {
		return nil, nil, fmt.Errorf("cannot add interface %s to %s: %w", name, s.name, err)
	}
	if err := errors.Join(s.up(name), other.up(peer)); err != nil {
		return nil, nil, err
	}
	if here, err = s.nl.LinkByName(name); err != nil {
		return nil, nil, fmt.Errorf("cannot find interface %s in %s: %w", name, s.name, err)
	}
	if there, err = other.nl.LinkByName(peer); err != nil {
		return nil, nil, fmt.Errorf("cannot find interface %s in %s: %w", peer, other.name, err)
	}
	return here, there, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
