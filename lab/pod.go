//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/sallyport-dev/sallyport/model"
)

var (
	podGateway4  = netip.MustParseAddr("169.254.1.1")
	hostLinkIPv6 = netip.MustParseAddr("fe80::1")
	podLinkIPv6  = netip.MustParseAddr("fe80::2")
)

// pod is a pod's namespace; a hostNetwork pod's is its node's.
type pod struct {
	*space
	model    model.Endpoint
	node     *node
	hostLink int
	servers  map[service]*server
}

// addPod makes a pod's namespace and joins it to its node.
func (l *Lab) addPod(e model.Endpoint) error {
	n := l.nodes[e.Node]
	if n == nil {
		return fmt.Errorf("cannot add pod %s: there is no node %q", e.Key(), e.Node)
	}
	p := &pod{model: e, node: n, servers: map[service]*server{}}
	if e.HostNetwork {
		p.space = n.space
		l.pods[e.Key()] = p
		return nil
	}
	s, err := newSpace(l.freePodName(&e), quietIPv6)
	if err != nil {
		return err
	}
	p.space = s
	l.pods[e.Key()] = p
	if err := p.connect(); err != nil {
		return errors.Join(err, l.removePod(e.Key()))
	}
	for _, ip := range e.IPs {
		l.settling = append(l.settling, place{s, ip})
	}
	return nil
}

// freePodName is the name of a new pod's namespace. Pod a of namespace b-c
// and pod c-a of namespace b would have the same: the second gets a hash.
func (l *Lab) freePodName(e *model.Endpoint) string {
	name := podNSName(e.Namespace, e.Name)
	for _, p := range l.pods {
		if p.name == name {
			return podNSName(e.Namespace, e.Name+"-"+shortHash(e.Key()))
		}
	}
	return name
}

// connect makes the pod's interface, its addresses and routes.
func (p *pod) connect() error {
	hostName := hostLinkName(p.model.Key())
	host, eth0, err := p.node.addVeth(hostName, p.space, "eth0")
	if err != nil {
		return err
	}
	p.hostLink = host.Attrs().Index
	if err := setSysctls(p.node.ns, []setting{
		{"ipv4/conf/" + hostName + "/proxy_arp", "1", false},
		{"ipv4/neigh/" + hostName + "/proxy_delay", "0", true},
	}); err != nil {
		return err
	}
	err = errors.Join(
		p.node.addAddr(hostName, netip.PrefixFrom(hostLinkIPv6, 64)),
		p.addAddr("eth0", netip.PrefixFrom(podLinkIPv6, 64)),
		p.addNeigh(eth0.Attrs().Index, podGateway4, host.Attrs().HardwareAddr),
		p.addNeigh(eth0.Attrs().Index, hostLinkIPv6, host.Attrs().HardwareAddr),
	)
	if err != nil {
		return err
	}
	for _, ip := range p.model.IPs {
		err := errors.Join(
			p.addAddr("eth0", single(ip)),
			p.node.addNeigh(p.hostLink, ip, eth0.Attrs().HardwareAddr),
			p.addDefault(eth0.Attrs().Index, ip),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// addDefault routes the family of ip to the node.
func (p *pod) addDefault(eth0 int, ip netip.Addr) error {
	if ip.Is6() {
		return p.setRoute(default6, hop{eth0, hostLinkIPv6})
	}
	return errors.Join(
		p.setRoute(single(podGateway4), hop{link: eth0}),
		p.setRoute(default4, hop{eth0, podGateway4}),
	)
}

// removePod closes a pod's servers and removes its namespace.
func (l *Lab) removePod(key string) error {
	p := l.pods[key]
	delete(l.pods, key)
	for _, s := range p.servers {
		s.close()
	}
	if p.model.HostNetwork {
		return nil
	}
	// Routes through the interface go with it.
	for dst, h := range p.node.routes {
		if h.link == p.hostLink {
			delete(p.node.routes, dst)
		}
	}
	if link, err := p.node.nl.LinkByName(hostLinkName(key)); err == nil {
		if err := p.node.nl.LinkDel(link); err != nil {
			return errors.Join(fmt.Errorf("cannot delete the interface of pod %s: %w", key, err), p.close())
		}
	}
	return p.close()
}
