package lint_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

var update = flag.Bool("update", false, "rewrite testdata/corpus.txt and lint.txt of the scenarios; read the difference before committing it")

func corpus(t *testing.T) []*scenarios.Scenario {
	t.Helper()
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// look runs lint over a scenario.
func look(s *scenarios.Scenario) []lint.Finding {
	return lint.Run(lint.Input{
		Cluster: s.Cluster, Matrix: compile(s.Cluster), Problems: s.Problems,
		Ignored: s.Written.Ignored, Omitted: s.Written.Omitted, Unused: s.Written.Unused,
	})
}

// TestCorpus holds what is found in every scenario to a list that was read:
// whoever adds a check sees where it speaks, and whether it should.
func TestCorpus(t *testing.T) {
	var got strings.Builder
	for _, s := range corpus(t) {
		fmt.Fprintf(&got, "%s: %s\n", s.Name, strings.Join(counts(look(s)), " "))
	}
	const golden = "testdata/corpus.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); d != "" {
		t.Errorf("findings of the corpus (-want +got); if they are right, run with -update:\n%s", d)
	}
}

// counts writes SP1001 or, if it was found several times, SP1001×2.
func counts(findings []lint.Finding) []string {
	n := map[string]int{}
	for _, f := range findings {
		n[f.Code]++
	}
	var out []string
	for _, code := range slices.Sorted(maps.Keys(n)) {
		if n[code] > 1 {
			code = fmt.Sprintf("%s×%d", code, n[code])
		}
		out = append(out, code)
	}
	return out
}

func compile(c *model.Cluster) *engine.Matrix { return engine.Compile(c) }
