package bpf

import (
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
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
	haveBPFFS        = probe{"BPF file system", probeBPFFS, "mount -t bpf bpf /sys/fs/bpf"}
	haveNetfilter    = probe{"netfilter BPF links", probeNetfilter, "use a kernel of version 6.4 or later with CONFIG_NETFILTER_BPF_LINK=y"}
	haveNftables     = probe{"nftables", probeNftables, "modprobe nf_tables"}
)

// Probe tries what of the kernel can only be tried, and not read.
func Probe() []Check {
	return ask([]probe{haveCapabilities, haveBPFFS, haveNetfilter, haveNftables})
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
	return "not mounted; an agent in a container must find it: mount -t bpf bpf " + bpffs, nil
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

func probeNftables() (string, error) {
	if _, _, err := listTables(); err != nil {
		return "", err
	}
	return "there", nil
}
