//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	politely = 300 * time.Millisecond // between SIGTERM and SIGKILL
	insist   = 5 * time.Second        // until a process counts as one that does not end
)

// nsID identifies a network namespace of this machine.
type nsID struct{ dev, ino uint64 }

func nsIDOf(path string) (nsID, bool) {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return nsID{}, false
	}
	return nsID{s.Dev, s.Ino}, true
}

// endProcesses ends the processes that live in the named network namespaces
// of the lab, whoever started them, and waits until they are gone. They are
// asked first.
func endProcesses(names []string) error {
	inside := make(map[nsID]bool)
	for _, name := range names {
		if id, ok := nsIDOf(nsPath(name)); ok {
			inside[id] = true
		}
	}
	if len(inside) == 0 {
		return nil
	}
	asked := make(map[int]bool)
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		pids, err := processesIn(inside)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Since(began) > insist {
			return fmt.Errorf("cannot end processes %v of the lab", pids)
		}
		for _, pid := range pids {
			switch {
			case time.Since(began) > politely:
				err = endProcess(pid, inside, unix.SIGKILL)
			case !asked[pid]:
				asked[pid] = true
				err = endProcess(pid, inside, unix.SIGTERM)
			}
			if err != nil {
				return err
			}
		}
	}
}

// processesIn lists the processes that live in one of the namespaces.
func processesIn(inside map[nsID]bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && livesIn(pid, inside) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// livesIn says whether every thread of the process is in one of the
// namespaces. A lab's own process only visits them, with some of its threads.
func livesIn(pid int, inside map[nsID]bool) bool {
	if pid == os.Getpid() {
		return false
	}
	// Most processes are told by their first thread.
	if id, ok := nsIDOf(fmt.Sprintf("/proc/%d/ns/net", pid)); !ok || !inside[id] {
		return false
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	for _, t := range threads {
		if id, ok := nsIDOf(t); ok && !inside[id] {
			return false
		}
	}
	return len(threads) > 0
}

// endProcess signals a process, unless its number is another one's by now.
func endProcess(pid int, inside map[nsID]bool, signal unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !livesIn(pid, inside) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot end process %d: %w", pid, err)
	}
	return nil
}
