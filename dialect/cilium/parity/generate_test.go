package parity

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes random policies: of Cilium, and now and then of Kubernetes
// and of the cluster's tiers beside them.
type generator struct {
	*rand.Rand
	nodes bool // nodes are selected by labels, as an agent does that is told to
}

type object = map[string]any

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func list(n int, one func() any) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = one()
	}
	return out
}

func (g *generator) policies() []string {
	var out []string
	for i := range 1 + g.IntN(4) {
		name := fmt.Sprintf("p%d", i)
		var o object
		switch {
		case g.chance(12):
			o = g.kubernetes(name)
		case g.chance(10):
			o = g.cluster(name)
		default:
			o = g.cilium(name)
		}
		text, err := json.Marshal(o)
		if err != nil {
			panic(err)
		}
		out = append(out, string(text)+"\n")
	}
	return out
}

func (g *generator) cilium(name string) object {
	o := object{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": object{"name": name, "namespace": pick(g, "a", "b")}}
	if g.chance(35) {
		o["kind"], o["metadata"] = "CiliumClusterwideNetworkPolicy", object{"name": name}
	}
	if g.chance(15) {
		o["specs"] = list(1+g.IntN(2), func() any { return g.rule() })
		return o
	}
	o["spec"] = g.rule()
	return o
}

func (g *generator) rule() object {
	r := object{"endpointSelector": g.subject()}
	for _, name := range []string{"ingress", "ingressDeny", "egress", "egressDeny"} {
		deny := len(name) > 7
		if g.chance(60) && (!deny || g.chance(50)) {
			r[name] = list(1+g.IntN(3), func() any { return g.item(name, deny) })
		}
	}
	if len(r) == 1 {
		r["ingress"] = []any{g.item("ingress", false)}
	}
	if g.chance(25) {
		flags := object{}
		for _, d := range []string{"ingress", "egress"} {
			if g.chance(60) {
				flags[d] = g.chance(30)
			}
		}
		r["enableDefaultDeny"] = flags
	}
	return r
}

func (g *generator) item(name string, deny bool) object {
	prefix := "from"
	if name[0] == 'e' {
		prefix = "to"
	}
	o := object{}
	if g.chance(85) {
		g.peers(o, prefix)
	}
	switch {
	case g.chance(45):
		o["toPorts"] = list(1+g.IntN(2), func() any { return g.portRule(prefix == "to", deny) })
	case g.chance(15):
		o["icmps"] = []any{object{"fields": list(1+g.IntN(2), func() any {
			return object{"type": pick[any](g, 8, 13, "EchoRequest", "Timestamp", "13")}
		})}}
	case g.chance(5):
		o["toPorts"] = []any{}
	}
	return o
}

func (g *generator) peers(o object, prefix string) {
	n := g.IntN(3)
	if g.chance(85) {
		n = 1 + g.IntN(2)
	}
	kind := g.IntN(9)
	if g.nodes && g.chance(15) {
		kind = 9
	}
	switch kind {
	case 0, 1, 2, 3, 4:
		o[prefix+"Endpoints"] = list(n, func() any { return g.selector() })
	case 5:
		o[prefix+"CIDR"] = list(n, func() any { return g.cidr() })
	case 6:
		o[prefix+"CIDRSet"] = list(n, func() any { return g.cidrRule() })
	case 7, 8:
		o[prefix+"Entities"] = list(n, func() any {
			return pick(g, "all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host", "remote-node", "none", "init", "health")
		})
	case 9:
		o[prefix+"Nodes"] = list(n, func() any {
			return pick[any](g, object{}, object{"matchLabels": object{pick(g, "zone", "node:zone"): pick(g, "p", "q")}},
				object{"matchExpressions": []any{object{"key": "zone", "operator": pick(g, "Exists", "DoesNotExist")}}})
		})
	}
}

func (g *generator) cidr() string {
	return pick(g, "0.0.0.0/0", "198.51.100.0/24", "198.51.100.7", "198.51.100.128/25", "203.0.113.0/24", "203.0.113.9/32", "192.0.2.0/24", "10.0.0.0/8", "172.30.0.0/16", "::/0")
}

func (g *generator) cidrRule() object {
	var o object
	switch g.IntN(4) {
	case 0:
		o = object{"cidrGroupRef": pick(g, "office", "vpn", "nowhere")}
	case 1:
		o = object{"cidrGroupSelector": pick(g, object{"matchLabels": object{"kind": pick(g, "office", "vpn", "x")}},
			object{"matchExpressions": []any{object{"key": pick(g, "kind", "cidrgroup:kind"), "operator": "In", "values": []any{"vpn", pick(g, "office", "x")}}}},
			object{"matchExpressions": []any{object{"key": pick(g, "kind", "other"), "operator": "Exists"}}})}
	default:
		o = object{"cidr": pick(g, "0.0.0.0/0", "198.51.100.0/24", "203.0.112.0/20")}
	}
	if g.chance(40) {
		o["except"] = list(1+g.IntN(2), func() any { return pick(g, "198.51.100.128/25", "198.51.100.0/28", "203.0.113.0/25", "203.0.113.9/32") })
		if o["cidr"] == "198.51.100.0/24" {
			o["except"] = []any{pick(g, "198.51.100.0/24", "198.51.100.128/25")}
		}
		if o["cidr"] == "203.0.112.0/20" {
			o["except"] = []any{"203.0.113.0/26"}
		}
	}
	return o
}

// subject is a selector of pods that rules are for.
func (g *generator) subject() object {
	switch g.IntN(8) {
	case 0, 1:
		return object{}
	case 2:
		return object{"matchLabels": object{pick(g, "io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"): pick(g, "a", "b"), "app": pick(g, "web", "api")}}
	case 3:
		return object{"matchExpressions": []any{object{"key": "reserved:" + g.reservedSubject(), "operator": pick(g, "DoesNotExist", "DoesNotExist", "Exists")}}}
	}
	return g.conditions()
}

// reservedSubject is a reserved label for subjects. To name init lifts peers out
// of the namespaces; a node with the cluster's label would be among them then.
func (g *generator) reservedSubject() string {
	if g.nodes {
		return "host"
	}
	return pick(g, "init", "host")
}

// selector is a selector of peers.
func (g *generator) selector() object {
	if g.chance(15) {
		return object{}
	}
	s := g.conditions()
	if !g.nodes && g.chance(15) { // not reserved:world, which to Cilium is there or not by the families that its agent has
		s["matchExpressions"] = append(asList(s["matchExpressions"]), object{
			"key": "reserved:" + pick(g, "host", "remote-node", "world-ipv4", "kube-apiserver", "init", "health"), "operator": pick(g, "Exists", "DoesNotExist"),
		})
	}
	return s
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// keys never has both "x" and "any:x": to Cilium those are one, and of two
// conditions on it in one selector either may be the one that counts.
var keys = []string{"app", "app", "app", "k8s:tier", "k8s:app", "any:tier", "missing", "container:app",
	"io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels.team", "k8s:io.cilium.k8s.namespace.labels.env",
	"io.cilium.k8s.policy.serviceaccount", "io.cilium.k8s.policy.cluster", "any:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"}

func (g *generator) conditions() object {
	labels := object{}
	var expressions []any
	for range 1 + g.IntN(2) {
		key := pick(g, keys...)
		value := func() any { return g.value(key) }
		if g.chance(50) {
			labels[key] = value()
			continue
		}
		e := object{"key": key, "operator": pick(g, "In", "NotIn", "Exists", "DoesNotExist")}
		if g.nodes && (strings.Contains(key, "namespace")) {
			e["operator"] = pick(g, "In", "Exists") // a node with the cluster's label is in no namespace: to Cilium it is a pod without one
		}
		if op := e["operator"]; op == "In" || op == "NotIn" {
			e["values"] = list(1+g.IntN(2), value)
		}
		expressions = append(expressions, e)
	}
	s := object{"matchLabels": labels}
	if expressions != nil {
		s["matchExpressions"] = expressions
	}
	return s
}

func (g *generator) value(key string) string {
	switch key {
	case "io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace", "any:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name":
		return pick(g, "a", "b", "c")
	case "io.cilium.k8s.namespace.labels.team":
		return pick(g, "x", "z")
	case "k8s:io.cilium.k8s.namespace.labels.env":
		return "prod"
	case "io.cilium.k8s.policy.serviceaccount":
		return pick(g, "robot", "default")
	case "io.cilium.k8s.policy.cluster":
		return pick(g, "default", "default", "elsewhere")
	case "k8s:tier", "any:tier":
		return pick(g, "front", "back")
	}
	return pick(g, "web", "api", "db")
}

func (g *generator) portRule(egress, deny bool) object {
	o := object{"ports": list(g.IntN(3), func() any { return g.port() })}
	if !deny && g.chance(15) {
		o["ports"] = []any{object{"port": pick(g, "80", "8080", "http"), "protocol": "TCP"}}
		o["rules"] = object{"http": list(1, func() any { return object{"path": "/a"} })}
	}
	return o
}

func (g *generator) port() object {
	p := object{"port": pick(g, "80", "80", "81", "443", "8080", "53", "0", "http", "HTTP", "dns", "040")}
	if g.chance(70) {
		p["protocol"] = pick(g, "TCP", "TCP", "UDP", "SCTP", "ANY")
	}
	if name := p["port"].(string); g.chance(25) && name[0] < 'A' { // beside a name Cilium's text ignores it, and its code begins a range
		p["endPort"] = pick(g, 60, 81, 100, 9000)
	}
	return p
}

// plainSelector is a selector as Kubernetes has it.
func (g *generator) plainSelector() object {
	if g.chance(30) {
		return object{}
	}
	return object{"matchLabels": object{"app": pick(g, "web", "api", "db")}}
}

func (g *generator) namespaces() object {
	if g.chance(30) {
		return object{}
	}
	return object{"matchLabels": object{"team": pick(g, "x", "z")}}
}

// kubernetes is a NetworkPolicy.
func (g *generator) kubernetes(name string) object {
	spec := object{"podSelector": g.plainSelector()}
	types := []any{}
	for field, peers := range map[string]string{"ingress": "from", "egress": "to"} {
		if g.chance(30) {
			continue
		}
		types = append(types, map[string]string{"ingress": "Ingress", "egress": "Egress"}[field])
		spec[field] = list(g.IntN(3), func() any {
			r := object{}
			if g.chance(70) {
				r[peers] = list(1+g.IntN(2), func() any {
					return pick[any](g, object{"podSelector": g.plainSelector()}, object{"namespaceSelector": g.namespaces()},
						object{"podSelector": g.plainSelector(), "namespaceSelector": g.namespaces()})
				})
			}
			if g.chance(40) {
				r["ports"] = []any{object{"port": pick[any](g, 80, 8080, 53, "http"), "protocol": pick(g, "TCP", "UDP")}}
			}
			return r
		})
	}
	if len(types) == 0 {
		types, spec["ingress"] = []any{"Ingress"}, []any{}
	}
	spec["policyTypes"] = types
	return object{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": object{"name": name, "namespace": pick(g, "a", "b")}, "spec": spec}
}

// cluster is a ClusterNetworkPolicy. Each has a priority of its own: equal
// ones may come in any order.
func (g *generator) cluster(name string) object {
	pods := func() any {
		return object{"pods": object{"namespaceSelector": g.namespaces(), "podSelector": g.plainSelector()}}
	}
	tier := pick(g, "Admin", "Baseline")
	spec := object{"tier": tier, "priority": int(name[1]), "subject": pick[any](g, object{"namespaces": g.namespaces()}, pods())}
	for field, peers := range map[string]string{"ingress": "from", "egress": "to"} {
		if g.chance(40) {
			continue
		}
		spec[field] = list(1+g.IntN(3), func() any {
			action := pick(g, "Accept", "Deny", "Pass")
			if tier == "Baseline" { // Cilium asks it about isolated pods, too; by the API it has no say there
				action = "Deny"
			}
			r := object{"action": action, peers: list(1+g.IntN(2), func() any { return pick[any](g, object{"namespaces": g.namespaces()}, pods()) })}
			if g.chance(40) {
				r["protocols"] = []any{object{pick(g, "tcp", "udp"): object{"destinationPort": object{"number": pick(g, 80, 8080, 53)}}}}
			}
			return r
		})
	}
	return object{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": object{"name": name}, "spec": spec}
}
