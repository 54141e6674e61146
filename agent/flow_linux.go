package agent

import (
	"context"
	"sync"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/flow"
)

// flows hands what the kernel reports to everybody who asked. Who is too slow
// misses some, and is told how many by the metrics.
type flows struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
	lost    uint64
}

type reader struct {
	filter api.FlowFilter
	next   chan *flow.Flow
}

// backlog is how many flows a reader may be behind.
const backlog = 4096

func (f *flows) join(filter api.FlowFilter) *reader {
	r := &reader{filter, make(chan *flow.Flow, backlog)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == nil {
		f.readers = map[*reader]struct{}{}
	}
	f.readers[r] = struct{}{}
	return r
}

func (f *flows) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, r)
}

func (f *flows) wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers) > 0
}

func (f *flows) send(x *flow.Flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		if !r.filter.Matches(x) {
			continue
		}
		select {
		case r.next <- x:
		default:
			f.lost++
		}
	}
}

// handle explains an event of the kernel. Allowed connections are explained
// only if somebody asks.
func (n *Node) handle(e flow.Event) {
	if e.Allowed() && !n.flows.wanted() {
		return
	}
	n.mu.Lock()
	f := flow.Enricher{Matrix: n.matrix, Attribution: n.agent.Attribution()}.Enrich(e)
	n.mu.Unlock()
	n.counts.count(&f)
	n.flows.send(&f)
}

// Flows hands flows over until the context ends or handle fails.
func (n *Node) Flows(ctx context.Context, filter api.FlowFilter, handle func(*flow.Flow) error) error {
	r := n.flows.join(filter)
	defer n.flows.leave(r)
	for {
		select {
		case f := <-r.next:
			if err := handle(f); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
