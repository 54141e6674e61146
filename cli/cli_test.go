package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = Run(args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestMatrixOfTheTutorialsFinalState(t *testing.T) {
	code, out, stderr := run(t, "", "matrix", "-f", "demo", "-o", "csv")
	want := "source,destination,connections\nsecure-app/backend,secure-app/database,TCP 5432\nsecure-app/frontend,secure-app/backend,TCP 80\n"
	if code != ExitFine || out != want {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
}

func TestMatrixFormatsAndFilters(t *testing.T) {
	for _, format := range []string{"table", "csv", "json", "md", "dot", "mermaid", "html", "svg"} {
		code, out, stderr := run(t, "", "matrix", "-f", "demo", "-o", format, "--from", "secure-app/backend", "--to", "secure-app/database")
		if code != ExitFine || !strings.Contains(out, "database") || strings.Contains(out, "frontend") {
			t.Errorf("-o %s: exit %d\n%s%s", format, code, out, stderr)
		}
	}
	if _, out, _ := run(t, "", "matrix", "-f", "demo", "--port", "80", "-o", "csv"); strings.Contains(out, "database") {
		t.Errorf("--port 80 lists port 5432:\n%s", out)
	}
	if _, out, _ := run(t, "", "matrix", "-f", "demo", "--external", "-o", "csv"); !strings.Contains(out, "secure-app/backend,203.0.113.0/24,All\n") {
		t.Errorf("--external does not list the open range:\n%s", out)
	}
}

func TestMatrixOfOneNamespace(t *testing.T) {
	const pods = `apiVersion: v1
kind: Pod
metadata: {name: a, namespace: one}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: two}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: three}
`
	_, out, _ := run(t, pods, "matrix", "-f", "-", "-n", "one", "-o", "csv")
	if want := "source,destination,connections\none/a,three/c,All\none/a,two/b,All\nthree/c,one/a,All\ntwo/b,one/a,All\n"; out != want {
		t.Errorf("got\n%s", out)
	}
	_, out, _ = run(t, pods, "matrix", "-f", "-", "-n", "one", "-o", "html", "--port", "80", "--external", "--to", "external")
	for _, want := range []string{"Only what begins or ends in namespace one, and only TCP 80, is shown", `"n":"0.0.0.0/0"`, `"n":"one/a"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(out, `"n":"two/b"`) {
		t.Error("the page has a pod that the namespace does not connect with")
	}
}

func TestExplainNamesTheDoorAndTheRule(t *testing.T) {
	code, out, _ := run(t, "", "explain", "-f", "demo", "secure-app/frontend", "secure-app/database", "5432")
	if code != ExitFindings || !strings.Contains(out, "isolated by NetworkPolicy secure-app/allow-backend-to-database, NetworkPolicy secure-app/deny-all") {
		t.Errorf("exit %d\n%s", code, out)
	}
	code, out, _ = run(t, "", "explain", "-f", "demo", "--pod", "secure-app/backend", "--to-pod", "secure-app/database", "--port", "5432", "-o", "json")
	var e struct {
		Verdict         string
		Egress, Ingress struct {
			Verdict, Reason string
			Policies        []string
			Rule            *struct {
				Name, Field, File string
				Line              int
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	r := e.Egress.Rule
	if code != ExitFine || e.Verdict != "allow" || r == nil || r.Name != "backend-egress-to-database" || r.Field != "spec.egress[0]" ||
		r.File != filepath.Join("demo", "5-what-was-missing.yaml") || r.Line != 20 {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// tutorialState is the tutorial's last state, before what was missing.
var tutorialState = []string{
	"-f", "demo/0-application.yaml", "-f", "demo/1-deny-all.yaml", "-f", "demo/2-frontend-to-backend.yaml",
	"-f", "demo/3-backend-to-database.yaml", "-f", "demo/4-restrict-backend-egress.yaml",
}

func TestExplainSaysWhatNearlyMatchedAndWhatWouldHelp(t *testing.T) {
	args := append([]string{"explain", "secure-app/backend", "secure-app/database", "5432"}, tutorialState...)
	_, out, _ := run(t, "", args...)
	for _, want := range []string{
		"nearly NetworkPolicy secure-app/restrict-backend-egress spec.egress[0].to[0] (demo/4-restrict-backend-egress.yaml:9): ipBlock wants 203.0.113.0/24, this is 10.244.0.3",
		"to allow it, add\n    apiVersion: networking.k8s.io/v1\n", "name: allow-backend-egress-to-database", "which changes nothing else",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the explanation lacks %q:\n%s", want, out)
		}
	}
	code, out, _ := run(t, "", append(args, "-o", "json")...)
	var e struct {
		Verdict string
		Egress  struct {
			Verdict    string
			NearMisses []struct {
				Name, Field string
				Failed      []string
			}
		}
		Suggestion *struct {
			Policies      string
			Opens, Closes []any
		}
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	if code != ExitFindings || len(e.Egress.NearMisses) != 1 || e.Suggestion == nil || e.Suggestion.Opens == nil {
		t.Fatalf("exit %d\n%s", code, out)
	}
	file := filepath.Join(t.TempDir(), "suggested.yaml")
	if err := os.WriteFile(file, []byte(e.Suggestion.Policies), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := run(t, "", append(args, "-f", file)...); code != ExitFine {
		t.Errorf("with the suggestion added: exit %d\n%s", code, out)
	}
}

func TestExplainFoldsThePodsOfAWorkload(t *testing.T) {
	const pods = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {replicas: 3, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop}
spec: {containers: [{name: c}]}
`
	code, out, _ := run(t, pods, "explain", "-f", "-", "shop/web", "shop/db", "80", "-o", "json")
	var e struct{ Source, Destination, Verdict, Connections string }
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if code != ExitFine || e.Source != "shop/web" || e.Destination != "shop/db" || e.Verdict != "allow" || e.Connections != "All" {
		t.Errorf("exit %d\n%s", code, out)
	}
	if code, out, _ := run(t, pods, "explain", "-f", "-", "shop/web", "shop/db"); code != ExitFine || out != "shop/web → shop/db: All\n" {
		t.Errorf("without a port: exit %d\n%s", code, out)
	}
}

func TestPolicyTestReportsTheDifferingPart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "expect.yaml")
	text := `apiVersion: sallyport.dev/v1alpha1
kind: PolicyTest
metadata: {name: t}
spec:
  cases:
  - {name: web to api, from: secure-app/frontend, to: secure-app/backend, port: 80, expect: allow}
  - {name: all of them, from: {pod: {matchLabels: {app: backend}}}, to: secure-app/database, port: 5430-5440, expect: deny}
  - {name: nobody, from: {pod: {matchLabels: {app: none}}}, to: secure-app/database, port: 1, expect: deny}
  - {name: internet, from: external, to: secure-app/frontend, port: 80, expect: deny}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for format, want := range map[string][]string{
		"text":  {"PASS  web to api", "FAIL  all of them", "differs for TCP 5432", "matches no pod", "2 passed, 2 failed"},
		"tap":   {"1..4", "ok 1 - web to api", "not ok 2 - all of them"},
		"junit": {`tests="4" failures="2"`, `name="internet"`},
		"json":  {`"differs": "TCP 5432"`},
	} {
		code, out, stderr := run(t, "", "test", "-f", "demo", "--expect", file, "-o", format)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("-o %s lacks %q:\n%s%s", format, w, out, stderr)
			}
		}
		if code != ExitFindings {
			t.Errorf("-o %s: exit %d", format, code)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		stdin string
		args  []string
		want  int
	}{
		{"", []string{"version"}, ExitFine},
		{"", []string{"completion", "bash"}, ExitFine},
		{"", []string{"matrix"}, ExitUsage},
		{"", []string{"matrix", "--nonsense"}, ExitUsage},
		{"", []string{"matrix", "-f", "demo", "-o", "nonsense"}, ExitUsage},
		{"", []string{"matrix", "-f", "does-not-exist"}, ExitInput},
		{"kind: [", []string{"matrix", "-f", "-"}, ExitInput},
		{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n", []string{"matrix", "-f", "-"}, ExitInput},
		{"", []string{"explain", "-f", "demo", "nobody/here", "secure-app/backend", "80"}, ExitUsage},
		{"", []string{"test", "-f", "demo"}, ExitUsage},
	} {
		if code, _, stderr := run(t, c.stdin, c.args...); code != c.want {
			t.Errorf("%v: exit %d, want %d\n%s", c.args, code, c.want, stderr)
		}
	}
}

func TestCompletionKnowsTheManifests(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"explain -f demo ", "external\nnode\nsecure-app/backend\nsecure-app/database\nsecure-app/frontend\n:4\n"},
		{"explain -f demo secure-app/frontend svc/", "svc/secure-app/backend\nsvc/secure-app/database\nsvc/secure-app/frontend\n:4\n"},
		{"explain -f demo secure-app/frontend secure-app/database ", "5432/TCP\n:4\n"},
		{"matrix -f demo --to secure-app/d", "secure-app/database\n:4\n"},
		{"explain -f missing.yaml ", "external\nnode\n:4\n"},
	} {
		code, out, _ := run(t, "", append([]string{"__complete"}, strings.Split(c.line, " ")...)...)
		lines := strings.Split(out, "\n")
		typed := c.line[strings.LastIndex(c.line, " ")+1:]
		lines = slices.DeleteFunc(lines, func(l string) bool { return l != "" && l[0] != ':' && !strings.HasPrefix(l, typed) })
		slices.Sort(lines[:max(0, len(lines)-2)])
		if got := strings.Join(lines, "\n"); code != ExitFine || got != c.want {
			t.Errorf("%q: exit %d, got %q, want %q", c.line, code, got, c.want)
		}
	}
}
