package parity

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

var (
	cases = flag.Int("cases", 1000, "how many random sets of policies")
	seed  = flag.Uint64("seed", 1, "of the first set; set n has seed+n")
)

// flows are the connections that each pair tries.
var flows = []struct {
	protocol model.Protocol
	port     uint16 // of ICMP the type
}{
	{model.TCP, 53}, {model.TCP, 80}, {model.TCP, 81}, {model.TCP, 443}, {model.TCP, 8080}, {model.TCP, 8090},
	{model.UDP, 53}, {model.UDP, 80}, {model.SCTP, 80}, {model.ICMP, 8}, {model.ICMP, 13},
}

func keyOf(p model.Protocol, port uint16) model.PortKey {
	if p == model.ICMP {
		port <<= 8
	}
	return model.PortKeyOf(p, port)
}

// TestMeaning has both sides decide every connection of random policies, at
// each pod's doors.
func TestMeaning(t *testing.T) {
	count := map[decision]int{}
	accepted := 0
	for n := range *cases {
		g := &generator{Rand: rand.New(rand.NewPCG(*seed+uint64(n), 7)), nodes: (*seed+uint64(n))%3 == 0}
		if compare(t, *seed+uint64(n), g, count) {
			accepted++
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d sets, %d of them without a rejected object; decisions %v", *cases, accepted, count)
	if !t.Failed() && (count[open] == 0 || count[shut] == 0 || count[throughL7] == 0) {
		t.Error("some decision never came up")
	}
}

// compare says whether the set could be compared: one with an object that
// Cilium rejects is not, for its agent ignores it and we close its pods.
func compare(t *testing.T, seed uint64, g *generator, count map[decision]int) bool {
	t.Helper()
	policies := g.policies()
	text := strings.Join(policies, "---\n")
	r := manifest.Parse(map[string][]byte{"w.yaml": []byte(worldYAML), "p.yaml": []byte(text)}, []string{"w.yaml", "p.yaml"}, manifest.Options{})
	w := newWorld(r.Cluster, g.nodes)
	a := newAgent(w.identities, w.ports)
	for _, p := range policies {
		id, entries, err := parse([]byte(p))
		own := manifest.Parse(map[string][]byte{"p.yaml": []byte(p)}, []string{"p.yaml"}, manifest.Options{})
		if said := differs(own.Problems, err); said != "" {
			t.Errorf("seed %d: %s\n%s", seed, said, p)
		}
		if err != nil || model.HasErrors(own.Problems) {
			return false
		}
		a.add(id, entries)
	}
	m := engine.Compile(r.Cluster)
	for _, subject := range w.pods {
		for _, p := range slices.Concat(w.pods, w.others) {
			for _, d := range []model.Direction{model.Ingress, model.Egress} {
				if !door(t, m, a, subject, p, d, count) {
					t.Logf("seed %d:\n%s", seed, text)
					return true
				}
			}
		}
	}
	return true
}

// door compares one pod's door towards one peer. Doors that we never shut are
// left out: a pod to itself, and its own node to it.
func door(t *testing.T, m *engine.Matrix, a *agent, subject, p peer, d model.Direction, count map[decision]int) bool {
	t.Helper()
	for _, f := range flows {
		var ours engine.Door
		if d == model.Ingress {
			ours = m.Verdict(p.party, subject.party, keyOf(f.protocol, f.port)).Ingress
		} else {
			ours = m.Verdict(subject.party, p.party, keyOf(f.protocol, f.port)).Egress
		}
		if ours.Reason == engine.SamePod || ours.Reason == engine.OwnNode {
			return true
		}
		theirs, err := a.decide(subject.vendor, p.vendor.ID, d, f.protocol, f.port)
		if err != nil {
			t.Errorf("Cilium cannot compute the policy of %s: %v", subject, err)
			return false
		}
		count[theirs]++
		if !same(ours, theirs) {
			t.Errorf("%s of %s, peer %s, %s: Cilium says %s, ours allowed %t (%s)", d, subject, p,
				fmt.Sprintf("%s %d", f.protocol, f.port), theirs, ours.Allowed, ours.Reason)
			return false
		}
	}
	return true
}

// same says whether the two decisions agree. What Cilium sends through its
// proxy may be free there (HTTP rules that allow everything, because another
// rule does) or not; for us the one is open and the other conditional.
func same(ours engine.Door, theirs decision) bool {
	switch theirs {
	case open:
		return ours.Allowed
	case shut:
		return !ours.Allowed && ours.Reason != engine.ByCondition
	}
	return ours.Allowed || ours.Reason == engine.ByCondition
}
