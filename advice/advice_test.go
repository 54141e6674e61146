package advice

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: ops}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {replicas: 2, template: {metadata: {labels: {app: web, tier: front, pod-template-hash: abc}}, spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec: {template: {metadata: {labels: {tier: back}}, spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: shop, labels: {tier: back, app: cache}}
spec: {containers: [{name: c, ports: [{containerPort: 6379}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: scraper, namespace: ops, labels: {app: scraper}}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: ops, labels: {app: host}}
spec: {hostNetwork: true, nodeName: node-1, containers: [{name: c}]}
`

const denyAll = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`

const webServes = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}, {from: [{namespaceSelector: {}}]}]}
`

func ask(t *testing.T, policies, src, dst string, port uint16) (*Suggestion, Question, *model.Cluster) {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"a.yaml": []byte(shop + policies)}, []string{"a.yaml"}, manifest.Options{Nodes: 2})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	m := engine.Compile(r.Cluster)
	party := func(s string) engine.Party {
		if a, err := netip.ParseAddr(s); err == nil {
			return engine.Party{Addr: a}
		}
		e := m.Endpoint(s)
		if e == nil {
			t.Fatalf("there is no pod %s", s)
		}
		return engine.Party{Endpoint: e}
	}
	q := Question{From: party(src), To: party(dst), Key: model.PortKeyOf(model.TCP, port)}
	return Suggest(r.Cluster, m, q), q, r.Cluster
}

// turnsOver applies the suggestion as a user would.
func turnsOver(t *testing.T, s *Suggestion, q Question, c *model.Cluster) {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"s.yaml": []byte(s.Policies)}, []string{"s.yaml"}, manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	next := *c
	next.Policies = append(next.Policies[:len(next.Policies):len(next.Policies)], r.Cluster.Policies...)
	if engine.Compile(c).Verdict(q.From, q.To, q.Key).Allowed == engine.Compile(&next).Verdict(q.From, q.To, q.Key).Allowed {
		t.Errorf("the verdict is as before with\n%s", s.Policies)
	}
}

func words(pairs []Pair) string {
	var out []string
	for _, p := range pairs {
		out = append(out, fmt.Sprintf("%s>%s %s", p.Source, p.Destination, p.Connections))
	}
	return strings.Join(out, ", ")
}

func TestSuggestionOpensBothDoors(t *testing.T) {
	s, q, c := ask(t, denyAll, "shop/web-0", "shop/db-0", 5432)
	if s == nil {
		t.Fatal("there is none")
	}
	want := `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-web-egress-to-db
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
    - Egress
  egress:
    - to:
        - podSelector:
            matchLabels:
              tier: back
      ports:
        - protocol: TCP
          port: 5432
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-db-ingress-from-web
  namespace: shop
spec:
  podSelector:
    matchLabels:
      tier: back
  policyTypes:
    - Ingress
  ingress:
    - from:
        - podSelector:
            matchLabels:
              app: web
      ports:
        - protocol: TCP
          port: 5432
`
	if s.Policies != want {
		t.Errorf("got\n%s", s.Policies)
	}
	if got := words(s.Opens); got != "shop/web>shop/cache TCP 5432" || len(s.Closes) != 0 {
		t.Errorf("opens %q and closes %q", got, words(s.Closes))
	}
	turnsOver(t, s, q, c)
}

func TestSuggestionsForOtherPeers(t *testing.T) {
	for _, c := range []struct{ src, dst, want string }{
		{"ops/scraper", "shop/cache", "kubernetes.io/metadata.name: ops"},
		{"ops/host", "shop/cache", "cidr: 172.30.0.2/32"},
		{"192.0.2.7", "shop/cache", "cidr: 192.0.2.7/32"},
		{"shop/cache", "2001:db8::1", "cidr: 2001:db8::1/128"},
	} {
		s, q, cluster := ask(t, denyAll, c.src, c.dst, 6379)
		if s == nil {
			t.Errorf("%s to %s: there is none", c.src, c.dst)
			continue
		}
		if !strings.Contains(s.Policies, c.want) || len(s.Opens)+len(s.Closes) != 0 {
			t.Errorf("%s to %s: opens %q, closes %q\n%s", c.src, c.dst, words(s.Opens), words(s.Closes), s.Policies)
		}
		turnsOver(t, s, q, cluster)
	}
}

func TestSuggestionToDeny(t *testing.T) {
	s, q, c := ask(t, "", "shop/web-0", "shop/cache", 6379)
	if s == nil || !strings.Contains(s.Policies, "name: isolate-cache-ingress") || !strings.Contains(words(s.Closes), "shop/db>shop/cache All") {
		t.Fatalf("got %+v", s)
	}
	turnsOver(t, s, q, c)
	s, _, _ = ask(t, denyAll+webServes, "ops/scraper", "shop/web-0", 80)
	if s == nil || len(s.Remove) != 2 || s.Policies != "" || !strings.HasPrefix(words(s.Closes), "0.0.0.0/0>shop/web TCP 80, nodes>shop/web TCP 80, ops/host>shop/web TCP 80, ops/scraper>shop/web TCP 1-79,81-65535;") {
		t.Fatalf("got %+v", s)
	}
	s, _, _ = ask(t, webServes, "192.0.2.7", "shop/web-0", 80)
	if s == nil || len(s.Remove) != 1 || s.Remove[0].Field != "spec.ingress[0]" || s.Policies != "" || words(s.Closes) != "0.0.0.0/0 except 192.0.2.7/32>shop/web TCP 80, nodes>shop/web TCP 80, ops/host>shop/web TCP 80" {
		t.Fatalf("got %+v", s)
	}
}

func TestNoSuggestionWhereNothingHelps(t *testing.T) {
	for _, c := range [][2]string{
		{"10.244.250.250", "shop/cache"}, // an address in the pod range that no pod has
		{"shop/cache", "shop/cache"},     // a pod always reaches itself
	} {
		if s, _, _ := ask(t, denyAll, c[0], c[1], 6379); s != nil {
			t.Errorf("%v: got %+v", c, s)
		}
	}
}
