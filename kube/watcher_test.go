package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var prefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// sameCluster compares all but the revision; no list and an empty one are one.
func sameCluster(a, b *model.Cluster) string {
	return cmp.Diff(a, b, addresses, prefixes, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(model.Cluster{}, "Revision"))
}

// follower runs a Watcher and keeps a Matrix and a mirror up to date with it.
type follower struct {
	t *testing.T
	s *server
	w *Watcher
	m *engine.Matrix
	n int // updates

	mirror mirror
}

// mirror is what Updates said of what is no pod, node or namespace.
type mirror struct {
	policies map[string]*model.Policy
	accounts map[string]model.ServiceAccount
	tiers    map[string]model.Tier
	sets     map[string]*model.AddressSet
	services map[string]*model.Service
	problems []model.Problem
}

func newMirror(c *model.Cluster) mirror {
	m := mirror{map[string]*model.Policy{}, map[string]model.ServiceAccount{}, map[string]model.Tier{}, map[string]*model.AddressSet{}, map[string]*model.Service{}, nil}
	ch := engine.Change{Policies: c.Policies, Accounts: c.Accounts, Tiers: c.Tiers}
	for i := range c.Sets {
		ch.Sets = append(ch.Sets, &c.Sets[i])
	}
	for i := range c.Services {
		ch.Services = append(ch.Services, &c.Services[i])
	}
	m.apply(ch)
	return m
}

func (m mirror) apply(ch engine.Change) {
	for _, k := range ch.DeletedPolicies {
		delete(m.policies, k)
	}
	for _, k := range ch.DeletedTiers {
		delete(m.tiers, k)
	}
	for _, k := range ch.DeletedSets {
		delete(m.sets, k)
	}
	for _, k := range ch.DeletedServices {
		delete(m.services, k)
	}
	for _, p := range ch.Policies {
		m.policies[engine.PolicyKey(p)] = p
	}
	for _, a := range ch.Accounts {
		if m.accounts[a.Key()] = a; len(a.Labels) == 0 {
			delete(m.accounts, a.Key())
		}
	}
	for _, t := range ch.Tiers {
		m.tiers[t.Name] = t
	}
	for _, x := range ch.Sets {
		m.sets[x.Key()] = x
	}
	for _, x := range ch.Services {
		m.services[x.Key()] = x
	}
}

// differs compares with a fresh cluster; of Services with those that are asked for.
func (m mirror) differs(c *model.Cluster, problems []model.Problem, asked map[key]int) string {
	want := newMirror(c)
	want.problems = problems
	for k, x := range want.services {
		if asked[key{}] == 0 && asked[key{x.Namespace, x.Name}] == 0 {
			delete(want.services, k)
		}
	}
	return cmp.Diff(want, m, addresses, prefixes, cmpopts.EquateEmpty(), cmp.AllowUnexported(mirror{}))
}

func following(t *testing.T, s *server, p *pace) *follower {
	t.Helper()
	w, err := New(Config{REST: s.config(), pace: p})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return &follower{t: t, s: s, w: w}
}

// next returns the next update, applied.
func (f *follower) next() Update {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u, err := f.w.Next(ctx)
	if err != nil {
		f.t.Fatalf("no update: %v; health %v", err, f.w.Health())
	}
	f.apply(u)
	return u
}

func (f *follower) apply(u Update) {
	f.n++
	if u.Cluster != nil {
		f.m = engine.CompileWith(u.Cluster, u.Endpoints)
		whole := *u.Cluster
		for _, e := range u.Endpoints {
			whole.Endpoints = append(whole.Endpoints, *e)
		}
		f.mirror = newMirror(&whole)
	} else {
		f.m.Apply(u.Change)
		f.mirror.apply(u.Change)
	}
	if u.Problems != nil {
		f.mirror.problems = u.Problems
	}
}

// nothing says that no update comes.
func (f *follower) nothing() {
	f.t.Helper()
	f.settle()
	if u, ok := f.w.take(); ok {
		f.t.Errorf("an update came: %+v", u)
	}
}

// settle waits until the Watcher has seen everything.
func (f *follower) settle() {
	f.t.Helper()
	version := f.s.bookmark()
	deadline := time.Now().Add(time.Minute)
	for {
		behind := ""
		f.w.mu.Lock()
		for _, r := range resources {
			absent := f.s.missing(r) && (r.older == nil || f.s.missing(r.older))
			if n, _ := strconv.Atoi(f.w.revisions[r.name()]); absent != (n == 0) || !absent && n < version {
				behind = r.name()
			}
		}
		f.w.mu.Unlock()
		if behind == "" {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s does not catch up; health %v", behind, f.w.Health())
		}
		time.Sleep(time.Millisecond)
	}
}

// caughtUp settles, applies what is left and compares with a fresh Load.
func (f *follower) caughtUp() {
	f.t.Helper()
	f.settle()
	for u, ok := f.w.take(); ok; u, ok = f.w.take() {
		f.apply(u)
	}
	fresh, problems, err := Load(context.Background(), f.s.config())
	if err != nil {
		f.t.Fatal(err)
	}
	f.w.mu.Lock()
	asked := maps.Clone(f.w.state.asked)
	f.w.mu.Unlock()
	if diff := f.mirror.differs(fresh, problems, asked); diff != "" {
		f.t.Fatalf("the changes do not add up to what a fresh list says (-fresh +watched):\n%s", diff)
	}
	if diff := sameCluster(fresh, f.w.Snapshot()); diff != "" {
		f.t.Fatalf("the snapshot is not what a fresh list says (-fresh +watched):\n%s", diff)
	}
	if f.m == nil {
		f.t.Fatal("no update at all")
	}
	if err := sameMatrix(engine.Compile(fresh), f.m, fresh); err != nil {
		f.t.Fatal(err)
	}
}

func sameMatrix(want, got *engine.Matrix, c *model.Cluster) error {
	parties := func(m *engine.Matrix) []engine.Party {
		var out []engine.Party
		for i := range c.Endpoints {
			out = append(out, engine.Party{Endpoint: m.Endpoint(c.Endpoints[i].Key())})
		}
		for i := range 16 {
			for _, net := range []byte{0, 1, 2} {
				out = append(out, engine.Party{Addr: netip.AddrFrom4([4]byte{10, net, 0, byte(i)})})
			}
			out = append(out, engine.Party{Addr: netip.AddrFrom4([4]byte{192, 168, 0, byte(i)})})
		}
		return append(out, engine.Party{Addr: netip.MustParseAddr("203.0.113.9")})
	}
	if w, g := len(want.Endpoints()), len(got.Endpoints()); w != g {
		return fmt.Errorf("%d endpoints, want %d", g, w)
	}
	if w, g := len(want.Policies()), len(got.Policies()); w != g {
		return fmt.Errorf("%d policies, want %d", g, w)
	}
	if w, g := want.PodRanges(), got.PodRanges(); !reflect.DeepEqual(w, g) {
		return fmt.Errorf("pod ranges %v, want %v", g, w)
	}
	w, g := parties(want), parties(got)
	for i := range w {
		for j := range w {
			if (w[i].Endpoint == nil) && (w[j].Endpoint == nil) || noAddress(w[i]) || noAddress(w[j]) {
				continue
			}
			a, b := want.Connections(w[i], w[j]), got.Connections(g[i], g[j])
			if !reflect.DeepEqual(a, b) {
				return fmt.Errorf("%v to %v: %q, want %q", nameOf(w[i]), nameOf(w[j]), b, a)
			}
		}
	}
	return nil
}

func noAddress(p engine.Party) bool { return p.Endpoint != nil && len(p.Endpoint.IPs) == 0 }

func nameOf(p engine.Party) string {
	if p.Endpoint != nil {
		return p.Endpoint.Key()
	}
	return p.Addr.String()
}

func named(namespace, name string, more ...jsonObject) jsonObject {
	m := jsonObject{"name": name}
	if namespace != "" {
		m["namespace"] = namespace
	}
	for _, extra := range more {
		for k, v := range extra {
			m[k] = v
		}
	}
	return m
}

func podObject(namespace, name, ip string, labels jsonObject) jsonObject {
	return jsonObject{"apiVersion": "v1", "kind": "Pod",
		"metadata": named(namespace, name, jsonObject{"labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}),
		"spec":     jsonObject{"nodeName": "n0", "containers": []any{jsonObject{"name": "c", "ports": []any{jsonObject{"name": "http", "containerPort": 8080}}}}},
		"status":   jsonObject{"phase": "Running", "podIP": ip, "podIPs": []any{jsonObject{"ip": ip}}},
	}
}

func nodeObject(name, ip, cidr string) jsonObject {
	return jsonObject{"apiVersion": "v1", "kind": "Node", "metadata": named("", name),
		"spec": jsonObject{"podCIDR": cidr, "podCIDRs": []any{cidr}}, "status": jsonObject{"addresses": []any{
			jsonObject{"type": "InternalIP", "address": ip}, jsonObject{"type": "Hostname", "address": name}}}}
}

func namespaceObject(name string, labels jsonObject) jsonObject {
	if labels == nil {
		labels = jsonObject{}
	}
	labels[model.MetadataName] = name
	return jsonObject{"apiVersion": "v1", "kind": "Namespace", "metadata": named("", name, jsonObject{"labels": labels})}
}

func policyObject(namespace, name string, spec jsonObject) jsonObject {
	return jsonObject{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": named(namespace, name), "spec": spec}
}

// world is a server with a node, two namespaces and two pods.
func world(t *testing.T) *server {
	s := startServer(t)
	s.absent[pathOf(resourceNamed("ippools"))], s.absent[pathOf(resourceNamed("ciliumnodes"))] = true, true
	s.put("nodes", nodeObject("n0", "192.168.0.1", "10.0.0.0/24"))
	s.put("namespaces", namespaceObject("a", nil))
	s.put("namespaces", namespaceObject("b", jsonObject{"team": "blue"}))
	s.put("pods", podObject("a", "web", "10.0.0.1", jsonObject{"app": "web"}))
	s.put("pods", podObject("b", "db", "10.0.0.2", jsonObject{"app": "db"}))
	return s
}

func (f *follower) ports(src, dst string) string {
	f.t.Helper()
	a, b := f.m.Endpoint(src), f.m.Endpoint(dst)
	if a == nil || b == nil {
		f.t.Fatalf("no such pods: %s %s", src, dst)
	}
	return f.m.Connections(engine.Party{Endpoint: a}, engine.Party{Endpoint: b}).String()
}

func TestFirstUpdateIsTheWholeClusterThenChanges(t *testing.T) {
	for _, streams := range []bool{false, true} {
		t.Run("streams="+strconv.FormatBool(streams), func(t *testing.T) {
			s := world(t)
			s.streams = streams
			f := following(t, s, hurried())
			u := f.next()
			if u.Cluster == nil || len(u.Endpoints) != 2 || !u.Services || u.Problems == nil || len(u.Problems) > 0 || u.Since.IsZero() {
				t.Fatalf("first update: %+v", u)
			}
			if got := u.Cluster.PodRanges; len(got) != 1 || got[0].String() != "10.0.0.0/24" {
				t.Errorf("pod ranges %v", got)
			}
			if f.ports("a/web", "b/db") != "All" {
				t.Error("not open before any policy")
			}
			s.put("networkpolicies", policyObject("b", "only-8080", jsonObject{"podSelector": jsonObject{}, "ingress": []any{
				jsonObject{"ports": []any{jsonObject{"port": "http"}}}}}))
			start := time.Now()
			u = f.next()
			if u.Cluster != nil || len(u.Change.Policies) != 1 || u.Services || u.Problems != nil || u.Since.Before(start.Add(-time.Second)) {
				t.Fatalf("policy update: %+v", u)
			}
			if got := f.ports("a/web", "b/db"); got != "TCP 8080" {
				t.Errorf("got %q", got)
			}
			f.caughtUp()
			lists := s.count("LIST " + pathOf(resourceNamed("pods")))
			if want := map[bool]int{false: 2, true: 1}[streams]; lists != want {
				t.Errorf("%d lists of pods, want %d", lists, want)
			}
		})
	}
}

func TestFinishedAndDeletedPods(t *testing.T) {
	s := world(t)
	f := following(t, s, hurried())
	f.next()
	old := podObject("a", "job", "10.0.0.3", jsonObject{"app": "job"})
	s.put("pods", old)
	f.next()

	// It is being deleted and still runs: an endpoint until it is gone.
	deleting := podObject("a", "job", "10.0.0.3", jsonObject{"app": "job"})
	deleting["metadata"].(jsonObject)["deletionTimestamp"] = "2026-01-01T01:00:00Z"
	s.put("pods", deleting)
	f.nothing()

	// Its address is given to another pod while it is still listed.
	s.put("pods", podObject("b", "heir", "10.0.0.3", jsonObject{"app": "heir"}))
	f.next()
	f.caughtUp()
	if e := f.m.EndpointAt(netip.MustParseAddr("10.0.0.3")); e == nil || e.Key() != "b/heir" {
		t.Errorf("10.0.0.3 is %v", e)
	}
	if e := f.m.Endpoint("a/job"); e == nil || len(e.IPs) != 0 {
		t.Errorf("a/job is %v", e)
	}

	// The heir is gone first: the one being deleted still has its address.
	s.remove("pods", key{"b", "heir"})
	f.caughtUp()
	if e := f.m.EndpointAt(netip.MustParseAddr("10.0.0.3")); e == nil || e.Key() != "a/job" {
		t.Errorf("10.0.0.3 is %v", e)
	}
	done := podObject("a", "job", "10.0.0.3", jsonObject{"app": "job"})
	done["status"].(jsonObject)["phase"] = "Succeeded"
	s.put("pods", done)
	f.caughtUp()
	if e := f.m.Endpoint("a/job"); e != nil {
		t.Errorf("a finished pod is an endpoint: %v", e)
	}
}

func TestHostNetworkPodsHaveTheNodesAddresses(t *testing.T) {
	s := world(t)
	host := podObject("a", "agent", "192.168.0.1", nil)
	host["spec"].(jsonObject)["hostNetwork"] = true
	s.put("pods", host)
	f := following(t, s, hurried())
	f.next()
	f.caughtUp()
	s.put("nodes", nodeObject("n0", "192.168.0.7", "10.0.0.0/24"))
	f.caughtUp()
	if e := f.m.Endpoint("a/agent"); len(e.IPs) != 1 || e.IPs[0].String() != "192.168.0.7" {
		t.Errorf("addresses %v", e.IPs)
	}
}

func TestPodRanges(t *testing.T) {
	s := world(t)
	s.absent[pathOf(resourceNamed("ippools"))] = false
	f := following(t, s, hurried())
	f.next()
	s.put("nodes", nodeObject("n1", "192.168.0.2", "10.0.1.0/24"))
	if u := f.next(); u.Change.PodRanges == nil || (*u.Change.PodRanges)[0].String() != "10.0.0.0/23" {
		t.Fatalf("update %+v", u)
	}
	s.put("ippools", jsonObject{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": named("", "pool"), "spec": jsonObject{"cidr": "10.0.0.0/16", "other": 1.5}})
	if u := f.next(); u.Change.PodRanges == nil || len(*u.Change.PodRanges) != 1 || (*u.Change.PodRanges)[0].String() != "10.0.0.0/16" {
		t.Fatalf("update %+v", u)
	}
	s.put("ippools", jsonObject{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": named("", "bad"), "spec": jsonObject{"cidr": "ten"}})
	if u := f.next(); u.Change.PodRanges != nil || len(u.Problems) != 1 || !strings.Contains(u.Problems[0].Error(), "IPPool bad: spec.cidr") {
		t.Fatalf("update %+v", u)
	}
	// A range that is inside another one changes nothing.
	s.put("nodes", nodeObject("n1", "192.168.0.2", "10.0.7.0/24"))
	f.nothing()
	// Cilium appears while we run.
	s.set(func() { s.absent[pathOf(resourceNamed("ciliumnodes"))] = false })
	s.put("ciliumnodes", jsonObject{"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": named("", "n0"), "spec": jsonObject{"ipam": jsonObject{
		"podCIDRs": []any{"10.1.0.0/24"}, "pools": jsonObject{"allocated": []any{jsonObject{"pool": "x", "cidrs": []any{"10.2.0.0/28"}}}}}}})
	if u := f.next(); u.Change.PodRanges == nil || len(*u.Change.PodRanges) != 3 {
		t.Fatalf("update %+v", u)
	}
	f.caughtUp()
}

func TestUnknownFieldIsAProblemAndClosed(t *testing.T) {
	s := world(t)
	f := following(t, s, hurried())
	f.next()
	s.put("networkpolicies", policyObject("b", "typo", jsonObject{"podSelector": jsonObject{}, "ingress": []any{
		jsonObject{"form": []any{jsonObject{"podSelector": jsonObject{}}}}}}))
	u := f.next()
	if len(u.Problems) != 1 {
		t.Fatalf("problems %v", u.Problems)
	}
	p := u.Problems[0]
	if p.Severity != model.Error || p.Source.Kind != "NetworkPolicy" || p.Source.Namespace != "b" || p.Source.Name != "typo" || p.Source.Field != "spec.ingress[0].form" ||
		p.Source.File != "" || p.Source.Line != 0 || p.Hint != "did you mean from?" {
		t.Errorf("problem %+v", p)
	}
	if got := f.ports("a/web", "b/db"); got != "" {
		t.Errorf("open: %q", got)
	}
	s.remove("networkpolicies", key{"b", "typo"})
	if u := f.next(); u.Problems == nil || len(u.Problems) != 0 {
		t.Errorf("problems %v", u.Problems)
	}
	f.caughtUp()
}

func TestServicesHaveTheBackendsOfTheirSlices(t *testing.T) {
	s := world(t)
	s.put("services", jsonObject{"apiVersion": "v1", "kind": "Service", "metadata": named("b", "db"), "spec": jsonObject{
		"clusterIP": "10.96.0.1", "clusterIPs": []any{"10.96.0.1"}, "selector": jsonObject{"app": "db"},
		"ports": []any{jsonObject{"name": "sql", "port": 5432, "targetPort": "http"}}}})
	f := following(t, s, hurried())
	f.next()
	s.put("endpointslices", jsonObject{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata": named("b", "db-1", jsonObject{"labels": jsonObject{"kubernetes.io/service-name": "db"}}),
		"ports":    []any{jsonObject{"name": "sql", "port": 8080, "protocol": "TCP"}},
		"endpoints": []any{
			jsonObject{"addresses": []any{"10.0.0.2"}, "conditions": jsonObject{"ready": true}, "targetRef": jsonObject{"kind": "Pod", "namespace": "b", "name": "db"}},
			jsonObject{"addresses": []any{"10.0.0.9"}, "conditions": jsonObject{"ready": false}},
		}})
	if u := f.next(); !u.Services || u.Cluster != nil {
		t.Fatalf("update %+v", u)
	}
	want := []model.Backend{{IP: netip.MustParseAddr("10.0.0.2"), Port: 8080, Pod: "b/db"}}
	got := f.w.Services()
	if len(got) != 1 || len(got[0].Ports) != 1 || !reflect.DeepEqual(got[0].Ports[0].Backends, want) {
		t.Errorf("services %+v", got)
	}
	f.caughtUp()
}

func TestANamespaceThatGoesAndComesBack(t *testing.T) {
	s := world(t)
	s.put("networkpolicies", policyObject("a", "from-blue", jsonObject{"podSelector": jsonObject{}, "ingress": []any{jsonObject{"from": []any{
		jsonObject{"namespaceSelector": jsonObject{"matchLabels": jsonObject{"team": "blue"}}}}}}}))
	f := following(t, s, hurried())
	f.next()
	if f.ports("b/db", "a/web") != "All" {
		t.Fatal("blue is not let in")
	}
	s.remove("pods", key{"b", "db"})
	s.remove("namespaces", key{"", "b"})
	f.caughtUp()
	// Its streams may tell of the pod first; what the labels were is no more.
	s.put("pods", podObject("b", "db", "10.0.0.2", jsonObject{"app": "db"}))
	f.caughtUp()
	if f.ports("b/db", "a/web") != "" {
		t.Error("let in by the labels of a namespace that is gone")
	}
	s.put("namespaces", namespaceObject("b", jsonObject{"team": "blue"}))
	f.caughtUp()
	if f.ports("b/db", "a/web") != "All" {
		t.Error("not let in again")
	}
}

func TestRelistEmitsDifferencesOnly(t *testing.T) {
	for _, streams := range []bool{false, true} {
		s := world(t)
		s.streams = streams
		s.put("networkpolicies", policyObject("b", "none", jsonObject{"podSelector": jsonObject{}}))
		f := following(t, s, hurried())
		f.next()
		s.forget()
		f.nothing()
		// What happens while nobody watches is found by comparing.
		s.set(func() { s.away = true })
		s.cut()
		s.remove("pods", key{"a", "web"})
		s.put("pods", podObject("a", "new", "10.0.0.1", jsonObject{"app": "web"}))
		s.forget()
		s.set(func() { s.away = false })
		f.settle()
		u := f.next()
		if u.Cluster != nil || len(u.Change.Endpoints) != 1 || len(u.Change.DeletedEndpoints) != 1 || len(u.Change.Policies) != 0 {
			t.Errorf("update %+v", u)
		}
		f.caughtUp()
	}
}

func TestHealth(t *testing.T) {
	s := world(t)
	path := pathOf(resourceNamed("networkpolicies"))
	s.set(func() { s.forbidden[path] = true })
	f := following(t, s, hurried())
	health := func(name string) Health {
		for _, h := range f.w.Health() {
			if h.Resource == name {
				return h
			}
		}
		t.Fatalf("no health of %s", name)
		return Health{}
	}
	eventually(t, func() bool {
		return health("networkpolicies.networking.k8s.io").Err != nil && health("ippools.crd.projectcalico.org").Absent
	})
	if err := health("networkpolicies.networking.k8s.io").Err.Error(); !strings.Contains(err, `{apiGroups: ["networking.k8s.io"], resources: ["networkpolicies"], verbs: [list, watch]}`) {
		t.Errorf("error %s", err)
	}
	if _, ok := f.w.take(); ok {
		t.Error("an update without the policies")
	}
	s.set(func() { s.forbidden[path] = false })
	f.next()
	if h := health("networkpolicies.networking.k8s.io"); h.Err != nil || !h.Synced {
		t.Errorf("health %v", h)
	}

	// Away, there or not: the state stays, health says since when.
	for i, away := range []*bool{&s.away, &s.down} {
		before := time.Now()
		s.set(func() { *away = true })
		s.cut()
		s.Server.CloseClientConnections()
		eventually(t, func() bool { return health("pods").Err != nil })
		if h := health("pods"); h.Since.Before(before) || !h.Synced || h.Contact.IsZero() {
			t.Errorf("health %v", h)
		}
		if got := f.w.Snapshot(); len(got.Endpoints) != 2+i {
			t.Errorf("%d endpoints", len(got.Endpoints))
		}
		s.set(func() { *away = false })
		eventually(t, func() bool { return health("pods").Err == nil })
		s.put("pods", podObject("a", fmt.Sprintf("late-%d", i), fmt.Sprintf("10.0.0.%d", 9+i), nil))
		f.caughtUp()
	}
}

func TestAServerThatHangs(t *testing.T) {
	s := world(t)
	s.hangs = true
	p := hurried()
	p.silence = time.Second
	f := following(t, s, p)
	eventually(t, func() bool { return f.w.Health()[0].Err != nil })
	if err := f.w.Health()[0].Err; !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error %v", err)
	}
	s.set(func() { s.hangs = false })
	f.next()
	watches := s.count("WATCH " + pathOf(resourceNamed("pods")))
	// A watch without a word is opened anew, from where it stood.
	eventually(t, func() bool { return s.count("WATCH "+pathOf(resourceNamed("pods"))) > watches })
	s.put("pods", podObject("a", "late", "10.0.0.9", nil))
	if u := f.next(); len(u.Change.Endpoints) != 1 {
		t.Errorf("update %+v", u)
	}
}

func TestLoadNamesWhatCannotBeRead(t *testing.T) {
	s := world(t)
	s.forbidden[pathOf(resourceNamed("pods"))] = true
	s.absent[pathOf(resourceNamed("endpointslices"))] = true
	_, _, err := Load(context.Background(), s.config())
	if err == nil || !strings.Contains(err.Error(), `resources: ["pods"]`) || !strings.Contains(err.Error(), "no endpointslices of discovery.k8s.io/v1") {
		t.Errorf("error %v", err)
	}
}

func TestWhatTheClusterMayDoWithoutHoldsNothingUp(t *testing.T) {
	s := world(t)
	pools := pathOf(resourceNamed("ippools"))
	s.absent[pools], s.forbidden[pools] = false, true
	following(t, s, hurried()).next()
	_, problems, err := Load(context.Background(), s.config())
	if err != nil || len(problems) != 1 || problems[0].Severity != model.Warning || !strings.Contains(problems[0].Error(), `resources: ["ippools"]`) {
		t.Errorf("problems %v, error %v", problems, err)
	}
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("does not happen")
}

// TestAPolicyThatIsWrittenAgain: whoever asks whether its last version is in
// force wants to hear yes, though nothing changed.
func TestAPolicyThatIsWrittenAgain(t *testing.T) {
	s := world(t)
	policy := policyObject("b", "none", jsonObject{"podSelector": jsonObject{}})
	s.put("networkpolicies", policy)
	f := following(t, s, hurried())
	before := f.next()
	policy["metadata"].(jsonObject)["annotations"] = jsonObject{"note": "new"}
	s.put("networkpolicies", policy)
	u := f.next()
	was, _ := strconv.Atoi(before.Revisions[networkPolicies.name()])
	now, _ := strconv.Atoi(u.Revisions[networkPolicies.name()])
	if u.Cluster != nil || len(u.Change.Policies) != 0 || now <= was {
		t.Errorf("update %+v after version %d", u, was)
	}
	f.nothing()
}

// TestAnUpdateNamesItsOwnVersion: not the one before, whenever it is taken.
func TestAnUpdateNamesItsOwnVersion(t *testing.T) {
	s := world(t)
	f := following(t, s, hurried())
	f.next()
	for i := range 50 {
		policy := policyObject("b", "p"+strconv.Itoa(i), jsonObject{"podSelector": jsonObject{}})
		s.put("networkpolicies", policy)
		u := f.next()
		if got, want := u.Revisions[networkPolicies.name()], policy["metadata"].(jsonObject)["resourceVersion"]; len(u.Change.Policies) != 1 || got != want {
			t.Fatalf("the update of version %s names %s: %+v", want, got, u)
		}
	}
}

// While much changes pods wait for each other, and a policy for none of them.
func TestChangesAreGathered(t *testing.T) {
	s := world(t)
	p := hurried()
	p.gather, p.gathered = time.Millisecond, 5*time.Second
	f := following(t, s, p)
	f.next()
	half := p.gathered / 2
	begin := time.Now()
	s.put("pods", podObject("a", "one", "10.0.0.3", nil))
	time.Sleep(20 * time.Millisecond)
	s.put("pods", podObject("a", "two", "10.0.0.4", nil))
	u := f.next()
	if took := time.Since(begin); len(u.Change.Endpoints) != 2 || took < half {
		t.Errorf("after %s an update of %d pods, want 2 after %s", took, len(u.Change.Endpoints), p.gathered)
	}
	begin = time.Now()
	s.put("pods", podObject("a", "three", "10.0.0.5", nil))
	s.put("networkpolicies", policyObject("b", "none", jsonObject{"podSelector": jsonObject{}}))
	if u := f.next(); time.Since(begin) > half || len(u.Change.Policies) != 1 {
		t.Errorf("after %s an update of %d policies", time.Since(begin), len(u.Change.Policies))
	}
	time.Sleep(p.gathered)
	begin = time.Now()
	s.put("pods", podObject("a", "four", "10.0.0.6", nil))
	if f.next(); time.Since(begin) > half {
		t.Errorf("a change that comes alone waited for %s", time.Since(begin))
	}
	f.caughtUp()
}

func TestTheClusterHasAName(t *testing.T) {
	w, err := New(Config{REST: world(t).config(), ClusterName: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	if name := w.Snapshot().Name; name != "prod" {
		t.Errorf("the cluster is called %q", name)
	}
}
