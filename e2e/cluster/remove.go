package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/poll"
)

// Remove removes the cluster, or what a crash left of one: processes, network
// namespaces, mounts, cgroups and files. It finds them by the recorded
// processes and by names that only a cluster uses, and touches nothing else.
// Nothing to remove is fine.
func Remove() error {
	var errs []error
	if c, err := read(); err == nil {
		for _, p := range slices.Backward(c.processes) {
			errs = append(errs, p.identity.end(syscall.SIGKILL))
		}
	}
	spaces, _ := filepath.Glob(netns(prefix + "*"))
	for _, space := range spaces {
		errs = append(errs, endInside(filepath.Base(space)))
	}
	// A connection that did not end well keeps its namespace for a minute or
	// two, without a name; the machine's link to it must not wait for that.
	if _, err := net.InterfaceByName(machineLink); err == nil {
		errs = append(errs, ip("link delete %s", machineLink))
	}
	for _, space := range spaces {
		if out, err := exec.Command("ip", "netns", "delete", filepath.Base(space)).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("cannot delete the network namespace %s: %w: %s", space, err, out))
		}
	}
	for _, root := range cgroupRoots() {
		errs = append(errs, removeCgroup(filepath.Join(root, cgroup)))
	}
	errs = append(errs, removeFiles())
	return errors.Join(errs...)
}

// endInside ends the processes that live in a network namespace of ours: those
// that were started just before their driver crashed are not recorded.
func endInside(space string) error {
	out, err := exec.Command("ip", "netns", "pids", space).Output()
	if err != nil {
		return fmt.Errorf("cannot list the processes in %s: %w", space, err)
	}
	var errs []error
	for field := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			errs = append(errs, identify(pid).end(syscall.SIGKILL))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup and those below it, which takes until the
// kernel has seen the last of their processes.
func removeCgroup(dir string) error {
	var err error
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if len(dirs) == 0 {
			return nil
		}
		for _, d := range slices.Backward(dirs) {
			err = syscall.Rmdir(d)
		}
	}
	return fmt.Errorf("cannot remove the cgroup %s: %w", dir, err)
}

// removeFiles removes the folder. A mount below it is only there if a node
// could not isolate itself; removing through it would remove other files.
func removeFiles() error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot list mounts: %w", err)
	}
	for line := range strings.Lines(string(table)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, Dir+"/") {
			if err := syscall.Unmount(at, 0); err != nil {
				return fmt.Errorf("cannot unmount %s: %w", at, err)
			}
		}
	}
	// What the last processes wrote while they ended may come in between.
	err = poll.Until(context.Background(), 5*time.Second, func() error { return os.RemoveAll(Dir) })
	if err != nil {
		return fmt.Errorf("cannot remove the cluster's files: %w", err)
	}
	return nil
}
