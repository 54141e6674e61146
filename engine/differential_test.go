package engine_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

// edges are addresses at the edges of blocks.
var edges = []string{"203.0.113.0", "203.0.113.127", "203.0.113.128", "203.0.113.200", "203.0.113.207", "203.0.113.208",
	"8.8.8.8", "172.30.0.1", "172.30.0.2", "172.30.9.9", "10.0.0.1", "10.244.200.1", "10.243.255.255", "2001:db8::1",
}

// party is a pod, or an address at the edge of some block.
func party(c *synth.Chaos, cl *model.Cluster) (engine.Party, reference.Party) {
	if len(cl.Endpoints) > 0 && c.IntN(4) > 0 {
		e := &cl.Endpoints[c.IntN(len(cl.Endpoints))]
		return engine.Party{Endpoint: e, Addr: e.IPs[0]}, reference.Party{Pod: e, Addr: e.IPs[0]}
	}
	a := netip.MustParseAddr(edges[c.IntN(len(edges))])
	return engine.Party{Addr: a}, reference.Party{Addr: a}
}

// compare judges random flows both ways and reports the first difference.
func compareWithReference(c *synth.Chaos, cl *model.Cluster, m *engine.Matrix, flows int) error {
	for range flows {
		src, rsrc := party(c, cl)
		dst, rdst := party(c, cl)
		key := c.Key()
		got, want := m.Verdict(src, dst, key), reference.Judge(cl, rsrc, rdst, key)
		if got.Allowed != want.Allowed || said(got.Egress) != want.Egress || said(got.Ingress) != want.Ingress {
			return fmt.Errorf("%v to %v on %v: engine egress %v (%s) ingress %v (%s), reference %+v", name(rsrc), name(rdst), key,
				got.Egress.Allowed, got.Egress.Reason, got.Ingress.Allowed, got.Ingress.Reason, want)
		}
		if staged := reference.JudgeStaged(cl, rsrc, rdst, key); shadow(m, src, dst, model.Egress, key, want.Egress) != (staged.Egress == reference.Open) ||
			shadow(m, dst, src, model.Ingress, key, want.Ingress) != (staged.Ingress == reference.Open) {
			return fmt.Errorf("%v to %v on %v: shadow plane differs from reference %+v", name(rsrc), name(rdst), key, staged)
		}
		if err := checkStages(m, src, dst, key, got); err != nil {
			return fmt.Errorf("%v to %v on %v: %w", name(rsrc), name(rdst), key, err)
		}
		if m.Connections(src, dst).Contains(key) != want.Allowed {
			return fmt.Errorf("%v to %v on %v: Connections is %v, reference %v", name(rsrc), name(rdst), key, m.Connections(src, dst), want.Allowed)
		}
	}
	return nil
}

func said(d engine.Door) reference.Said {
	switch {
	case d.Allowed:
		return reference.Open
	case d.Reason == engine.ByCondition:
		return reference.Conditional
	}
	return reference.Shut
}

// shadow is what the gate's shadow plane says, and without a gate what is enforced.
func shadow(m *engine.Matrix, subject, peer engine.Party, d model.Direction, key model.PortKey, enforced reference.Said) bool {
	if subject.Endpoint == nil || subject.Endpoint.HostNetwork || subject == peer {
		return enforced == reference.Open
	}
	v := m.Verdict(subject, peer, key).Egress
	if d == model.Ingress {
		v = m.Verdict(peer, subject, key).Ingress
	}
	g := m.Gate(subject.Endpoint.Key(), d)
	if g == nil || v.Reason == engine.OwnNode || v.Reason == engine.UnknownPeer || v.Reason == engine.SamePod {
		return enforced == reference.Open
	}
	at := peer.Addr
	return g.At(key).Shadow.Has(m.AddressIdentity(at))
}

// checkStages has the tiers' walk come to the verdict.
func checkStages(m *engine.Matrix, src, dst engine.Party, key model.PortKey, v engine.Verdict) error {
	for _, door := range []engine.Door{v.Egress, v.Ingress} {
		open := reference.Open
		for _, s := range m.Stages(src, dst, key, door.Direction) {
			switch s.Said {
			case engine.SaidDeny, engine.EndDeny:
				open = min(open, reference.Shut)
			case engine.SaidAllowL7:
				open = min(open, reference.Conditional)
			}
		}
		if door.Policies != nil && door.Reason != engine.UnknownPeer && open != said(door) {
			return fmt.Errorf("%v: the stages say %v, the door %v", door.Direction, open, said(door))
		}
	}
	return nil
}

func name(p reference.Party) string {
	if p.Pod != nil {
		return p.Pod.Key()
	}
	return p.Addr.String()
}

// comparePairs holds EachPair against Connections.
func comparePairs(m *engine.Matrix) error {
	groups := m.Groups()
	seen := map[[2]int]string{}
	for pair, ports := range m.EachPair() {
		seen[pair] = ports.String()
	}
	for i, s := range groups {
		for j, d := range groups {
			src, dst := s.Endpoints[0], d.Endpoints[len(d.Endpoints)-1]
			if src == dst || src.HostNetwork {
				continue // the same pod; judged as from another node
			}
			if want := m.Connections(engine.Party{Endpoint: src}, engine.Party{Endpoint: dst}).String(); seen[[2]int{i, j}] != want {
				return fmt.Errorf("%s to %s: EachPair says %q, Connections %q", src.Key(), dst.Key(), seen[[2]int{i, j}], want)
			}
		}
	}
	return nil
}

// scratchCase compiles one random cluster and compares.
func scratchCase(seed uint64) error {
	c := synth.NewChaos(seed)
	cl := c.Cluster()
	m := engine.Compile(cl)
	if err := compareWithReference(c, cl, m, 60); err != nil {
		return err
	}
	return comparePairs(m)
}

// incrementalCase changes one random cluster step by step.
func incrementalCase(seed uint64) error {
	c := synth.NewChaos(seed)
	cl := c.Cluster()
	m := engine.Compile(cl)
	for step := range 12 {
		next := c.Mutate(cl)
		m.Apply(engine.Between(cl, next))
		cl = next
		if err := cmp.Or(m.CheckCounts(), compareWithReference(c, cl, m, 30), comparePairs(m)); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	return nil
}

// cases is how many random cases a test tries: SALLYPORT_CASES, or a few seconds' worth.
func cases(t *testing.T, standard uint64) uint64 {
	t.Helper()
	text := os.Getenv("SALLYPORT_CASES")
	if text == "" {
		return standard
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SALLYPORT_CASES: %v", err)
	}
	return n
}

func TestEngineEqualsReference(t *testing.T) {
	for seed := range cases(t, 20_000) {
		if err := scratchCase(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestIncrementalEqualsReference(t *testing.T) {
	for seed := range cases(t, 3_000) {
		if err := incrementalCase(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func FuzzEngineAgainstReference(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		if err := scratchCase(seed); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzIncremental(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		if err := incrementalCase(seed); err != nil {
			t.Fatal(err)
		}
	})
}
