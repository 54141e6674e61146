package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/convert"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/recommend"
)

type recommendFlags struct {
	flows, dialect string
	services       bool
}

func newRecommend(s *session) *cobra.Command {
	var f recommendFlags
	c := &cobra.Command{
		Use:   "recommend --flows FILE -f MANIFESTS",
		Short: "Least-privilege policies from observed connections, or from Services",
		Long: `Makes policies of connections that were observed and allowed: one for each
workload and direction, that allow what was seen there, and DNS, and isolate the
pods from everything else. What policies of the input allow already is not
proposed again. FILE has lines of "sallyport monitor -o json" or of Hubble's
JSON export; - is standard input.

With --from-services, without any flow, the target ports of Services are opened
to every pod, and to everybody where there is a node port; workloads without a
Service are reached by nobody.

What is printed has been read again, compiled beside the other policies, and
every flow tried. Exit code 1 if one of them would not pass.`,
		Example: `  sallyport monitor --type allow -o json > flows.json
  sallyport recommend --flows flows.json > policies.yaml
  sallyport recommend --flows flows.json -f workloads/ --dialect cilium
  hubble observe -o jsonpb | sallyport recommend --flows - -f workloads/
  sallyport recommend --from-services -f manifests/`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.recommend(c.Context(), f) },
	}
	s.liveFlags(c)
	c.Flags().StringVar(&f.flows, "flows", "", "file of observed flows, - for standard input")
	c.Flags().BoolVar(&f.services, "from-services", false, "of what Services declare, without flows")
	c.Flags().StringVar(&f.dialect, "dialect", string(convert.NetworkPolicy), fmt.Sprintf("language of the policies: %v", convert.Targets))
	return c
}

func (s *session) recommend(ctx context.Context, f recommendFlags) error {
	target := convert.Target(f.dialect)
	switch {
	case (f.flows == "") != f.services:
		return usage("recommend needs either --flows FILE or --from-services")
	case !target.Known():
		return usage("--dialect %q: one of %v", f.dialect, convert.Targets)
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	p := recommend.FromServices
	if !f.services {
		records, err := s.readFlows(ctx, f.flows)
		if err != nil {
			return err
		}
		p = func(c *model.Cluster) *recommend.Proposal { return recommend.FromFlows(c, records.records()) }
	}
	proposal := p(r.Cluster)
	proposed := *r.Cluster
	proposed.Policies = proposal.Policies
	out, err := convert.To(target, &proposed)
	if err != nil {
		return err
	}
	const name = "the recommended policies"
	again := manifest.Parse(map[string][]byte{name: out.YAML}, []string{name}, manifest.Options{})
	if model.HasErrors(again.Problems) {
		s.printProblems(again.Problems)
		return errors.New("what was recommended cannot be read: this is a fault of sallyport")
	}
	trial := proposal.Try(again.Cluster.Policies)
	if _, err := s.stdout.Write(out.YAML); err != nil {
		return err
	}
	s.printProposal(proposal, trial, out)
	if len(trial.Refused) > 0 {
		return exit{code: ExitFindings}
	}
	return nil
}

// mostRecords bounds the lists of flows for people.
const mostRecords = 10

func (s *session) printProposal(p *recommend.Proposal, t recommend.Trial, out convert.Result) {
	for _, n := range p.Notes {
		fmt.Fprintln(s.stderr, "note:", n)
	}
	for _, o := range out.Omissions {
		fmt.Fprintln(s.stderr, paint(s.stderr).Colour("33", "left out: "+o.Reason))
	}
	if p.Flows > 0 {
		passing := p.Flows - len(p.Gone) - len(t.Refused)
		fmt.Fprintf(s.stderr, "%d policies; %d of %d flows pass with them\n", len(p.Policies), passing, p.Flows)
	} else {
		fmt.Fprintf(s.stderr, "%d policies\n", len(p.Policies))
	}
	s.listRecords("their pods are not there any more", p.Gone)
	s.listRecords("would not pass", t.Refused)
	fmt.Fprintf(s.stderr, "reach: %d pairs and %d ports before, %d and %d after%s\n",
		t.Before.Pairs, t.Before.Ports, t.After.Pairs, t.After.Ports, smaller(t.Before.Ports, t.After.Ports))
}

func smaller(before, after int) string {
	if before == 0 || after >= before {
		return ""
	}
	return fmt.Sprintf(" (%.1f%% smaller)", 100*float64(before-after)/float64(before))
}

func (s *session) listRecords(what string, list []flow.Record) {
	if len(list) == 0 {
		return
	}
	var texts []string
	for _, r := range list[:min(len(list), mostRecords)] {
		texts = append(texts, recordText(r))
	}
	if n := len(list) - mostRecords; n > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", n))
	}
	fmt.Fprintf(s.stderr, "%d flows %s: %s\n", len(list), what, strings.Join(texts, "; "))
}

func recordText(r flow.Record) string {
	end := func(pod string, address fmt.Stringer) string {
		if pod != "" {
			return pod
		}
		return address.String()
	}
	return fmt.Sprintf("%s → %s on %s", end(r.SourcePod, r.Source), end(r.DestinationPod, r.Destination), r.Key)
}
