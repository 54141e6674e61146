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

// addPins fills the table: what each port may claim is in sets, so that the
// rules are the same for any number of ports.
func addPins(c *nftables.Conn, table *nftables.Table, ports map[uint32]port) error {
	sets := map[string]*nftables.Set{}
	for name, claims := range claimsOf(ports) {
		set := &nftables.Set{Table: table, Name: name, KeyType: nftables.TypeIFIndex, KeyByteOrder: binaryutil.NativeEndian}
		if claims.what != nil {
			set.Concatenation = true
			set.KeyType = nftables.MustConcatSetType(nftables.TypeIFIndex, *claims.what)
		}
		if err := c.AddSet(set, claims.elements); err != nil {
			return err
		}
		sets[name] = set
	}
	priority := nftables.ChainPriority(pinPriority)
	chain := c.AddChain(&nftables.Chain{
		Name: "pin", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &priority,
	})
	for _, rule := range pinRules(sets) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
	return nil
}

// claims are what ports may say they are: the port's ifindex and, unless it is
// nil, one of these.
type claims struct {
	what     *nftables.SetDatatype
	elements []nftables.SetElement
}

func claimsOf(ports map[uint32]port) map[string]*claims {
	out := map[string]*claims{"ports": {}, "macs": {what: &nftables.TypeEtherAddr}, "senders": {what: &nftables.TypeIPAddr}, "targets": {what: &nftables.TypeIP6Addr}}
	for _, index := range slices.Sorted(maps.Keys(ports)) {
		p := ports[index]
		add := func(set string, b []byte) {
			key := binary.NativeEndian.AppendUint32(nil, index)
			key = slices.Concat(key, b, make([]byte, (4-len(b)%4)%4))
			out[set].elements = append(out[set].elements, nftables.SetElement{Key: key})
		}
		add("ports", nil)
		add("macs", []byte(p.mac))
		add("senders", make([]byte, 4)) // who asks whether an address is free has none
		add("targets", linkLocalOf([]byte(p.mac)))
		for _, a := range p.addrs {
			if a.Is4() {
				add("senders", a.AsSlice())
			} else {
				add("targets", a.AsSlice())
			}
		}
	}
	return out
}

// pinRules keep a port in register 0 and, behind it, what the frame claims;
// register 4 is for comparisons.
func pinRules(sets map[string]*nftables.Set) [][]expr.Any {
	const first, second, other = unix.NFT_REG32_00, unix.NFT_REG32_00 + 1, unix.NFT_REG32_00 + 4
	iif := &expr.Meta{Key: expr.MetaKeyIIF, Register: first}
	unknown := func(set string) expr.Any {
		return &expr.Lookup{SourceRegister: first, SetName: sets[set].Name, SetID: sets[set].ID, Invert: true}
	}
	claim := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: second, Base: base, Offset: offset, Len: size}
	}
	etherType := &expr.Payload{DestRegister: other, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2}
	is := func(value uint16, op expr.CmpOp) expr.Any {
		return &expr.Cmp{Op: op, Register: other, Data: binary.BigEndian.AppendUint16(nil, value)}
	}
	isByte := func(b byte) expr.Any { return &expr.Cmp{Register: other, Data: []byte{b}} }
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	return [][]expr.Any{
		{iif, unknown("ports"), &expr.Verdict{Kind: expr.VerdictAccept}},
		{iif, claim(expr.PayloadBaseLLHeader, 6, 6), unknown("macs"), drop},
		{etherType, is(etherIP4, expr.CmpOpNeq), is(etherIP6, expr.CmpOpNeq), is(etherARP, expr.CmpOpNeq), drop},
		{etherType, is(etherARP, expr.CmpOpEq), iif, claim(expr.PayloadBaseNetworkHeader, 14, 4), unknown("senders"), drop},
		// Neighbour advertisements: ICMPv6 of type 136, whose target is at 8.
		{
			etherType, is(etherIP6, expr.CmpOpEq),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: other}, isByte(unix.IPPROTO_ICMPV6),
			&expr.Payload{DestRegister: other, Base: expr.PayloadBaseTransportHeader, Len: 1}, isByte(136),
			iif, claim(expr.PayloadBaseTransportHeader, 8, 16), unknown("targets"), drop,
		},
	}
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
	if !n.places.bridged && n.ports != nil && len(n.ports) == 0 {
		return nil
	}
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
