package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

func parse(t *testing.T, text string) *Result {
	t.Helper()
	return Parse(map[string][]byte{"in.yaml": []byte(text)}, []string{"in.yaml"}, Options{})
}

const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers: [{name: sidecar, restartPolicy: Always, ports: [{name: admin, containerPort: 9000}]}]
      containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec: {replicas: 1, template: {metadata: {labels: {app: db}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop, labels: {app: web}}
status: {phase: Succeeded}
`

func TestTemplatesMakePodsWithAddresses(t *testing.T) {
	r := parse(t, shop)
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	var names []string
	for _, e := range r.Cluster.Endpoints {
		names = append(names, e.Name+"="+e.IPs[0].String())
	}
	if got, want := strings.Join(names, " "), "db-0=10.244.0.2 web-0=10.244.0.3 web-1=10.244.0.4"; got != want {
		t.Errorf("pods %s, want %s", got, want)
	}
	if r.Cluster.Endpoints[0].Labels["statefulset.kubernetes.io/pod-name"] != "db-0" {
		t.Error("the StatefulSet's pod lacks its pod-name label")
	}
	if n, ok := r.Cluster.Endpoints[1].NamedPort("admin", model.TCP); !ok || n != 9000 {
		t.Error("the sidecar's named port is not found")
	}
	s := r.Cluster.Services[0]
	if len(s.Ports[0].Backends) != 2 || s.Ports[0].Backends[1].Port != 8080 || s.ClusterIPs[0].String() != "10.96.0.16" {
		t.Errorf("service %+v", s)
	}
	if db := r.Cluster.Endpoints[0]; db.Hostname != "db-0" {
		t.Errorf("the StatefulSet's pod is %+v", db)
	}
}

func TestPodsThatAreNotReadyStandBehindNoService(t *testing.T) {
	const pods = `
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: web}}
status: {conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-peers, namespace: shop}
spec: {publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 80}]}
`
	r := parse(t, pods)
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	if s := r.Cluster.Services; len(s[0].Ports[0].Backends) != 0 || len(s[1].Ports[0].Backends) != 1 {
		t.Errorf("backends %+v", s)
	}
}

func TestEveryMistakeIsReportedWithItsPlace(t *testing.T) {
	r := parse(t, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wrong}
spec:
  podSelector: {matchLabels: {app: "a b"}}
  policyTypes: [ingress]
  ingress:
  - from: [{}]
    port: 80
  - from:
    - ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.0.0.0/8]}
    - ipBlock: {cidr: 010.0.0.0/8}
    ports:
    - {port: 90, endPort: 80}
    - {port: http, endPort: 80}
    - {port: 70000}
    - {port: "80"}
    - {port: 80, protocol: tcp}
---
apiVersion: crd.antrea.io/v1beta1
kind: NetworkPolicy
metadata: {name: calico}
spec: {}
---
apiVersion: v1
kind: Pod
metadata: [broken
`)
	want := []string{
		`in.yaml:5:36: error: NetworkPolicy default/wrong: spec.podSelector.matchLabels.app: label value "a b" cannot exist`,
		`in.yaml:8:12: error: NetworkPolicy default/wrong: spec.ingress[0].from[0]: a peer must have one of`,
		`in.yaml:9:5: error: NetworkPolicy default/wrong: spec.ingress[0].port: unknown field "port" (did you mean ports?)`,
		`spec.ingress[1].from[0].ipBlock.except[0]: 11.0.0.0/16 is not a proper part of 10.0.0.0/8`,
		`spec.ingress[1].from[0].ipBlock.except[1]: 10.0.0.0/8 is not a proper part`,
		`spec.ingress[1].from[1].ipBlock.cidr: "010.0.0.0/8" is no CIDR`,
		`spec.ingress[1].ports[0].endPort: must not be below port 90`,
		`spec.ingress[1].ports[1].endPort: may not stand beside a named port`,
		`spec.ingress[1].ports[2].port: must be between 1 and 65535`,
		`spec.ingress[1].ports[3].port: "80" is no valid port name (a number in quotes`,
		`spec.ingress[1].ports[4].protocol: unknown protocol "tcp"`,
		`spec.policyTypes[0]: unknown policy type "ingress"`,
		`crd.antrea.io/v1beta1 NetworkPolicy is not understood`,
		`cannot be parsed`,
	}
	var all []string
	for _, p := range r.Problems {
		all = append(all, p.Error())
	}
	text := strings.Join(all, "\n")
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no problem says %q", w)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d problems, want %d:\n%s", len(all), len(want), text)
	}
}

func TestBrokenPolicyIsClosed(t *testing.T) {
	r := parse(t, shop+`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{ipBlock: {cidr: nonsense}}]
`)
	m := engine.Compile(r.Cluster)
	v := m.Verdict(engine.Party{Endpoint: m.Endpoint("shop/db-0")}, engine.Party{Endpoint: m.Endpoint("shop/web-0")}, model.PortKeyOf(model.TCP, 8080))
	if v.Allowed || !model.HasErrors(r.Problems) {
		t.Errorf("allowed %v, problems %v", v.Allowed, r.Problems)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(shop))
	f.Add([]byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 1, endPort: 2}]}]}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		r := Parse(map[string][]byte{"f": text}, []string{"f"}, Options{})
		if len(r.Cluster.Endpoints) > 50 {
			return
		}
		m := engine.Compile(r.Cluster)
		for range m.EachPair() {
		}
	})
}

func TestNodesThatOnlyPodsNameExist(t *testing.T) {
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: worker, hostNetwork: true, containers: [{name: c, image: i}]}\n"
	c := Parse(map[string][]byte{"f": []byte(text)}, []string{"f"}, Options{}).Cluster
	if len(c.Nodes) != 1 || c.Nodes[0].Name != "worker" || len(c.Endpoints[0].IPs) != 1 || c.Endpoints[0].IPs[0] != c.Nodes[0].IPs[0] {
		t.Errorf("nodes %v and pod %v, want one node \"worker\" whose address the pod has", c.Nodes, c.Endpoints[0])
	}
}

func TestPoliciesWithoutNamesAreNotOne(t *testing.T) {
	text := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {podSelector: {matchLabels: {app: a}}}\n"
	c := Parse(map[string][]byte{"f": []byte(text + "---\n" + text)}, []string{"f"}, Options{}).Cluster
	if len(c.Policies) != 2 || engine.PolicyKey(c.Policies[0]) == engine.PolicyKey(c.Policies[1]) {
		t.Errorf("%d policies with the keys %q and %q, want two", len(c.Policies), engine.PolicyKey(c.Policies[0]), engine.PolicyKey(c.Policies[1]))
	}
}

// A folder may be given by a symbolic link.
func TestLoadFollowsALinkToAFolder(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(shop), 0o644), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	r, err := Load([]string{link}, nil, Options{})
	if err != nil || len(r.Cluster.Endpoints) == 0 {
		t.Errorf("%v, %v", r, err)
	}
}
