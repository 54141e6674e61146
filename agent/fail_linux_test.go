package agent

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// failing is the real kernel with a write that fails.
type failing struct {
	datapath.Kernel
	at int // the number of the write before Publish, from 0
}

// unknown is an operation that no kernel can execute.
type unknown struct{ datapath.Op }

func (f *failing) Apply(tx datapath.Tx) error {
	publish := slices.IndexFunc(tx, func(op datapath.Op) bool { _, ok := op.(datapath.Publish); return ok })
	if f.at < publish {
		tx = slices.Clone(tx)
		tx[f.at] = unknown{tx[f.at]}
	}
	return f.Kernel.Apply(tx)
}

// A change fails at its first write, then at its second and so on, under
// traffic: the old state holds to the last entry, and the change comes into
// force as soon as no write fails.
func TestFailuresAtEveryWriteChangeNothing(t *testing.T) {
	needRoot(t)
	const strangers = 20
	states := [2]*model.Cluster{cluster(t, town(0)), cluster(t, town(1))}
	l := start(t, states[0])
	placement := l.placement(l.cluster.Nodes[0])
	for i := range states {
		states[i] = crowd(states[i], i, strangers)
	}
	a, m := l.agents["node-0"], l.Matrix
	must(t, a.Publish(m, m.Apply(engine.Between(l.cluster, states[0])), placement))
	denied := []*stream{startStream(t, l, "a/mover", "a/goal"), startStream(t, l, "a/stranger", "a/house")}
	allowed, connection := startStream(t, l, "a/regular", "a/open"), startSession(t, l, "a/regular", "a/open")
	witness := startStream(t, l, "a/guest", "a/club")
	kernel := &failing{Kernel: a.program}
	a.publisher.Kernel = kernel
	failures := 0
	for i := range 4 {
		from, to := i%2, 1-i%2
		delta := m.Apply(engine.Between(states[from], states[to]))
		before, err := a.program.Snapshot()
		must(t, err)
		for kernel.at = 0; ; kernel.at++ {
			err := a.Publish(m, delta, placement)
			if err == nil {
				break
			}
			if !errors.Is(err, bpf.ErrInvalidTx) {
				t.Fatal(err)
			}
			failures++
			delta = engine.Delta{}
			after, err := a.program.Snapshot()
			must(t, err)
			if !reflect.DeepEqual(before, after) {
				t.Fatalf("a failure at write %d left something behind", kernel.at)
			}
			if kernel.at%10 == 0 && witness.passes(from == 0) != (from == 0) {
				t.Fatalf("a failure at write %d changed what is enforced", kernel.at)
			}
		}
		if witness.passes(to == 0) != (to == 0) {
			t.Fatalf("change %d did not come into force after %d failures: %d, %d", i, kernel.at, witness.sent.Load(), witness.arrived.Load())
		}
	}
	t.Logf("%d failures, %d denied packets, %d allowed, %d round trips", failures, denied[0].sent.Load(), allowed.sent.Load(), connection.trips.Load())
	for _, s := range denied {
		s.wantSilence(t)
	}
	allowed.wantAll(t)
	connection.wantUnbroken(t)
	if failures < 100 {
		t.Errorf("only %d failures: nothing was tested", failures)
	}
}
