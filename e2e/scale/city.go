package scale

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Size of the cluster.
const (
	nodes      = 100
	pods       = 10_000
	policies   = 2_000
	namespaces = 50
	apps       = 40 // per namespace
)

// City is a cluster of teams, environments and workloads as they are, and what
// happens in it. Equal seeds make equal ones. It knows what the API server
// should have, and changes that.
type City struct {
	server *Server
	rand   *rand.Rand

	free     [nodes][]int // addresses, the one longest unused first
	pods     []*pod
	policies []name
	away     []int // nodes that are deleted
	made     int   // names given so far

	queues  []chan func(context.Context) error
	workers sync.WaitGroup
	mu      sync.Mutex
	failed  error
	Calls   int // of the API so far
}

type name struct{ namespace, name string }

type pod struct {
	name
	app, node, address int
}

func nodeName(i int) string      { return "node-" + strconv.Itoa(i) }
func nodeIP(i int) string        { return fmt.Sprintf("172.30.%d.1", i) }
func podIP(node, i int) string   { return fmt.Sprintf("10.64.%d.%d", node, i+1) }
func namespaceName(i int) string { return "ns-" + strconv.Itoa(i) }

// NewCity plans a city.
func NewCity(s *Server, seed uint64) *City {
	c := &City{server: s, rand: rand.New(rand.NewPCG(seed, 0))}
	for n := range c.free {
		for i := range 254 {
			if n > 0 || i >= len(real) && i < localAddresses {
				c.free[n] = append(c.free[n], i)
			}
		}
	}
	return c
}

// Populate fills the API server.
func (c *City) Populate(ctx context.Context) error {
	c.begin(ctx)
	for i := range nodes {
		c.createNode(i)
	}
	c.create("/api/v1/namespaces", object{"metadata": object{"name": vault}})
	for i := range namespaces {
		c.create("/api/v1/namespaces", object{"metadata": object{"name": namespaceName(i), "labels": c.namespaceLabels(i)}})
	}
	if err := c.end(); err != nil {
		return err
	}
	c.begin(ctx)
	for i, app := range real {
		c.createPod(&pod{name{vault, app}, 0, 0, i}, object{"app": app})
	}
	for _, open := range []bool{false, true} {
		policy := object{"podSelector": matchLabels("app", "shut"), "policyTypes": []string{"Ingress"}}
		if open {
			policy = object{"podSelector": matchLabels("app", "open"), "policyTypes": []string{"Ingress"},
				"ingress": []any{object{"from": []any{object{"podSelector": matchLabels("app", "sender")}}}}}
		}
		c.create(policyPath(name{namespace: vault}), object{"metadata": object{"name": fmt.Sprint("open-", open)}, "spec": policy})
	}
	for i := range policies - 2 {
		c.addPolicy(i)
	}
	for i := range pods - len(real) {
		c.addPod(i % nodes)
	}
	return c.end()
}

// Churn changes so many things a second until the time is over: pods only, or
// everything.
func (c *City) Churn(ctx context.Context, limit time.Duration, perSecond int, everything bool) error {
	c.begin(ctx)
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end) && c.err() == nil; <-tick.C {
		if everything && c.rand.IntN(5) == 0 {
			c.changeSomething()
		} else {
			c.changePod()
		}
	}
	return c.end()
}

// changePod creates, changes or deletes a pod; every tenth is on the agent's node.
func (c *City) changePod() {
	n := c.rand.IntN(nodes)
	if c.rand.IntN(10) == 0 {
		n = 0
	}
	i := c.rand.IntN(len(c.pods))
	if n == 0 {
		i = slices.IndexFunc(c.pods, func(p *pod) bool { return p.node == 0 })
	}
	switch kind := c.rand.IntN(3); {
	case kind == 0 && len(c.free[n]) > 20 && len(c.pods) < pods+200 && !slices.Contains(c.away, n):
		c.addPod(n)
	case kind == 1 && i >= 0 && len(c.pods) > pods-200 && (n > 0 || len(c.free[0]) < 50):
		p := c.pods[i]
		c.pods = slices.Delete(c.pods, i, i+1)
		c.free[p.node] = append(c.free[p.node], p.address)
		c.call(p, http.MethodDelete, podPath(p)+"?gracePeriodSeconds=0", nil)
	case i >= 0:
		p := c.pods[i]
		c.pods = append(slices.Delete(c.pods, i, i+1), p) // the next one is another
		label := "version"                                // which no policy asks for
		if c.rand.IntN(4) == 0 {
			label = "role"
		}
		c.call(p, http.MethodPatch, podPath(p), object{"metadata": object{"labels": object{label: strconv.Itoa(c.rand.IntN(7))}}})
	}
}

// changeSomething changes a policy, a node, or now and then a namespace.
func (c *City) changeSomething() {
	switch kind := c.rand.IntN(20); {
	case kind == 0:
		i := c.rand.IntN(namespaces)
		c.call(i, http.MethodPatch, "/api/v1/namespaces/"+namespaceName(i), object{"metadata": object{"labels": c.namespaceLabels(c.rand.IntN(30))}})
	case kind <= 4:
		c.changeNode()
	case kind <= 9 && len(c.policies) > policies-100:
		i := c.rand.IntN(len(c.policies))
		p := c.policies[i]
		c.policies = slices.Delete(c.policies, i, i+1)
		c.call(p, http.MethodDelete, policyPath(p), nil)
	case kind <= 14 && len(c.policies) < policies+100:
		c.addPolicy(namespaces + 1)
	default:
		p := c.policies[c.rand.IntN(len(c.policies))]
		c.call(p, http.MethodPut, policyPath(p), c.policy(p, false))
	}
}

// changeNode changes a node's labels; or one goes, or comes back.
func (c *City) changeNode() {
	i := 1 + c.rand.IntN(nodes-1)
	gone := slices.Index(c.away, i)
	switch {
	case gone >= 0:
		c.away = slices.Delete(c.away, gone, gone+1)
		c.createNode(i)
	case c.rand.IntN(3) == 0 && len(c.away) < 5:
		c.away = append(c.away, i)
		c.call(nodeName(i), http.MethodDelete, "/api/v1/nodes/"+nodeName(i), nil)
	default:
		c.call(nodeName(i), http.MethodPatch, "/api/v1/nodes/"+nodeName(i), object{"metadata": object{"labels": object{"pool": strconv.Itoa(c.rand.IntN(5))}}})
	}
}

func (c *City) namespaceLabels(i int) object {
	return object{"team": strconv.Itoa(i % 10), "env": strconv.Itoa(i % 3)}
}

func (c *City) createNode(i int) {
	path := "/api/v1/nodes"
	c.do(nodeName(i), func(ctx context.Context) error {
		o := object{"metadata": object{"name": nodeName(i)}, "spec": object{"podCIDR": fmt.Sprintf("10.64.%d.0/24", i), "podCIDRs": []string{fmt.Sprintf("10.64.%d.0/24", i)}}}
		if err := c.server.do(ctx, http.MethodPost, path, o); err != nil {
			return err
		}
		status := object{"addresses": []any{object{"type": "InternalIP", "address": nodeIP(i)}}}
		return c.server.do(ctx, http.MethodPatch, path+"/"+nodeName(i)+"/status", object{"status": status})
	})
}

// addPod starts a pod of a workload taken by chance.
func (c *City) addPod(node int) {
	app, ns := c.rand.IntN(apps), c.rand.IntN(namespaces)
	p := &pod{name{namespaceName(ns), fmt.Sprintf("app-%d-%05d", app, c.made)}, app, node, c.free[node][0]}
	c.free[node] = c.free[node][1:]
	c.made++
	c.pods = append(c.pods, p)
	c.createPod(p, object{
		"app": "app-" + strconv.Itoa(app), "tier": strconv.Itoa(app % 4), "role": strconv.Itoa(app % 7), "version": strconv.Itoa(app % 13),
		"pod-template-hash": fmt.Sprintf("%010x", app*7919+ns),
	})
}

func podPath(p *pod) string { return "/api/v1/namespaces/" + p.namespace + "/pods/" + p.name.name }

// createPod makes a pod object, as large as they are, and has it run.
func (c *City) createPod(p *pod, labels object) {
	var env []any
	for i := range 20 {
		env = append(env, object{"name": fmt.Sprintf("SETTING_%d", i), "value": strings.Repeat("value ", 8)})
	}
	o := object{
		"metadata": object{"name": p.name.name, "labels": labels, "annotations": object{"checksum/config": strings.Repeat("0123456789abcdef", 4)}},
		"spec": object{"nodeName": nodeName(p.node), "containers": []any{object{
			"name": "main", "image": "registry.example.com/team/service@sha256:" + strings.Repeat("ab", 32), "env": env,
			"ports": []any{object{"name": "http", "containerPort": 8000 + p.app%5}, object{"name": "metrics", "containerPort": 9090}},
		}}},
	}
	path, ip := podPath(p), podIP(p.node, p.address)
	c.do(p, func(ctx context.Context) error {
		if err := c.server.do(ctx, http.MethodPost, "/api/v1/namespaces/"+p.namespace+"/pods", o); err != nil {
			return err
		}
		status := object{"phase": "Running", "podIP": ip, "podIPs": []any{object{"ip": ip}},
			"conditions": []any{object{"type": "Ready", "status": "True"}}}
		return c.server.do(ctx, http.MethodPatch, path+"/status", object{"status": status})
	})
}

func policyPath(p name) string {
	return strings.TrimSuffix("/apis/networking.k8s.io/v1/namespaces/"+p.namespace+"/networkpolicies/"+p.name, "/")
}

// addPolicy adds the i'th: first a default deny for each namespace, then others.
func (c *City) addPolicy(i int) {
	p := name{namespaceName(i % namespaces), "default-deny"}
	if i >= namespaces {
		p = name{namespaceName(c.rand.IntN(namespaces)), fmt.Sprintf("policy-%05d", c.made)}
		c.made++
		c.policies = append(c.policies, p)
	}
	c.call(p, http.MethodPost, policyPath(name{namespace: p.namespace}), c.policy(p, i < namespaces))
}

func (c *City) policy(p name, deny bool) object {
	spec := object{"podSelector": c.selector(), "policyTypes": []string{"Ingress"}, "ingress": []any{c.rule("from"), c.rule("from")}}
	switch {
	case deny:
		spec = object{"podSelector": object{}, "policyTypes": []string{"Ingress"}}
	case c.rand.IntN(3) == 0:
		dns := object{"ports": []any{object{"protocol": "UDP", "port": 53}}}
		spec["egress"], spec["policyTypes"] = []any{c.rule("to"), c.rule("to"), dns}, []string{"Ingress", "Egress"}
	}
	return object{"metadata": object{"name": p.name}, "spec": spec}
}

// selector selects one app mostly, a tier or roles sometimes, everybody rarely.
func (c *City) selector() object {
	switch c.rand.IntN(20) {
	case 0:
		return object{}
	case 1, 2:
		return matchLabels("tier", strconv.Itoa(c.rand.IntN(4)))
	case 3, 4:
		roles := []string{strconv.Itoa(c.rand.IntN(3)), strconv.Itoa(3 + c.rand.IntN(4))}
		return object{"matchExpressions": []any{object{"key": "role", "operator": "In", "values": roles}}}
	}
	return matchLabels("app", "app-"+strconv.Itoa(c.rand.IntN(apps)))
}

func matchLabels(key, value string) object {
	return object{"matchLabels": object{key: value}}
}

func (c *City) rule(peers string) object {
	var list []any
	for range 1 + c.rand.IntN(2) {
		peer := object{"podSelector": c.selector()}
		switch c.rand.IntN(4) {
		case 0: // of its own namespace
		case 1:
			peer["namespaceSelector"] = matchLabels("env", strconv.Itoa(c.rand.IntN(3)))
		default:
			peer["namespaceSelector"] = matchLabels("team", strconv.Itoa(c.rand.IntN(10)))
		}
		list = append(list, peer)
	}
	if c.rand.IntN(5) == 0 {
		block := fmt.Sprintf("%d.%d.0.0", 20+c.rand.IntN(50), 16*c.rand.IntN(4))
		list = append(list, object{"ipBlock": object{"cidr": block + "/12", "except": []string{block + "/24"}}})
	}
	out := object{peers: list}
	switch usual := []int{80, 443, 8080, 5432, 6379, 9090}; c.rand.IntN(15) {
	case 0, 1, 2, 3, 4:
	case 5:
		out["ports"] = []any{object{"port": "http"}}
	case 6:
		first := 30000 + 100*c.rand.IntN(5)
		out["ports"] = []any{object{"port": first, "endPort": first + 99}}
	default:
		out["ports"] = []any{object{"port": usual[c.rand.IntN(len(usual))]}}
	}
	return out
}

func (c *City) create(path string, o object) {
	c.call(path+fmt.Sprint(o["metadata"]), http.MethodPost, path, o)
}

func (c *City) call(about any, method, path string, o object) {
	c.do(about, func(ctx context.Context) error { return c.server.do(ctx, method, path, o) })
}

// callers is how many requests are under way at a time.
const callers = 16

// begin starts the callers; what is about the same thing is done by the same
// one, in order.
func (c *City) begin(ctx context.Context) {
	c.queues = make([]chan func(context.Context) error, callers)
	for i := range c.queues {
		q := make(chan func(context.Context) error, 100)
		c.queues[i] = q
		c.workers.Go(func() {
			for f := range q {
				if c.err() != nil {
					continue
				}
				if err := f(ctx); err != nil {
					c.mu.Lock()
					c.failed = err
					c.mu.Unlock()
				}
			}
		})
	}
}

func (c *City) do(about any, f func(context.Context) error) {
	c.Calls++
	c.queues[maphash.Comparable(seed, about)%callers] <- f
}

var seed = maphash.MakeSeed()

// end waits for the callers.
func (c *City) end() error {
	for _, q := range c.queues {
		close(q)
	}
	c.workers.Wait()
	return c.err()
}

func (c *City) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}
