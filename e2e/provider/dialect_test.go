package provider

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
)

// language is a policy of some language about the server of the test: home and
// away stand for its namespaces.
type language struct {
	kind     string // as kubectl takes it
	name     string
	text     string
	open     who    // of those that are not the server's own
	status   bool   // its kind has a place for conditions
	accepted string // the reason that it gives there; "" is "Accepted"
}

var languages = []language{
	{"networkpolicies.projectcalico.org", "only-away", `
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: only-away, namespace: home}
spec:
  selector: app == 'server'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {namespaceSelector: name == 'away'}}
  - {action: Allow, protocol: UDP, source: {namespaceSelector: name == 'away'}}
`, who{"near": true, "far": true}, false, ""},
	{"globalnetworkpolicies.crd.projectcalico.org", "default.not-far", `
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.not-far}
spec:
  order: 5
  namespaceSelector: name == 'home'
  types: [Ingress]
  ingress:
  - {action: Deny, source: {selector: role == 'far'}}
  - {action: Allow}
`, who{"near": true, "stranger": true}, false, ""},
	{"ciliumnetworkpolicies.cilium.io", "from-away", `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: from-away, namespace: home}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: away}
`, who{"near": true, "far": true}, true, ""},
	{"ciliumclusterwidenetworkpolicies.cilium.io", "with-http", `
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: with-http}
spec:
  endpointSelector: {matchLabels: {k8s:io.kubernetes.pod.namespace: home}}
  ingress:
  - fromEndpoints:
    - matchLabels: {role: near}
  - fromEndpoints:
    - matchLabels: {role: far}
    toPorts:
    - ports: [{port: "7000", protocol: TCP}]
      rules: {http: [{method: GET}]}
`, who{"near": true}, true, "Reservations"},
	{"clusternetworkpolicies.policy.networking.k8s.io", "not-wild", `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: not-wild}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {name: home}}}
  ingress:
  - {action: Accept, from: [{namespaces: {matchLabels: {name: away}}}]}
  - {action: Deny, from: [{namespaces: {}}]}
`, who{"near": true, "far": true}, true, ""},
	{"adminnetworkpolicies.policy.networking.k8s.io", "not-near", `
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: not-near}
spec:
  priority: 10
  subject: {namespaces: {matchLabels: {name: home}}}
  ingress:
  - action: Deny
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: near}}}}]
`, who{"far": true, "stranger": true}, true, ""},
}

// TestLanguages has the kinds of other languages appear beside agents that
// run, enforces a policy of each, together and alone, and has the kinds go.
func TestLanguages(t *testing.T) {
	l := enforced(t)
	home, away, wild := l.namespace("home"), l.namespace("away"), l.namespace("lang-wild")
	server := &pod{ns: home, name: "server", node: l.Nodes[0], labels: object{"app": "server"}, args: []string{"-listen", "7000"}}
	near := &pod{ns: away, name: "near", node: l.Nodes[0], labels: object{"role": "near"}}
	far := &pod{ns: away, name: "far", node: l.Nodes[1], labels: object{"role": "far"}}
	stranger := &pod{ns: wild, name: "stranger", node: l.Nodes[1]}
	l.start(server, near, far, stranger)
	phase := func(name string, open who) {
		t.Helper()
		l.phase(name, open, []visit{
			{near, server.at(7000), false, "near"}, {far, server.at(7000), false, "far"}, {stranger, server.at(7000), false, "stranger"},
			{server, server.at(7000), true, "itself"},
		})
	}
	everybody := who{"near": true, "far": true, "stranger": true}
	phase("before", everybody)

	module, err := binary.Module()
	must(t, err)
	definitions, err := filepath.Glob(filepath.Join(module, "../deploy/crds/*.yaml"))
	must(t, err)
	files := "--filename=" + strings.Join(definitions, ",")
	_, err = l.Kubectl(t.Context(), "apply", files)
	must(t, err)
	t.Cleanup(func() { _, _ = l.Kubectl(t.Context(), "delete", "--ignore-not-found", "--wait=false", files) })
	_, err = l.Kubectl(t.Context(), "wait", "--for=condition=Established", "--timeout=2m", files)
	must(t, err)

	write := func(x language) {
		t.Helper()
		_, err := l.KubectlInput(t.Context(), strings.NewReplacer("home", home, "away", away).Replace(x.text), "apply", "--filename=-")
		must(t, err)
	}
	remove := func(x language) {
		t.Helper()
		args := []string{"delete", x.kind, x.name}
		if !strings.Contains(x.kind, "global") && !strings.Contains(x.kind, "cluster") && !strings.Contains(x.kind, "admin") {
			args = append(args, "--namespace="+home)
		}
		_, err := l.Kubectl(t.Context(), args...)
		must(t, err)
	}
	for _, x := range languages {
		x.name = strings.NewReplacer("home", home, "away", away).Replace(x.name)
		begin := time.Now()
		write(x)
		must(t, eventually(func() error { return l.everywhere(x.name) }))
		t.Logf("%s %s is said to be enforced everywhere after %s", x.kind, x.name, time.Since(begin).Round(time.Millisecond))
		phase(x.kind, x.open)
		if x.status {
			reason := x.accepted
			if reason == "" {
				reason = "Accepted"
			}
			must(t, eventually(func() error { return l.conditions(x, home, reason) }))
		}
		remove(x)
		phase("without "+x.kind, everybody)
	}

	// Calico lets those of away in, and Cilium; the administrator not the near one.
	for _, i := range []int{0, 2, 5} {
		write(languages[i])
	}
	name := strings.ReplaceAll(languages[0].name, "away", away)
	must(t, eventually(func() error { return l.everywhere(name, "not-near") }))
	phase("together", who{"far": true})
	out, err := l.sallyport("get", "networkpolicy", "-n", home)
	if err != nil || !strings.Contains(out, name) || strings.Contains(out, "not-near") {
		t.Errorf("sallyport get networkpolicy -n %s: %v\n%s", home, err, out)
	}
	out, err = l.sallyport("explain", away+"/near", home+"/server", "7000")
	if err == nil || !strings.Contains(out, "not-near") {
		t.Errorf("sallyport explain: %v\n%s", err, out)
	}
	t.Logf("sallyport explain %s/near %s/server 7000:\n%s", away, home, out)

	_, err = l.Kubectl(t.Context(), "delete", files)
	must(t, err)
	phase("without the kinds", everybody)
}

// everywhere says whether every node enforces the policies of these names, as
// sallyport tells it.
func (l lab) everywhere(names ...string) error {
	out, _ := l.sallyport("get", "policies", "-o", "json")
	var said struct {
		Policies []struct {
			Name      string
			Enforcing []string
			Nodes     int
		}
	}
	begin := strings.IndexByte(out, '{')
	if begin < 0 {
		return fmt.Errorf("sallyport get policies: %s", out)
	}
	if err := json.NewDecoder(strings.NewReader(out[begin:])).Decode(&said); err != nil {
		return fmt.Errorf("sallyport get policies: %w: %s", err, out)
	}
	for _, name := range names {
		found := false
		for _, p := range said.Policies {
			if p.Name != name {
				continue
			}
			if found = true; len(p.Enforcing) < p.Nodes {
				return fmt.Errorf("%s is enforced on %d of %d nodes", name, len(p.Enforcing), p.Nodes)
			}
		}
		if !found {
			return fmt.Errorf("sallyport does not know %s", name)
		}
	}
	return nil
}

// conditions says whether the policy's status tells that it is accepted for
// this reason, and enforced.
func (l lab) conditions(x language, home, reason string) error {
	out, err := l.Kubectl(l.t.Context(), "get", x.kind, x.name, "--namespace="+home, "-o", `jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason} {end}`)
	if err == nil && !(strings.Contains(out, "sallyport.dev/Accepted=True/"+reason) && strings.Contains(out, "sallyport.dev/Enforced=True/")) {
		err = fmt.Errorf("%s %s has the conditions %q", x.kind, x.name, out)
	}
	return err
}
