package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

type checkFlags struct {
	namespace string
	policies  []string
	flows     string
}

func newCheck(s *session) *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check --test-policy FILE",
		Short: "Before deployment: what a policy would open, close and break",
		Long: `Adds the policies of FILE to the live cluster's, or to those of -f, in the place
of those that have the same name, without applying anything. It says which
connections open and close, what lint finds that it did not find before, and
which of the connections that were recorded in --flows would be cut.

Exit code 0 if no connection closes or opens, nothing is found and no recorded
connection breaks, 1 if so, 4 if a policy is wrong.`,
		Example: `  sallyport check --kubeconfig ~/.kube/config --namespace production --test-policy policy.yaml --output detailed
  sallyport check -f manifests/ --test-policy policy.yaml --flows flows.json
  sallyport check --test-policy new/ --output json | jq .broken`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.check(c.Context(), f) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "detailed", "brief", "detailed", "json")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "namespace of policies that name none")
	c.Flags().StringArrayVar(&f.policies, "test-policy", nil, "file or folder of policies to try (repeatable)")
	c.Flags().StringVar(&f.flows, "flows", "", "recorded flows: lines of sallyport monitor -o json, or of Hubble's")
	return c
}

// checked is what came out.
type checked struct {
	Difference report.Difference `json:"difference"`
	Findings   []lint.Finding    `json:"findings"` // of lint, that there are only with the policy
	Flows      int               `json:"flows"`    // recorded and allowed, and still so without the policy
	Broken     []brokenFlow      `json:"broken"`   // of these, what the policy cuts
	Unknown    int               `json:"unknown"`
}

type brokenFlow struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Port        string `json:"port"`
	By          string `json:"by"` // the policy or rule that cuts it
}

func (s *session) check(ctx context.Context, f checkFlags) error {
	hasty()
	switch {
	case len(f.policies) == 0:
		return usage("check needs --test-policy FILE")
	case !slices.Contains([]string{"brief", "detailed", "json"}, s.output):
		return usage("unknown output format %q: brief, detailed or json", s.output)
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	tried, err := s.tried(r.Cluster, f)
	if err != nil {
		return err
	}
	before, after := engine.Compile(r.Cluster), engine.Compile(tried)
	d := diff.Compare(before, after)
	out := checked{Difference: report.NewDifference(d), Broken: []brokenFlow{}, Findings: newFindings(r.Cluster, tried, before, after)}
	if f.flows != "" {
		records, err := s.readFlows(ctx, f.flows)
		if err != nil {
			return err
		}
		out.replay(before, after, records)
	}
	if err := s.printChecked(out, d); err != nil {
		return err
	}
	if d.Relation() != diff.Equivalent || len(out.Broken)+len(out.Findings) > 0 {
		return exit{code: ExitFindings}
	}
	return nil
}

// newFindings are the mistakes that come with the policy.
func newFindings(old, tried *model.Cluster, before, after *engine.Matrix) []lint.Finding {
	type finding struct {
		code, object, field, message string
	}
	key := func(x lint.Finding) finding { return finding{x.Code, x.Source.Object(), x.Source.Field, x.Message} }
	known := map[finding]bool{}
	var was, is []lint.Finding
	atOnce(
		func() { was = lint.Run(lint.Input{Cluster: old, Matrix: before}) },
		func() { is = lint.Run(lint.Input{Cluster: tried, Matrix: after}) },
	)
	for _, x := range was {
		known[key(x)] = true
	}
	return append([]lint.Finding{}, slices.DeleteFunc(is, func(x lint.Finding) bool { return known[key(x)] })...)
}

// tried is the cluster with the policies added or replaced.
func (s *session) tried(c *model.Cluster, f checkFlags) (*model.Cluster, error) {
	r, err := manifest.Load(f.policies, s.stdin, manifest.Options{Namespace: f.namespace})
	if err != nil {
		return nil, exit{ExitInput, err}
	}
	s.printProblems(r.Problems)
	if model.HasErrors(r.Problems) {
		return nil, exit{ExitInput, errBroken}
	}
	if len(r.Cluster.Policies) == 0 {
		return nil, exit{ExitInput, fmt.Errorf("there is no policy in %v", f.policies)}
	}
	if err := s.readAs(r.Cluster); err != nil {
		return nil, err
	}
	type object struct{ apiVersion, kind, namespace, name string }
	of := func(p *model.Policy) object {
		return object{p.Source.APIVersion, p.Source.Kind, p.Source.Namespace, p.Source.Name}
	}
	replaced := map[object]bool{}
	for _, p := range r.Cluster.Policies {
		replaced[of(p)] = true
	}
	out := *c
	out.Policies = slices.DeleteFunc(slices.Clone(c.Policies), func(p *model.Policy) bool { return replaced[of(p)] })
	out.Policies = append(out.Policies, r.Cluster.Policies...)
	out.Tiers = append(slices.Clone(r.Cluster.Tiers), slices.DeleteFunc(slices.Clone(c.Tiers), func(t model.Tier) bool {
		return slices.ContainsFunc(r.Cluster.Tiers, func(x model.Tier) bool { return x.Name == t.Name })
	})...)
	out.Sets = append(slices.Clone(r.Cluster.Sets), slices.DeleteFunc(slices.Clone(c.Sets), func(a model.AddressSet) bool {
		return slices.ContainsFunc(r.Cluster.Sets, func(x model.AddressSet) bool { return x.Key() == a.Key() })
	})...)
	return &out, nil
}

// replay judges recorded flows by the policies as they are and as they would be.
func (c *checked) replay(before, after *engine.Matrix, recorded *flows) {
	type party struct {
		engine.Party
		before, after engine.End
		ok            bool
	}
	parties := make([]party, len(recorded.ends))
	for i, e := range recorded.ends {
		p, ok := partyOf(before, e.pod, e.addr)
		parties[i] = party{p, before.End(p), after.End(p), ok}
	}
	for _, r := range recorded.list {
		if !r.allowed {
			continue
		}
		from, to := &parties[r.from], &parties[r.to]
		if !from.ok || !to.ok {
			c.Unknown++
			continue
		}
		if egress, ingress := before.Open(from.before, to.before, r.key); !egress || !ingress {
			continue
		}
		c.Flows++
		if egress, ingress := after.Open(from.after, to.after, r.key); !egress || !ingress {
			c.Broken = append(c.Broken, broken(recorded.record(r), after.Verdict(from.Party, to.Party, r.key)))
		}
	}
	slices.SortFunc(c.Broken, func(a, b brokenFlow) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Port, b.Port), cmp.Compare(a.By, b.By))
	})
}

// partyOf is the end of a recorded flow; not ok for a pod that is gone.
func partyOf(m *engine.Matrix, pod string, a netip.Addr) (engine.Party, bool) {
	if pod == "" {
		return engine.Party{Addr: a, Endpoint: m.EndpointAt(a)}, a.IsValid()
	}
	e := m.Endpoint(pod)
	if e == nil {
		return engine.Party{}, false
	}
	if !slices.Contains(e.IPs, a) { // it was started again since
		a = netip.Addr{}
	}
	return engine.Party{Endpoint: e, Addr: a}, true
}

func broken(r flow.Record, v engine.Verdict) brokenFlow {
	end := func(pod string, a netip.Addr) string { return cmp.Or(pod, a.String()) }
	out := brokenFlow{Source: end(r.SourcePod, r.Source), Destination: end(r.DestinationPod, r.Destination), Port: r.Key.String()}
	door := v.Egress
	if door.Allowed {
		door = v.Ingress
	}
	switch {
	case door.Rule != nil:
		out.By = door.Rule.Source.String()
	case len(door.Policies) > 0:
		out.By = fmt.Sprintf("%s isolated by %s, and no rule allows it", door.Direction, door.Policies[0].Source.Object())
	}
	return out
}

func (s *session) printChecked(c checked, d *diff.Diff) error {
	switch s.output {
	case "json":
		return s.asJSON(c)
	case "brief":
		opens, closes := 0, 0
		for _, x := range d.Changes {
			if x.Opens() {
				opens++
			} else {
				closes++
			}
		}
		fmt.Fprintf(s.stdout, "%d openings, %d closings, %d findings, %d of %d recorded flows broken\n", opens, closes, len(c.Findings), len(c.Broken), c.Flows)
		return nil
	}
	if err := report.Diff(s.stdout, width(s.stdout), "table", d); err != nil {
		return err
	}
	if len(c.Findings) > 0 {
		if err := report.Findings(s.stdout, "text", paint(s.stdout), c.Findings); err != nil {
			return err
		}
	}
	for _, b := range c.Broken {
		fmt.Fprintf(s.stdout, "breaks %s → %s on %s: %s\n", b.Source, b.Destination, b.Port, b.By)
	}
	if c.Flows+c.Unknown > 0 {
		fmt.Fprintf(s.stdout, "%d recorded flows tried, %d would break; %d are of pods that are not there\n", c.Flows, len(c.Broken), c.Unknown)
	}
	return nil
}
