package cli

import (
	"strings"
	"testing"
)

func TestWhoCan(t *testing.T) {
	const policies = `
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
  - from: [{namespaceSelector: {}}]
    ports: [{port: 9090}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: 443}]
`
	if code, out, errs := run(t, policies, "who-can", "reach", "shop/db", "22", "-f", "-", "-o", "csv"); code != ExitFine || strings.Count(out, "\n") != 1 || errs != "nobody can reach shop/db on 22; sallyport explain says why, of each pair\n" {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	code, out, errs := run(t, policies, "who-can", "reach", "shop/db", "-f", "-", "-o", "csv")
	want := "source,destination,connections\n(new namespace)/(any pod),shop/db,TCP 9090\n203.0.113.0/24,shop/db,TCP 443\nshop/web,shop/db,\"TCP 5432,9090\"\n"
	if code != ExitFine || out != want {
		t.Errorf("exit %d, got\n%swant\n%s%s", code, out, want, errs)
	}
	if _, out, _ = run(t, policies, "who-can", "reach", "shop/db", "5432", "-f", "-", "-o", "csv"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "shop/web") {
		t.Errorf("on port 5432:\n%s", out)
	}
	if _, out, _ = run(t, policies, "who-can", "be-reached-from", "shop/web", "-f", "-", "-o", "csv"); !strings.Contains(out, "shop/web,0.0.0.0/0,All\n") {
		t.Errorf("the open door is not listed:\n%s", out)
	}
	if code, _, _ = run(t, policies, "who-can", "reach", "shop/nobody", "-f", "-"); code != ExitUsage {
		t.Errorf("nobody: exit %d", code)
	}
}
