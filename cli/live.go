package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
)

const (
	liveTimeout  = time.Second // a probe that nobody answers takes as long
	liveParallel = 16          // probes at a time
)

// prober tries connections: in a lab, or in a live cluster. Outcomes are
// lab.Outcome's words; one that has an error could not be tried.
type prober interface {
	probe(context.Context, []connection) ([]api.Outcome, error)
}

// connection is what a prober tries.
type connection struct {
	From, To engine.Party
	Key      model.PortKey
}

// clusterProber has the agents connect from inside the pods of their nodes.
type clusterProber struct {
	agents map[string]*api.Client
	step   func()
}

// live checks the expectations with real connections in the live cluster.
func (s *session) live(ctx context.Context, expect []string, print func([]caseResult) error) error {
	cases, err := s.cases(nil, expect)
	if err != nil {
		return err
	}
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return environment(err)
	}
	c, problems, err := s.liveCluster(ctx, cfg)
	if err != nil {
		return err
	}
	s.printProblems(problems)
	agents, err := clusterAgents(ctx, cfg, "")
	if err != nil {
		return err
	}
	p := s.progress("connecting", 0)
	results, err := observeCases(ctx, engine.Compile(c), cases, &clusterProber{agents, p.step})
	p.end()
	if err != nil {
		return environment(err)
	}
	return s.conclude(results, print)
}

func (p *clusterProber) probe(ctx context.Context, list []connection) ([]api.Outcome, error) {
	out := make([]api.Outcome, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(liveParallel)
	for i, k := range list {
		g.Go(func() (err error) {
			out[i], err = p.try(ctx, k)
			p.step()
			return err
		})
	}
	return out, g.Wait()
}

func (p *clusterProber) try(ctx context.Context, k connection) (api.Outcome, error) {
	e := k.From.Endpoint
	if e == nil || e.HostNetwork {
		return api.Outcome{Result: "failed", Error: "cannot probe from what is no pod"}, nil
	}
	client := p.agents[e.Node]
	if client == nil {
		return api.Outcome{Result: "failed", Error: "no agent runs on node " + e.Node}, nil
	}
	to, err := addressOf(k)
	if err != nil {
		return api.Outcome{Result: "failed", Error: err.Error()}, nil
	}
	return client.Probe(ctx, api.Probe{From: e.Key(), Source: k.From.Addr, To: to, Protocol: k.Key.Protocol(), Port: k.Key.Port(), Timeout: liveTimeout})
}

func addressOf(k connection) (netip.Addr, error) {
	if k.To.Addr.IsValid() {
		return k.To.Addr, nil
	}
	if k.To.Endpoint != nil && len(k.To.Endpoint.IPs) > 0 {
		return k.To.Endpoint.IPs[0], nil
	}
	return netip.Addr{}, fmt.Errorf("cannot probe %s%s: its address is not known", k.To.Node, partyName(k.To, ""))
}

// observeCases holds every case against what the prober finds.
func observeCases(ctx context.Context, m *engine.Matrix, cases []policytest.Case, p prober) ([]caseResult, error) {
	results := make([]caseResult, len(cases))
	for i := range cases {
		var err error
		if results[i], err = observeCase(ctx, m, &cases[i], p); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// observeCase observes every check of a case.
func observeCase(ctx context.Context, m *engine.Matrix, c *policytest.Case, p prober) (caseResult, error) {
	out := caseResult{Name: c.Name, Test: c.Test, Expect: verdictWord(c.Allow), Passed: true, place: c.Source.Place()}
	checks, err := policytest.Expand(m, c)
	if err != nil {
		out.Passed = false
		out.Failures = []failure{{Error: err.Error()}}
		return out, nil
	}
	var list []connection
	for _, k := range checks {
		for _, key := range probedKeys(k) {
			list = append(list, connection{k.From, k.To, key})
		}
	}
	out.Checks = len(list)
	if len(list) == 0 {
		out.Passed = false
		out.Failures = []failure{{Error: "nothing in this case can be probed: no TCP or UDP port is served"}}
		return out, nil
	}
	observed, err := p.probe(ctx, list)
	if err != nil {
		return out, err
	}
	for i, o := range observed {
		reached := o.Result == "connected" || o.Result == "refused"
		if o.Result != "failed" && reached == c.Allow {
			continue
		}
		out.Passed = false
		k := list[i]
		from, to := partyName(k.From, c.From.Text), partyName(k.To, c.To.Text)
		if o.Error != "" {
			out.Failures = append(out.Failures, failure{Error: fmt.Sprintf("%s → %s %s: %s", from, to, k.Key, o.Error)})
			continue
		}
		e := report.Explain(from, to, k.Key, m.Verdict(k.From, k.To, k.Key))
		out.Failures = append(out.Failures, failure{From: from, To: to, Differs: fmt.Sprintf("%s (observed: %s)", k.Key, o.Result), Explanation: &e})
	}
	return out, nil
}

// conclude prints the results; a failed one makes the exit code.
func (s *session) conclude(results []caseResult, print func([]caseResult) error) error {
	if err := print(results); err != nil {
		return err
	}
	if slices.ContainsFunc(results, func(c caseResult) bool { return !c.Passed }) {
		return exit{code: ExitFindings}
	}
	return nil
}

func verdictWord(allowed bool) string {
	if allowed {
		return "allow"
	}
	return "deny"
}

// probedKeys lists the ports of a check to connect to: single ports as they
// are, of ranges the ends and what the destination serves.
func probedKeys(k policytest.Check) []model.PortKey {
	var out []model.PortKey
	add := func(key model.PortKey) {
		if p := key.Protocol(); (p == model.TCP || p == model.UDP) && key.Port() != 0 && k.Ports.Contains(key) {
			out = append(out, key)
		}
	}
	for _, iv := range k.Ports {
		if iv.First.Protocol() == iv.Last.Protocol() {
			add(iv.First)
			if iv.Last != iv.First {
				add(iv.Last)
			}
		}
	}
	if k.To.Endpoint != nil {
		for _, p := range k.To.Endpoint.Ports {
			if key := model.PortKeyOf(p.Protocol, p.Number); !slices.Contains(out, key) {
				add(key)
			}
		}
	}
	return out
}
