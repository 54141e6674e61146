package kube

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// chance makes random objects of a small world, so that names and addresses meet.
type chance struct{ *rand.Rand }

func pick[T any](c chance, of ...T) T { return of[c.IntN(len(of))] }

func (c chance) labels() jsonObject {
	out := jsonObject{}
	for _, k := range []string{"app", "tier"} {
		if c.IntN(3) > 0 {
			out[k] = pick(c, "x", "y", "z")
		}
	}
	return out
}

func (c chance) namespace() string { return pick(c, "a", "b", "c") }

func (c chance) pod() jsonObject {
	ip := fmt.Sprintf("10.0.%d.%d", c.IntN(3), c.IntN(8))
	o := podObject(c.namespace(), "p"+strconv.Itoa(c.IntN(8)), ip, c.labels())
	m, spec, status := o["metadata"].(jsonObject), o["spec"].(jsonObject), o["status"].(jsonObject)
	m["creationTimestamp"] = fmt.Sprintf("2026-01-01T00:00:%02dZ", c.IntN(4))
	spec["nodeName"] = pick(c, "n0", "n1", "n2")
	status["phase"] = pick(c, "Running", "Running", "Running", "Running", "Pending", "Succeeded", "Failed")
	switch c.IntN(8) {
	case 0:
		m["deletionTimestamp"] = "2026-01-01T01:00:00Z"
	case 1:
		spec["hostNetwork"] = true
	case 2:
		delete(status, "podIP")
		delete(status, "podIPs")
	case 3:
		status["podIPs"] = []any{jsonObject{"ip": ip}, jsonObject{"ip": fmt.Sprintf("fd00::%d", c.IntN(4))}}
	case 4:
		spec["containers"] = []any{jsonObject{"name": "c", "ports": []any{jsonObject{"name": "http", "containerPort": 9090}}}}
	}
	return o
}

func (c chance) selector() jsonObject {
	if c.IntN(4) == 0 {
		return jsonObject{}
	}
	return jsonObject{"matchLabels": jsonObject{pick(c, "app", "tier"): pick(c, "x", "y", "z")}}
}

func (c chance) policy() jsonObject {
	peer := pick(c, jsonObject{"podSelector": c.selector()}, jsonObject{"namespaceSelector": jsonObject{"matchLabels": jsonObject{"team": pick(c, "red", "blue")}}},
		jsonObject{"ipBlock": jsonObject{"cidr": pick(c, "10.0.0.0/30", "10.0.1.0/24", "203.0.113.0/24")}})
	rule := jsonObject{pick(c, "from", "from", "from", "to", "form"): []any{peer}}
	if c.IntN(2) == 0 {
		rule["ports"] = []any{jsonObject{"port": pick[any](c, "http", 80, 8080)}}
	}
	spec := jsonObject{"podSelector": c.selector(), "ingress": []any{rule}}
	if rule["to"] != nil {
		spec = jsonObject{"podSelector": c.selector(), "egress": []any{rule}, "policyTypes": []any{"Egress"}}
	}
	return policyObject(c.namespace(), "q"+strconv.Itoa(c.IntN(4)), spec)
}

func (c chance) node() jsonObject {
	return nodeObject(pick(c, "n0", "n1", "n2"), fmt.Sprintf("192.168.0.%d", c.IntN(4)), fmt.Sprintf("10.0.%d.0/24", c.IntN(4)))
}

func (c chance) service() jsonObject {
	ip := fmt.Sprintf("10.96.0.%d", c.IntN(9))
	return jsonObject{"apiVersion": "v1", "kind": "Service", "metadata": named(c.namespace(), "s"+strconv.Itoa(c.IntN(3))), "spec": jsonObject{
		"clusterIP": ip, "type": pick(c, "ClusterIP", "ClusterIP", "ExternalName"), "ports": []any{jsonObject{"port": 80}}}}
}

func (c chance) slice() jsonObject {
	return jsonObject{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  named(c.namespace(), "e"+strconv.Itoa(c.IntN(3)), jsonObject{"labels": jsonObject{"kubernetes.io/service-name": pick(c, "s0", "s1", "s2")}}),
		"ports":     []any{jsonObject{"name": "", "port": 8080}},
		"endpoints": []any{jsonObject{"addresses": []any{fmt.Sprintf("10.0.0.%d", c.IntN(8))}}}}
}

func (c chance) account() jsonObject {
	return jsonObject{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(c.namespace(), "robot", jsonObject{"labels": c.labels()})}
}

// spoken are the languages of the random world: both forms of Calico's, one
// that has an older version, others.
var spoken = []string{
	"networkpolicies." + calicoGroup, "networkpolicies." + calicoStored, "tiers." + calicoGroup, "tiers." + calicoStored,
	"networksets." + calicoGroup, "networksets." + calicoStored, "ciliumnetworkpolicies", "ciliumcidrgroups", "clusternetworkpolicies",
}

// speak changes an object of a policy language, or has the language come or go.
func (c chance) speak(s *server) {
	r := resourceNamed(pick(c, spoken...))
	if r.older != nil && s.missing(r) {
		r = r.older
	}
	switch namespace, name := c.namespaceOf(r), pick(c, "t", "default.t", "knp.default.q0", "u"); {
	case c.IntN(10) == 0 && !s.missing(r):
		s.unserve(r)
	case c.IntN(4) == 0:
		s.removeAt(pathOf(r), key{namespace, name})
	default:
		if s.missing(r) {
			s.serve(r, true)
		}
		spec := jsonObject{}
		switch {
		case r.gvr.Resource == "tiers":
			spec["tier"] = jsonObject{"order": c.IntN(3), "pass": c.IntN(2) == 0}
		case strings.HasSuffix(r.gvr.Resource, "sets"), strings.HasSuffix(r.gvr.Resource, "groups"):
			spec["nets"] = []any{pick(c, "10.0.0.0/30", "203.0.113.0/24", "192.0.2.0/25")}
		default:
			var list []any
			for range c.IntN(4) {
				list = append(list, pick(c, jsonObject{"from": "10.0.0.0/30"}, jsonObject{"from": "203.0.113.0/24", "app": "x"}, jsonObject{"set": true, "app": "y"},
					jsonObject{"tier": "t", "app": "z"}, jsonObject{"service": pick(c, "a/s0", "b/s1", "b/", "/")}))
			}
			spec["parts"] = list
		}
		if c.IntN(8) == 0 {
			spec["problem"] = pick(c, "one", "another")
		}
		s.putAt(pathOf(r), toyObject(r, namespace, name, spec))
	}
}

func (c chance) namespaceOf(r *resource) string {
	if r.gvr.Resource == "tiers" || r.gvr.Resource == "ciliumcidrgroups" || r.gvr.Resource == "clusternetworkpolicies" {
		return ""
	}
	return c.namespace()
}

// act changes one thing on the server.
func (c chance) act(s *server) {
	switch n := c.IntN(30); {
	case n >= 22:
		c.speak(s)
	case n >= 21:
		s.put("serviceaccounts", c.account())
	case n >= 20:
		s.remove(pick(c, "serviceaccounts", "services", "endpointslices"), key{c.namespace(), pick(c, "robot", "s0", "s1", "e0", "e1")})
	case n < 7:
		s.put("pods", c.pod())
	case n < 9:
		s.remove("pods", key{c.namespace(), "p" + strconv.Itoa(c.IntN(8))})
	case n < 12:
		s.put("networkpolicies", c.policy())
	case n < 13:
		s.remove("networkpolicies", key{c.namespace(), "q" + strconv.Itoa(c.IntN(4))})
	case n < 14:
		s.put("nodes", c.node())
	case n < 15:
		s.remove("nodes", key{"", pick(c, "n0", "n1", "n2")})
	case n < 16:
		s.put("namespaces", namespaceObject(c.namespace(), jsonObject{"team": pick(c, "red", "blue")}))
	case n < 17:
		s.remove("namespaces", key{"", c.namespace()})
	case n < 18:
		s.put("services", c.service())
	case n < 19:
		s.put("endpointslices", c.slice())
	default:
		s.put("ippools", jsonObject{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": named("", "pool"), "spec": jsonObject{
			"cidr": pick(c, "10.0.0.0/22", "10.0.0.0/16", "bad")}})
	}
}

// disturb has something go wrong between server and Watcher.
func (c chance) disturb(s *server) {
	switch c.IntN(8) {
	case 0:
		s.cut()
	case 1:
		s.forget()
	case 2:
		s.set(func() { s.away = true })
		s.cut()
		for range c.IntN(4) {
			c.act(s)
		}
		s.set(func() { s.away = false })
	case 3:
		s.set(func() { s.streams = !s.streams })
	}
}

// muddled delivers events twice and in any order, each object's newest among
// them; bookmarks still say that all before them came.
func (c chance) muddled() func([]serverEvent) []serverEvent {
	seed := c.Uint64()
	return func(batch []serverEvent) []serverEvent {
		r := rand.New(rand.NewPCG(seed, uint64(len(batch))))
		marks := slices.IndexFunc(batch, func(e serverEvent) bool { return e.kind == "BOOKMARK" })
		if marks < 0 {
			marks = len(batch)
		}
		events := slices.Clone(batch[:marks])
		for range marks / 2 {
			events = append(events, batch[r.IntN(marks)])
		}
		r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		return append(events, batch[marks:]...)
	}
}

// TestAnyHistoryEndsAsAFreshList drives a Watcher through random events and
// mishaps; its changes applied one by one give the Matrix of a fresh Load.
func TestAnyHistoryEndsAsAFreshList(t *testing.T) {
	seeds := 40
	if text := os.Getenv("SALLYPORT_CASES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("SALLYPORT_CASES: %v", err)
		}
		seeds = n
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { randomHistory(t, uint64(seed)) })
	}
}

func randomHistory(t *testing.T, seed uint64) {
	c := chance{rand.New(rand.NewPCG(seed, 1))}
	speakToy(t)
	s := startServer(t)
	s.absent[pathOf(resourceNamed("ciliumnodes"))] = true
	s.streams = c.IntN(2) == 0
	for range c.IntN(30) {
		c.act(s)
	}
	f := following(t, s, hurried())
	f.next()
	for range 6 {
		if c.IntN(2) == 0 {
			s.set(func() { s.held, s.muddle = true, c.muddled() })
		}
		for range 1 + c.IntN(12) {
			c.act(s)
			if c.IntN(6) == 0 {
				c.disturb(s)
			}
			if c.IntN(2) == 0 { // else it waits and becomes part of a larger one
				if u, ok := f.w.take(); ok {
					f.apply(u)
				}
			}
		}
		s.set(func() { s.held = false })
		f.caughtUp()
		s.set(func() { s.muddle = nil })
	}
}
