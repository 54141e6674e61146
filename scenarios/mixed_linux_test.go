package scenarios_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// outsiders are addresses outside the cluster, at the edges of blocks.
var outsiders = []string{"203.0.113.127", "203.0.113.128", "203.0.113.200", "203.0.113.208", "8.8.8.8"}

// TestMixedDialectsInTheKernel has policies of all families on the same pods,
// made at random and changed step by step, decide about real connections, and
// holds each against the reference. SALLYPORT_CASES is how many.
func TestMixedDialectsInTheKernel(t *testing.T) {
	needRoot(t)
	const perStep, stepsPerCluster, standard = 120, 6, 1440
	cases := standard
	if text := os.Getenv("SALLYPORT_CASES"); text != "" {
		var err error
		if cases, err = strconv.Atoi(text); err != nil {
			t.Fatalf("SALLYPORT_CASES: %v", err)
		}
	}
	allowed, tried := 0, 0
	for seed := uint64(0); tried < cases; seed++ {
		c := synth.NewChaos(3*seed + 2) // those with everything
		m := mixed{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 7)), cluster: c.Cluster()}
		for range 6 {
			m.cluster.Policies = append(m.cluster.Policies, c.Policy())
		}
		m.start()
		for range stepsPerCluster {
			a, n := m.compare(c, perStep)
			allowed, tried = allowed+a, tried+n
			m.update(c)
		}
		m.stop()
	}
	t.Logf("%d connections tried, %d allowed", tried, allowed)
	if allowed < tried/20 || allowed > tried*19/20 {
		t.Errorf("%d of %d connections were allowed: too one-sided a test", allowed, tried)
	}
}

// mixed is a lab of a random cluster.
type mixed struct {
	t       *testing.T
	seed    uint64
	random  *rand.Rand
	cluster *model.Cluster
	lab     *agent.Lab
}

func (m *mixed) start() {
	var err error
	if m.lab, err = agent.StartLab(context.Background(), m.cluster); err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
}

func (m *mixed) stop() {
	if err := m.lab.Stop(); err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
}

// update changes policies and what they refer to. The pods, nodes and ranges
// stay: making them takes longer than trying them.
func (m *mixed) update(c *synth.Chaos) {
	for range 3 {
		next := c.Mutate(m.cluster)
		next.Endpoints, next.Nodes, next.PodRanges = m.cluster.Endpoints, m.cluster.Nodes, m.cluster.PodRanges
		m.cluster = next
	}
	if err := m.lab.Update(context.Background(), m.cluster); err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
}

// compare tries connections and holds the outcomes against the reference.
func (m *mixed) compare(c *synth.Chaos, n int) (allowed, tried int) {
	var list []agent.Observation
	var want []reference.Verdict
	for range n {
		src, rsrc := m.party()
		dst, rdst := m.party()
		key := c.Key()
		if src == dst || src.Endpoint == nil && dst.Endpoint == nil || key.Protocol() == model.ICMP {
			continue
		}
		o, err := m.lab.Observation(src, dst, key)
		if err != nil {
			m.t.Fatalf("seed %d: %v", m.seed, err)
		}
		list, want = append(list, o), append(want, reference.Judge(m.lab.Cluster(), rsrc, rdst, key))
	}
	m.lab.Observe(context.Background(), list, probePatience)
	for i, o := range list {
		passed := o.Outcome == lab.Connected || o.Outcome == lab.Refused
		if o.Outcome == lab.Failed || passed != want[i].Allowed {
			m.t.Errorf("seed %d: %+v: the packets say %v, the reference %+v", m.seed, o, o.Outcome, want[i])
		}
		if passed {
			allowed++
		}
	}
	return allowed, len(list)
}

// party is a pod with addresses of its own, or somebody outside.
func (m *mixed) party() (engine.Party, reference.Party) {
	e := &m.cluster.Endpoints[m.random.IntN(len(m.cluster.Endpoints))]
	if m.random.IntN(5) > 0 && !e.HostNetwork {
		return engine.Party{Endpoint: e, Addr: e.IPs[0]}, reference.Party{Pod: e, Addr: e.IPs[0]}
	}
	a := netip.MustParseAddr(outsiders[m.random.IntN(len(outsiders))])
	return engine.Party{Addr: a}, reference.Party{Addr: a}
}
