package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const lintPods = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
`

// lintPolicy has a finding of severity warning, SP1101, and one of info, SP1204.
const lintPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, annotations: {sallyport.dev/ignore: "IGNORED"}}
spec:
  podSelector: {matchLabels: {app: wbe}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
`

// codes runs lint and lists the codes that it finds.
func codes(t *testing.T, input string, args ...string) (int, []string) {
	t.Helper()
	code, out, errs := run(t, input, append([]string{"lint", "-f", "-", "-o", "json"}, args...)...)
	var list struct{ Findings []struct{ Code string } }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	var found []string
	for _, f := range list.Findings {
		found = append(found, f.Code)
	}
	slices.Sort(found)
	return code, found
}

func TestLintFlagsAndExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		input string
		args  []string
		code  int
		found string
	}{
		"nothing":       {lintPods, nil, ExitFine, ""},
		"warnings":      {lintPods + lintPolicy, nil, ExitFindings, "SP1101"},
		"infos, too":    {lintPods + lintPolicy, []string{"--severity", "info"}, ExitFindings, "SP1101 SP1204"},
		"errors only":   {lintPods + lintPolicy, []string{"--severity", "error"}, ExitFine, ""},
		"disabled":      {lintPods + lintPolicy, []string{"--disable", "SP1101"}, ExitFine, ""},
		"both disabled": {lintPods + lintPolicy, []string{"--severity", "info", "--disable", "SP1204,SP1101"}, ExitFine, ""},
		"known":         {lintPods + strings.Replace(lintPolicy, "IGNORED", "SP9999, SP1101", 1), nil, ExitFine, ""},
		"wrong input":   {lintPods + strings.Replace(lintPolicy, "from:", "form:", 1), nil, ExitInput, "SP1101 SP1901"},
		"twice":         {lintPods + lintPolicy + "---\n" + lintPolicy, nil, ExitInput, "SP1101 SP1401"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, found := codes(t, c.input, c.args...); code != c.code || strings.Join(found, " ") != c.found {
				t.Errorf("exit %d, found %v; want %d, %s", code, found, c.code, c.found)
			}
		})
	}
}

func TestLintRefusesWrongFlags(t *testing.T) {
	for _, args := range [][]string{{"--severity", "grave"}, {"--disable", "SP0"}, {"-o", "table"}} {
		if code, _, stderr := run(t, lintPods, append([]string{"lint", "-f", "-"}, args...)...); code != ExitUsage || !strings.Contains(stderr, "sallyport:") {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}

func TestLintPrintsPlaceAndFix(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(file, []byte(lintPods+lintPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	_, out, _ := run(t, "", "lint", "-f", file)
	want := file + ":14:1: NetworkPolicy shop/web: spec.podSelector: warning SP1101: no pod of namespace shop has app=wbe: the policy governs nobody\n" +
		"    did you mean app: web?\n0 errors, 1 warnings, 0 infos\n"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	for format, part := range map[string]string{"sarif": `"ruleId": "SP1101"`, "junit": `classname="SP1101"`, "github": "title=SP1101::"} {
		if code, out, _ := run(t, "", "lint", "-f", file, "-o", format); code != ExitFindings || !strings.Contains(out, part) {
			t.Errorf("-o %s: exit %d\n%s", format, code, out)
		}
	}
}

func TestLintCompletesCodes(t *testing.T) {
	_, out, _ := run(t, "", "__complete", "lint", "--disable", "SP1101,")
	if !strings.Contains(out, "SP1101,SP1102\ta peer selects no pod") || strings.Contains(out, "SP1101,SP1101") {
		t.Errorf("got\n%s", out)
	}
	if _, out, _ := run(t, "", "lint", "--list"); !strings.Contains(out, "SP1503") {
		t.Errorf("--list shows\n%s", out)
	}
}
