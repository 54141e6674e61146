package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroup is the name of the cgroup above those of the nodes, in every
// hierarchy.
const cgroup = "sallyport-e2e"

// cgroupRoots are the hierarchies of the machine: one with cgroup v2, one per
// controller with v1.
func cgroupRoots() []string {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err == nil {
		return []string{top}
	}
	procs, _ := filepath.Glob(top + "/*/cgroup.procs")
	var roots []string
	for _, p := range procs {
		// cpu may be a link to cpu,cpuacct.
		if dir := filepath.Dir(p); !isLink(dir) {
			roots = append(roots, dir)
		}
	}
	return roots
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// makeCgroup makes a node's cgroup, in which its kubelet puts pods. With v1 a
// cpuset is of no use until it has CPUs; with v2 each level must hand
// controllers on.
func makeCgroup(node string) error {
	for _, root := range cgroupRoots() {
		above := root
		for _, name := range []string{cgroup, node} {
			dir := filepath.Join(above, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("cannot make a cgroup: %w", err)
			}
			for _, set := range []string{"cpuset.cpus", "cpuset.mems"} {
				if value, err := os.ReadFile(filepath.Join(above, set)); err == nil && filepath.Base(root) == "cpuset" {
					if err := os.WriteFile(filepath.Join(dir, set), value, 0); err != nil {
						return fmt.Errorf("cannot give the cgroup %s its CPUs: %w", dir, err)
					}
				}
			}
			if controllers, err := os.ReadFile(filepath.Join(above, "cgroup.controllers")); err == nil {
				for c := range strings.FieldsSeq(string(controllers)) {
					_ = os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+"+c), 0) // the kubelet says what it misses
				}
			}
			above = dir
		}
	}
	return nil
}
