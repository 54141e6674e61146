package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/poll"
)

// Node is a node of the cluster.
type Node struct {
	Name          string `json:"name"`    // also its host name
	IP            string `json:"ip"`      // on the fabric
	PodCIDR       string `json:"podCIDR"` // where its pods have their addresses
	IP6, PodCIDR6 string // the same of IPv6, in a dual-stack cluster
	NetNS         string `json:"netns"`  // path of its network namespace
	Cgroup        string `json:"cgroup"` // its pods' root, in every hierarchy
	PID           int    `json:"pid"`    // of its first process, as the machine counts; its files are below /proc/PID/root
}

func newNode(number int, dual bool) *Node {
	name := "node" + strconv.Itoa(number)
	n := &Node{
		Name:   name,
		IP:     fmt.Sprintf(nodeIP, 10+number),
		NetNS:  netns(prefix + name),
		Cgroup: "/" + cgroup + "/" + name,
	}
	if dual {
		n.IP6 = fmt.Sprintf(nodeIP6, 10+number)
	}
	return n
}

func (n *Node) space() string { return prefix + n.Name }

// Root is the path on this machine of a path on the node.
func (n *Node) Root(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.PID), path)
}

// Command runs a program on the node, in all its namespaces.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(n.PID), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, args...)...)
}

// Restart ends one of the node's services ("kubelet", "containerd" or
// "kube-proxy"); the node starts it
// again at once. Containers live on.
func (n *Node) Restart(service string) error {
	file := n.Root("/run/sallyport-e2e/" + service + ".pid")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot restart %s on %s: %w", service, n.Name, err)
	}
	// The number is the node's own, so it is the node that kills.
	if out, err := n.Command(context.Background(), "sh", "-c", "kill -KILL "+string(text)).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot restart %s on %s: %w: %s", service, n.Name, err, out)
	}
	return poll.Until(context.Background(), 10*time.Second, func() error {
		if now, err := os.ReadFile(file); err != nil || string(now) == string(text) {
			return fmt.Errorf("%s does not start again on %s: see %s", service, n.Name, n.Root("/var/log/"+service+".log"))
		}
		return nil
	})
}

// startNode starts the node's first process, which starts the rest.
func (c *Cluster) startNode(n *Node) error {
	if err := makeCgroup(n.Name); err != nil {
		return err
	}
	if err := n.join(); err != nil {
		return err
	}
	dir := filepath.Join(Dir, "nodes", n.Name)
	if err := c.writeConfigs(n, filepath.Join(dir, "run/sallyport-e2e")); err != nil {
		return err
	}
	addresses := n.IP
	if n.IP6 != "" {
		addresses += "," + n.IP6
	}
	p := &process{
		Name:  n.Name,
		Space: n.space(),
		Args:  []string{filepath.Join(Dir, "bin/node"), n.Name, addresses, dir, c.programs.Dir},
		Flags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := c.add(p); err != nil {
		return err
	}
	n.PID = p.PID
	return c.save()
}

// Reboot ends the node at once, as if its power was cut, and starts it again:
// what it held in memory is gone, processes, devices, tables, BPF and /run, and
// what it had on disk is there. It returns when the node has been started, not
// when it is ready.
func (c *Cluster) Reboot(n *Node) error {
	p, err := c.process(n.Name)
	if err != nil {
		return err
	}
	if err := p.end(syscall.SIGKILL); err != nil {
		return err
	}
	// Its connections would keep the namespace, and so the link, for a while.
	if err := ip("-n %s link delete %s", controlSpace, n.Name); err != nil {
		return err
	}
	if err := ip("netns delete %s", n.space()); err != nil {
		return err
	}
	if err := n.join(); err != nil {
		return err
	}
	if err := c.makeRoutes(); err != nil {
		return err
	}
	// Cgroups are memory, too. The kubelet would wait three seconds for each
	// container that is not there.
	for _, root := range cgroupRoots() {
		if err := removeCgroup(filepath.Join(root, cgroup, n.Name)); err != nil {
			return err
		}
	}
	if err := makeCgroup(n.Name); err != nil {
		return err
	}
	run := filepath.Join(Dir, "nodes", n.Name, "run")
	entries, err := os.ReadDir(run)
	if err != nil {
		return fmt.Errorf("cannot empty /run of %s: %w", n.Name, err)
	}
	for _, e := range entries {
		if e.Name() == "sallyport-e2e" {
			continue // it was written from outside
		}
		if err := os.RemoveAll(filepath.Join(run, e.Name())); err != nil {
			return fmt.Errorf("cannot empty /run of %s: %w", n.Name, err)
		}
	}
	if err := c.spawn(p); err != nil {
		return err
	}
	n.PID = p.PID
	return c.save()
}

// connectNode waits until the node is registered and has addresses for its
// pods, and gives it the plugins that attach them.
func (c *Cluster) connectNode(ctx context.Context, n *Node) error {
	err := poll.Until(ctx, 5*time.Minute, func() error {
		out, err := c.Kubectl(ctx, "get", "node", n.Name, "-o", "jsonpath={.spec.podCIDRs[*]}")
		cidrs := strings.Fields(out)
		switch {
		case err != nil:
			return err
		case len(cidrs) == 0:
			return errors.New("it has no addresses for pods yet")
		case n.IP6 != "" && len(cidrs) < 2:
			return fmt.Errorf("its pods have addresses of one family only, %s", out)
		case n.IP6 != "":
			n.PodCIDR6 = cidrs[1]
		}
		n.PodCIDR = cidrs[0]
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("node %s does not join the cluster: %w", n.Name, err), c.logs(n.Name), c.logs(n.Name, "kubelet"))
	}
	bin, conf := n.Root("/opt/cni/bin"), n.Root("/etc/cni/net.d")
	for _, dir := range []string{bin, conf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot install CNI plugins on %s: %w", n.Name, err)
		}
	}
	for _, plugin := range []string{"ptp", "bridge", "host-local", "portmap", "loopback"} {
		if err := copyFile(c.Program(plugin), filepath.Join(bin, plugin)); err != nil {
			return fmt.Errorf("cannot install CNI plugins on %s: %w", n.Name, err)
		}
	}
	return writeJSON(filepath.Join(conf, "10-e2e.conflist"), n.cni(c.cni))
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

type object map[string]any

// cni is the chain of plugins. Nothing is masqueraded: policies see the
// addresses of pods.
func (n *Node) cni(kind string) object {
	ranges, routes := [][]object{{{"subnet": n.PodCIDR}}}, []object{{"dst": "0.0.0.0/0"}}
	if n.IP6 != "" {
		ranges, routes = append(ranges, []object{{"subnet": n.PodCIDR6}}), append(routes, object{"dst": "::/0"})
	}
	return object{
		"cniVersion": "1.0.0",
		"name":       "e2e",
		"plugins": []object{
			{
				"type":        kind,
				"bridge":      "cni0", // bridge only, as the next two
				"isGateway":   true,
				"hairpinMode": true,
				"ipam":        object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}, "backend": "nftables"},
		},
	}
}

// writeConfigs writes what the node's services read.
func (c *Cluster) writeConfigs(n *Node, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for to, from := range map[string]string{"kubelet.kubeconfig": n.Name, "kube-proxy.kubeconfig": "kube-proxy"} {
		text, err := os.ReadFile(pki(from + ".kubeconfig"))
		if err != nil {
			return err
		}
		// The node does not see the cluster's folder.
		own := strings.ReplaceAll(string(text), pki("ca.crt"), "/run/sallyport-e2e/ca.crt")
		if err := os.WriteFile(filepath.Join(dir, to), []byte(own), 0o600); err != nil {
			return err
		}
	}
	if err := copyFile(pki("ca.crt"), filepath.Join(dir, "ca.crt")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "containerd.toml"), []byte(containerdConfig), 0o644); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, "kube-proxy.json"), kubeProxyConfig(c.stacks(podRange, podRange6))); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, "kubelet.json"), n.kubeletConfig())
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// Neither containerd nor kubelet nor kube-proxy may ask that the kernel spare
// somebody when memory runs out: in a container that needs CAP_SYS_RESOURCE.
const containerdConfig = `version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '` + pauseImage + `'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
`

func kubeProxyConfig(pods string) object {
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"clusterCIDR":      pods,
		"clientConnection": object{"kubeconfig": "/run/sallyport-e2e/kube-proxy.kubeconfig"},
		"oomScoreAdj":      0,
		// Limits of connection tracking belong to the machine.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

func (n *Node) kubeletConfig() object {
	return object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"authentication":           object{"anonymous": object{"enabled": true}, "webhook": object{"enabled": false}},
		"authorization":            object{"mode": "AlwaysAllow"}, // who reaches a kubelet is inside the cluster
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               n.Cgroup,
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"oomScoreAdj":              0,
		"makeIPTablesUtilChains":   false,
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{"10.96.0.10"},
		"resolvConf":               "",
		// The disk is the machine's: it is no reason to evict pods.
		"localStorageCapacityIsolation": false,
		"imageGCHighThresholdPercent":   100,
		"evictionHard": object{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%",
		},
	}
}
