package recommend

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/convert"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// TestRecommendationsDoWhatTheySay observes random connections of random
// clusters in all languages, and adds what is recommended as a user would: read
// from its YAML, in each language. The oracle, which shares no code with the
// engine, says that every flow passes that is not said to be refused, that none
// passes that is, and that nothing else opens: what is open and was not is
// between the workloads of a flow, on its port.
func TestRecommendationsDoWhatTheySay(t *testing.T) {
	clusters, passed, refused, shut, opened := 600, 0, 0, 0, 0
	if testing.Short() {
		clusters = 60
	}
	for seed := range uint64(clusters) {
		c := synth.NewChaos(seed)
		cluster := ofWorkloads(c)
		m := engine.Compile(cluster)
		records := dozen(c, cluster, m)
		p := FromFlows(cluster, records)
		if len(p.Gone) > 0 || len(p.Notes) > 0 {
			t.Fatalf("seed %d: gone %v, notes %q", seed, p.Gone, p.Notes)
		}
		if len(p.Policies) == 0 {
			continue
		}
		for _, target := range []convert.Target{"networkpolicy", "calico", "cilium"} {
			policies := written(t, seed, target, p, cluster)
			after := *cluster
			after.Policies = append(slices.Clone(cluster.Policies), policies...)
			said := p.Try(policies).Refused
			for _, r := range records {
				from, to := ended(cluster, r.SourcePod, r.Source), ended(cluster, r.DestinationPod, r.Destination)
				is := reference.Judge(&after, from, to, r.Key).Allowed
				if r.Allowed && is == slices.Contains(said, r) {
					t.Fatalf("seed %d, %s: %+v passes: %v, and is said to be refused: %v", seed, target, r, is, !is)
				}
				if !r.Allowed {
					continue
				}
				if is {
					passed++
				} else {
					refused++
				}
			}
			for range 200 {
				r, _, _ := observed(c, cluster)
				if near := records[c.IntN(len(records))]; c.IntN(2) == 0 { // what is beside a flow
					r.Key = near.Key
					if c.IntN(2) == 0 && near.DestinationPod != r.SourcePod {
						r.Destination, r.DestinationPod = near.Destination, near.DestinationPod
					} else if near.SourcePod != r.DestinationPod {
						r.Source, r.SourcePod = near.Source, near.SourcePod
					}
				}
				from, to := ended(cluster, r.SourcePod, r.Source), ended(cluster, r.DestinationPod, r.Destination)
				was, is := reference.Judge(cluster, from, to, r.Key).Allowed, reference.Judge(&after, from, to, r.Key).Allowed
				switch {
				case was && !is:
					shut++
				case is && !was:
					opened++
					if !slices.ContainsFunc(records, func(o flow.Record) bool { return o.Allowed && like(cluster, o, r) }) {
						t.Fatalf("seed %d, %s: %+v opens, and is like none of %+v", seed, target, r, records)
					}
				}
			}
		}
	}
	t.Logf("%d flows pass, %d are refused; of what else was tried, %d connections closed and %d opened", passed, refused, shut, opened)
	if passed < clusters || shut < clusters || refused > passed/10 {
		t.Error("that is not what recommendations are for")
	}
}

// ofWorkloads is a random cluster in which some pods are of one workload, and a
// label tells each workload from all others.
func ofWorkloads(c *synth.Chaos) *model.Cluster {
	out := c.Cluster()
	for i := range out.Endpoints {
		e := &out.Endpoints[i]
		if c.IntN(3) == 0 {
			e.Workload = model.Workload{Kind: "Deployment", Name: "web"}
		}
		e.Labels["app"] = e.Workload.Name
	}
	return out
}

// written is the proposal's policies as they are read from what is printed.
func written(t *testing.T, seed uint64, target convert.Target, p *Proposal, cluster *model.Cluster) []*model.Policy {
	t.Helper()
	proposed := *cluster
	proposed.Policies = p.Policies
	out, err := convert.To(target, &proposed)
	if err != nil {
		t.Fatalf("seed %d, %s: %v", seed, target, err)
	}
	r := manifest.Parse(map[string][]byte{"p.yaml": out.YAML}, []string{"p.yaml"}, manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatalf("seed %d, %s: %v in\n%s", seed, target, r.Problems, out.YAML)
	}
	return r.Cluster.Policies
}

func ended(c *model.Cluster, pod string, a netip.Addr) reference.Party {
	for i := range c.Endpoints {
		if c.Endpoints[i].Key() == pod {
			return reference.Party{Pod: &c.Endpoints[i], Addr: a}
		}
	}
	return reference.Party{Addr: a}
}

// like says whether the flows are between the same workloads or addresses, on
// the same port.
func like(c *model.Cluster, a, b flow.Record) bool {
	same := func(pa string, x netip.Addr, pb string, y netip.Addr) bool {
		if pa == "" || pb == "" {
			return pa == pb && x == y
		}
		p, q := ended(c, pa, x).Pod, ended(c, pb, y).Pod
		return p.Namespace == q.Namespace && p.Workload == q.Workload
	}
	return a.Key == b.Key && same(a.SourcePod, a.Source, b.SourcePod, b.Source) && same(a.DestinationPod, a.Destination, b.DestinationPod, b.Destination)
}
