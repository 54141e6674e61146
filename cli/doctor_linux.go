package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/report"
)

func newDoctor(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "What this machine can and cannot do, with the remedy", Args: cobra.NoArgs,
		Long:    "Tries what enforcement needs of the kernel, one thing after the other. Exit code 3 if something is missing.",
		Example: "  sudo sallyport doctor\n  sudo sallyport doctor -o json",
		RunE:    func(*cobra.Command, []string) error { return s.doctor(thisMachine) },
	}
	s.outputFlag(c, "table", "table", "json")
	return c
}

// machine is what doctor looks at.
type machine struct {
	root  fs.FS              // with proc and sys
	tried func() []bpf.Check // what can only be tried, and what goes around netfilter
}

var thisMachine = machine{root: os.DirFS("/"), tried: func() []bpf.Check { return append(bpf.Probe(), bpf.Detours("")...) }}

// check is one thing that enforcement needs of the machine.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do, if not OK
}

// need is a question to the machine: it answers with what it found, and an
// error if that will not do.
type need struct {
	name   string
	have   func(fs.FS) (string, error)
	remedy string
}

// needs are what can be read; what can only be tried is bpf.Probe's.
var needs = []need{
	{"kernel version", haveKernel, "use a kernel of version 6.4 or later; on Debian 12: apt install -t bookworm-backports linux-image-amd64"},
	{"kernel BTF", haveBTF, "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as every large distribution's is"},
	{"connection tracking", haveConntrack, "modprobe nf_conntrack; to keep it: echo nf_conntrack > /etc/modules-load.d/sallyport.conf"},
	{"pods through the host", haveRoutedPods, "use a CNI that routes or bridges pods through the host: what macvlan, ipvlan, SR-IOV and host-device carry goes around netfilter"},
	{"bridged packets seen by netfilter", haveBridgeFilter,
		"modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1; else packets between pods of one bridge are not judged"},
}

// examine answers everything that enforcement needs.
func (m machine) examine() []check {
	var out []check
	for _, n := range needs {
		detail, err := n.have(m.root)
		c := check{Name: n.name, OK: err == nil, Detail: detail}
		if err != nil {
			c.Detail, c.Remedy = err.Error(), n.remedy
		}
		out = append(out, c)
	}
	for _, c := range m.tried() {
		out = append(out, check(c))
	}
	return out
}

// oldest is the first kernel that has netfilter BPF links.
var oldest = [2]int{6, 4}

func haveKernel(root fs.FS) (string, error) {
	text, err := fs.ReadFile(root, "proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("cannot read the kernel's version: %w", err)
	}
	release := strings.TrimSpace(string(text))
	var v [2]int
	if _, err := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); err != nil {
		return "", fmt.Errorf("cannot read the kernel's version %q", release)
	}
	if slices.Compare(v[:], oldest[:]) < 0 {
		return "", fmt.Errorf("%s is too old, %d.%d is needed", release, oldest[0], oldest[1])
	}
	return release, nil
}

func haveBTF(root fs.FS) (string, error) {
	if _, err := fs.Stat(root, "sys/kernel/btf/vmlinux"); err != nil {
		return "", errors.New("/sys/kernel/btf/vmlinux is missing")
	}
	return "there", nil
}

func haveConntrack(root fs.FS) (string, error) {
	limit, err := fs.ReadFile(root, "proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return "", errors.New("/proc/sys/net/netfilter/nf_conntrack_max is missing")
	}
	return "up to " + strings.TrimSpace(string(limit)) + " connections", nil
}

// around are the CNI plugins whose pods' packets the host's netfilter never sees.
var around = []string{"macvlan", "ipvlan", "sriov", "host-device", "tap"}

// haveRoutedPods looks at the CNI configuration that container runtimes use:
// the first by name.
func haveRoutedPods(root fs.FS) (string, error) {
	files, err := fs.Glob(root, "etc/cni/net.d/*.conf*")
	if err != nil || len(files) == 0 {
		return "no CNI is configured", err
	}
	slices.Sort(files)
	text, err := fs.ReadFile(root, files[0])
	if err != nil {
		return "", fmt.Errorf("cannot read the CNI's configuration: %w", err)
	}
	type plugin struct {
		Type string `json:"type"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(text, &conf); err != nil {
		return "", fmt.Errorf("cannot read /%s: %w", files[0], err)
	}
	var types []string
	for _, p := range append(conf.Plugins, conf.plugin) {
		if slices.Contains(around, p.Type) {
			return "", fmt.Errorf("/%s uses %s", files[0], p.Type)
		}
		if p.Type != "" {
			types = append(types, p.Type)
		}
	}
	return strings.Join(types, ", "), nil
}

// haveBridgeFilter looks at bridges that have ports: packets between these
// pass FORWARD only if br_netfilter hands them over.
func haveBridgeFilter(root fs.FS) (string, error) {
	ports, err := fs.Glob(root, "sys/class/net/*/brport")
	if err != nil || len(ports) == 0 {
		return "no bridge has ports", err
	}
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		value, err := fs.ReadFile(root, "proc/sys/net/bridge/"+name)
		if err != nil {
			return "", fmt.Errorf("bridges have %d ports, and br_netfilter is not loaded", len(ports))
		}
		if strings.TrimSpace(string(value)) != "1" {
			return "", fmt.Errorf("bridges have %d ports, and net.bridge.%s is off", len(ports), name)
		}
	}
	return fmt.Sprintf("bridges have %d ports, seen", len(ports)), nil
}

func (s *session) doctor(m machine) error {
	if s.output != "table" && s.output != "json" {
		return usage("unknown output format %q: table or json", s.output)
	}
	checks := m.examine()
	print := s.printChecks
	if s.output == "json" {
		print = s.checksAsJSON
	}
	if err := print(checks); err != nil {
		return err
	}
	if slices.ContainsFunc(checks, func(c check) bool { return !c.OK }) {
		return exit{code: ExitEnvironment}
	}
	return nil
}

func (s *session) checksAsJSON(checks []check) error {
	e := json.NewEncoder(s.stdout)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"checks": checks})
}

func (s *session) printChecks(checks []check) error {
	p := paint(s.stdout)
	return report.Table(s.stdout, width(s.stdout), []string{"STATE", "NEEDED", "FOUND"}, func(yield func([]string) bool) {
		for _, c := range checks {
			mark := p.Colour("32", "ok")
			if !c.OK {
				mark = p.Colour("31", "missing")
			}
			if !yield([]string{mark, c.Name, c.Detail}) {
				return
			}
			if !c.OK && !yield([]string{"", "", "remedy: " + c.Remedy}) {
				return
			}
		}
	})
}
