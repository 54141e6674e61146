package engine

import (
	"net/netip"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
)

func pod(ns, name, ip string, labels map[string]string, ports ...model.ContainerPort) model.Endpoint {
	return model.Endpoint{
		Namespace: ns, Name: name, Labels: labels, Ports: ports, Node: "node-0",
		Workload: model.Workload{Kind: "Pod", Name: name}, IPs: []netip.Addr{netip.MustParseAddr(ip)},
	}
}

func ingress(ns, name string, pods model.Selector, rules ...model.Rule) *model.Policy {
	return &model.Policy{
		Source: model.Source{Kind: "NetworkPolicy", Namespace: ns, Name: name},
		Tier:   model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: ns, Pods: pods},
		Ingress: &model.Section{DefaultDeny: true, Rules: rules},
	}
}

func fromPods(ns string, s model.Selector, ports ...model.Port) model.Rule {
	return model.Rule{
		Peers:   []model.Peer{{Pods: &model.EndpointSelector{Namespace: ns, Pods: s}}},
		AnyPort: len(ports) == 0, Ports: ports,
	}
}

func app(v string) model.Selector { return model.MatchLabels(map[string]string{"app": v}) }

func shop() *model.Cluster {
	return &model.Cluster{
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Endpoints: []model.Endpoint{
			pod("shop", "db", "10.244.0.3", map[string]string{"app": "db"}, model.ContainerPort{Name: "sql", Protocol: model.TCP, Number: 5432}),
			pod("shop", "web", "10.244.0.2", map[string]string{"app": "web"}),
			pod("shop", "api", "10.244.0.4", map[string]string{"app": "api"}),
		},
		Policies: []*model.Policy{
			ingress("shop", "db", app("db"), fromPods("shop", app("api"), model.Port{Protocol: model.TCP, Name: "sql"})),
		},
	}
}

func verdict(m *Matrix, src, dst string, port uint16) Verdict {
	return m.Verdict(Party{Endpoint: m.Endpoint(src)}, Party{Endpoint: m.Endpoint(dst)}, model.PortKeyOf(model.TCP, port))
}

func TestVerdictNamesTheRuleThatDecided(t *testing.T) {
	m := Compile(shop())
	v := verdict(m, "shop/api", "shop/db", 5432)
	if !v.Allowed || v.Egress.Reason != NotIsolated || v.Ingress.Reason != ByRule || v.Ingress.Policy.Source.Name != "db" {
		t.Errorf("api to db: %+v", v)
	}
	for _, c := range []struct {
		src  string
		port uint16
	}{{"shop/web", 5432}, {"shop/api", 80}} {
		if v := verdict(m, c.src, "shop/db", c.port); v.Allowed || v.Ingress.Reason != DefaultDeny || len(v.Ingress.Policies) != 1 {
			t.Errorf("%s to db on %d: %+v", c.src, c.port, v)
		}
	}
}

func TestUnknownAddressInPodRangeIsClosed(t *testing.T) {
	m := Compile(shop())
	src := Party{Addr: netip.MustParseAddr("10.244.9.9")}
	v := m.Verdict(src, Party{Endpoint: m.Endpoint("shop/web")}, model.PortKeyOf(model.TCP, 80))
	if v.Allowed || v.Ingress.Reason != UnknownPeer {
		t.Errorf("unknown peer: %+v", v)
	}
}

func TestPairsAgreeWithConnections(t *testing.T) {
	m := Compile(shop())
	groups := m.Groups()
	seen := map[string]string{}
	for pair, ports := range m.EachPair() {
		s, d := groups[pair[0]].Endpoints[0], groups[pair[1]].Endpoints[0]
		seen[s.Name+">"+d.Name] = ports.String()
	}
	want := map[string]string{"api>db": "TCP 5432", "api>web": "All", "db>api": "All", "db>web": "All", "web>api": "All"}
	if len(seen) != len(want) {
		t.Errorf("pairs: %v", seen)
	}
	for k, v := range want {
		if seen[k] != v {
			t.Errorf("%s: %q, want %q", k, seen[k], v)
		}
	}
}

func TestApplyChangesOnlyWhatIsTouched(t *testing.T) {
	m := Compile(shop())
	d := m.Apply(Change{Policies: []*model.Policy{ingress("shop", "web", app("web"))}})
	if len(d.Endpoints) != 1 || d.Endpoints[0] != "shop/web" || len(d.Identities) != 0 {
		t.Errorf("delta of a policy without new peers: %+v", d)
	}
	if v := verdict(m, "shop/api", "shop/web", 80); v.Allowed {
		t.Errorf("api to web after deny: %+v", v)
	}
	p := pod("shop", "api-2", "10.244.0.5", map[string]string{"app": "api", "unseen": "x"})
	if d := m.Apply(Change{Endpoints: []*model.Endpoint{&p}}); len(d.Endpoints) != 1 || len(d.Identities) != 0 {
		t.Errorf("delta of a pod of a known class: %+v", d)
	}
	if v := verdict(m, "shop/api-2", "shop/db", 5432); !v.Allowed {
		t.Errorf("api-2 to db: %+v", v)
	}
	m.Apply(Change{DeletedPolicies: []string{PolicyKey(ingress("shop", "web", app("web")))}})
	if v := verdict(m, "shop/api", "shop/web", 80); !v.Allowed || v.Ingress.Reason != NotIsolated {
		t.Errorf("api to web after the policy went: %+v", v)
	}
}

// The address that stands for a prefix is not one that a node happens to have.
func TestOutsideIsFoundBesideNodes(t *testing.T) {
	block := netip.MustParsePrefix("172.30.0.0/24")
	c := &model.Cluster{
		Nodes: []model.Node{{Name: "a", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.0")}}, {Name: "b", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.1")}}},
		Policies: []*model.Policy{{Tier: model.TierDefault, Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{
			{AnyPort: true, Peers: []model.Peer{{Block: &model.IPBlock{CIDR: block}}}},
		}}}},
	}
	for _, a := range Compile(c).Outside() {
		if block.Contains(a) {
			return
		}
	}
	t.Error("nobody stands for " + block.String())
}
