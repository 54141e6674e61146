//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// NamePrefix starts the name of every network namespace of a lab.
	NamePrefix = "sallyport-lab-"
	netnsDir   = "/run/netns"
	fabricName = NamePrefix + "fabric"
	outsideNS  = NamePrefix + "outside"
	maxNSName  = 100
)

// nsPath is the path of a named network namespace.
func nsPath(name string) string { return filepath.Join(netnsDir, name) }

// createNS makes the named network namespace and returns a handle to it.
func createNS(name string) (netns.NsHandle, error) {
	if _, err := os.Stat(nsPath(name)); err == nil {
		return -1, fmt.Errorf("cannot create network namespace %s: it exists already", name)
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return -1, fmt.Errorf("cannot create %s: %w", netnsDir, err)
	}
	var handle netns.NsHandle
	err := onThread(func() (err error) {
		handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		// What is left of a half-made namespace is of no use.
		_ = deleteNS(name)
		return -1, fmt.Errorf("cannot create network namespace %s: %w", name, err)
	}
	return handle, nil
}

// deleteNS removes the named network namespace; one that is gone is no error.
func deleteNS(name string) error {
	path := nsPath(name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove network namespace %s: %w", name, err)
	}
	return nil
}

// onThread runs f on an operating system thread of its own and puts the
// thread's network namespace back afterwards. A thread that cannot be put
// back is not used again.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("cannot open the network namespace of this thread: %w", err)
			return
		}
		defer func() { _ = origin.Close() }()
		err = f()
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inNS runs f on a thread that is in the given network namespace.
func inNS(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("cannot enter network namespace: %w", err)
		}
		return f()
	})
}

// setting is one file below /proc/sys/net and its value.
type setting struct {
	path, value string
	optional    bool
}

// setSysctls writes settings of the given network namespace.
func setSysctls(ns netns.NsHandle, settings []setting) error {
	return inNS(ns, func() error {
		for _, s := range settings {
			err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0o644)
			if err != nil && !s.optional {
				return fmt.Errorf("cannot set net/%s: %w", s.path, err)
			}
		}
		return nil
	})
}

// quietIPv6 are the settings of interfaces without automatic addresses.
var quietIPv6 = []setting{
	{"ipv6/conf/default/accept_dad", "0", true},
	{"ipv6/conf/default/dad_transmits", "0", true},
	{"ipv6/conf/default/accept_ra", "0", true},
	{"ipv6/conf/default/addr_gen_mode", "1", true},
	{"ipv6/conf/all/accept_ra", "0", true},
	{"ipv4/icmp_ratelimit", "0", true},
	{"ipv6/icmp/ratelimit", "0", true},
	{"ipv4/icmp_msgs_per_sec", "1000000", true},
}

// forwarding are the settings of a namespace that routes.
var forwarding = []setting{
	{"ipv4/ip_forward", "1", false},
	{"ipv6/conf/all/forwarding", "1", true},
	{"ipv6/conf/default/forwarding", "1", true},
	{"ipv4/conf/all/rp_filter", "0", false},
	{"ipv4/conf/default/rp_filter", "0", false},
	{"ipv4/conf/all/send_redirects", "0", true},
	{"ipv4/conf/default/send_redirects", "0", true},
}

// RemoveLeftovers removes every network namespace that a lab on this machine
// has made, ends the processes in them, and removes the lab's state.
func RemoveLeftovers() error {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), NamePrefix) {
			names = append(names, e.Name())
		}
	}
	errs := []error{endProcesses(names)}
	for _, name := range names {
		errs = append(errs, deleteNS(name))
	}
	return errors.Join(append(errs, removeState())...)
}
