package deploy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

// chartFiles is Helm's .Files.
type chartFiles struct{}

func (chartFiles) Glob(pattern string) (map[string][]byte, error) {
	paths, err := filepath.Glob(filepath.Join("chart", pattern))
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, p := range paths {
		if out[strings.TrimPrefix(p, "chart/")], err = os.ReadFile(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (chartFiles) Get(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join("chart", path))
	return string(text), err
}

// TestDefinitionsAreInstalledOnlyIfAskedFor takes each group that deploy/crds
// has. What the definitions say, package crdtest tests.
func TestDefinitionsAreInstalledOnlyIfAskedFor(t *testing.T) {
	files, err := filepath.Glob("crds/*.yaml")
	must(t, err)
	groups := map[string]int{}
	for _, f := range files {
		group, _, _ := strings.Cut(filepath.Base(f), "_")
		groups[group]++
	}
	if groups["policy.networking.k8s.io"] == 0 {
		t.Fatalf("groups %v", groups)
	}
	none := render(t, nil)
	for group, n := range groups {
		with := render(t, map[string]any{"definitions": []any{group}})
		if got := strings.Count(with, "kind: CustomResourceDefinition\n") - strings.Count(none, "kind: CustomResourceDefinition\n"); got != n {
			t.Errorf("%s: %d definitions, want %d", group, got, n)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			must(t, err)
			ours := strings.HasPrefix(filepath.Base(f), group+"_")
			if strings.Contains(with, "---\n"+strings.TrimSpace(string(text))) != ours || strings.Contains(none, strings.TrimSpace(string(text))) {
				t.Errorf("%s is in the manifest of %s: %t", f, group, !ours)
			}
		}
	}
}

func TestGroupsWithoutDefinitionsAreAnError(t *testing.T) {
	text, err := os.ReadFile("chart/templates/definitions.yaml")
	must(t, err)
	parsed, err := template.New("definitions").Funcs(functions).Parse(string(text))
	must(t, err)
	err = parsed.Execute(&strings.Builder{}, map[string]any{"Values": map[string]any{"definitions": []any{"example.com"}}, "Files": chartFiles{}})
	if err == nil || !strings.Contains(err.Error(), "there are no definitions of example.com") {
		t.Errorf("a misspelt group: %v", err)
	}
}
