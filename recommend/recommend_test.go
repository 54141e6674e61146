package recommend

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// TestRecommendationsAdmitTheirFlows observes random connections of random
// clusters. Every one that could happen still can with what is recommended,
// and nobody reaches farther than before; what is proposed once is enough.
func TestRecommendationsAdmitTheirFlows(t *testing.T) {
	proposed, smaller := 0, 0
	for seed := range uint64(400) {
		c := synth.NewChaos(3 * seed) // NetworkPolicies and tiers, or NetworkPolicies alone
		if seed%2 == 0 {
			c = synth.NewChaos(3*seed + 1)
		}
		cluster := c.Cluster()
		for i := range cluster.Endpoints {
			cluster.Endpoints[i].Labels["app"] = cluster.Endpoints[i].Name
		}
		m := engine.Compile(cluster)
		records := dozen(c, cluster, m)
		p := FromFlows(cluster, records)
		trial := p.Try(p.Policies)
		if len(trial.Refused) > 0 || len(p.Gone) > 0 {
			t.Fatalf("seed %d: refused %+v, gone %+v", seed, trial.Refused, p.Gone)
		}
		if trial.After.Ports > trial.Before.Ports || trial.After.Pairs > trial.Before.Pairs {
			t.Fatalf("seed %d: reach grew from %+v to %+v", seed, trial.Before, trial.After)
		}
		if trial.After.Ports < trial.Before.Ports {
			smaller++
		}
		proposed += len(p.Policies)
		with := *cluster
		with.Policies = append(slices.Clone(cluster.Policies), p.Policies...)
		if again := FromFlows(&with, records); !c.Tiers && len(again.Policies) > 0 { // elsewhere a Pass may leave a pod open
			t.Fatalf("seed %d: with what was proposed, more is: %s", seed, again.Policies[0].Source)
		}
	}
	if proposed < 400 || smaller < 100 {
		t.Errorf("only %d policies proposed, %d clusters smaller", proposed, smaller)
	}
}

// dozen is as many flows, with what the Matrix says of them.
func dozen(c *synth.Chaos, cluster *model.Cluster, m *engine.Matrix) (records []flow.Record) {
	for range 12 {
		r, from, to := observed(c, cluster)
		r.Allowed = m.Verdict(from, to, r.Key).Allowed
		records = append(records, r)
	}
	return records
}

// observed is a flow between two pods, or a pod and an address outside.
func observed(c *synth.Chaos, cluster *model.Cluster) (flow.Record, engine.Party, engine.Party) {
	end := func() (netip.Addr, string, engine.Party) {
		e := &cluster.Endpoints[c.IntN(len(cluster.Endpoints))]
		if c.IntN(4) == 0 || e.HostNetwork {
			a := netip.AddrFrom4([4]byte{203, 0, 113, byte(c.IntN(4))})
			return a, "", engine.Party{Addr: a}
		}
		return e.IPs[0], e.Key(), engine.Party{Endpoint: e, Addr: e.IPs[0]}
	}
	var r flow.Record
	var from, to engine.Party
	for r.SourcePod == r.DestinationPod {
		r.Source, r.SourcePod, from = end()
		r.Destination, r.DestinationPod, to = end()
	}
	for r.Key = c.Key(); r.Key.Protocol() == model.ICMP; r.Key = c.Key() {
	}
	return r, from, to
}

func TestAddressesFold(t *testing.T) {
	var in []netip.Addr
	for _, a := range []string{"203.0.113.3", "203.0.113.1", "203.0.113.2", "203.0.113.0", "203.0.113.9", "203.0.113.8", "203.0.113.8", "2001:db8::1", "203.0.113.6"} {
		in = append(in, netip.MustParseAddr(a))
	}
	want := []string{"203.0.113.0/30", "203.0.113.6/32", "203.0.113.8/31", "2001:db8::1/128"}
	var got []string
	for _, p := range fold(in) {
		got = append(got, p.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSelectorsAreTheWorkloads(t *testing.T) {
	pod := func(name, owner string, labels map[string]string) model.Endpoint {
		labels["pod-template-hash"] = "x"
		return model.Endpoint{Namespace: "shop", Name: name, Labels: labels, Workload: model.Workload{Kind: "Deployment", Name: owner}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	}
	c := &model.Cluster{Endpoints: []model.Endpoint{
		pod("web-1", "web", map[string]string{"app": "shop", "role": "web", "pod": "1"}), pod("web-2", "web", map[string]string{"app": "shop", "role": "web", "pod": "2"}),
		pod("db-1", "db", map[string]string{"app": "shop", "role": "db"}),
		pod("old-1", "old", map[string]string{"app": "old"}), pod("twin-1", "twin", map[string]string{"app": "old"}),
	}}
	l := newWorkloads(c)
	for i, want := range map[int]string{0: "role=web", 2: "role=db", 3: "app=old"} {
		if got := l.selector(l.of(&c.Endpoints[i])).String(); got != want {
			t.Errorf("%s: %s, want %s", c.Endpoints[i].Name, got, want)
		}
	}
	if n := l.notes(); len(n) != 1 {
		t.Errorf("notes: %q", n)
	}
}
