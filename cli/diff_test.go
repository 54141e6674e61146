package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// before and after are the tutorial without and with the policies that were missing.
func before(t *testing.T) string { return together(t, "demo/[1-4]*.yaml") }

func after(t *testing.T) string { return together(t, "demo/[1-5]*.yaml") }

// together writes the files as one.
func together(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatal(pattern, err)
	}
	var text strings.Builder
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n" + string(b) + "\n")
	}
	path := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const application = "demo/0-application.yaml"

func TestDiffSaysWhatOpensAndCloses(t *testing.T) {
	code, out, stderr := run(t, "", "diff", before(t), after(t), "-f", application)
	want := `CHANGE  SOURCE               DESTINATION          CONNECTIONS
opens   secure-app/backend   secure-app/database  TCP 5432
opens   secure-app/frontend  secure-app/backend   TCP 80
the new side lets everything pass that the old one does, and more; 3 pods compared
`
	if code != ExitFindings || out != want {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	code, out, _ = run(t, "", "diff", after(t), before(t), "-f", application, "-o", "json", "--exit-zero")
	var d struct {
		Relation string
		Opens    []any
		Closes   []struct{ Source, Destination, Connections, Was, Is string }
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if code != ExitFine || d.Relation != "narrower" || d.Opens == nil || len(d.Closes) != 2 || d.Closes[0].Connections != "TCP 5432" || d.Closes[0].Is != "shut" {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestDiffListsPodsOfOneSide(t *testing.T) {
	const job = `
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: secure-app}
spec: {containers: [{name: c}]}
`
	code, out, _ := run(t, job, "diff", application, application, "-f", before(t))
	if code != ExitFine || out != "equivalent: no connection differs; 3 pods compared\n" {
		t.Errorf("exit %d\n%s", code, out)
	}
	both := together(t, application)
	if err := os.WriteFile(both, []byte(read(t, application)+"\n---"+job), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ = run(t, "", "diff", application, both, "-o", "md")
	if code != ExitFine || !strings.Contains(out, "Only on the new side: secure-app/job.") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDiffRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"diff"}, ExitUsage},
		{[]string{"diff", application}, ExitUsage},
		{[]string{"diff", "--context", "a"}, ExitUsage},
		{[]string{"diff", "--context", "a", "--context", "a"}, ExitUsage},
		{[]string{"diff", application, application, "--context", "a"}, ExitUsage},
		{[]string{"diff", "-", "-"}, ExitUsage},
		{[]string{"diff", application, application, "-o", "html"}, ExitUsage},
		{[]string{"diff", "missing", application}, ExitInput},
		{[]string{"diff", "demo/1-deny-all.yaml", application}, ExitInput},
		{[]string{"diff", "cluster", application, "--kubeconfig", "missing"}, ExitEnvironment},
	} {
		if code, _, stderr := run(t, "", c.args...); code != c.want {
			t.Errorf("%v: exit %d, want %d\n%s", c.args, code, c.want, stderr)
		}
	}
}
