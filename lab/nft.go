//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"github.com/sallyport-dev/sallyport/model"
	"golang.org/x/sys/unix"
)

const (
	tableName = "sallyport-lab"
	ctDNAT    = 1 << 5 // IPS_DST_NAT
)

// translation is one port of one ClusterIP and what it leads to.
type translation struct {
	to       netip.AddrPort
	proto    model.Protocol
	backends []netip.AddrPort
}

// translations are what the Services of the cluster translate. A port without
// backends is left alone: its packets leave the cluster and find nobody.
func translations(c *model.Cluster) []translation {
	var all []translation
	for i := range c.Services {
		s := &c.Services[i]
		for _, ip := range s.ClusterIPs {
			for _, p := range s.Ports {
				t := translation{to: netip.AddrPortFrom(ip, p.Port), proto: p.Protocol}
				for _, b := range p.Backends {
					if b.IP.Is4() == ip.Is4() {
						t.backends = append(t.backends, netip.AddrPortFrom(b.IP, b.Port))
					}
				}
				if len(t.backends) > 0 {
					all = append(all, t)
				}
			}
		}
	}
	return all
}

// syncServices writes the translations into every node that has others.
func (l *Lab) syncServices(c *model.Cluster) error {
	all := translations(c)
	for _, n := range l.nodes {
		local := l.localBackends(n, all)
		rules := describe(all, local)
		if n.rules == rules {
			continue
		}
		if err := writeServices(n, all, local); err != nil {
			return fmt.Errorf("cannot write the Services of node %s: %w", n.model.Name, err)
		}
		n.rules = rules
	}
	return nil
}

// localBackends are the addresses of the node's own pods behind Services.
func (l *Lab) localBackends(n *node, all []translation) []netip.Addr {
	behind := make(map[netip.Addr]bool)
	for _, t := range all {
		for _, b := range t.backends {
			behind[b.Addr()] = true
		}
	}
	var local []netip.Addr
	for _, p := range l.pods {
		if p.node != n || p.model.HostNetwork {
			continue
		}
		for _, ip := range p.model.IPs {
			if behind[ip] {
				local = append(local, ip)
			}
		}
	}
	slices.SortFunc(local, netip.Addr.Compare)
	return local
}

// describe tells apart rules that differ.
func describe(all []translation, local []netip.Addr) string {
	var b strings.Builder
	for _, t := range all {
		fmt.Fprintln(&b, t.to, t.proto, t.backends)
	}
	fmt.Fprintln(&b, "local", local)
	return b.String()
}

// writeServices replaces the node's table in one transaction.
func writeServices(n *node, all []translation, local []netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.ns)), nftables.WithSockOptions(bigBuffers))
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	services := c.AddChain(&nftables.Chain{Name: "services", Table: table})
	for _, hook := range []struct {
		name string
		at   *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		chain := natChain(c, table, hook.name, hook.at, -100)
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Verdict{Kind: expr.VerdictJump, Chain: services.Name},
		}})
	}
	for _, t := range all {
		for i, b := range t.backends {
			c.AddRule(&nftables.Rule{Table: table, Chain: services, Exprs: dnat(t, b, len(t.backends)-i)})
		}
	}
	post := natChain(c, table, "postrouting", nftables.ChainHookPostrouting, 100)
	for _, ip := range local {
		c.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: hairpin(ip)})
	}
	return c.Flush()
}

// bigBuffers makes room for a transaction with many rules.
func bigBuffers(c *netlink.Conn) error {
	const size = 64 << 20
	if err := c.SetWriteBuffer(size); err != nil {
		return err
	}
	return c.SetReadBuffer(size)
}

func natChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook, priority int) *nftables.Chain {
	return c.AddChain(&nftables.Chain{
		Name: name, Table: t, Type: nftables.ChainTypeNAT, Hooknum: hook,
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)),
	})
}

// dnat sends one in remaining of the connections to a backend; the last of a
// port's backends gets all that are left.
func dnat(t translation, b netip.AddrPort, remaining int) []expr.Any {
	e := append(matchAddr(t.to.Addr(), false),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(t.proto)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(t.to.Port())},
	)
	if remaining > 1 {
		e = append(e,
			&expr.Numgen{Register: 1, Modulus: uint32(remaining), Type: unix.NFT_NG_RANDOM},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		)
	}
	return append(e,
		&expr.Immediate{Register: 1, Data: b.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(b.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto(b.Addr()), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	)
}

// hairpin hides a pod from itself when a Service leads it to itself.
func hairpin(ip netip.Addr) []expr.Any {
	return append(append(matchAddr(ip, true), matchAddr(ip, false)...),
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctDNAT), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Masq{},
	)
}

// matchAddr matches the source or destination address.
func matchAddr(ip netip.Addr, source bool) []expr.Any {
	offset, size := uint32(16), uint32(4)
	if ip.Is6() {
		offset, size = 24, 16
	}
	if source {
		offset -= size
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(nfproto(ip))}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ip.AsSlice()},
	}
}

func nfproto(ip netip.Addr) uint32 {
	if ip.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}
