package scenarios_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// probePatience is how long a probe waits before it counts as dropped.
const probePatience = 400 * time.Millisecond

// Lab is the executor that makes the scenario's pods, enforces its policies in
// the kernel and sends real packets.
type Lab struct{ *tally }

// tally is how much of what the scenarios ask of was tried.
type tally struct{ scenarios, asked, tried int }

// Start brings the lab up and tries everything that the scenario's cases ask
// at once, so that the patience with dropped packets is spent only once.
func (l Lab) Start(t testing.TB, s *scenarios.Scenario) scenarios.World {
	t.Helper()
	up, err := agent.StartLab(context.Background(), s.Cluster)
	if err != nil {
		t.Fatalf("cannot start a lab of %s: %v", s.Name, err)
	}
	t.Cleanup(func() {
		if err := up.Stop(); err != nil {
			t.Errorf("cannot remove the lab of %s: %v", s.Name, err)
		}
	})
	w := &labWorld{lab: up, tally: l.tally, outcomes: map[string]lab.Outcome{}}
	w.try(t, s)
	return scenarios.Judge(w.judge)
}

type labWorld struct {
	lab      *agent.Lab
	tally    *tally
	outcomes map[string]lab.Outcome
}

func (w *labWorld) try(t testing.TB, s *scenarios.Scenario) {
	t.Helper()
	var list []agent.Observation
	var keys []string
	untried := map[string]bool{}
	for i := range s.Cases {
		checks, err := policytest.Expand(w.lab.Matrix, &s.Cases[i])
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		for _, c := range checks {
			for _, port := range scenarios.Samples(c) {
				key := probeKey(c.From, c.To, port)
				if slices.Contains(keys, key) {
					continue
				}
				if !w.canTry(c.From, c.To, port) {
					untried[key] = true
					continue
				}
				o, err := w.lab.Observation(w.party(c.From), w.party(c.To), port)
				if err != nil {
					t.Fatalf("%s: cannot make the probe %s: %v", s.Name, key, err)
				}
				list, keys = append(list, o), append(keys, key)
			}
		}
	}
	w.lab.Observe(context.Background(), list, probePatience)
	for i, o := range list {
		w.outcomes[keys[i]] = o.Outcome
	}
	if len(list) == 0 {
		t.Errorf("%s speaks only of what the lab has no client for: nothing was tried", s.Name)
	}
	w.tally.scenarios++
	w.tally.tried += len(list)
	w.tally.asked += len(list) + len(untried)
}

func probeKey(from, to engine.Party, port model.PortKey) string {
	return fmt.Sprintf("%s(%v) to %s(%v) on %s", partyKey(from), from.Addr, partyKey(to), to.Addr, port)
}

func partyKey(p engine.Party) string {
	if p.Endpoint != nil {
		return p.Endpoint.Key()
	}
	return p.Node
}

// canTry leaves out what the lab has no client or server for, and ICMP of the
// family that the addresses are not.
func (w *labWorld) canTry(from, to engine.Party, port model.PortKey) bool {
	v6 := to.Addr.Is6() || from.Addr.Is6()
	switch port.Protocol() {
	case model.TCP, model.UDP, model.SCTP:
	case model.ICMP, model.ICMPv6:
		if v6 != (port.Protocol() == model.ICMPv6) || port.Port() != 8<<8 && port.Port() != 128<<8 {
			return false
		}
	default:
		return false
	}
	return !w.nobody(from) && !w.nobody(to)
}

// nobody says whether the party is an address in a pod range that no pod has.
func (w *labWorld) nobody(p engine.Party) bool {
	return p.Endpoint == nil && slices.ContainsFunc(w.lab.Matrix.PodRanges(), func(r netip.Prefix) bool { return r.Contains(p.Addr) })
}

// party turns a node's address and a hostNetwork pod into the node.
func (w *labWorld) party(p engine.Party) engine.Party {
	if p.Endpoint != nil && p.Endpoint.HostNetwork {
		return engine.Party{Node: p.Endpoint.Node}
	}
	for _, n := range w.lab.Cluster().Nodes {
		if p.Endpoint == nil && slices.Contains(n.IPs, p.Addr) {
			return engine.Party{Node: n.Name, Addr: p.Addr}
		}
	}
	return p
}

func (w *labWorld) judge(from, to engine.Party, port model.PortKey) (bool, error) {
	outcome, tried := w.outcomes[probeKey(from, to, port)]
	switch {
	case !tried:
		return false, scenarios.ErrUntried
	case outcome == lab.Failed:
		return false, fmt.Errorf("the probe %s could not be sent", probeKey(from, to, port))
	}
	return outcome == lab.Connected || outcome == lab.Refused, nil
}

// TestLab takes every scenario to a lab with real packets.
func TestLab(t *testing.T) {
	needRoot(t)
	var n tally
	runAll(t, Lab{&n})
	t.Logf("%d of %d connections tried, of %d scenarios", n.tried, n.asked, n.scenarios)
	if n.scenarios == len(load(t)) && n.tried < n.asked*4/5 {
		t.Error("too little was tried: the test has lost its teeth")
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
		t.Fatal("this test needs root, and SALLYPORT_REQUIRE_ROOT is set")
	}
	t.Skip("SKIPPED, NOT TESTED: needs root for network namespaces and BPF")
}
