package lint_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/model"
)

// TestWhatIsSuperfluousChangesNothing takes everything out of random clusters
// that lint calls superfluous, at once, and asks the oracle, which shares no
// code with the engine, about random connections.
func TestWhatIsSuperfluousChangesNothing(t *testing.T) {
	clusters, taken := 1500, map[string]int{}
	if testing.Short() {
		clusters = 150
	}
	for seed := range uint64(clusters) {
		chaos := synth.NewChaos(seed)
		c := chaos.Cluster()
		place(c)
		findings := superfluous(c)
		for _, f := range findings {
			taken[f.Code]++
		}
		versions := []*model.Cluster{without(c, findings)}
		if len(findings) > 1 {
			versions = append(versions, without(c, findings[chaos.IntN(len(findings)):][:1]))
		}
		outside := engine.Compile(c).Outside()
		for i := 0; i < 60 && len(findings) > 0; i++ {
			from, to, key := end(chaos, c, outside), end(chaos, c, outside), chaos.Key()
			for n, out := range versions {
				if was, is := reference.Judge(c, from, to, key), reference.Judge(out, from, to, key); was != is {
					t.Fatalf("seed %d, %s: %v to %v %v: %v before, %v after", seed, [...]string{"all", "one"}[n], from, to, key, was, is)
				}
			}
		}
	}
	t.Log("taken out:", taken)
	for _, code := range []string{"SP1301", "SP1302", "SP1303", "SP1304"} {
		if taken[code] == 0 {
			t.Errorf("%s was never found", code)
		}
	}
}

// place gives every rule a place of its own.
func place(c *model.Cluster) {
	for _, p := range c.Policies {
		for _, s := range []*model.Section{p.Ingress, p.Egress} {
			for i := 0; s != nil && i < len(s.Rules); i++ {
				s.Rules[i].Source = p.Source.At(fmt.Sprintf("%v[%d]", s == p.Ingress, i), 0, 0)
			}
		}
	}
}

// superfluous are the findings about what changes nothing.
func superfluous(c *model.Cluster) []lint.Finding {
	return slices.DeleteFunc(lint.Run(lint.Input{Cluster: c, Matrix: engine.Compile(c)}), func(f lint.Finding) bool {
		return !strings.HasPrefix(f.Code, "SP130")
	})
}

// without is the cluster without the policies and rules of the findings.
func without(c *model.Cluster, findings []lint.Finding) *model.Cluster {
	gone := map[model.Source]bool{}
	for _, f := range findings {
		gone[f.Source] = true
	}
	out := *c
	out.Policies = nil
	for _, p := range c.Policies {
		if gone[p.Source] {
			continue
		}
		q := *p
		for _, s := range []**model.Section{&q.Ingress, &q.Egress} {
			if *s == nil {
				continue
			}
			kept := **s
			kept.Rules = slices.DeleteFunc(slices.Clone(kept.Rules), func(r model.Rule) bool { return gone[r.Source] })
			*s = &kept
		}
		out.Policies = append(out.Policies, &q)
	}
	return &out
}

// end is a random end of a connection.
func end(chaos *synth.Chaos, c *model.Cluster, outside []netip.Addr) reference.Party {
	if chaos.IntN(4) > 0 {
		e := &c.Endpoints[chaos.IntN(len(c.Endpoints))]
		return reference.Party{Pod: e, Addr: e.IPs[0]}
	}
	return reference.Party{Addr: outside[chaos.IntN(len(outside))]}
}

// TestTogetherFindsTheSame looks at random clusters, and at a larger one, on
// several cores: -race sees what they share.
func TestTogetherFindsTheSame(t *testing.T) {
	clusters := []*model.Cluster{synth.Dialects(synth.Scale(synth.Params{Pods: 400, Workloads: 80, Policies: 200, Seed: 3}))}
	for seed := range uint64(60) {
		clusters = append(clusters, synth.NewChaos(seed).Cluster())
	}
	for i, c := range clusters {
		in := lint.Input{Cluster: c, Matrix: engine.Compile(c)}
		want := lint.Run(in)
		in.Together = func(functions ...func()) {
			var all sync.WaitGroup
			for _, f := range functions {
				all.Go(f)
			}
			all.Wait()
		}
		if got := lint.Run(in); !reflect.DeepEqual(got, want) {
			t.Errorf("cluster %d: %d findings, want %d", i, len(got), len(want))
		}
	}
}
