package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/engine"
)

// audit compares the kernel with what it should hold, and puts right what
// somebody else has changed: links that were detached, a table that was
// flushed, entries that were written over.
func (n *Node) audit() {
	if n.agent == nil || n.matrix == nil {
		return
	}
	found := n.agent.drifted()
	if found == nil {
		n.ports = nil // written again, changed or not
		n.drift = n.pinned()
		return
	}
	n.counts.drift.Inc()
	n.log.Error("the kernel does not hold what was published; enforcing anew", "found", found)
	if err := n.renew(); err != nil {
		n.drift = fmt.Errorf("the kernel does not hold what was published (%w), and cannot be put right: %w", found, err)
		n.log.Error("cannot enforce anew", "error", err)
		n.reportSoon()
		return
	}
	n.drift = nil
	n.publish(engine.Delta{Full: true})
}

// lookRoundEvery is how often lookRound looks.
const lookRoundEvery = 5 * time.Minute

// lookRound looks for what takes packets around the program, until the context
// ends: that cannot be put right from here, but must not be silent.
func (n *Node) lookRound(ctx context.Context) {
	for {
		var found []string
		for _, c := range bpf.Detours(n.config.Enforce.NetNS) {
			if !c.OK {
				found = append(found, fmt.Sprintf("%s: %s; %s", c.Name, c.Detail, c.Remedy))
			}
		}
		n.mu.Lock()
		if !slices.Equal(n.detours, found) {
			for _, f := range found {
				n.log.Error("packets may go around the policies of this node", "found", f)
			}
			n.detours = found
			n.reportSoon()
		}
		n.mu.Unlock()
		if !sleep(ctx, lookRoundEvery) {
			return
		}
	}
}

// renew loads the program anew beside the old one, which it then replaces.
func (n *Node) renew() error {
	a, err := New(n.config.Enforce)
	if err != nil {
		return err
	}
	n.stopEvents()
	old := n.agent
	n.agent = a
	n.startEvents()
	return old.Close()
}

// drifted says how the kernel differs from what was published; nil: it does not.
func (a *Agent) drifted() error {
	if err := a.program.Attached(); err != nil {
		return err
	}
	s, err := a.program.Snapshot()
	if err != nil {
		return err
	}
	if diff := a.publisher.Planner.Differs(s); diff != "" {
		return errors.New(diff)
	}
	return nil
}
