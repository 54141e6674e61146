package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sallyport-dev/sallyport/kube"
)

// reportEvery bounds what all nodes together ask of the API server: 50 writes a
// second, and no node more than one.
func reportEvery(nodes int) time.Duration {
	return max(time.Second, time.Duration(nodes)*time.Second/50)
}

// reportSoon has the state reported.
func (n *Node) reportSoon() {
	select {
	case n.report <- struct{}{}:
	default:
	}
}

// refreshReport is how old a report may get without a change.
const refreshReport = 5 * time.Minute

// reportLoop reports the state when it has changed, at a bounded rate, and now
// and then without a change: who reads it sees that the agent is alive. The
// first one waits a random part of the interval, so that agents that start
// together do not report together.
func (n *Node) reportLoop(ctx context.Context) error {
	n.mu.Lock()
	nodes := len(n.nodes)
	n.mu.Unlock()
	wait := time.Duration(rand.Int64N(int64(n.config.ReportEvery(nodes))))
	for {
		if !sleep(ctx, wait) {
			return nil
		}
		select {
		case <-n.report:
		case <-time.After(refreshReport):
		case <-ctx.Done():
			return nil
		}
		n.mu.Lock()
		nodes = len(n.nodes)
		n.mu.Unlock()
		wait = n.config.ReportEvery(nodes)
		if err := n.config.Report(ctx, n.state()); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot report this node's state; it is enforced all the same", "error", err)
			n.reportSoon()
			wait = max(wait, 5*time.Second)
		}
	}
}

// state is what the API server is told.
func (n *Node) state() kube.NodeState {
	s := n.Status()
	enforced := 0
	n.mu.Lock()
	for key := range n.local {
		if n.placement.Local[key] != 0 {
			enforced++
		}
	}
	n.mu.Unlock()
	return kube.NodeState{
		Ready: s.Ready, Degraded: s.Degraded, Realised: s.Realised, Revision: int64(s.Revision), Version: s.Version,
		Policies: s.Policies, Endpoints: enforced, Problems: s.Problems, Updated: time.Now(),
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
