package agent

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// port is a bridge's port that leads to a pod of this node: what may come out
// of it. The BPF program checks the source of IP packets by their port; what
// is below IP, and could turn other pods' packets to this port or go around
// netfilter altogether, is checked here.
type port struct {
	mac   string // six bytes
	addrs []netip.Addr
}

const (
	bridgeTable = "sallyport"
	pinPriority = -350 // before anything that looks at IP

	etherIP4, etherARP, etherIP6 = 0x0800, 0x0806, 0x86dd
)

// pinPorts lets frames of these ports pass only if they carry the pod's own MAC
// and are IP or ARP, and if what ARP and neighbour discovery claim is the pod's
// own. It replaces what was there in one transaction.
func pinPorts(space netns.NsHandle, ports map[uint32]port) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(space)))
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	table := &nftables.Table{Name: bridgeTable, Family: nftables.TableFamilyBridge}
	c.AddTable(table)
	c.DelTable(table)
	if len(ports) > 0 {
		c.AddTable(table)
		if err := addPins(c, table, ports); err != nil {
			return fmt.Errorf("cannot pin the bridge's ports: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot pin the bridge's ports: %w", err)
	}
	return nil
}

func addPins(c *nftables.Conn, table *nftables.Table, ports map[uint32]port) error {
	var all, macs, senders, targets []nftables.SetElement
	for _, index := range slices.Sorted(maps.Keys(ports)) {
		p := ports[index]
		key := binary.NativeEndian.AppendUint32(nil, index)
		with := func(b []byte) nftables.SetElement {
			return nftables.SetElement{Key: slices.Concat(key, b, make([]byte, (4-len(b)%4)%4))}
		}
		all = append(all, nftables.SetElement{Key: key})
		macs = append(macs, with([]byte(p.mac)))
		senders = append(senders, with(make([]byte, 4))) // who asks whether an address is free has none
		for _, a := range p.addrs {
			if a.Is4() {
				senders = append(senders, with(a.AsSlice()))
			} else {
				targets = append(targets, with(a.AsSlice()))
			}
		}
		targets = append(targets, with(linkLocalOf([]byte(p.mac))))
	}
	sets := map[string]*nftables.Set{}
	for _, s := range []struct {
		name     string
		second   *nftables.SetDatatype
		elements []nftables.SetElement
	}{{"ports", nil, all}, {"macs", &nftables.TypeEtherAddr, macs}, {"senders", &nftables.TypeIPAddr, senders}, {"targets", &nftables.TypeIP6Addr, targets}} {
		set := &nftables.Set{Table: table, Name: s.name, KeyType: nftables.TypeIFIndex, KeyByteOrder: binaryutil.NativeEndian}
		if s.second != nil {
			set.Concatenation = true
			set.KeyType = nftables.MustConcatSetType(nftables.TypeIFIndex, *s.second)
		}
		if err := c.AddSet(set, s.elements); err != nil {
			return err
		}
		sets[s.name] = set
	}
	priority := nftables.ChainPriority(pinPriority)
	chain := c.AddChain(&nftables.Chain{
		Name: "pin", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &priority,
	})
	iif := &expr.Meta{Key: expr.MetaKeyIIF, Register: unix.NFT_REG32_00}
	in := func(set string, invert bool) expr.Any {
		return &expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: sets[set].Name, SetID: sets[set].ID, Invert: invert}
	}
	loads := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: unix.NFT_REG32_00 + 1, Base: base, Offset: offset, Len: size}
	}
	etherType := &expr.Payload{DestRegister: unix.NFT_REG32_00 + 4, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2}
	is := func(value uint16, op expr.CmpOp) expr.Any {
		return &expr.Cmp{Op: op, Register: unix.NFT_REG32_00 + 4, Data: binary.BigEndian.AppendUint16(nil, value)}
	}
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	for _, rule := range [][]expr.Any{
		{iif, in("ports", true), &expr.Verdict{Kind: expr.VerdictAccept}},
		{iif, loads(expr.PayloadBaseLLHeader, 6, 6), in("macs", true), drop},
		{etherType, is(etherIP4, expr.CmpOpNeq), is(etherIP6, expr.CmpOpNeq), is(etherARP, expr.CmpOpNeq), drop},
		{etherType, is(etherARP, expr.CmpOpEq), iif, loads(expr.PayloadBaseNetworkHeader, 14, 4), in("senders", true), drop},
		// Neighbour advertisements: ICMPv6 of type 136, whose target is at 8.
		{etherType, is(etherIP6, expr.CmpOpEq),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00 + 4}, &expr.Cmp{Register: unix.NFT_REG32_00 + 4, Data: []byte{unix.IPPROTO_ICMPV6}},
			&expr.Payload{DestRegister: unix.NFT_REG32_00 + 4, Base: expr.PayloadBaseTransportHeader, Len: 1}, &expr.Cmp{Register: unix.NFT_REG32_00 + 4, Data: []byte{136}},
			iif, loads(expr.PayloadBaseTransportHeader, 8, 16), in("targets", true), drop},
	} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
	return nil
}

// linkLocalOf is the IPv6 address that an interface gives itself (RFC 4291).
func linkLocalOf(mac net.HardwareAddr) []byte {
	a := [16]byte{0: 0xfe, 1: 0x80, 11: 0xff, 12: 0xfe}
	copy(a[8:11], mac[:3])
	copy(a[13:], mac[3:6])
	a[8] ^= 2
	return a[:]
}

// pinned brings the pins up to date with the placement, if they changed.
func (n *Node) pinned() error {
	ports := map[uint32]port{}
	for key := range n.local {
		d := n.places.devices[n.placement.Local[key]]
		if d == nil || d.bridge == 0 {
			continue
		}
		e := n.matrix.Endpoint(key)
		if e == nil {
			continue
		}
		ports[n.placement.Local[key]] = port{mac: d.mac, addrs: e.IPs}
	}
	same := func(a, b port) bool { return a.mac == b.mac && slices.Equal(a.addrs, b.addrs) }
	if n.ports != nil && maps.EqualFunc(ports, n.ports, same) {
		return nil
	}
	if err := pinPorts(n.places.space, ports); err != nil {
		return err
	}
	n.ports = ports
	return nil
}
