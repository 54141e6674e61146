package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/convert"
	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// otherLanguageNames are other words for the languages.
var otherLanguageNames = map[string]convert.Target{"kubernetes": convert.NetworkPolicy, "cnp": convert.ClusterNetworkPolicy}

func newConvert(s *session) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "convert -f MANIFESTS --to LANGUAGE",
		Short: "Write policies in another language, proven to mean the same",
		Long: `Writes the policies of the input, of any language, in another one: order, tiers
and denials are worked into what may pass. LANGUAGE is networkpolicy (or
kubernetes), cilium, calico or clusternetworkpolicy (or cnp).

What the language cannot say is listed on standard error with its place and the
reason, and is denied. Then both sets are compiled and compared: that they are
equivalent is said, or where they differ. The comparison is about the pods of
the input, so give the workloads with -f, too.

Exit code 0 if both sets are equivalent, 1 if they differ or there is no pod to
compare them for.`,
		Example: `  sallyport convert -f manifests/ --to cilium > cilium.yaml
  sallyport convert -f workloads/ -f calico.yaml --to networkpolicy > policies.yaml
  sallyport convert --context staging --to clusternetworkpolicy -o json | jq .omissions`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.convert(c.Context(), to) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "yaml", "yaml", "json")
	c.Flags().StringVar(&to, "to", "", fmt.Sprintf("language to write: %v", convert.Targets))
	var words []string
	for _, t := range convert.Targets {
		words = append(words, string(t))
	}
	_ = c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (s *session) convert(ctx context.Context, to string) error {
	target := convert.Target(to)
	if t, ok := otherLanguageNames[to]; ok {
		target = t
	}
	if !target.Known() {
		return usage("--to %q: one of %v", to, convert.Targets)
	}
	if s.output != "yaml" && s.output != "json" {
		return usage("unknown output format %q: yaml or json", s.output)
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	out, err := convert.To(target, r.Cluster)
	if err != nil {
		return err
	}
	d, err := s.proof(r.Cluster, out)
	if err != nil {
		return err
	}
	if err := s.printConverted(out, d); err != nil {
		return err
	}
	if d.Compared == 0 || d.Relation() != diff.Equivalent {
		return exit{code: ExitFindings}
	}
	return nil
}

// proof compiles what was written, read as a user's, and compares.
func (s *session) proof(before *model.Cluster, out convert.Result) (*diff.Diff, error) {
	const name = "the converted policies"
	r := manifest.Parse(map[string][]byte{name: out.YAML}, []string{name}, manifest.Options{})
	if model.HasErrors(r.Problems) {
		s.printProblems(r.Problems)
		return nil, errors.New("what was written cannot be read: this is a fault of sallyport")
	}
	if err := s.readAs(r.Cluster); err != nil {
		return nil, err
	}
	after := *before
	after.Policies = r.Cluster.Policies
	return diff.Compare(engine.Compile(before), engine.Compile(&after)), nil
}

func (s *session) printConverted(out convert.Result, d *diff.Diff) error {
	if s.output == "json" {
		return s.convertedJSON(out, d)
	}
	if _, err := s.stdout.Write(out.YAML); err != nil {
		return err
	}
	for _, o := range out.Omissions {
		p := model.Problem{Severity: model.Warning, Source: o.Source, Message: o.Reason}
		fmt.Fprintln(s.stderr, paint(s.stderr).Colour("33", p.Error()))
	}
	if d.Compared == 0 {
		_, err := fmt.Fprintln(s.stderr, "not proven: there is no pod in the input; give the workloads with -f")
		return err
	}
	return report.Diff(s.stderr, width(s.stderr), "table", d)
}

func (s *session) convertedJSON(out convert.Result, d *diff.Diff) error {
	if out.Omissions == nil {
		out.Omissions = []convert.Omission{}
	}
	e := json.NewEncoder(s.stdout)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Policies   string             `json:"policies"`
		Omissions  []convert.Omission `json:"omissions"`
		Difference report.Difference  `json:"difference"`
	}{string(out.YAML), out.Omissions, report.NewDifference(d)})
}
