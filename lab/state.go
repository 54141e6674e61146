//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// StateDir is where a lab that is up says so to other processes.
const StateDir = "/run/sallyport/lab"

// State is what other processes can know of the lab that is up.
type State struct {
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
	s := State{DNS: dnsAddrs(c)[0].String(), Pods: make(map[string]PodState, len(l.pods))}
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

func removeState() error {
	if err := os.RemoveAll(StateDir); err != nil {
		return fmt.Errorf("cannot remove %s: %w", StateDir, err)
	}
	return nil
}
