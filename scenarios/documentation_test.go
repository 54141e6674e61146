package scenarios_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// TestDocumentation runs the examples of docs/dialects.md: each is a scenario.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/dialects.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := scenarios.Fenced(string(text), "txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(examples) < 5 {
		t.Fatalf("found %d examples: are they still marked as txtar?", len(examples))
	}
	for i, e := range examples {
		s, err := scenarios.Parse(fmt.Sprintf("example-%d", i), []byte(e.Text))
		if err != nil {
			t.Fatalf("example %d: %v", i, err)
		}
		if model.HasErrors(s.Problems) {
			t.Errorf("example %d: %v", i, s.Problems)
		}
		for name, x := range map[string]scenarios.Executor{"engine": scenarios.Engine{}, "verdicts": scenarios.Verdicts{}, "reference": scenarios.Reference{}, "fake": Fake{}} {
			t.Run(s.Name+"/"+name, func(t *testing.T) { scenarios.Run(t, s, x) })
		}
	}
}
