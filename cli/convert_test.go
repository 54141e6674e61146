package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
---
`

// inOrder denies before it allows, and allows what only some languages can say.
const inOrder = `apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == 'db'
  ingress:
  - {action: Deny, source: {nets: [10.99.0.0/16]}}
  - {action: Deny, source: {selector: app == 'old'}}
  - {action: Allow, protocol: TCP, source: {selector: has(app)}, destination: {ports: [5432]}}
  - {action: Allow, protocol: TCP, source: {nets: [10.0.0.0/9]}, destination: {ports: [5432]}}
`

func TestConvertProvesWhatItWrites(t *testing.T) {
	for _, to := range []string{"networkpolicy", "kubernetes", "cilium", "calico", "clusternetworkpolicy", "cnp"} {
		code, out, stderr := run(t, "", "convert", "-f", "demo", "--to", to)
		if code != ExitFine || !strings.Contains(stderr, "equivalent: no connection differs; 3 pods compared") {
			t.Errorf("to %s: exit %d\n%s%s", to, code, out, stderr)
		}
		file := filepath.Join(t.TempDir(), "converted.yaml")
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out, stderr := run(t, "", "diff", after(t), file, "-f", application); code != ExitFine {
			t.Errorf("to %s: exit %d\n%s%s", to, code, out, stderr)
		}
	}
}

func TestConvertWorksOrderIn(t *testing.T) {
	code, out, stderr := run(t, shop+inOrder, "convert", "-f", "-", "--to", "networkpolicy")
	want := `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: db
  policyTypes:
    - Ingress
  ingress:
    - from:
        - podSelector:
            matchExpressions:
              - key: app
                operator: Exists
              - key: app
                operator: NotIn
                values:
                  - old
      ports:
        - protocol: TCP
          port: 5432
    - from:
        - ipBlock:
            cidr: 10.0.0.0/9
            except:
              - 10.99.0.0/16
      ports:
        - protocol: TCP
          port: 5432
`
	if code != ExitFine || out != want {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
}

func TestConvertSaysWhatItLeavesOut(t *testing.T) {
	code, out, _ := run(t, shop+inOrder+"  - {action: Allow, protocol: ICMP}\n", "convert", "-f", "-", "--to", "kubernetes", "-o", "json")
	var r struct {
		Policies  string
		Omissions []struct {
			Reason string
			Source struct {
				Field string
				Line  int
			}
		}
		Difference struct {
			Relation      string
			Opens, Closes []struct{ Connections string }
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if code != ExitFindings || len(r.Omissions) != 1 || r.Omissions[0].Source.Field != "spec.ingress[4]" || r.Omissions[0].Source.Line != 22 ||
		r.Difference.Relation != "narrower" || len(r.Difference.Opens) != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	code, out, stderr := run(t, inOrder, "convert", "-f", "-", "--to", "cilium")
	if code != ExitFindings || !strings.Contains(out, "kind: CiliumNetworkPolicy") || !strings.Contains(stderr, "not proven: there is no pod in the input") {
		t.Errorf("without pods: exit %d\n%s%s", code, out, stderr)
	}
}

func TestConvertRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"convert", "-f", "demo"}, {"convert", "-f", "demo", "--to", "istio"}, {"convert", "-f", "demo", "--to", "cilium", "-o", "csv"}, {"convert", "--to", "cilium"},
	} {
		if code, _, stderr := run(t, "", args...); code != ExitUsage {
			t.Errorf("%v: exit %d\n%s", args, code, stderr)
		}
	}
}
