package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorded are the flows of the tutorial's application, ours and Hubble's.
const recorded = `{"source":"10.244.0.1","destination":"10.244.0.2","destinationPort":80,"protocol":6,"sourcePod":"secure-app/frontend","destinationPod":"secure-app/backend","verdict":"allowed"}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.244.0.2","destination":"10.244.0.3"},"l4":{"TCP":{"destination_port":5432}},"source":{"namespace":"secure-app","pod_name":"backend"},"destination":{"namespace":"secure-app","pod_name":"database"}}}
{"flow":{"verdict":"FORWARDED","is_reply":true,"IP":{"source":"10.244.0.3","destination":"10.244.0.2"},"l4":{"TCP":{"destination_port":40000}},"source":{"namespace":"secure-app","pod_name":"database"},"destination":{"namespace":"secure-app","pod_name":"backend"}}}
{"source":"10.244.0.2","destination":"203.0.113.9","destinationPort":443,"protocol":6,"sourcePod":"secure-app/backend","verdict":"allowed"}
{"source":"10.244.0.1","destination":"10.244.0.3","destinationPort":5432,"protocol":6,"sourcePod":"secure-app/frontend","destinationPod":"secure-app/database","verdict":"denied"}
{"source":"10.244.9.9","destination":"10.244.0.3","destinationPort":5432,"protocol":6,"sourcePod":"secure-app/deleted","destinationPod":"secure-app/database","verdict":"allowed"}
`

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRecommendedPoliciesAreWhatWasSeen(t *testing.T) {
	flows := writeFile(t, "flows.json", recorded)
	for _, dialect := range []string{"networkpolicy", "cilium", "calico"} {
		code, out, errs := run(t, "", "recommend", "-f", "demo/0-application.yaml", "--flows", flows, "--dialect", dialect)
		if code != ExitFine {
			t.Fatalf("%s: exit %d\n%s", dialect, code, errs)
		}
		wantAll(t, errs, "3 of 4 flows pass", "1 flows their pods are not there any more: secure-app/deleted → secure-app/database on 5432/TCP", "smaller)")
		policies := writeFile(t, "policies.yaml", out)
		_, csv, _ := run(t, "", "matrix", "-f", "demo/0-application.yaml", "-f", policies, "-o", "csv")
		want := "source,destination,connections\nsecure-app/backend,secure-app/database,TCP 5432\nsecure-app/database,secure-app/frontend,All\nsecure-app/frontend,secure-app/backend,TCP 80\n"
		if csv != want {
			t.Errorf("%s: the policies make\n%swant\n%s", dialect, csv, want)
		}
	}
	if code, _, errs := run(t, "not json\n", "recommend", "-f", "demo/0-application.yaml", "--flows", "-"); code != ExitInput || !strings.Contains(errs, "-:1: is no flow") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if code, _, _ := run(t, "", "recommend", "-f", "demo"); code != ExitUsage {
		t.Errorf("without flows: exit %d", code)
	}
}

func TestRecommendFromServices(t *testing.T) {
	const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: main, image: app, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop, labels: {app: job}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`
	code, out, errs := run(t, manifests, "recommend", "-f", "-", "--from-services")
	if code != ExitFine {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	path := writeFile(t, "all.yaml", manifests+"\n---\n"+out)
	if _, csv, _ := run(t, "", "matrix", "-f", path, "-o", "csv"); csv != "source,destination,connections\nshop/job,shop/web,TCP 8080\n" {
		t.Errorf("the policies make\n%s", csv)
	}
}

func TestCheckSaysWhatBreaks(t *testing.T) {
	flows := writeFile(t, "flows.json", recorded)
	code, out, errs := run(t, "", "check", "-f", "demo/0-application.yaml", "--test-policy", "demo/1-deny-all.yaml", "--flows", flows)
	if code != ExitFindings {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	wantAll(t, out, "breaks secure-app/frontend → secure-app/backend on 80/TCP: egress isolated by NetworkPolicy secure-app/deny-all",
		"3 recorded flows tried, 3 would break; 1 are of pods that are not there")
	_, out, _ = run(t, "", "check", "-f", "demo", "--test-policy", "demo/1-deny-all.yaml", "--output", "json")
	wantAll(t, out, `"broken": []`, `"flows": 0`)
	if code, _, errs = run(t, "", "check", "-f", "demo", "--test-policy", "demo/1-deny-all.yaml"); code != ExitFine {
		t.Errorf("a policy that is there already: exit %d\n%s", code, errs)
	}
	// Without a namespace of its own, a policy is one of --namespace.
	policy := writeFile(t, "p.yaml", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n")
	if code, out, _ = run(t, "", "check", "-f", "demo/0-application.yaml", "--test-policy", policy, "--namespace", "secure-app", "--output", "brief"); code != ExitFindings {
		t.Errorf("exit %d\n%s", code, out)
	}
}
