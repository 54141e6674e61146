package engine

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
)

// missCluster has a database that one policy isolates, with rules that fail in
// all the ways that there are.
func missCluster() *model.Cluster {
	pod := func(ns, name, ip string, labels map[string]string) model.Endpoint {
		return model.Endpoint{Namespace: ns, Name: name, Workload: model.Workload{Kind: "Pod", Name: name}, Labels: labels, IPs: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	db := pod("shop", "db", "10.0.0.9", map[string]string{"app": "db"})
	db.Ports = []model.ContainerPort{{Name: "sql", Protocol: model.TCP, Number: 5432}}
	host := pod("shop", "host", "172.30.0.1", nil)
	host.HostNetwork, host.Node = true, "n2"
	labels := func(kv ...string) model.Selector { return model.MatchLabels(map[string]string{kv[0]: kv[1]}) }
	peer := func(field string, s model.EndpointSelector) model.Peer {
		return model.Peer{Pods: &s, Source: model.Source{Field: field}}
	}
	block := func(field, cidr string, except ...netip.Prefix) model.Peer {
		return model.Peer{Block: &model.IPBlock{CIDR: netip.MustParsePrefix(cidr), Except: except}, Source: model.Source{Field: field}}
	}
	tcp := func(field string, n uint16) model.Port {
		return model.Port{Protocol: model.TCP, First: n, Last: n, Source: model.Source{Field: field}}
	}
	in := func(ns string, s model.Selector) model.EndpointSelector {
		return model.EndpointSelector{Namespace: ns, Pods: s}
	}
	rule := func(field string, ports []model.Port, peers ...model.Peer) model.Rule {
		return model.Rule{Source: model.Source{Field: field}, Peers: peers, Ports: ports, AnyPort: len(ports) == 0}
	}
	return &model.Cluster{
		Namespaces: []model.Namespace{{Name: "ops", Labels: map[string]string{"team": "sre"}}, {Name: "shop", Labels: map[string]string{"team": "shop"}}},
		Nodes:      []model.Node{{Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.9")}}, {Name: "n2", IPs: []netip.Addr{netip.MustParseAddr("172.30.0.1")}}},
		Endpoints: []model.Endpoint{
			pod("ops", "front", "10.0.0.1", map[string]string{"app": "frontend"}),
			db,
			pod("shop", "front", "10.0.0.2", map[string]string{"app": "front"}),
			pod("shop", "frontend", "10.0.0.3", map[string]string{"app": "frontend"}),
			host,
		},
		Policies: []*model.Policy{
			{
				Source:  model.Source{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"},
				Subject: in("shop", labels("app", "db")), Tier: model.TierDefault, Order: model.KubernetesOrder,
				Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{
					rule("ingress[0]", []model.Port{tcp("ingress[0].ports[0]", 80)}, peer("ingress[0].from[0]", in("shop", labels("app", "frontend")))),
					rule("ingress[1]", []model.Port{{Protocol: model.TCP, Name: "sql"}}, peer("ingress[1].from[0]", in("shop", labels("app", "frontend"))),
						block("ingress[1].from[1]", "192.0.2.0/24", netip.MustParsePrefix("192.0.2.128/25"))),
					rule("ingress[2]", nil, peer("ingress[2].from[0]", model.EndpointSelector{Namespaces: labels("team", "web"), Pods: labels("app", "frontend")})),
				}},
			},
			{
				Source:  model.Source{Kind: "NetworkPolicy", Namespace: "shop", Name: "misspelt"},
				Subject: in("shop", labels("app", "database")), Tier: model.TierDefault, Order: model.KubernetesOrder,
				Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{AnyPeer: true, Ports: []model.Port{tcp("", 9100)}}}},
			},
		},
	}
}

func TestMissesNameWhatFailed(t *testing.T) {
	m := Compile(missCluster())
	at := func(key string) Party { return Party{Endpoint: m.Endpoint(key)} }
	outside := func(s string) Party { return Party{Addr: netip.MustParseAddr(s)} }
	for _, c := range []struct {
		src  Party
		port uint16
		want []string
	}{
		{at("shop/frontend"), 5432, nil},
		{at("shop/front"), 5432, []string{
			"ingress[1].from[0]: podSelector wants app=frontend, this pod has app=front",
			"ingress[0].from[0]: podSelector wants app=frontend, this pod has app=front; port wants 80/TCP, this is 5432/TCP",
			"ingress[2].from[0]: namespaceSelector wants team=web, namespace shop has team=shop; podSelector wants app=frontend, this pod has app=front",
		}},
		{at("ops/front"), 80, []string{
			"ingress[0].from[0]: namespace wants shop since there is no namespaceSelector, this pod is in ops",
			"ingress[2].from[0]: namespaceSelector wants team=web, namespace ops has team=sre",
			"ingress[1].from[0]: namespace wants shop since there is no namespaceSelector, this pod is in ops; port wants sql/TCP (5432 at the destination), this is 80/TCP",
		}},
		{at("shop/frontend"), 9100, []string{
			"ingress[0].ports[0]: port wants 80/TCP, this is 9100/TCP",
			": port wants sql/TCP (5432 at the destination), this is 9100/TCP",
			"ingress[2].from[0]: namespaceSelector wants team=web, namespace shop has team=shop",
			"spec.podSelector: podSelector wants app=database, this pod has app=db",
		}},
		{outside("192.0.2.200"), 5432, []string{"ingress[1].from[1]: ipBlock wants 192.0.2.0/24 except 192.0.2.128/25, this is 192.0.2.200"}},
		{Party{Node: "n1"}, 5432, []string{"ingress[1].from[1]: ipBlock wants 192.0.2.0/24, this is 172.30.0.9"}},
		{at("shop/host"), 5432, []string{
			"ingress[1].from[0]: podSelector wants a pod with an address of its own, this pod is on its node's network",
			"ingress[2].from[0]: podSelector wants a pod with an address of its own, this pod is on its node's network",
			"ingress[0].from[0]: podSelector wants a pod with an address of its own, this pod is on its node's network; port wants 80/TCP, this is 5432/TCP",
		}},
	} {
		dst, key := at("shop/db"), model.PortKeyOf(model.TCP, c.port)
		var got []string
		for _, miss := range m.Misses(c.src, dst, key, model.Ingress) {
			text := miss.Source.Field + ": "
			for i, f := range miss.Fails {
				if i > 0 {
					text += "; "
				}
				text += f.String()
			}
			got = append(got, text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v to %d: got", c.src, c.port)
			for _, g := range got {
				t.Log(g)
			}
		}
		if m.Verdict(c.src, dst, key).Allowed != (c.want == nil) {
			t.Errorf("%v to %d: the verdict does not go with the misses", c.src, c.port)
		}
		if out := m.Misses(c.src, dst, key, model.Egress); out != nil {
			t.Errorf("an open door has misses %v", out)
		}
	}
}
