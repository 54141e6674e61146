package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

type lintFlags struct {
	disable  []string
	severity string
	list     bool
}

func newLint(s *session) *cobra.Command {
	var f lintFlags
	c := &cobra.Command{
		Use:   "lint -f MANIFESTS",
		Short: "What policies say that was most likely not meant",
		Long: `Looks for mistakes in policies of every language: pods that nothing covers,
selectors that select nobody (and the label that was probably meant), rules
that allow more than they look, that others make superfluous or that never
decide, doors that are open at one end only, DNS that was forgotten. Who is
selected, what passes and which rule is needed is what the compiled policies
say, not a guess.

Every finding has a code, explained in docs/lint. What is meant as it is, is
said in the object's metadata:

  annotations: {sallyport.dev/ignore: "SP1001, SP1204"}

Exit code 0 if there is no finding of the severity asked for, 1 if there is
one, 4 if an object cannot be read as it is written.`,
		Example: `  sallyport lint -f manifests/
  sallyport lint -f manifests/ --severity info --disable SP1204,SP1405
  helm template chart/ | sallyport lint -f - -o sarif > lint.sarif
  sallyport lint --context production -o json | jq -r '.findings[].code' | sort | uniq -c
  sallyport lint --list`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.lint(c.Context(), f) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "text", report.FindingFormats...)
	c.Flags().StringSliceVar(&f.disable, "disable", nil, "codes of findings to leave out (repeatable, or separated by commas)")
	c.Flags().StringVar(&f.severity, "severity", "warning", "the mildest severity to report: info, warning or error")
	c.Flags().BoolVar(&f.list, "list", false, "list the codes and what they find")
	_ = c.RegisterFlagCompletionFunc("severity", cobra.FixedCompletions([]string{"info", "warning", "error"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("disable", completeCodes)
	return c
}

// completeCodes offers the codes with what they find, also behind a comma.
func completeCodes(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	var out []string
	for _, c := range lint.Checks() {
		if !strings.Contains(before, c.Code) {
			out = append(out, before+c.Code+"\t"+c.Title)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (s *session) lint(ctx context.Context, f lintFlags) error {
	hasty()
	if f.list {
		return report.ChecksTable(s.stdout, width(s.stdout))
	}
	least, err := s.checkLintFlags(f)
	if err != nil {
		return err
	}
	r, err := s.loadForLint(ctx)
	if err != nil {
		return err
	}
	p := s.progress("looking for mistakes", 0)
	list := lint.Run(lint.Input{
		Cluster: r.Cluster, Matrix: engine.Compile(r.Cluster), Problems: r.Problems,
		Ignored: r.Written.Ignored, Omitted: r.Written.Omitted, Unused: r.Written.Unused, Together: atOnce,
	})
	p.end()
	list = slices.DeleteFunc(list, func(x lint.Finding) bool { return x.Severity < least || slices.Contains(f.disable, x.Code) })
	if err := report.Findings(s.stdout, s.output, paint(s.stdout), list); err != nil {
		return err
	}
	switch {
	case model.HasErrors(r.Problems):
		return exit{ExitInput, errors.New("the input has errors; what they stand at was read as its closed side")}
	case len(list) > 0:
		return exit{code: ExitFindings}
	}
	return nil
}

// atOnce runs functions at the same time.
func atOnce(functions ...func()) {
	var all sync.WaitGroup
	for _, f := range functions {
		all.Go(f)
	}
	all.Wait()
}

// checkLintFlags checks the flags before anything is read.
func (s *session) checkLintFlags(f lintFlags) (least model.Severity, err error) {
	if !slices.Contains(report.FindingFormats, s.output) {
		return 0, usage("unknown output format %q: one of %v", s.output, report.FindingFormats)
	}
	if err := least.UnmarshalText([]byte(f.severity)); err != nil {
		return 0, usage("--severity %s: one of info, warning, error", f.severity)
	}
	for _, code := range f.disable {
		if !slices.ContainsFunc(lint.Checks(), func(c lint.Check) bool { return c.Code == code }) {
			return 0, usage("--disable %s: there is no such code; sallyport lint --list shows all", code)
		}
	}
	return least, nil
}

// loadForLint reads the input. What is wrong in it is among the findings, so
// that nothing is printed twice and the rest is looked at all the same.
func (s *session) loadForLint(ctx context.Context) (*manifest.Result, error) {
	if len(s.files) == 0 {
		quiet := *s
		quiet.stderr = io.Discard
		return quiet.loadAny(ctx)
	}
	p := s.progress("reading manifests", 0)
	r, err := manifest.Load(s.files, s.stdin, manifest.Options{DualStack: s.dualStack, Nodes: s.nodes})
	p.end()
	if err != nil {
		return nil, exit{ExitInput, err}
	}
	return r, s.readAs(r.Cluster)
}
