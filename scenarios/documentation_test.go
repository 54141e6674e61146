package scenarios_test

import (
	"fmt"
	"os"
	"strings"
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
	examples := strings.Split(string(text), "\n```txtar\n")[1:]
	if len(examples) < 5 {
		t.Fatalf("found %d examples: are they still marked as txtar?", len(examples))
	}
	for i, e := range examples {
		archive, _, ok := strings.Cut(e, "\n```\n")
		if !ok {
			t.Fatalf("example %d has no end", i)
		}
		s, err := scenarios.Parse(fmt.Sprintf("example-%d", i), []byte(archive+"\n"))
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
