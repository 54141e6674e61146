package bpf

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestDetoursAreFound(t *testing.T) {
	needRoot(t)
	ns := newNS(t)
	expect := func(name, detail string) {
		t.Helper()
		for _, c := range Detours(ns) {
			switch {
			case c.Name == name && (c.OK || !strings.Contains(c.Detail, detail) || c.Remedy == ""):
				t.Errorf("%+v, want %q", c, detail)
			case c.Name != name && !c.OK:
				t.Errorf("%s: %s, and nothing is wrong there", c.Name, c.Detail)
			}
		}
	}
	expect("", "")
	rules := func(change func(c *nftables.Conn, t *nftables.Table)) {
		in(t, ns, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			change(c, c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}))
			return c.Flush()
		})
	}
	rules(func(c *nftables.Conn, t *nftables.Table) { c.AddChain(&nftables.Chain{Name: "cali-FORWARD", Table: t}) })
	expect("no other enforcer", "Calico")
	rules(func(c *nftables.Conn, t *nftables.Table) { c.DelTable(t) })
	expect("", "")

	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	var attached link.Link
	in(t, ns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "lxc1"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("lxc1")
		if err != nil {
			return err
		}
		attached, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress})
		return err
	})
	expect("no BPF programs on devices", "lxc1 (tc)")
	if err := attached.Close(); err != nil {
		t.Fatal(err)
	}
	expect("", "")
	in(t, ns, func() error {
		l, err := netlink.LinkByName("lxc1")
		if err != nil {
			return err
		}
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          program.FD(), Name: "x", DirectAction: true,
		})
	})
	expect("no BPF programs on devices", "lxc1 (tc)")
}
