package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// prefix of the names of network namespaces.
const prefix = "sallyport-e2e-"

// Addresses: the fabric's are from the block for benchmarks of network
// devices, which nobody routes; pods and Services exist inside nodes only.
const (
	controlSpace = prefix + "control"
	machineLink  = "sallyport-e2e" // the machine's end of its link to the fabric
	controlIP    = "198.18.0.1"
	nodeIP       = "198.18.0.%d"
	podRange     = "10.244.0.0/16"
	serviceRange = "10.96.0.0/16"

	controlIP6    = "fd00:198:18::1"
	nodeIP6       = "fd00:198:18::%d"
	podRange6     = "fd00:10:244::/56"
	serviceRange6 = "fd00:10:96::/112"
)

// stacks joins what a cluster has of both families by commas, as Kubernetes
// writes them.
func (c *Cluster) stacks(v4, v6 string) string {
	if c.dual {
		return v4 + "," + v6
	}
	return v4
}

// ip runs one command of ip per line.
func ip(format string, args ...any) error {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out)
		}
	}
	return nil
}

// makeSpace makes a network namespace that ip knows by name. `ip netns add`
// would mount all of /run/netns a second time, for good.
func makeSpace(name string) error {
	path := netns(name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, nil, 0o444)
	}
	if err != nil {
		return fmt.Errorf("cannot make the network namespace %s: %w", name, err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the network namespace %s: %w: %s", name, err, out)
	}
	return nil
}

// netns is the path of a network namespace.
func netns(name string) string { return filepath.Join("/run/netns", name) }

// makeFabric makes the control plane's namespace with the bridge, and the
// machine's link to it.
func (c *Cluster) makeFabric() error {
	if err := makeSpace(controlSpace); err != nil {
		return err
	}
	err := ip(`-n %[1]s link set lo up
		-n %[1]s link add fabric type bridge
		-n %[1]s addr add %[2]s/24 dev fabric
		-n %[1]s link set fabric up
		link add %[3]s type veth peer name machine netns %[1]s
		-n %[1]s link set machine master fabric up
		addr add 198.18.0.254/24 dev %[3]s
		link set %[3]s up`, controlSpace, controlIP, machineLink)
	if err == nil && c.dual {
		err = ip(`-n %[1]s addr add %[2]s/64 dev fabric nodad
			addr add fd00:198:18::fe/64 dev %[3]s nodad`, controlSpace, controlIP6, machineLink)
	}
	return err
}

// join makes the node's namespace and its link to the fabric.
func (n *Node) join() error {
	if err := makeSpace(n.space()); err != nil {
		return err
	}
	err := ip(`-n %[1]s link set lo up
		-n %[2]s link add %[3]s type veth peer name eth0 netns %[1]s
		-n %[2]s link set %[3]s master fabric up
		-n %[1]s addr add %[4]s/24 dev eth0
		-n %[1]s link set eth0 up
		-n %[1]s route add default via %[5]s`, n.space(), controlSpace, n.Name, n.IP, controlIP)
	if err == nil && n.IP6 != "" {
		err = ip(`-n %[1]s addr add %[2]s/64 dev eth0 nodad
			-n %[1]s route add default via %[3]s`, n.space(), n.IP6, controlIP6)
	}
	return err
}

// makeRoutes tells everyone behind which node a pod is; a route that is there
// stays.
func (c *Cluster) makeRoutes() error {
	for _, to := range c.Nodes {
		spaces := []string{controlSpace}
		for _, n := range c.Nodes {
			if n != to {
				spaces = append(spaces, n.space())
			}
		}
		for _, s := range spaces {
			if err := ip("-n %s route replace %s via %s", s, to.PodCIDR, to.IP); err != nil {
				return err
			}
			if to.IP6 == "" {
				continue
			}
			if err := ip("-n %s route replace %s via %s", s, to.PodCIDR6, to.IP6); err != nil {
				return err
			}
		}
	}
	return nil
}
