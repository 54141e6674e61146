package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
)

// Dir holds everything that a cluster writes. Its existence is the lock: there
// is one cluster on a machine.
const Dir = "/run/sallyport-e2e"

var statePath = filepath.Join(Dir, "state.json")

// identity is a process: its number and when it began, since numbers are used
// again. The zero value is no process.
type identity struct {
	PID   int    `json:"pid,omitempty"`
	Began string `json:"began,omitempty"` // clock ticks since the machine did
}

// identify returns the process that has this number now; it is zero when it
// has ended, reaped or not.
func identify(pid int) identity {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return identity{}
	}
	// A process whose first thread has ended is a zombie already, while others
	// may still write.
	if threads := fields[17]; (fields[0] == "Z" || fields[0] == "X") && (threads == "0" || threads == "1") {
		return identity{}
	}
	return identity{PID: pid, Began: fields[19]}
}

func (i identity) alive() bool { return i.PID != 0 && identify(i.PID) == i }

// end sends the process a signal, once: a second SIGTERM would cut a polite
// end short. It waits until the process has ended.
func (i identity) end(signal syscall.Signal) error {
	if !i.alive() {
		return nil
	}
	if err := syscall.Kill(i.PID, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot end process %d: %w", i.PID, err)
	}
	for begin := time.Now(); i.alive(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			return fmt.Errorf("cannot end process %d: it is still there a minute after %v", i.PID, signal)
		}
	}
	return nil
}

// state is what another process must know to use the cluster or to remove it.
type state struct {
	Kubeconfig string     `json:"kubeconfig"`
	Nodes      []*Node    `json:"nodes"`
	Owner      identity   `json:"owner"` // the process that will remove the cluster, if any
	Programs   binary.Set `json:"programs"`
	Processes  []*process `json:"processes"` // in the order of their start
}

func (c *Cluster) save() error {
	data, err := json.MarshalIndent(state{c.Kubeconfig, c.Nodes, c.owner, c.programs, c.processes}, "", "  ")
	if err == nil {
		err = os.WriteFile(statePath+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(statePath+".new", statePath)
	}
	if err != nil {
		return fmt.Errorf("cannot write the cluster's state: %w", err)
	}
	return nil
}

// read reads the state of the cluster that is there, or of what is left of it.
func read() (*Cluster, error) {
	data, err := os.ReadFile(statePath)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("there is no cluster: make cluster starts one")
	}
	var s state
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's state: %w; make cluster-down removes what is left of it", err)
	}
	return &Cluster{Kubeconfig: s.Kubeconfig, Nodes: s.Nodes, owner: s.Owner, programs: s.Programs, processes: s.Processes, log: io.Discard}, nil
}

// claim takes the folder for this process. A cluster that nobody holds any
// more, left to play or by a crash, is removed first.
func claim() error {
	if c, err := read(); err == nil && c.owner.alive() && c.owner.PID != os.Getpid() {
		return fmt.Errorf("cannot start a cluster: process %d has one; wait for it, or end it", c.owner.PID)
	}
	if err := Remove(); err != nil {
		return err
	}
	if err := os.Mkdir(Dir, 0o755); err != nil {
		return fmt.Errorf("cannot start a cluster: %w; does another one start at this moment?", err)
	}
	return nil
}
