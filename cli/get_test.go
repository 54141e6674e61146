package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
)

// TestPoliciesOfEveryKind: one line for an object, whatever it stands for.
func TestPoliciesOfEveryKind(t *testing.T) {
	c := &model.Cluster{Namespaces: []model.Namespace{{Name: "a"}}, Nodes: []model.Node{{Name: "n0"}, {Name: "n1"}}}
	for i, app := range []string{"web", "db", "other"} {
		c.Endpoints = append(c.Endpoints, model.Endpoint{
			Namespace: "a", Name: app, Labels: map[string]string{"app": app}, Node: "n0", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
		})
	}
	part := func(s model.Source, i int, app string) *model.Policy {
		return &model.Policy{Source: s, Part: i, Tier: model.TierDefault, Ingress: &model.Section{DefaultDeny: true},
			Subject: model.EndpointSelector{Namespace: "a", Pods: model.MatchLabels(map[string]string{"app": app})}}
	}
	cilium := model.Source{APIVersion: "cilium.io/v2", Kind: "CiliumNetworkPolicy", Namespace: "a", Name: "two-rules"}
	calico := model.Source{APIVersion: "projectcalico.org/v3", Kind: "NetworkPolicy", Namespace: "a", Name: "broken"}
	objects := []kube.PolicyObject{
		{Source: cilium, Resource: "ciliumnetworkpolicies.cilium.io", Version: "7", Policies: []*model.Policy{part(cilium, 0, "web"), part(cilium, 1, "web"), part(cilium, 2, "db")}},
		{Source: calico, Resource: "networkpolicies.projectcalico.org", Version: "8", Problems: []model.Problem{{Severity: model.Error, Source: calico.At("spec.order", 0, 0), Message: "is no number"}}},
	}
	for _, o := range objects {
		c.Policies = append(c.Policies, o.Policies...)
	}
	nodes := []kube.NodeState{
		{Node: "n0", Ready: true, Realised: map[string]string{"ciliumnetworkpolicies.cilium.io": "7", "networkpolicies.networking.k8s.io": "99"}},
		{Node: "n1", Ready: true, Realised: map[string]string{"ciliumnetworkpolicies.cilium.io": "6", "networkpolicies.projectcalico.org": "12"}},
	}
	var out strings.Builder
	s := &session{stdout: &out}
	if err := s.printPolicies(policyStates(c, objects, nodes, getFlags{})); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"NAMESPACE POLICY KIND PODS NODES PROBLEMS",
		"a two-rules CiliumNetworkPolicy 2 1/2",
		"a broken NetworkPolicy.projectcalico.org 0 1/2 spec.order: is no number",
	}
	if text := strings.Join(got, "\n"); text != strings.Join(want, "\n") {
		t.Errorf("it prints\n%s", text)
	}
	if list := policyStates(c, objects, nodes, getFlags{namespace: "b"}); len(list) != 0 {
		t.Errorf("of another namespace: %+v", list)
	}
}
