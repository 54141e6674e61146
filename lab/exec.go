//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Exec runs a command in a pod's network namespace, with the pod's
// /etc/resolv.conf. The command ends with the pod, if not before.
func (l *Lab) Exec(ctx context.Context, podKey string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	return ExecIn(ctx, podKey, argv, stdin, stdout, stderr)
}

// ExecIn is Exec for any process: it finds the pod in the state of the lab
// that is up. The error of a command that fails is an *exec.ExitError.
func ExecIn(ctx context.Context, podKey string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(argv) == 0 {
		return errors.New("cannot run a command: none is given")
	}
	state, err := ReadState()
	if err != nil {
		return err
	}
	p, ok := state.Pods[podKey]
	if !ok {
		return fmt.Errorf("cannot find pod %s in the lab", podKey)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	started := make(chan error, 1)
	go startOnLostThread(func() error { return startIn(cmd, p) }, started)
	if err := <-started; err != nil {
		return fmt.Errorf("cannot run %s in pod %s: %w", argv[0], podKey, err)
	}
	return cmd.Wait()
}

// startOnLostThread runs f on a thread that is never used again, because a
// mount namespace cannot be given back. The main thread is not for that: its
// namespaces are seen as the process's.
func startOnLostThread(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		over := make(chan struct{})
		inner := make(chan error, 1)
		go func() {
			defer close(over)
			startOnLostThread(f, inner)
		}()
		<-over
		runtime.UnlockOSThread()
		done <- <-inner
		return
	}
	done <- f()
}

// startIn starts a command from a thread that has entered the pod.
func startIn(cmd *exec.Cmd, p PodState) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot create a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot detach the mount namespace: %w", err)
	}
	if err := unix.Mount(p.ResolvConf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount /etc/resolv.conf: %w", err)
	}
	ns, err := netns.GetFromPath(nsPath(p.NetNS))
	if err != nil {
		return fmt.Errorf("cannot open network namespace %s: %w", p.NetNS, err)
	}
	defer func() { _ = ns.Close() }()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("cannot enter network namespace %s: %w", p.NetNS, err)
	}
	return cmd.Start()
}
