//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// StateDir is where a lab that is up says so to other processes.
const StateDir = "/run/sallyport/lab"

// State is what other processes can know of the lab that is up.
type State struct {
	PID  int                 `json:"pid"`  // process of the lab
	DNS  string              `json:"dns"`  // address of the cluster's DNS
	Pods map[string]PodState `json:"pods"` // by "namespace/name"
}

// PodState says where a pod is.
type PodState struct {
	NetNS       string `json:"netns"` // name below /run/netns
	Node        string `json:"node"`
	HostNetwork bool   `json:"hostNetwork,omitempty"`
	ResolvConf  string `json:"resolvConf"` // file that stands for its /etc/resolv.conf
}

func statePath() string { return filepath.Join(StateDir, "state.json") }

// ReadState reads the state of the lab that is up.
func ReadState() (*State, error) {
	data, err := os.ReadFile(statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("cannot find a lab that is up")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the lab's state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read the lab's state: %w", err)
	}
	return &s, nil
}

// writeState writes the state and the pods' resolv.conf files.
func (l *Lab) writeState() error {
	c := l.cluster.Load()
	if err := os.MkdirAll(StateDir, 0o755); err != nil {
		return fmt.Errorf("cannot create %s: %w", StateDir, err)
	}
	s := State{PID: os.Getpid(), DNS: dnsAddrs(c)[0].String(), Pods: make(map[string]PodState, len(l.pods))}
	written := make(map[string]bool)
	for key, p := range l.pods {
		conf := filepath.Join(StateDir, "resolv-"+shortHash(p.model.Namespace)+".conf")
		if !written[conf] {
			if err := replaceFile(conf, resolvConf(c, p.model.Namespace)); err != nil {
				return err
			}
			written[conf] = true
		}
		s.Pods[key] = PodState{NetNS: p.name, Node: p.model.Node, HostNetwork: p.model.HostNetwork, ResolvConf: conf}
	}
	data, err := json.MarshalIndent(&s, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the lab's state: %w", err)
	}
	return replaceFile(statePath(), string(data)+"\n")
}

// resolvConf is the /etc/resolv.conf of a namespace's pods.
func resolvConf(c *model.Cluster, namespace string) string {
	var b strings.Builder
	for _, a := range dnsAddrs(c) {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	b.WriteString("search")
	for _, d := range searchDomains(namespace) {
		b.WriteString(" " + strings.TrimSuffix(d, "."))
	}
	b.WriteByte('\n')
	b.WriteString("options ndots:5\n")
	return b.String()
}

// replaceFile writes a file such that readers see all or nothing of it.
func replaceFile(path, content string) error {
	next := path + ".new"
	if err := os.WriteFile(next, []byte(content), 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// Removed returns a context that ends, other than with the parent, when
// another process asks for the lab's end with TakeOver.
func (l *Lab) Removed(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		defer cancel()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if s, err := ReadState(); err != nil || s.PID != os.Getpid() {
					return
				}
			}
		}
	}()
	return ctx, cancel
}

// TakeOver asks the lab of any process that is up to end, by removing its
// state, and takes the lock when it has ended. A process that was killed has
// no lock any more.
func TakeOver(ctx context.Context) (unlock func(), err error) {
	state, err := ReadState()
	if err == nil {
		err = os.Remove(statePath())
	}
	unlock, lockErr := Lock(ctx)
	if lockErr != nil && err == nil {
		return nil, fmt.Errorf("cannot remove the lab: process %d has it and does not end: %w", state.PID, lockErr)
	}
	return unlock, lockErr
}

func removeState() error {
	if err := os.RemoveAll(StateDir); err != nil {
		return fmt.Errorf("cannot remove %s: %w", StateDir, err)
	}
	return nil
}
