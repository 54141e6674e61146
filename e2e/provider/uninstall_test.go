package provider

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/image"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// TestUpgradeAndRollback runs another build of the agent, by another tag, and
// goes back, node by node as the DaemonSet does it.
func TestUpgradeAndRollback(t *testing.T) {
	l := enforced(t)
	module, err := binary.Module()
	must(t, err)
	program := filepath.Join(t.TempDir(), "sallyport")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X github.com/sallyport-dev/sallyport/cli.version=next", "-o", program, "./cmd/sallyport")
	build.Dir = filepath.Dir(module)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	const next = "docker.io/library/sallyport:next"
	must(t, l.LoadImage(t.Context(), image.Image{
		Name: next, Files: []image.File{{Path: "sallyport", Source: program}, {Path: "sallyport-cni", Link: "/sallyport"}}, Entrypoint: []string{"/sallyport"},
	}))
	s := l.scene()
	before, err := agent(s.Nodes[0])
	must(t, err)
	runs := func(version string) {
		t.Helper()
		began := time.Now()
		s.rollout()
		t.Logf("all nodes run version %s after %.1f s", version, time.Since(began).Seconds())
		for _, n := range s.Nodes {
			must(t, eventually(func() error {
				a, err := agent(n)
				if err == nil && a.Version != version {
					err = fmt.Errorf("%s runs version %q, not %q", n.Name, a.Version, version)
				}
				return err
			}))
		}
	}
	_, err = s.Kubectl(t.Context(), "-n", "sallyport-system", "set", "image", "daemonset/sallyport", "agent="+next)
	must(t, err)
	runs("next")
	s.check("the upgrade")
	_, err = s.Kubectl(t.Context(), "-n", "sallyport-system", "rollout", "undo", "daemonset/sallyport")
	must(t, err)
	runs(before.Version)
	s.check("the rollback")
	s.control()
}

// TestZUninstall comes last. It takes everything off, as the manifest says,
// and installs it again.
func TestZUninstall(t *testing.T) {
	l := enforced(t)
	s := l.scene()
	time.Sleep(500 * time.Millisecond)
	s.check("half a second")
	module, err := binary.Module()
	must(t, err)
	manifest := filepath.Join(module, "../deploy/uninstall.yaml")
	for _, args := range [][]string{
		{"apply", "-f", manifest},
		{"-n", "sallyport-system", "rollout", "status", "daemonset/sallyport", "--timeout=5m"},
		{"delete", "-f", manifest, "--timeout=5m"},
	} {
		_, err := l.Kubectl(t.Context(), args...)
		must(t, err)
	}
	installed = false
	if err := l.Each(l.clean); err != nil {
		t.Error(err)
	}
	if out, err := l.Kubectl(t.Context(), "get", "crd,clusterrole,clusterrolebinding,namespace,validatingadmissionpolicy,validatingadmissionpolicybinding", "-o", "name"); err != nil || strings.Contains(out, "sallyport") {
		t.Errorf("left in the API server: %v\n%s", err, out)
	}
	// The policies are still there, and nobody enforces them: it is the control
	// of all leak tests.
	open := func() error {
		for i, in := range s.inside {
			before := arrived(s.state(s.strange[i]), in.ip, prober.UDPRequest)
			time.Sleep(200 * time.Millisecond)
			if arrived(s.state(s.strange[i]), in.ip, prober.UDPRequest) == before {
				return fmt.Errorf("after the uninstallation pods of %s are still shut", in.node.Name)
			}
		}
		return nil
	}
	must(t, eventually(open))
	must(t, s.flowing())
	extra := &pod{ns: s.home, name: "afterwards", node: s.Nodes[0]}
	s.start(extra) // pods start without the plugin

	began := time.Now()
	l = enforced(t)
	took := time.Since(began)
	shut := func() error {
		for i, in := range s.inside {
			sent, before := s.state(s.strange[i]).Sent, arrived(s.state(in), s.strange[i].ip)
			must(t, eventually(func() error {
				if n := s.state(s.strange[i]).Sent - sent; n < 100 {
					return fmt.Errorf("%s has sent only %d packets", s.strange[i].name, n)
				}
				return nil
			}))
			if arrived(s.state(in), s.strange[i].ip) > before {
				return fmt.Errorf("installed again, it does not enforce on %s", in.node.Name)
			}
		}
		return nil
	}
	must(t, eventually(shut))
	must(t, s.flowing())
	t.Logf("uninstalled without a trace, and installed again in %.1f s", took.Seconds())
}

// clean lists what is left on a node.
func (l lab) clean(n *cluster.Node) error {
	var left []string
	for _, pattern := range []string{"/sys/fs/bpf/*", "/opt/cni/bin/sallyport*", "/run/sallyport/*", "/etc/cni/net.d/*sallyport*", "/etc/cni/net.d/.sallyport*"} {
		names, _ := filepath.Glob(n.Root(pattern))
		left = append(left, slices.DeleteFunc(names, func(name string) bool {
			return strings.HasSuffix(name, ".debug") // the kernel's own
		})...)
	}
	if text, err := os.ReadFile(n.Root(conflist)); err != nil || strings.Contains(string(text), "sallyport") {
		left = append(left, fmt.Sprintf("%s: %v %s", conflist, err, text))
	}
	tables, err := n.Command(l.t.Context(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil || strings.Contains(string(tables), "sallyport") {
		left = append(left, fmt.Sprintf("nftables: %v %s", err, tables))
	}
	if pids := l.agents(n); pids != nil {
		left = append(left, fmt.Sprint("agents: ", pids))
	}
	if left == nil {
		return nil
	}
	return fmt.Errorf("left on %s: %s", n.Name, strings.Join(left, "\n"))
}
