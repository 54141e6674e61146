package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	raw "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// places knows by which device of the node each address of a pod is reached,
// whatever the CNI does: the kernel says for each veth which address its other
// end has. Where it cannot, a host route says it. One goroutine owns places.
type places struct {
	space netns.NsHandle
	links *netlink.Handle
	ends  *raw.Conn // asks about other network namespaces

	own     []netip.Addr // the node's own addresses
	devices map[uint32]*device
	bridged bool                        // some device is a bridge's port
	at      map[netip.Addr]uint32       // pod's address to ifindex
	network map[netip.Addr]netip.Prefix // that a pod's address is of, unless it is of none
}

// device is one end of a veth in the node's network namespace.
type device struct {
	name   string
	space  int    // the kernel's number for the other end's network namespace
	peer   int    // the other end's ifindex there
	mac    string // the other end's, six bytes
	bridge int    // the ifindex of the bridge whose port it is; 0: none
	// shared is set on a port of a bridge that has other ports than pods'.
	shared bool
	addrs  []netip.Prefix
}

// newPlaces looks at the network namespace of that path; "" is the process's.
func newPlaces(path string) (*places, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	space, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open network namespace %s: %w", path, err)
	}
	p := &places{space: space, devices: map[uint32]*device{}, at: map[netip.Addr]uint32{}, network: map[netip.Addr]netip.Prefix{}}
	if p.links, err = netlink.NewHandleAt(space, unix.NETLINK_ROUTE); err == nil {
		p.ends, err = raw.Dial(unix.NETLINK_ROUTE, &raw.Config{Strict: true, NetNS: int(space)})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open netlink: %w", err), p.close())
	}
	return p, nil
}

func (p *places) close() error {
	if p.links != nil {
		p.links.Close()
	}
	if p.ends != nil {
		_ = p.ends.Close()
	}
	return p.space.Close()
}

// refresh looks at the devices again: new ones and those without an address
// are asked for theirs, those that are gone are forgotten.
func (p *places) refresh() error {
	links, err := p.links.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list the node's devices: %w", err)
	}
	if err := p.readOwn(); err != nil {
		return err
	}
	seen, shared := make(map[uint32]*device, len(links)), map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		if l.Type() != "veth" || a.NetNsID < 0 {
			shared[a.MasterIndex] = true // with what is no pod: its network is not the pods' alone
		}
	}
	for _, l := range links {
		a := l.Attrs()
		if l.Type() != "veth" || a.NetNsID < 0 {
			continue
		}
		d := p.devices[uint32(a.Index)]
		if d == nil || d.space != a.NetNsID || d.peer != a.ParentIndex {
			d = &device{name: a.Name, space: a.NetNsID, peer: a.ParentIndex}
		}
		d.bridge, d.shared = a.MasterIndex, a.MasterIndex != 0 && shared[a.MasterIndex]
		seen[uint32(a.Index)] = d
	}
	p.devices, p.bridged = seen, false
	for _, d := range p.devices {
		p.bridged = p.bridged || d.bridge != 0
		if len(d.addrs) == 0 {
			// A namespace that has just ended has no addresses, and its
			// device is gone in a moment.
			d.addrs, _ = p.addrsOf(d)
			d.mac, _ = p.macOf(d)
		}
	}
	clear(p.at)
	clear(p.network)
	for index, d := range p.devices {
		for _, a := range d.addrs {
			p.at[a.Addr()] = index
			if !a.IsSingleIP() && !d.shared {
				p.network[a.Addr()] = a.Masked()
			}
		}
	}
	return nil
}

func (p *places) readOwn() error {
	list, err := p.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list the node's addresses: %w", err)
	}
	p.own = nil
	for _, x := range list {
		// IPv6 gives every device an address that need not be told; 169.254.0.0/16
		// is what somebody, such as NodeLocal DNSCache, has given the node.
		a, ok := netip.AddrFromSlice(x.IP)
		if a = a.Unmap(); ok && !a.IsLoopback() && !(a.Is6() && a.IsLinkLocalUnicast()) {
			p.own = append(p.own, a)
		}
	}
	slices.SortFunc(p.own, netip.Addr.Compare)
	p.own = slices.Compact(p.own)
	return nil
}

// forget makes the next refresh ask this device for its addresses again.
func (p *places) forget(index uint32) {
	if d := p.devices[index]; d != nil {
		d.addrs = nil
	}
}

// deviceOf is the ifindex of the device that leads to the pod's address, or 0.
func (p *places) deviceOf(a netip.Addr) uint32 {
	if i := p.at[a]; i != 0 {
		return i
	}
	routes, err := p.links.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil || len(routes) != 1 || routes[0].Dst == nil || routes[0].Gw != nil {
		return 0
	}
	if ones, bits := routes[0].Dst.Mask.Size(); ones != bits || routes[0].Type != unix.RTN_UNICAST {
		return 0
	}
	return uint32(routes[0].LinkIndex)
}

// addrsOf asks for the addresses of the device's other end, in another network
// namespace, without entering it. Source: IFA_TARGET_NETNSID in if_addr.h.
func (p *places) addrsOf(d *device) ([]netip.Prefix, error) {
	header := make([]byte, unix.SizeofIfAddrmsg) // of all families and devices
	answers, err := p.ask(d, raw.Header{Type: unix.RTM_GETADDR, Flags: raw.Request | raw.Dump}, header, unix.IFA_TARGET_NETNSID)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the addresses behind %s: %w", d.name, err)
	}
	var out []netip.Prefix
	for _, m := range answers {
		if a, ok := addressIn(m.Data, d.peer); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

// macOf asks for the MAC of the device's other end.
func (p *places) macOf(d *device) (string, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], uint32(d.peer))
	answers, err := p.ask(d, raw.Header{Type: unix.RTM_GETLINK, Flags: raw.Request}, header, unix.IFLA_TARGET_NETNSID)
	if err != nil || len(answers) != 1 || len(answers[0].Data) < unix.SizeofIfInfomsg {
		return "", fmt.Errorf("cannot ask for the MAC behind %s: %w", d.name, err)
	}
	attributes, err := raw.NewAttributeDecoder(answers[0].Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return "", err
	}
	for attributes.Next() {
		if attributes.Type() == unix.IFLA_ADDRESS && len(attributes.Bytes()) == 6 {
			return string(attributes.Bytes()), nil
		}
	}
	return "", fmt.Errorf("cannot find the MAC behind %s", d.name)
}

// ask asks about the network namespace of the device's other end.
func (p *places) ask(d *device, h raw.Header, header []byte, target uint16) ([]raw.Message, error) {
	e := raw.NewAttributeEncoder()
	e.Int32(target, int32(d.space))
	attributes, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return p.ends.Execute(raw.Message{Header: h, Data: append(header, attributes...)})
}

// addressIn reads one struct ifaddrmsg with its attributes: an address and its
// network. One of another device or of the link only is none.
func addressIn(data []byte, ifindex int) (netip.Prefix, bool) {
	if len(data) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(data[4:])) != ifindex || data[3] != unix.RT_SCOPE_UNIVERSE {
		return netip.Prefix{}, false
	}
	attributes, err := raw.NewAttributeDecoder(data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return netip.Prefix{}, false
	}
	var local, address netip.Addr
	for attributes.Next() {
		switch attributes.Type() {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attributes.Bytes())
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(attributes.Bytes())
		}
	}
	if local.IsValid() { // of a point-to-point link, the other one is the peer's
		address = local
	}
	return netip.PrefixFrom(address, int(data[1])), address.IsValid()
}

// subscribe says on changed, at least once, that devices or addresses of the
// node have changed since it was last read.
func (p *places) subscribe(done <-chan struct{}, changed chan<- struct{}) error {
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	failed := func(error) {} // a lost message is followed by others; unplaced pods are looked for anyway
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &p.space, ErrorCallback: failed}); err != nil {
		return fmt.Errorf("cannot watch the node's devices: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &p.space, ErrorCallback: failed}); err != nil {
		return fmt.Errorf("cannot watch the node's addresses: %w", err)
	}
	go func() {
		for links != nil || addrs != nil {
			select {
			case _, ok := <-links:
				if !ok {
					links = nil
					continue
				}
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
					continue
				}
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return nil
}
