package agent

import (
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
)

// fit has the Matrix published. If a table is full, there may be room once the
// Matrix is compiled from scratch, and it is published whole.
func fit(m *engine.Matrix, d engine.Delta, publish func(engine.Delta) error) error {
	err := publish(d)
	if full := (*datapath.FullError)(nil); errors.As(err, &full) {
		m.Recompile()
		err = publish(engine.Delta{Full: true})
	}
	return err
}

// When a Node compiles its Matrix from scratch: identities have become an
// eighth more than they were after the last time, and nothing has changed for
// a while that would have to wait. Everything that grew with them is made
// anew then: after 300 s in which everything changes, with 10,000 pods and
// 2,000 policies, they are a quarter more, and half the heap.
const (
	overgrown = 1.125
	tolerated = 128 // identities that are not worth it
	quietTime = time.Second
)

// prune compiles the Matrix from scratch at a quiet time, if that is worth it.
func (n *Node) prune() {
	before := n.matrix.Identities()
	if n.behind != nil || float64(before) <= overgrown*float64(n.fresh)+tolerated || time.Since(n.published) < quietTime {
		return
	}
	began := time.Now()
	n.matrix.Recompile()
	n.fresh = n.matrix.Identities()
	n.publish(engine.Delta{Full: true})
	n.log.Info("compiled from scratch", "identities_before", before, "identities", n.fresh, "took", time.Since(began))
}
