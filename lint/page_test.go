package lint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// TestPages holds every check to its page: the first example has the finding,
// with the text that the page shows, and the second has not. Both examples are
// scenarios, and hold in the engine and by the oracle.
func TestPages(t *testing.T) {
	for _, c := range lint.Checks() {
		t.Run(c.Code, func(t *testing.T) {
			path := filepath.Join("..", filepath.FromSlash(c.Page()))
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if head := fmt.Sprintf("# %s: %s\n\nSeverity: %s.\n", c.Code, c.Title, strings.ToLower(c.Severity.String())); !strings.HasPrefix(string(text), head) {
				t.Errorf("the page must begin with\n%s", head)
			}
			examples := examplesOf(t, c.Code, string(text))
			if len(examples) != 2 {
				t.Fatalf("%d examples, want one with the finding and one without", len(examples))
			}
			for _, s := range examples {
				scenarios.Run(t, s, scenarios.Engine{})
				scenarios.Run(t, s, scenarios.Reference{})
			}
			shown := string(examples[0].Files["lint.txt"])
			got := lines(only(c.Code, look(examples[0])))
			if *update {
				text := strings.Replace(string(text), "-- lint.txt --\n"+shown, "-- lint.txt --\n"+got, 1)
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				shown = got
			}
			if got == "" || got != shown {
				t.Errorf("the first example (-page +got):\n%s", cmp.Diff(shown, got))
			}
			if left := lines(only(c.Code, look(examples[1]))); left != "" {
				t.Errorf("the second example still has\n%s", left)
			}
		})
	}
}

// examplesOf are the scenarios of a page.
func examplesOf(t *testing.T, code, text string) []*scenarios.Scenario {
	t.Helper()
	blocks, err := scenarios.Fenced(text, "txtar")
	if err != nil {
		t.Fatal(err)
	}
	var out []*scenarios.Scenario
	for i, e := range blocks {
		s, err := scenarios.Parse(fmt.Sprintf("%s-%d", code, i), []byte(e.Text))
		if err != nil {
			t.Fatalf("example %d: %v", i, err)
		}
		out = append(out, s)
	}
	return out
}

func only(code string, list []lint.Finding) []lint.Finding {
	return slices.DeleteFunc(list, func(f lint.Finding) bool { return f.Code != code })
}

func lines(list []lint.Finding) string {
	var b strings.Builder
	for _, f := range list {
		b.WriteString(f.String() + "\n")
	}
	return b.String()
}

// TestScenarios holds the scenarios that say what lint finds in them to it.
func TestScenarios(t *testing.T) {
	n := 0
	for _, s := range corpus(t) {
		want, ok := s.Files["lint.txt"]
		if !ok {
			continue
		}
		n++
		got := lines(look(s))
		if *update {
			rewrite(t, s, got)
		} else if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: lint.txt (-want +got):\n%s", s.Name, d)
		}
	}
	if n == 0 {
		t.Error("no scenario has a lint.txt")
	}
}

func rewrite(t *testing.T, s *scenarios.Scenario, text string) {
	t.Helper()
	path := filepath.Join("..", "scenarios", s.Name+".txtar")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := scenarios.ParseArchive(data)
	for i := range a.Files {
		if a.Files[i].Name == "lint.txt" {
			a.Files[i].Data = []byte(text)
		}
	}
	if err := os.WriteFile(path, a.Format(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What an author knows of is not found, and what others know of is.
func TestAnnotationsAreHeeded(t *testing.T) {
	c := model.Source{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}
	p := &model.Policy{Source: c, Tier: model.TierDefault, Subject: model.EndpointSelector{Namespace: "shop"}, Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{AnyPeer: true, AnyPort: true, Source: c.At("spec.ingress[0]", 0, 0)}}}}
	cluster := &model.Cluster{Policies: []*model.Policy{p}}
	for code, want := range map[string]int{"SP1201": 0, "SP1202": 1} {
		in := lint.Input{Cluster: cluster, Matrix: compile(cluster), Ignored: map[string][]string{c.Object(): {code}}}
		if got := len(only("SP1201", lint.Run(in))); got != want {
			t.Errorf("ignoring %s: %d findings, want %d", code, got, want)
		}
	}
}
