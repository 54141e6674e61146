// Package agent wires the parts that enforce on one node: it loads the kernel
// program into the node's network namespace, keeps the planner that mirrors
// it, and publishes what the Matrix says. What the kernel enforces outlives
// the agent: Close leaves it in force, Remove ends it. One goroutine owns an
// Agent, but for Events.
package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
)

// Config says where an agent enforces.
type Config struct {
	Pin   string // folder of bpffs for maps and links; "" is bpf.DefaultPin
	NetNS string // path of the node's network namespace; "" is the process's

	// NoMount makes it an error that bpffs is not mounted: in a container it
	// would end with it.
	NoMount bool

	// Limits are the sizes of the kernel's tables, a zero being the default.
	// A node that is enforced on already keeps those it has.
	Limits datapath.Limits
}

// Agent enforces on one node.
type Agent struct {
	program   *bpf.Program
	publisher *datapath.Publisher
}

// New loads the program, or takes over what an earlier agent left in force.
// Until the first Publish of a new node nothing is forwarded.
func New(c Config) (*Agent, error) {
	p, err := bpf.Load(bpf.Options{Pin: c.Pin, NetNS: c.NetNS, NoMount: c.NoMount, Limits: c.Limits})
	if err != nil {
		return nil, err
	}
	var before *datapath.Snapshot
	if p.Revision() != 0 {
		if before, err = p.Snapshot(); err != nil {
			p.Close()
			return nil, fmt.Errorf("cannot take over the tables in %s: %w", c.Pin, err)
		}
	}
	return &Agent{
		program:   p,
		publisher: &datapath.Publisher{Planner: datapath.NewPlanner(p.Limits(), before), Kernel: p, Ahead: true},
	}, nil
}

// Publish brings a change of the Matrix into force. On an error the state
// before holds.
func (a *Agent) Publish(m *engine.Matrix, d engine.Delta, p datapath.Placement) error {
	return a.publisher.Publish(m, d, p)
}

// Revision is the revision last published.
func (a *Agent) Revision() datapath.Revision { return a.publisher.Planner.Revision() }

// Attribution explains the gates and subjects of events.
func (a *Agent) Attribution() *datapath.History { return a.publisher.Planner.History() }

// Events hands over verdicts until the context ends.
func (a *Agent) Events(ctx context.Context, handle func(flow.Event)) error {
	return a.program.Events(ctx, func(e *bpf.Event) { handle(e.Flow()) })
}

// Close ends the agent and leaves its policies in force.
func (a *Agent) Close() error { return a.program.Close() }

// Remove ends the enforcement.
func (a *Agent) Remove() error { return a.program.Remove() }

// Cleanup ends the enforcement that an agent of that configuration has left,
// and its nftables tables. Nothing to end is no error.
func Cleanup(c Config) error {
	p, err := newPlaces(c.NetNS)
	if err != nil {
		return err
	}
	defer p.close()
	return errors.Join(bpf.RemoveAll(c.Pin, c.NetNS), pinPorts(p.space, nil))
}
