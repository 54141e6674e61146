package bpf

import (
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Check is one thing that enforcement needs of the machine.
type Check struct {
	Name   string
	OK     bool
	Detail string // what was found
	Remedy string // what to do; "" if OK
}

// probe is a question to the kernel: it answers with what it found, and an
// error if that will not do.
type probe struct {
	name   string
	have   func() (string, error)
	remedy string
}

var (
	haveCapabilities = probe{"capabilities", probeCapabilities, "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"}
	haveBTF          = probe{"kernel BTF", probeBTF, "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"}
	haveBPFFS        = probe{"BPF file system", probeBPFFS, "mount -t bpf bpf /sys/fs/bpf"}
	haveNetfilter    = probe{"netfilter BPF links", probeNetfilter, "use a kernel of version 6.4 or later with CONFIG_NETFILTER_BPF_LINK=y"}
	haveConntrack    = probe{"connection tracking", probeConntrack, "modprobe nf_conntrack"}
	haveNftables     = probe{"nftables", probeNftables, "modprobe nf_tables"}
	haveBridgeFilter = probe{"bridged packets seen by netfilter", probeBridges, "modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"}
)

// Probe asks the kernel for everything that enforcement needs.
func Probe() []Check {
	return ask([]probe{haveCapabilities, haveBTF, haveBPFFS, haveNetfilter, haveConntrack, haveNftables, haveBridgeFilter})
}

func ask(list []probe) []Check {
	var out []Check
	for _, p := range list {
		detail, err := p.have()
		c := Check{Name: p.name, OK: err == nil, Detail: detail}
		if err != nil {
			c.Detail, c.Remedy = err.Error(), p.remedy
		}
		out = append(out, c)
	}
	return out
}

func probeCapabilities() (string, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "", fmt.Errorf("cannot read capabilities: %w", err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
		{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"},
	} {
		if data[c.bit/32].Effective>>(c.bit%32)&1 == 0 {
			return "", fmt.Errorf("%s is missing", c.name)
		}
	}
	return "all there", nil
}

func probeBTF() (string, error) {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return "", fmt.Errorf("cannot read the kernel's types: %w", err)
	}
	return "there", nil
}

func probeBPFFS() (string, error) {
	if isBPFFS(bpffs) {
		return "mounted at " + bpffs, nil
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return "", fmt.Errorf("cannot list file systems: %w", err)
	}
	if _, err := os.Stat(bpffs); err != nil || !strings.Contains(string(filesystems), "nodev\tbpf\n") {
		return "", fmt.Errorf("the kernel has none, or %s is missing", bpffs)
	}
	return "not mounted; mounted when the agent starts", nil
}

// probeNetfilter loads the program without attaching it: nothing less shows
// that this kernel takes it.
func probeNetfilter() (string, error) {
	spec, err := loadObject()
	if err != nil {
		return "", fmt.Errorf("cannot read the BPF object: %w", err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{ExtraRelocationTargets: conntrackModule()},
	})
	if err != nil {
		return "", fmt.Errorf("the kernel refuses the program: %w", err)
	}
	c.Close()
	return "the kernel takes the program", nil
}

func probeConntrack() (string, error) {
	const limit = "/proc/sys/net/netfilter/nf_conntrack_max"
	if _, err := os.Stat(limit); err != nil {
		return "", fmt.Errorf("%s is missing", limit)
	}
	return "there", nil
}

func probeNftables() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("cannot open nftables: %w", err)
	}
	if _, err := c.ListTables(); err != nil {
		return "", fmt.Errorf("nftables does not answer: %w", err)
	}
	return "there", nil
}

// probeBridges looks at bridges that have ports: packets between these pass
// FORWARD only if br_netfilter hands them over.
func probeBridges() (string, error) {
	bridged, err := bridgedPorts()
	if err != nil || bridged == 0 {
		return "no bridge has ports", err
	}
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value, err := os.ReadFile("/proc/sys/net/bridge/" + name)
		if err != nil {
			return "", fmt.Errorf("%d bridge ports, and no br_netfilter", bridged)
		}
		if value[0] != '1' {
			return "", fmt.Errorf("%d bridge ports, and net.bridge.%s is off", bridged, name)
		}
	}
	return fmt.Sprintf("%d bridge ports, seen", bridged), nil
}

func bridgedPorts() (int, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("cannot list devices: %w", err)
	}
	bridges, ports := map[int]bool{}, 0
	for _, l := range links {
		bridges[l.Attrs().Index] = l.Type() == "bridge"
	}
	for _, l := range links {
		if bridges[l.Attrs().MasterIndex] {
			ports++
		}
	}
	return ports, nil
}
