package cli

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sallyport-dev/sallyport/datapath/bpf"
)

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text + "\n")} }

// goodMachine has everything, and a bridge with a port.
func goodMachine() fstest.MapFS {
	return fstest.MapFS{
		"proc/sys/kernel/osrelease":                    file("6.12.3-cloud-amd64"),
		"sys/kernel/btf/vmlinux":                       file(""),
		"proc/sys/net/netfilter/nf_conntrack_max":      file("262144"),
		"sys/class/net/veth1/brport/state":             file("3"),
		"proc/sys/net/bridge/bridge-nf-call-iptables":  file("1"),
		"proc/sys/net/bridge/bridge-nf-call-ip6tables": file("1"),
	}
}

func TestDoctorNamesWhatIsMissing(t *testing.T) {
	const bridged = "bridged packets seen by netfilter"
	without := func(paths ...string) func(fstest.MapFS) {
		return func(m fstest.MapFS) {
			maps.DeleteFunc(m, func(path string, _ *fstest.MapFile) bool {
				for _, p := range paths {
					if strings.HasPrefix(path, p) {
						return true
					}
				}
				return false
			})
		}
	}
	set := func(path, text string) func(fstest.MapFS) { return func(m fstest.MapFS) { m[path] = file(text) } }
	for name, c := range map[string]struct {
		change         func(fstest.MapFS)
		missing        string // "" if nothing is
		detail, remedy string
	}{
		"all there":               {func(fstest.MapFS) {}, "", "", ""},
		"first kernel that will":  {set("proc/sys/kernel/osrelease", "6.4.0"), "", "", ""},
		"next major kernel":       {set("proc/sys/kernel/osrelease", "7.0-rc1"), "", "", ""},
		"kernel too old":          {set("proc/sys/kernel/osrelease", "6.1.0-28-amd64"), "kernel version", "6.1.0-28-amd64 is too old, 6.4 is needed", "bookworm-backports"},
		"kernel much too old":     {set("proc/sys/kernel/osrelease", "5.15.0"), "kernel version", "5.15.0 is too old", "6.4"},
		"kernel without a number": {set("proc/sys/kernel/osrelease", "strange"), "kernel version", "strange", "6.4"},
		"no BTF":                  {without("sys/kernel/btf"), "kernel BTF", "/sys/kernel/btf/vmlinux is missing", "CONFIG_DEBUG_INFO_BTF=y"},
		"no conntrack":            {without("proc/sys/net/netfilter"), "connection tracking", "nf_conntrack_max is missing", "modprobe nf_conntrack"},
		"no br_netfilter":         {without("proc/sys/net/bridge"), bridged, "1 ports, and br_netfilter is not loaded", "modprobe br_netfilter"},
		"br_netfilter off":        {set("proc/sys/net/bridge/bridge-nf-call-ip6tables", "0"), bridged, "net.bridge.bridge-nf-call-ip6tables is off", "sysctl net.bridge"},
		"macvlan":                 {set("etc/cni/net.d/10-x.conflist", `{"plugins": [{"type": "macvlan"}, {"type": "tuning"}]}`), "pods through the host", "/etc/cni/net.d/10-x.conflist uses macvlan", "routes or bridges"},
		"ipvlan in a .conf":       {set("etc/cni/net.d/05-x.conf", `{"type": "ipvlan"}`), "pods through the host", "uses ipvlan", "routes or bridges"},
		"a CNI that nobody uses": {func(m fstest.MapFS) {
			set("etc/cni/net.d/90-x.conf", `{"type": "ipvlan"}`)(m)
			set("etc/cni/net.d/10-y.conflist", `{"plugins": [{"type": "ptp"}]}`)(m)
		}, "", "", ""},
		"no bridge at all": {without("proc/sys/net/bridge", "sys/class/net"), "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := goodMachine()
			c.change(root)
			var got []check
			for _, x := range (machine{root, func() []bpf.Check { return nil }}).examine() {
				if !x.OK {
					got = append(got, x)
				} else if x.Remedy != "" || x.Detail == "" {
					t.Errorf("what is there is said as %+v", x)
				}
			}
			switch {
			case c.missing == "" && len(got) > 0, c.missing != "" && len(got) != 1:
				t.Fatalf("missing: %+v", got)
			case c.missing == "":
			case got[0].Name != c.missing, !strings.Contains(got[0].Detail, c.detail), !strings.Contains(got[0].Remedy, c.remedy):
				t.Errorf("missing: %+v", got[0])
			}
		})
	}
}

func TestDoctorSaysItInTextAndJSON(t *testing.T) {
	root := goodMachine()
	delete(root, "sys/kernel/btf/vmlinux")
	m := machine{root, func() []bpf.Check {
		return []bpf.Check{{Name: "nftables", Detail: "no answer", Remedy: "modprobe nf_tables"}}
	}}
	var out strings.Builder
	s := &session{stdout: &out, output: "json"}
	err := s.doctor(m)
	if e := (exit{}); !errors.As(err, &e) || e.code != ExitEnvironment {
		t.Errorf("got %v", err)
	}
	var got struct{ Checks []check }
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Checks) != len(needs)+1 || !strings.Contains(out.String(), `"remedy": "modprobe nf_tables"`) {
		t.Errorf("got %s", &out)
	}
	out.Reset()
	s.output = "table"
	_ = s.doctor(m)
	if !strings.Contains(out.String(), "missing  kernel BTF") || !strings.Contains(out.String(), "remedy: modprobe nf_tables") {
		t.Errorf("got\n%s", &out)
	}
	if err := (&session{stdout: &out, output: "table"}).doctor(machine{goodMachine(), func() []bpf.Check { return nil }}); err != nil {
		t.Errorf("a machine that has everything: %v", err)
	}
}
