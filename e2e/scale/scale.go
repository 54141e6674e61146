// Package scale measures one agent in a large cluster: etcd and the API server
// are real, the pods and nodes but one are only objects. The agent is the real
// program, and its node is the network namespace that all this happens in:
//
//	test ─ HTTP ─▶ kube-apiserver ─ etcd
//	  │                 │ watch
//	  │            sallyport agent ── enforces ─▶ sender ─1ms─▶ shut, open   (real pods)
//	  └─ /proc, /metrics, sallyport audit ──▶ │                 140 devices  (of pods that send nothing)
//
// The test runs again in namespaces of its own (network, mounts, processes):
// nothing of it is seen outside, it runs beside anything else, and when it
// ends, however it ends, the kernel removes the rest: processes, namespaces,
// pins, mounts and files.
package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// Dir is where the test's files are: in memory, and private to it.
const Dir = "/run/scale"

// role tells this program, run again, what it is; roles are what it can be.
const role = "SALLYPORT_SCALE"

var roles = map[string]func() error{"say": say, "hear": hear}

// Main runs the tests in namespaces of their own. Without root it runs them as
// they are: those that need more are skipped.
func Main(m *testing.M) {
	name := os.Getenv(role)
	switch run, known := roles[name]; {
	case known:
		exit(run())
	case name == "test":
		exit(prepare())
		os.Exit(m.Run())
	case os.Geteuid() != 0:
		os.Exit(m.Run())
	}
	var ended *exec.ExitError
	err := isolate()
	if errors.As(err, &ended) && ended.ExitCode() > 0 {
		os.Exit(ended.ExitCode())
	}
	exit(err)
	os.Exit(0)
}

// Needed skips a test that is not isolated, or fails it if
// SALLYPORT_REQUIRE_ROOT is set.
func Needed(t testing.TB) {
	t.Helper()
	switch {
	case os.Getenv(role) == "test":
	case os.Getenv("SALLYPORT_REQUIRE_ROOT") != "":
		t.Fatal("namespaces need root")
	default:
		t.Skip("NOT TESTED: namespaces need root")
	}
}

// exit ends the program if there is an error.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// isolate runs the test as the first process of its own namespaces.
func isolate() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), role+"=test")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd.Run()
}

// prepare makes the node: private mounts, loopback, and the node's address.
func prepare() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	for _, m := range [][2]string{{"proc", "/proc"}, {"tmpfs", "/run"}, {"bpf", "/sys/fs/bpf"}} {
		if err := syscall.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("cannot mount %s at %s: %w", m[0], m[1], err)
		}
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot forward: %w", err)
	}
	return ip("link set lo up", "addr add "+nodeIP(0)+"/32 dev lo")
}

// ip runs commands of iproute2, all of them or up to the first that fails.
func ip(commands ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	return nil
}
