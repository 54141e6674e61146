package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/clustertest"
)

func TestMain(m *testing.M) {
	clustertest.Main(m, clustertest.Options())
}

// pod is a server on a node, behind a Service of its own.
const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: server, image: "` + cluster.Agnhost + `", args: [netexec, --http-port=8080]}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
---
`

// serve runs a pod on every node and returns their Services' addresses and
// ports by the node's name.
func serve(t *testing.T, c *cluster.Cluster) map[string]string {
	t.Helper()
	var manifest strings.Builder
	for _, n := range c.Nodes {
		fmt.Fprintf(&manifest, pod, n.Name)
	}
	if _, err := c.KubectlInput(t.Context(), manifest.String(), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.KubectlInput(context.Background(), manifest.String(), "delete", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	kubectl(t, c, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=5m")
	services := map[string]string{}
	for _, n := range c.Nodes {
		services[n.Name] = kubectl(t, c, "get", "service", n.Name, "-o", "jsonpath={.spec.clusterIP}") + ":80"
	}
	return services
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestServices has every pod connect to every pod, itself too, and to the API
// server by their Services.
func TestServices(t *testing.T) {
	c := clustertest.Cluster(t)
	services := serve(t, c)
	services["API server"] = "10.96.0.1:443"
	for _, n := range c.Nodes {
		from := n.Name
		for to, address := range services {
			var err error
			for begin := time.Now(); time.Since(begin) < 20*time.Second; { // a Service takes a moment to reach all nodes
				if _, err = c.Kubectl(t.Context(), "exec", from, "--", "/agnhost", "connect", address, "--timeout=1s"); err == nil {
					break
				}
			}
			if err != nil {
				t.Errorf("from the pod on %s to %s: %v", from, to, err)
			}
		}
	}
}

// TestRestarts ends the API server and kubelets; pods do not notice.
func TestRestarts(t *testing.T) {
	c := clustertest.Cluster(t)
	serve(t, c)
	const state = `jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID}{"\n"}{end}`
	before := kubectl(t, c, "get", "pods", "-o", state)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := c.StopAPIServer(signal); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Kubectl(t.Context(), "get", "pods", "--request-timeout=2s"); err == nil {
			t.Errorf("the API server answers after %v", signal)
		}
		if err := c.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		for _, service := range []string{"kubelet", "containerd", "kube-proxy"} {
			if err := n.Restart(service); err != nil {
				t.Error(err)
			}
		}
	}
	kubectl(t, c, "wait", "--for=condition=Ready", "node", "--all", "--timeout=5m")
	kubectl(t, c, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=5m")
	if after := kubectl(t, c, "get", "pods", "-o", state); after != before {
		t.Errorf("pods before:\n%safter:\n%s", before, after)
	}
}

func TestNodesAreTheirOwn(t *testing.T) {
	c := clustertest.Cluster(t)
	for _, n := range c.Nodes {
		out, err := n.Command(t.Context(), "hostname").Output()
		if err != nil || strings.TrimSpace(string(out)) != n.Name {
			t.Errorf("%s calls itself %q, %v", n.Name, out, err)
		}
	}
	path := "/sys/fs/bpf/sallyport-e2e"
	if err := c.Nodes[0].Command(t.Context(), "mkdir", path).Run(); err != nil {
		t.Fatal(err)
	}
	for _, there := range []string{path, c.Nodes[1].Root(path)} {
		if _, err := os.Stat(there); err == nil {
			t.Errorf("what one node pins is at %s", there)
		}
	}
}

// TestZRemove comes last: it removes the cluster, then one whose start was
// killed half-way.
func TestZRemove(t *testing.T) {
	clustertest.Cluster(t)
	if err := cluster.Remove(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)

	up := exec.Command("go", "run", "../cmd/cluster", "up")
	up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(cluster.Dir + "/nodes/node2"); err == nil {
			break
		}
	}
	_ = syscall.Kill(-up.Process.Pid, syscall.SIGKILL)
	_ = up.Wait()
	if names, _ := filepath.Glob("/run/netns/sallyport-e2e-*"); len(names) == 0 {
		t.Fatal("the start was not killed half-way")
	}
	if err := cluster.Remove(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// nothingLeft looks for everything that has a cluster's name.
func nothingLeft(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{cluster.Dir, "/run/netns/sallyport-e2e*", "/sys/fs/cgroup/*/sallyport-e2e", "/sys/fs/cgroup/sallyport-e2e", "/sys/class/net/sallyport-e2e*"} {
		if left, _ := filepath.Glob(pattern); left != nil {
			t.Errorf("left behind: %v", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte("sallyport-e2e")) {
		t.Errorf("mounts are left behind, or unknown: %v", err)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(cluster.Dir)) {
			t.Errorf("left behind: %s: %s", path, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}
