package cluster

import (
	"fmt"
	"os/exec"
	"strings"
)

// prefix of the names of network namespaces.
const prefix = "sallyport-e2e-"

// Addresses: the fabric's are from the block for benchmarks of network
// devices, which nobody routes; pods and Services exist inside nodes only.
const (
	controlSpace = prefix + "control"
	controlIP    = "198.18.0.1"
	nodeIP       = "198.18.0.%d"
	podRange     = "10.244.0.0/16"
	serviceRange = "10.96.0.0/16"
)

// ip runs one command of ip per line.
func ip(format string, args ...any) error {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot ip %s: %w: %s", strings.TrimSpace(line), err, out)
		}
	}
	return nil
}

// makeFabric makes the control plane's namespace with the bridge, and the
// machine's link to it.
func makeFabric() error {
	return ip(`netns add %[1]s
		-n %[1]s link set lo up
		-n %[1]s link add fabric type bridge
		-n %[1]s addr add %[2]s/24 dev fabric
		-n %[1]s link set fabric up
		link add sallyport-e2e type veth peer name machine netns %[1]s
		-n %[1]s link set machine master fabric up
		addr add 198.18.0.254/24 dev sallyport-e2e
		link set sallyport-e2e up`, controlSpace, controlIP)
}

// makeSpace makes a node's namespace and its link to the fabric.
func (n *Node) makeSpace() error {
	return ip(`netns add %[1]s
		-n %[1]s link set lo up
		-n %[2]s link add %[3]s type veth peer name eth0 netns %[1]s
		-n %[2]s link set %[3]s master fabric up
		-n %[1]s addr add %[4]s/24 dev eth0
		-n %[1]s link set eth0 up
		-n %[1]s route add default via %[5]s`, n.space(), controlSpace, n.Name, n.IP, controlIP)
}

// makeRoutes tells everyone behind which node a pod is.
func (c *Cluster) makeRoutes() error {
	for _, to := range c.Nodes {
		spaces := []string{controlSpace}
		for _, n := range c.Nodes {
			if n != to {
				spaces = append(spaces, n.space())
			}
		}
		for _, s := range spaces {
			if err := ip("-n %s route add %s via %s", s, to.PodCIDR, to.IP); err != nil {
				return err
			}
		}
	}
	return nil
}
