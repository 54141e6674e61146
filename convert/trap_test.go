package convert_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/convert"
	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/manifest"
)

const app = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: scraper, namespace: ops, labels: {app: scraper}}
spec: {serviceAccountName: probe, containers: [{name: c}]}
---
`

const (
	kubernetes = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: "
	ciliums    = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: "
	cluster    = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: "
	calicos    = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: "
)

// traps are where the same word means something else, or nothing says it.
var traps = []struct {
	name, policies string
	to             convert.Target
	want, not      string
	relation       diff.Relation
}{
	{"a rule without anything allows all in one language and nothing in the other", kubernetes + `{podSelector: {}, ingress: [{}]}`,
		convert.Cilium, "fromEntities:\n        - all", "- {}", diff.Equivalent},
	{"no rule isolates", kubernetes + `{podSelector: {}}`,
		convert.Cilium, "ingress:\n    - {}", "egress", diff.Equivalent},
	{"every namespace is not the own one", kubernetes + `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`,
		convert.Cilium, "key: io.kubernetes.pod.namespace\n              operator: Exists", "", diff.Equivalent},
	{"a namespace by its name", kubernetes + `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]}]}`,
		convert.Calico, `namespaceSelector: projectcalico.org/name == "ops"`, "", diff.Equivalent},
	{"every address is also those of pods and nodes", kubernetes + `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`,
		convert.Cilium, "- remote-node", "", diff.Equivalent},
	{"a part of the pods has no CIDR", kubernetes + `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/30}}]}]}`,
		convert.Cilium, "cidr: 10.244.0.0/30", "fromEndpoints", diff.Narrower},
	{"all ports of a protocol", kubernetes + `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`,
		convert.Cilium, "port: \"0\"\n              protocol: UDP", "", diff.Equivalent},
	{"a name is another number in each pod", kubernetes + `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}`,
		convert.ClusterNetworkPolicy, "destinationNamedPort: http", "", diff.Equivalent},
	{"what comes from outside cannot be accepted", kubernetes + `{podSelector: {}, ingress: [{}]}`,
		convert.ClusterNetworkPolicy, "from:\n        - namespaces: {}", "networks", diff.Narrower},
	{"an address peer outside holds no pod", ciliums + `{endpointSelector: {}, ingress: [{fromCIDR: [0.0.0.0/0]}]}`,
		convert.NetworkPolicy, "except:\n              - 10.244.0.0/14", "", diff.Equivalent},
	{"a denial beats what is allowed", ciliums + `{endpointSelector: {}, ingress: [{fromCIDR: [192.0.2.0/24]}], ingressDeny: [{fromCIDR: [192.0.2.128/25]}]}`,
		convert.NetworkPolicy, "except:\n              - 192.0.2.128/25", "", diff.Equivalent},
	{"a denial alone leaves the rest open", ciliums + `{endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}]}]}`,
		convert.Calico, `app != "web"`, "", diff.Equivalent},
	{"HTTP rules are left out", ciliums + `{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]}]}`,
		convert.Calico, "types:\n    - Ingress", "action", diff.Narrower},
	{"what passes the first tier goes on to the next", cluster + `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {podSelector: {matchLabels: {app: web}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}` +
		"\n---\n" + kubernetes + `{podSelector: {}, ingress: [{}]}`,
		convert.Calico, `app == "web"`, "", diff.Equivalent},
	{"an account", calicos + `{selector: all(), ingress: [{action: Allow, source: {namespaceSelector: all(), serviceAccounts: {names: [probe]}}}]}`,
		convert.Cilium, "io.cilium.k8s.policy.serviceaccount: probe", "", diff.Equivalent},
	{"an account has no selector", calicos + `{selector: all(), ingress: [{action: Allow, source: {namespaceSelector: all(), serviceAccounts: {names: [probe]}}}]}`,
		convert.NetworkPolicy, "policyTypes:\n    - Ingress", "from", diff.Narrower},
	{"ICMP by type", calicos + `{selector: all(), ingress: [{action: Allow, protocol: ICMP, icmp: {type: 8}}]}`,
		convert.Cilium, "family: IPv4\n              type: 8", "toPorts", diff.Equivalent},
	{"the end of a tier", "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: first}\nspec: {order: 10}\n---\n" +
		calicos + `{tier: first, selector: app == 'db', ingress: [{action: Pass, source: {selector: app == 'web'}}]}`,
		convert.NetworkPolicy, "podSelector:\n            matchLabels:\n              app: web", "", diff.Equivalent},
}

func TestTraps(t *testing.T) {
	for _, x := range traps {
		r := manifest.Parse(map[string][]byte{"a.yaml": []byte(app + x.policies)}, []string{"a.yaml"}, manifest.Options{})
		for _, p := range r.Problems {
			if p.Severity.String() == "error" {
				t.Fatalf("%s: %v", x.name, p)
			}
		}
		after, out, err := there(r.Cluster, x.to)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		text := string(out.YAML)
		if !strings.Contains(text, x.want) || x.not != "" && strings.Contains(text, x.not) {
			t.Errorf("%s: to %s got\n%s", x.name, x.to, text)
		}
		d := diff.Compare(engine.Compile(r.Cluster), engine.Compile(after))
		if d.Relation() != x.relation || x.relation != diff.Equivalent && len(out.Omissions) == 0 {
			t.Errorf("%s: to %s is %s, want %s; omissions %v, changes %+v\n%s", x.name, x.to, d.Relation(), x.relation, out.Omissions, d.Changes, text)
		}
	}
}

// BenchmarkTo converts 5,000 NetworkPolicies of a cluster of 10,000 pods.
func BenchmarkTo(b *testing.B) {
	cl := synth.Scale(synth.Ten)
	for _, t := range convert.Targets {
		b.Run(string(t), func(b *testing.B) {
			for b.Loop() {
				if _, err := convert.To(t, cl); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
