package cli

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
)

func newTest(s *session) *cobra.Command {
	var expect []string
	var live, generate bool
	c := &cobra.Command{
		Use:   "test -f MANIFESTS [--expect FILE]",
		Short: "Check PolicyTest expectations against the policies, offline or in the live cluster",
		Long: `Runs the PolicyTest objects of the input and of --expect files. A case speaks of
every pair, port and address that its selectors, "external" or ranges stand
for. Without -f the policies of the live cluster are asked. With --live real
connections are made, from inside the pods, by the agents of their nodes; UDP
is answered only where something answers. Exit code 1 if any case fails.`,
		Example: `  sallyport test -f manifests/
  sallyport test -f manifests/ --expect expectations.yaml -o junit > junit.xml
  sallyport test -f manifests/ --generate > expectations.yaml
  sallyport test --live --kubeconfig admin.conf --expect expectations.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if generate {
				return s.generate(c.Context())
			}
			return s.test(c.Context(), expect, live)
		},
	}
	s.liveFlags(c)
	s.outputFlag(c, "text", "text", "tap", "junit", "json")
	c.Flags().StringArrayVar(&expect, "expect", nil, "file with PolicyTest objects (repeatable)")
	c.Flags().BoolVar(&live, "live", false, "make real connections in the live cluster")
	c.Flags().BoolVar(&generate, "generate", false, "print a PolicyTest that pins what can connect now, and test nothing")
	return c
}

func (s *session) test(ctx context.Context, expect []string, live bool) error {
	print, ok := testPrinters[s.output]
	if !ok {
		return usage("unknown output format %q: text, tap, junit or json", s.output)
	}
	write := func(r []caseResult) error { return print(s.stdout, paint(s.stdout), r) }
	if live {
		return s.live(ctx, expect, write)
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	cases, err := s.cases(r.Tests, expect)
	if err != nil {
		return err
	}
	m := engine.Compile(r.Cluster)
	var results []caseResult
	for i := range cases {
		results = append(results, newCaseResult(m, policytest.Run(m, &cases[i])))
	}
	return s.conclude(results, write)
}

// generate prints the expectations that hold now.
func (s *session) generate(ctx context.Context) error {
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	_, err = s.stdout.Write(policytest.Generate(engine.Compile(r.Cluster)))
	return err
}

// cases decodes the tests of the input and of the extra files.
func (s *session) cases(tests []field.Object, files []string) ([]policytest.Case, error) {
	if len(files) > 0 {
		r, err := manifest.Load(files, s.stdin, manifest.Options{})
		if err != nil {
			return nil, exit{ExitInput, err}
		}
		s.printProblems(r.Problems)
		if model.HasErrors(r.Problems) {
			return nil, exit{ExitInput, errors.New("the expectations have errors; nothing was tested")}
		}
		tests = append(tests, r.Tests...)
	}
	var out []policytest.Case
	bad := false
	for _, t := range tests {
		cases, problems := policytest.Decode(t)
		s.printProblems(problems)
		bad = bad || model.HasErrors(problems)
		out = append(out, cases...)
	}
	switch {
	case bad:
		return nil, exit{ExitInput, errors.New("the expectations have errors; nothing was tested")}
	case len(out) == 0:
		return nil, usage("no PolicyTest in the input: add one to -f, or give --expect FILE")
	}
	return out, nil
}

// caseResult is a case with what differs.
type caseResult struct {
	Name     string    `json:"name"`
	Test     string    `json:"test"`
	Expect   string    `json:"expect"`
	Passed   bool      `json:"passed"`
	Checks   int       `json:"checks"`
	Failures []failure `json:"failures,omitempty"`
	place    string
}

type failure struct {
	From        string              `json:"from,omitempty"`
	To          string              `json:"to,omitempty"`
	Differs     string              `json:"differs,omitempty"`
	Error       string              `json:"error,omitempty"`
	Explanation *report.Explanation `json:"explanation,omitempty"`
}

func newCaseResult(m *engine.Matrix, results []policytest.Result) caseResult {
	c := results[0].Case
	out := caseResult{Name: c.Name, Test: c.Test, Expect: "deny", Passed: true, Checks: len(results), place: c.Source.Place()}
	switch {
	case c.Isolated:
		out.Expect = "isolated"
	case c.Allow:
		out.Expect = "allow"
	}
	for _, r := range results {
		if r.Passed() {
			continue
		}
		out.Passed = false
		if r.Error != nil {
			out.Failures = append(out.Failures, failure{Error: r.Error.Error()})
			continue
		}
		from, to := partyName(r.From, c.From.Text), partyName(r.To, c.To.Text)
		e := report.Explain(from, to, r.At, r.Verdict)
		e.AddTiers(m, r.From, r.To, r.At)
		e.AddNearMisses(m, r.From, r.To, r.At)
		out.Failures = append(out.Failures, failure{From: from, To: to, Differs: r.Differs.String(), Explanation: &e})
	}
	return out
}

var testPrinters = map[string]func(io.Writer, report.Paint, []caseResult) error{
	"text": printTestText, "tap": printTAP, "junit": printJUnit, "json": printTestJSON,
}

func printTestText(w io.Writer, p report.Paint, results []caseResult) error {
	passed := 0
	for _, c := range results {
		if c.Passed {
			passed++
			fmt.Fprintf(w, "%s  %s\n", p.Colour("32", "PASS"), c.Name)
			continue
		}
		fmt.Fprintf(w, "%s  %s (%s)\n", p.Colour("31", "FAIL"), c.Name, c.place)
		for _, f := range c.Failures {
			f.text(w, p, c.Expect)
		}
	}
	_, err := fmt.Fprintf(w, "%d passed, %d failed\n", passed, len(results)-passed)
	return err
}

func (f failure) text(w io.Writer, p report.Paint, expect string) {
	if f.Error != "" {
		fmt.Fprintf(w, "      %s\n", f.Error)
		return
	}
	fmt.Fprintf(w, "      expected %s: %s → %s differs for %s\n", expect, f.From, f.To, f.Differs)
	f.Explanation.Text(w, p)
}

func printTAP(w io.Writer, _ report.Paint, results []caseResult) error {
	fmt.Fprintf(w, "TAP version 14\n1..%d\n", len(results))
	for i, c := range results {
		word := "ok"
		if !c.Passed {
			word = "not ok"
		}
		fmt.Fprintf(w, "%s %d - %s\n", word, i+1, c.Name)
		for _, f := range c.Failures {
			fmt.Fprintf(w, "  # %s%s → %s differs for %s\n", f.Error, f.From, f.To, f.Differs)
		}
	}
	return nil
}

func printTestJSON(w io.Writer, _ report.Paint, results []caseResult) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"cases": results})
}

func printJUnit(w io.Writer, _ report.Paint, results []caseResult) error {
	type junitFailure struct {
		Message string `xml:"message,attr"`
	}
	type testCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Cases    []testCase `xml:"testcase"`
	}{Name: "sallyport", Tests: len(results)}
	for _, c := range results {
		k := testCase{Name: c.Name, Class: c.Test}
		if !c.Passed {
			suite.Failures++
			f := c.Failures[0]
			k.Failure = &junitFailure{Message: fmt.Sprintf("%s%s → %s differs for %s", f.Error, f.From, f.To, f.Differs)}
		}
		suite.Cases = append(suite.Cases, k)
	}
	fmt.Fprint(w, xml.Header)
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}
