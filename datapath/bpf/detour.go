package bpf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// detours are what takes packets around the program, or judges them a second
// time by other rules.
var detours = []probe{
	{"no flow-table offload", probeFlowTables, "take the flow tables out of the ruleset (nft list flowtables): their packets go around netfilter"},
	{"no devices around netfilter", probeDevices, "use a CNI that routes or bridges pods through the host: what macvlan and ipvlan carry goes around it"},
	{"no BPF programs on devices", probeDevicePrograms, "have the CNI leave packets to the host's stack (for Cilium: bpf.hostLegacyRouting=true and no policies of its own); a program that redirects goes around netfilter"},
	{"no other enforcer", probeEnforcers, "remove the other enforcer of network policies, or switch its policies off: what either denies is denied, and explained by neither"},
}

// Detours looks for them in the network namespace of that path; "" is the
// caller's.
func Detours(netns string) []Check {
	var out []Check
	err := inNetNS(netns, func() error { out = ask(detours); return nil })
	if err != nil {
		return []Check{{Name: "network namespace", Detail: err.Error()}}
	}
	return out
}

func listTables() (*nftables.Conn, []*nftables.Table, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list nftables tables: %w", err)
	}
	return c, tables, nil
}

func probeFlowTables() (string, error) {
	c, tables, err := listTables()
	if err != nil {
		return "", err
	}
	var found []string
	for _, t := range tables {
		flows, err := c.ListFlowtables(t)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return "", fmt.Errorf("cannot list the flow tables of %s: %w", t.Name, err)
		}
		for _, f := range flows {
			found = append(found, t.Name+" "+f.Name)
		}
	}
	return none(found)
}

// none is fine if nothing was found.
func none(found []string) (string, error) {
	if len(found) == 0 {
		return "none", nil
	}
	slices.Sort(found)
	const most = 8
	if found = slices.Compact(found); len(found) > most {
		found = append(found[:most], fmt.Sprintf("and %d more", len(found)-most))
	}
	return "", errors.New(strings.Join(found, ", "))
}

func probeDevices() (string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("cannot list devices: %w", err)
	}
	var found []string
	for _, l := range links {
		switch l.Type() {
		case "macvlan", "macvtap", "ipvlan", "ipvtap", "openvswitch":
			found = append(found, l.Attrs().Name+" ("+l.Type()+")")
		}
	}
	return none(found)
}

func probeDevicePrograms() (string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("cannot list devices: %w", err)
	}
	var found []string
	for _, l := range links {
		if l.Type() == "netkit" {
			found = append(found, l.Attrs().Name+" (netkit)")
		}
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			found = append(found, l.Attrs().Name+" (XDP)")
		}
		if hasFilters(l) || hasTCX(l.Attrs().Index) {
			found = append(found, l.Attrs().Name+" (tc)")
		}
	}
	return none(found)
}

// hasFilters says whether a BPF program is attached to the device as a filter.
func hasFilters(l netlink.Link) bool {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, _ := netlink.FilterList(l, parent) // a device without clsact has an error for it
		for _, f := range filters {
			if f.Type() == "bpf" {
				return true
			}
		}
	}
	return false
}

// hasTCX says whether one is attached by tcx, which kernels before 6.6 do not
// have.
func hasTCX(ifindex int) bool {
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		r, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
		if err == nil && len(r.Programs) > 0 {
			return true
		}
	}
	return false
}

// enforcers are the names by which other providers' rules are known, by the
// start of a chain's or table's name.
var enforcers = []struct{ prefix, name string }{
	{"cali-", "Calico"}, {"CILIUM_", "Cilium"}, {"KUBE-POD-FW", "kube-router"}, {"KUBE-NWPLCY", "kube-router"}, {"KUBE-ROUTER-", "kube-router"},
	{"WEAVE-NPC", "Weave Net"}, {"ANTREA-", "Antrea"}, {"kube-network-policies", "kube-network-policies"}, {"kindnet-network-policies", "kindnet"},
}

func probeEnforcers() (string, error) {
	c, tables, err := listTables()
	if err != nil {
		return "", err
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", fmt.Errorf("cannot list nftables chains: %w", err)
	}
	var names []string
	for _, t := range tables {
		names = append(names, t.Name)
	}
	for _, x := range chains {
		names = append(names, x.Name)
	}
	var found []string
	for _, name := range names {
		for _, e := range enforcers {
			if strings.HasPrefix(name, e.prefix) {
				found = append(found, e.name)
			}
		}
	}
	return none(found)
}
