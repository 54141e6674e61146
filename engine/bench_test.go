package engine_test

import (
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

// pairs walks all pairs and returns how many connect.
func pairs(m *engine.Matrix) int {
	n := 0
	for range m.EachPair() {
		n++
	}
	return n
}

func BenchmarkCompileAndAllPairs(b *testing.B) {
	c := synth.Scale(synth.Ten)
	var m *engine.Matrix
	n := 0
	for b.Loop() {
		m = engine.Compile(c)
		n = pairs(m)
	}
	groups := len(m.Groups())
	b.ReportMetric(float64(m.Identities()), "identities")
	b.ReportMetric(100*float64(n)/float64(groups*groups), "%connected")
}

// BenchmarkDialects compiles the same pods and selectors once with
// NetworkPolicies and once with policies of four languages, by turns.
func BenchmarkDialects(b *testing.B) {
	plain := synth.Scale(synth.Ten)
	mixed := synth.Dialects(plain)
	took := func(c *model.Cluster) float64 {
		runtime.GC()
		start := time.Now()
		engine.Compile(c)
		return time.Since(start).Seconds()
	}
	var ratios []float64
	for b.Loop() {
		ratios = append(ratios, took(mixed)/took(plain))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "mixed/plain")
}

// BenchmarkCompile100k reports the memory that the process holds after it, the
// cluster itself and garbage included.
func BenchmarkCompile100k(b *testing.B) {
	c := synth.Scale(synth.Hundred)
	var m *engine.Matrix
	for b.Loop() {
		m = engine.Compile(c)
	}
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	b.ReportMetric(float64(sample[0].Value.Uint64()-sample[1].Value.Uint64())/(1<<20), "held-MB")
	b.ReportMetric(float64(m.Identities()), "identities")
}

// warm compiles the cluster and all its gates.
func warm() (*model.Cluster, *engine.Matrix) {
	c := synth.Scale(synth.Ten)
	m := engine.Compile(c)
	pairs(m)
	return c, m
}

func BenchmarkPodOfKnownWorkloadAppears(b *testing.B) {
	c, m := warm()
	i := 0
	for b.Loop() {
		e := c.Endpoints[i%len(c.Endpoints)]
		e.Name += "-new"
		if i%2 == 0 {
			m.Apply(engine.Change{Endpoints: []*model.Endpoint{&e}})
		} else {
			m.Apply(engine.Change{DeletedEndpoints: []string{c.Endpoints[(i-1)%len(c.Endpoints)].Key() + "-new"}})
		}
		i++
	}
}

// recompute is what a publisher asks after a change: the doors that it touched.
func recompute(m *engine.Matrix, d engine.Delta) {
	for _, key := range d.Endpoints {
		m.Gate(key, model.Ingress)
		m.Gate(key, model.Egress)
	}
}

func BenchmarkPolicyChangesWithoutSplit(b *testing.B) {
	c, m := warm()
	i := 0
	for b.Loop() {
		p := *c.Policies[100+i%4000] // past the default denies, which have no rules
		in := *p.Ingress
		in.Rules = append([]model.Rule(nil), in.Rules...)
		in.Rules[0].Ports, in.Rules[0].AnyPort = []model.Port{{Protocol: model.TCP, First: uint16(7000 + i%50), Last: uint16(7000 + i%50)}}, false
		p.Ingress = &in
		recompute(m, m.Apply(engine.Change{Policies: []*model.Policy{&p}}))
		i++
	}
}

func BenchmarkPolicySplitsATenthOfThePods(b *testing.B) {
	c, _ := warm()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		m := engine.Compile(c)
		pairs(m)
		// A tenth of the pods by a label value that no policy has asked for.
		p := &model.Policy{
			Source: model.Source{Kind: "NetworkPolicy", Namespace: "ns-0", Name: "split" + strconv.Itoa(i)}, Tier: model.TierDefault, Order: model.KubernetesOrder,
			Subject: model.EndpointSelector{Namespace: "ns-0", Pods: model.MatchLabels(map[string]string{"app": "app-1"})},
			Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{AnyPort: true, Peers: []model.Peer{{
				Pods: &model.EndpointSelector{Pods: model.MatchLabels(map[string]string{"version": strconv.Itoa(i % 13)})},
			}}}}},
		}
		b.StartTimer()
		recompute(m, m.Apply(engine.Change{Policies: []*model.Policy{p}}))
	}
}

// BenchmarkExplain asks why random pairs may connect or not, door by door and
// tier by tier, and what nearly matched: once loaded, by turns in NetworkPolicies
// and in four languages.
func BenchmarkExplain(b *testing.B) {
	plain := synth.Scale(synth.Ten)
	for name, c := range map[string]*model.Cluster{"kubernetes": plain, "four-languages": synth.Dialects(plain)} {
		b.Run(name, func(b *testing.B) {
			m := engine.Compile(c)
			i := 0
			for b.Loop() {
				i += 7919
				from, to := engine.Party{Endpoint: &c.Endpoints[i%len(c.Endpoints)]}, engine.Party{Endpoint: &c.Endpoints[i*31%len(c.Endpoints)]}
				key := model.PortKeyOf(model.TCP, 8080)
				m.Verdict(from, to, key)
				for _, d := range []model.Direction{model.Egress, model.Ingress} {
					m.Stages(from, to, key, d)
					m.Misses(from, to, key, d)
				}
				m.Connections(from, to)
			}
		})
	}
}
