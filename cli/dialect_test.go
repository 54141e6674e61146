package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// example writes the manifests of an example of docs/dialects.md into a folder.
func example(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/dialects.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "### "+title+"\n")
	_, rest, fenced := strings.Cut(rest, "```txtar\n")
	body, _, closed := strings.Cut(rest, "\n```\n")
	if !ok || !fenced || !closed {
		t.Fatalf("docs/dialects.md has no example %q", title)
	}
	dir := t.TempDir()
	marks := regexp.MustCompile(`(?m)^-- (.*) --\n`)
	for _, at := range marks.FindAllStringSubmatchIndex(body, -1) {
		content := body[at[1]:]
		if next := marks.FindStringIndex(content); next != nil {
			content = content[:next[0]]
		}
		if err := os.WriteFile(filepath.Join(dir, body[at[2]:at[3]]), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantAll(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Errorf("%q is missing in\n%s", p, out)
		}
	}
}

func TestExplainWalksTierByTier(t *testing.T) {
	dir := example(t, "Calico and Cilium: both must allow")
	code, out, _ := run(t, "", "explain", "-f", dir, "shop/web", "shop/api", "80")
	if code != ExitFindings {
		t.Errorf("exit %d", code)
	}
	wantAll(t, out, "tier default: allows, by NetworkPolicy shop/api spec.ingress[0]", "and, as Cilium counts policies:",
		"tier default (CiliumNetworkPolicy shop/api): no rule matches, so it denies")
	dir = example(t, "A Calico Tier before everything")
	_, out, _ = run(t, "", "explain", "-f", dir, "shop/web", "shop/api", "80", "-o", "json")
	wantAll(t, out, `"tier": "security"`, `"says": "end-pass"`, `"tier": "kube-admin"`, `"says": "allow"`)
}

func TestProfileChangesWhatABlockMatches(t *testing.T) {
	const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]
`
	for profile, want := range map[string]int{"kubernetes": ExitFine, "calico": ExitFine, "cilium": ExitFindings, "weave": ExitUsage} {
		code, out, errs := run(t, manifests, "explain", "-f", "-", "shop/web", "shop/api", "80", "--profile", profile)
		if code != want {
			t.Errorf("--profile %s: exit %d, want %d\n%s%s", profile, code, want, out, errs)
		}
		if want != ExitUsage && !strings.Contains(errs, "as "+profile+" reads them") {
			t.Errorf("--profile %s is not named in the answer: %s", profile, errs)
		}
	}
	if code, _, _ := run(t, manifests, "explain", "-f", "-", "203.0.113.7", "shop/api", "80", "--profile", "cilium"); code != ExitFine {
		t.Errorf("an address outside is not in the block for cilium: exit %d", code)
	}
}

func TestGetTiersAndProfiles(t *testing.T) {
	dir := example(t, "A Calico Tier before everything")
	code, out, _ := run(t, "", "get", "tiers", "-f", dir)
	if code != ExitFine || strings.Index(out, "security") > strings.Index(out, "kube-admin") {
		t.Errorf("exit %d: the tier of order 100 is not the first\n%s", code, out)
	}
	wantAll(t, out, "GlobalNetworkPolicy security.quarantine", "ClusterNetworkPolicy everybody", "kube-baseline")
	_, out, _ = run(t, "", "get", "profiles", "-f", dir, "-n", "shop")
	wantAll(t, out, "kns.shop", "ksa.shop.default", "everything passes")
	if _, out, _ = run(t, "", "get", "profiles", "-f", dir, "-n", "default"); strings.Contains(out, "kns.shop") {
		t.Errorf("-n lists other namespaces\n%s", out)
	}
}

func TestKindsByOtherNames(t *testing.T) {
	for word, want := range map[string]string{"policies": "", "policy": "", "netpol": "networkpolicy", "networkpolicies": "networkpolicy", "globalnetworkpolicy": "globalnetworkpolicy"} {
		if got := kindNamed(word); got != want {
			t.Errorf("%s asks for kind %q, want %q", word, got, want)
		}
	}
}

func TestPoliciesThatNameTheCluster(t *testing.T) {
	text := shop + `
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: of-prod, namespace: shop}
spec:
  endpointSelector: {}
  ingressDeny:
  - fromEndpoints:
    - matchLabels: {io.cilium.k8s.policy.cluster: prod}
  ingress:
  - fromEntities: [cluster]
`
	for name, want := range map[string]int{"": ExitFine, "staging": ExitFine, "prod": ExitFindings} {
		if code, out, stderr := run(t, text, "explain", "-f", "-", "--cluster-name", name, "shop/web", "shop/db", "5432"); code != want {
			t.Errorf("in cluster %q exit %d, want %d\n%s%s", name, code, want, out, stderr)
		}
	}
	t.Setenv("SALLYPORT_CLUSTER_NAME", "prod")
	if code, _, _ := run(t, text, "explain", "-f", "-", "shop/web", "shop/db", "5432"); code != ExitFindings {
		t.Errorf("by the environment: exit %d", code)
	}
}

func TestExplainSaysOnceWhatBothWaysSay(t *testing.T) {
	text := shop + `
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {selector: app == 'db', ingress: [{action: Allow}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec: {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEntities: [all]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: shut}
spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
`
	code, out, _ := run(t, text, "explain", "-f", "-", "shop/web", "shop/db", "5432")
	if code != ExitFindings || strings.Count(out, "tier kube-admin: denies") != 1 {
		t.Errorf("exit %d\n%s", code, out)
	}
	wantAll(t, out, "and the same as Cilium counts policies")
}
