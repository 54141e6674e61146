package kube

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// toy is the spec of a language that says just what these tests are about: the
// state between API server and engine does not know languages.
type toy struct {
	Metadata struct{ Labels map[string]string }
	Spec     struct {
		Parts []toyPart
		Tier  *struct {
			Order float64
			Pass  bool
		}
		Nets    []string
		Problem string
	}
}

// toyPart is a policy that lets the peer in to pods with the label app.
type toyPart struct {
	App, From, Service, Tier string
	Set                      bool
}

// speakToy has every language but NetworkPolicy be toy.
func speakToy(t *testing.T) {
	decode = func(o field.Object) (model.Parts, []model.Problem) {
		if o.Source.APIVersion == networkPolicies.gvr.GroupVersion().String() {
			return dialect.Decode(o)
		}
		return decodeToy(t, o)
	}
	t.Cleanup(func() { decode = dialect.Decode })
}

func decodeToy(t *testing.T, o field.Object) (out model.Parts, problems []model.Problem) {
	var x toy
	if err := o.Root.Decode(&x); err != nil {
		t.Error(err)
	}
	for i, p := range x.Spec.Parts {
		peer := model.Peer{}
		switch {
		case p.From != "":
			peer.Block = &model.IPBlock{CIDR: netip.MustParsePrefix(p.From)}
		case p.Service != "":
			namespace, name, _ := strings.Cut(p.Service, "/")
			peer.Services = &model.ServiceSelector{Namespace: namespace, Name: name}
		case p.Set:
			peer.Sets = &model.SetSelector{Labels: model.MatchLabels(map[string]string{"set": "x"})}
		}
		tier := p.Tier
		if tier == "" {
			tier = model.TierDefault
		}
		subject := model.EndpointSelector{Namespace: o.Source.Namespace}
		if p.App != "" {
			subject.Pods = model.MatchLabels(map[string]string{"app": p.App})
		}
		out.Policies = append(out.Policies, &model.Policy{
			Source: o.Source, Part: i, Family: model.FamilyCalico, Tier: tier, Order: model.KubernetesOrder, Subject: subject,
			Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{Peers: []model.Peer{peer}, AnyPort: true, Source: o.Source}}},
		})
	}
	if x.Spec.Tier != nil {
		out.Tiers = []model.Tier{{Name: o.Source.Name, Order: x.Spec.Tier.Order, Pass: x.Spec.Tier.Pass, Source: o.Source}}
	}
	if x.Spec.Nets != nil {
		set := model.AddressSet{Family: model.FamilyCalico, Namespace: o.Source.Namespace, Name: o.Source.Name, Labels: x.Metadata.Labels, Source: o.Source}
		for _, n := range x.Spec.Nets {
			set.Blocks = append(set.Blocks, netip.MustParsePrefix(n))
		}
		out.Sets = []model.AddressSet{set}
	}
	if x.Spec.Problem != "" {
		problems = []model.Problem{{Severity: model.Error, Source: o.Source, Message: x.Spec.Problem}}
	}
	return out, problems
}

func toyObject(r *resource, namespace, name string, spec jsonObject) jsonObject {
	return jsonObject{"apiVersion": r.gvr.GroupVersion().String(), "kind": "Toy." + r.gvr.Resource, "metadata": named(namespace, name, jsonObject{"labels": jsonObject{"set": "x"}}), "spec": spec}
}

func toyParts(list ...jsonObject) jsonObject { return jsonObject{"parts": list} }

// policyNames are those of the mirror, sorted, as "apiVersion name#part".
func (f *follower) policyNames() string {
	var out []string
	for k, p := range f.mirror.policies {
		x := p.Source.APIVersion + " " + p.Source.Name
		if _, part, ok := strings.Cut(k, "#"); ok {
			x += "#" + part
		}
		out = append(out, x)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (f *follower) catchUp() {
	f.t.Helper()
	f.settle()
	for u, ok := f.w.take(); ok; u, ok = f.w.take() {
		f.apply(u)
	}
}

func TestKindsAppearAndDisappear(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("clusternetworkpolicies")
	slow := hurried()
	slow.discover = time.Hour
	f := following(t, s, slow)
	f.next()
	for range 2 {
		s.serve(r, true)
		s.put(r.name(), toyObject(r, "", "p", toyParts(jsonObject{"app": "db"})))
		u := f.next()
		if len(u.Change.Policies) != 1 || u.Revisions[r.name()] == "" {
			t.Fatalf("update %+v", u)
		}
		f.caughtUp()
		s.unserve(r)
		u = f.next()
		if len(u.Change.DeletedPolicies) != 1 || u.Revisions[r.name()] != "" {
			t.Fatalf("update %+v", u)
		}
		f.caughtUp()
	}
	for _, h := range f.w.Health() {
		if h.Resource == r.name() && (!h.Absent || h.Err != nil) {
			t.Errorf("health %+v", h)
		}
	}
	// Where definitions cannot be read they are looked for.
	s = world(t)
	for _, d := range definitions {
		s.forbidden[pathOf(d)] = true
	}
	f = following(t, s, hurried())
	f.next()
	s.serve(r, false)
	s.put(r.name(), toyObject(r, "", "p", toyParts(jsonObject{"app": "db"})))
	f.next()
}

// TestANotFoundInPassing: an API server that starts may not know a kind for a
// moment. That is not enough to forget policies.
func TestANotFoundInPassing(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("ciliumnetworkpolicies")
	s.serve(r, true)
	s.put(r.name(), toyObject(r, "a", "p", toyParts(jsonObject{"app": "web"})))
	f := following(t, s, hurried())
	f.next()
	f.settle()
	s.set(func() { s.notFound[pathOf(r)] = 2 })
	s.cut()
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.notFound[pathOf(r)] == 0 })
	f.nothing()
	f.caughtUp()
}

func TestAnOlderVersionIsReadWhereNoOtherIsServed(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("ciliumcidrgroups")
	s.serve(r.older, true)
	s.putAt(pathOf(r.older), toyObject(r.older, "", "g", jsonObject{"nets": []any{"192.0.2.0/24"}}))
	f := following(t, s, hurried())
	if u := f.next(); len(u.Cluster.Sets) != 1 || u.Cluster.Sets[0].Source.APIVersion != "cilium.io/v2alpha1" {
		t.Errorf("sets %+v", u.Cluster.Sets)
	}
	f.caughtUp()
	s.putAt(pathOf(r), toyObject(r, "", "g", jsonObject{"nets": []any{"192.0.2.0/24"}}))
	s.serve(r, true)
	s.unserve(r.older)
	f.catchUp()
	if _, ok := f.mirror.sets["cilium.io/v2 Toy.ciliumcidrgroups /g"]; len(f.mirror.sets) != 1 || !ok {
		t.Errorf("sets %v", f.mirror.sets)
	}
}

func TestBothFormsOfACalicoObjectAreOne(t *testing.T) {
	speakToy(t)
	s := world(t)
	served := resourceNamed("networkpolicies." + calicoGroup)
	stored := resourceNamed("networkpolicies." + calicoStored)
	f := following(t, s, hurried())
	f.next()
	expect := func(want string) {
		t.Helper()
		f.caughtUp()
		if got := f.policyNames(); got != want {
			t.Errorf("in force: %s\nwant %s", got, want)
		}
	}
	s.serve(stored, true)
	s.put(stored.name(), toyObject(stored, "a", "default.p", toyParts(jsonObject{"app": "web"}, jsonObject{"app": "web"})))
	s.put(stored.name(), toyObject(stored, "a", "ours.q", toyParts(jsonObject{"app": "web"})))
	expect("crd.projectcalico.org/v1 default.p, crd.projectcalico.org/v1 default.p#1, crd.projectcalico.org/v1 ours.q")
	s.serve(served, true)
	s.put(served.name(), toyObject(served, "a", "p", toyParts(jsonObject{"app": "web"})))
	// An object that only one form of is shown counts.
	expect("crd.projectcalico.org/v1 ours.q, projectcalico.org/v3 p")
	s.put(served.name(), toyObject(served, "a", "ours.q", toyParts(jsonObject{"app": "web"}, jsonObject{"app": "db"})))
	expect("projectcalico.org/v3 ours.q, projectcalico.org/v3 ours.q#1, projectcalico.org/v3 p")
	s.put(stored.name(), toyObject(stored, "a", "default.p", toyParts(jsonObject{"app": "other"})))
	expect("projectcalico.org/v3 ours.q, projectcalico.org/v3 ours.q#1, projectcalico.org/v3 p")
	// The two names of a policy in the default tier are one name.
	s.put(served.name(), toyObject(served, "a", "default.p", toyParts(jsonObject{"app": "web"})))
	expect("projectcalico.org/v3 ours.q, projectcalico.org/v3 ours.q#1, projectcalico.org/v3 p")
	s.remove(served.name(), key{"a", "default.p"})
	// In another tier it is just a name.
	s.put(stored.name(), toyObject(stored, "a", "default.p", toyParts(jsonObject{"app": "other", "tier": "ours"})))
	expect("crd.projectcalico.org/v1 default.p, projectcalico.org/v3 ours.q, projectcalico.org/v3 ours.q#1, projectcalico.org/v3 p")
	s.put(stored.name(), toyObject(stored, "a", "default.p", toyParts(jsonObject{"app": "other"})))
	// In another namespace it is another object.
	s.put(stored.name(), toyObject(stored, "b", "ours.q", toyParts(jsonObject{"app": "web"})))
	expect("crd.projectcalico.org/v1 ours.q, projectcalico.org/v3 ours.q, projectcalico.org/v3 ours.q#1, projectcalico.org/v3 p")
	s.remove(stored.name(), key{"b", "ours.q"})
	s.unserve(served)
	expect("crd.projectcalico.org/v1 default.p, crd.projectcalico.org/v1 ours.q")
	// A Kubernetes NetworkPolicy as Calico's API server shows it.
	s.serve(served, true)
	s.unserve(stored)
	s.put("networkpolicies", policyObject("a", "np", jsonObject{"podSelector": jsonObject{}}))
	s.put(served.name(), toyObject(served, "a", "knp.default.np", toyParts(jsonObject{"app": "web"})))
	expect("networking.k8s.io/v1 np")
	s.remove("networkpolicies", key{"a", "np"})
	expect("projectcalico.org/v3 knp.default.np")
}

// TestATierInItsOtherForm is changed, not deleted.
func TestATierInItsOtherForm(t *testing.T) {
	speakToy(t)
	s := world(t)
	served, stored := resourceNamed("tiers."+calicoGroup), resourceNamed("tiers."+calicoStored)
	s.serve(served, true)
	s.serve(stored, true)
	for _, r := range []*resource{served, stored} {
		s.put(r.name(), toyObject(r, "", "t", jsonObject{"tier": jsonObject{"order": 7}}))
	}
	f := following(t, s, hurried())
	if u := f.next(); len(u.Cluster.Tiers) != 1 || u.Cluster.Tiers[0].Source.APIVersion != "projectcalico.org/v3" {
		t.Errorf("tiers %+v", u.Cluster.Tiers)
	}
	f.settle()
	s.unserve(served)
	if u := f.next(); len(u.Change.Tiers) != 1 || len(u.Change.DeletedTiers) != 0 {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
	s.remove(stored.name(), key{name: "t"})
	if u := f.next(); !slices.Equal(u.Change.DeletedTiers, []string{"t"}) {
		t.Errorf("update %+v", u)
	}
}

func TestPartsAreReplacedAsAWhole(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("ciliumnetworkpolicies")
	s.serve(r, true)
	f := following(t, s, hurried())
	f.next()
	put := func(apps ...string) Update {
		var list []jsonObject
		for _, app := range apps {
			list = append(list, jsonObject{"app": app})
		}
		s.put(r.name(), toyObject(r, "a", "p", toyParts(list...)))
		return f.next()
	}
	if u := put("x", "y", "z"); len(u.Change.Policies) != 3 || len(u.Change.DeletedPolicies) != 0 {
		t.Errorf("change %+v", u.Change)
	}
	u := put("x", "other")
	if len(u.Change.Policies) != 1 || u.Change.Policies[0].Part != 1 || len(u.Change.DeletedPolicies) != 1 || !strings.HasSuffix(u.Change.DeletedPolicies[0], "#2") {
		t.Errorf("change %+v", u.Change)
	}
	f.caughtUp()
	if objects := f.w.PolicyObjects(); len(objects) != 1 || len(objects[0].Policies) != 2 {
		t.Errorf("objects %+v", objects)
	}
}

func TestPoliciesInTiersThatDoNotExist(t *testing.T) {
	speakToy(t)
	s := world(t)
	policies, tiers := resourceNamed("globalnetworkpolicies."+calicoGroup), resourceNamed("tiers."+calicoGroup)
	s.serve(policies, true)
	s.serve(tiers, true)
	s.put(policies.name(), toyObject(policies, "", "p", toyParts(jsonObject{"app": "web", "tier": "ours"})))
	f := following(t, s, hurried())
	if u := f.next(); len(u.Problems) != 1 || !strings.Contains(u.Problems[0].Error(), `tier "ours" does not exist`) {
		t.Errorf("problems %v", u.Problems)
	}
	if objects := f.w.PolicyObjects(); len(objects) != 1 || len(objects[0].Problems) != 1 {
		t.Errorf("objects %+v", objects)
	}
	s.put(tiers.name(), toyObject(tiers, "", "ours", jsonObject{"tier": jsonObject{"order": 7}}))
	if u := f.next(); u.Problems == nil || len(u.Problems) != 0 || len(u.Change.Tiers) != 1 {
		t.Errorf("update %+v", u)
	}
	s.remove(tiers.name(), key{name: "ours"})
	if u := f.next(); len(u.Problems) != 1 {
		t.Errorf("problems %v", u.Problems)
	}
	f.caughtUp()
}

func TestServicesAreHandedOverWhilePoliciesSpeakOfThem(t *testing.T) {
	speakToy(t)
	s := world(t)
	for _, name := range []string{"db", "web"} {
		s.put("services", jsonObject{"apiVersion": "v1", "kind": "Service", "metadata": named("b", name, jsonObject{"labels": jsonObject{"app": name}}),
			"spec": jsonObject{"clusterIP": "10.96.0.1", "ports": []any{jsonObject{"port": 80}}}})
	}
	slice := func(service, ip string) {
		s.put("endpointslices", jsonObject{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata": named("b", service+"-1", jsonObject{"labels": jsonObject{"kubernetes.io/service-name": service}}),
			"ports":    []any{jsonObject{"name": "", "port": 8080}}, "endpoints": []any{jsonObject{"addresses": []any{ip}}}})
	}
	slice("db", "10.0.0.2")
	r := resourceNamed("ciliumnetworkpolicies")
	s.serve(r, true)
	f := following(t, s, hurried())
	if u := f.next(); len(u.Cluster.Services) != 0 {
		t.Errorf("services %+v", u.Cluster.Services)
	}
	slice("db", "10.0.0.3")
	if u := f.next(); len(u.Change.Services) != 0 || !u.Services {
		t.Errorf("update %+v", u)
	}
	s.put(r.name(), toyObject(r, "a", "p", toyParts(jsonObject{"app": "web", "service": "b/db"})))
	if u := f.next(); len(u.Change.Services) != 1 || u.Change.Services[0].Labels["app"] != "db" || u.Change.Services[0].Ports[0].Backends[0].IP.String() != "10.0.0.3" {
		t.Errorf("update %+v", u)
	}
	slice("web", "10.0.0.1")
	if u := f.next(); len(u.Change.Services) != 0 {
		t.Errorf("update %+v", u)
	}
	slice("db", "10.0.0.4")
	if u := f.next(); len(u.Change.Services) != 1 || u.Change.Services[0].Ports[0].Backends[0].IP.String() != "10.0.0.4" {
		t.Errorf("update %+v", u)
	}
	s.put(r.name(), toyObject(r, "a", "q", toyParts(jsonObject{"app": "web", "service": "b/"})))
	if u := f.next(); len(u.Change.Services) != 1 || u.Change.Services[0].Name != "web" {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
	s.remove(r.name(), key{"a", "q"})
	if u := f.next(); !slices.Equal(u.Change.DeletedServices, []string{"b/web"}) {
		t.Errorf("update %+v", u)
	}
	s.remove("services", key{"b", "db"})
	if u := f.next(); !slices.Equal(u.Change.DeletedServices, []string{"b/db"}) {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
}

func TestAccountsAreTheirLabels(t *testing.T) {
	s := world(t)
	account := func(labels jsonObject) jsonObject {
		return jsonObject{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("a", "robot", jsonObject{"labels": labels})}
	}
	s.put("serviceaccounts", account(nil))
	f := following(t, s, hurried())
	if u := f.next(); len(u.Cluster.Accounts) != 0 {
		t.Errorf("accounts %+v", u.Cluster.Accounts)
	}
	s.put("serviceaccounts", account(jsonObject{"team": "red"}))
	if u := f.next(); len(u.Change.Accounts) != 1 || u.Change.Accounts[0].Key() != "a/robot" || u.Change.Accounts[0].Labels["team"] != "red" {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
	s.remove("serviceaccounts", key{"a", "robot"})
	if u := f.next(); len(u.Change.Accounts) != 1 || len(u.Change.Accounts[0].Labels) != 0 {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
}

// TestANamespaceOfASetThatIsDeletedFirst: whoever selects sets by the labels of
// their namespaces must hear of it.
func TestANamespaceOfASetThatIsDeletedFirst(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("networksets." + calicoGroup)
	s.serve(r, true)
	s.put("namespaces", namespaceObject("c", jsonObject{"team": "red"}))
	f := following(t, s, hurried())
	f.next()
	s.put(r.name(), toyObject(r, "c", "n", jsonObject{"nets": []any{"192.0.2.0/24"}}))
	f.next()
	s.remove("namespaces", key{name: "c"})
	if u := f.next(); len(u.Change.Namespaces) != 1 || len(u.Change.Namespaces[0].Labels) != 1 {
		t.Errorf("update %+v", u)
	}
	f.caughtUp()
}

// TestPoliciesThatCannotBeReadAreWaitedFor, unless their other form can be, or
// they are none of ours.
func TestPoliciesThatCannotBeReadAreWaitedFor(t *testing.T) {
	speakToy(t)
	s := world(t)
	r := resourceNamed("ciliumnetworkpolicies")
	s.broken[pathOf(r)] = true
	f := following(t, s, hurried())
	served, stored := resourceNamed("networkpolicies."+calicoGroup), resourceNamed("networkpolicies."+calicoStored)
	s.set(func() { s.broken[pathOf(served)] = true })
	s.serve(stored, false)
	time.Sleep(200 * time.Millisecond) // longer than others are waited for
	if _, ok := f.w.take(); ok {
		t.Error("an update without the policies")
	}
	s.set(func() { delete(s.absent, pathOf(r)); delete(s.broken, pathOf(r)); s.forbidden[pathOf(r)] = true })
	f.next()
	if said := Unread(f.w.Health()); len(said) != 2 || !strings.Contains(strings.Join(said, ""), r.name()) || !strings.Contains(strings.Join(said, ""), served.name()) {
		t.Errorf("says %q", said)
	}
}

func TestEnforces(t *testing.T) {
	for _, c := range []struct {
		realised, version string
		want              bool
	}{{"12", "12", true}, {"9", "12", false}, {"13", "12", true}, {"", "12", false}, {"13/4", "12/99", true}, {"13", "", true}} {
		s := NodeState{Ready: true, Realised: map[string]string{}}
		if c.realised != "" {
			s.Realised["r"] = c.realised
		}
		if got := s.Enforces("r", c.version); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestLoadPolicies(t *testing.T) {
	s := world(t)
	s.put("networkpolicies", policyObject("b", "typo", jsonObject{"podSelector": jsonObject{}, "ingres": []any{}}))
	_, objects, _, err := LoadPolicies(context.Background(), s.config())
	if err != nil || len(objects) != 1 {
		t.Fatalf("objects %+v, error %v", objects, err)
	}
	x := objects[0]
	if v, err := strconv.Atoi(x.Version); err != nil || v == 0 || x.Resource != networkPolicies.name() || len(x.Problems) != 1 || len(x.Policies) != 1 || engine.PolicyKey(x.Policies[0]) != "networking.k8s.io/v1 NetworkPolicy b/typo" {
		t.Errorf("object %+v", x)
	}
}

// objects are such as people write, one of each kind that there is.
const objects = `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: one}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: one}
spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: one, namespace: a}
specs:
- {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}
- {endpointSelector: {}, egress: [{toEndpoints: [{}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: one}
spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: one}
spec: {externalCIDRs: [192.0.2.0/24]}
---
apiVersion: FORM
kind: NetworkPolicy
metadata: {name: default.one, namespace: a}
spec: {tier: default, types: [Ingress], ingress: [{action: Allow, source: {services: {name: s, namespace: a}}}]}
---
apiVersion: FORM
kind: GlobalNetworkPolicy
metadata: {name: default.one}
spec: {types: [Ingress], ingress: [{action: Allow}]}
---
apiVersion: FORM
kind: StagedNetworkPolicy
metadata: {name: default.one, namespace: a}
spec: {types: [Ingress], ingress: [{action: Allow}]}
---
apiVersion: FORM
kind: StagedGlobalNetworkPolicy
metadata: {name: default.one}
spec: {types: [Ingress], ingress: [{action: Allow}]}
---
apiVersion: FORM
kind: StagedKubernetesNetworkPolicy
metadata: {name: one, namespace: a}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: FORM
kind: Tier
metadata: {name: one}
spec: {order: 7}
---
apiVersion: FORM
kind: Profile
metadata: {name: kns.a}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: FORM
kind: NetworkSet
metadata: {name: one, namespace: a}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: FORM
kind: GlobalNetworkSet
metadata: {name: one}
spec: {nets: [192.0.2.0/24]}
---
apiVersion: FORM
kind: HostEndpoint
metadata: {name: one}
spec: {node: n0, interfaceName: "*", expectedIPs: [192.168.0.1]}
`

// TestEveryLanguageArrives, from the API server to what is handed on, whichever
// form Calico's objects have.
func TestEveryLanguageArrives(t *testing.T) {
	for _, form := range []string{"projectcalico.org/v3", "crd.projectcalico.org/v1"} {
		s := world(t)
		kinds := 1 // NetworkPolicy
		for text := range strings.SplitSeq(strings.ReplaceAll(objects, "FORM", form), "---\n") {
			var o jsonObject
			if err := yaml.Unmarshal([]byte(text), &o); err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(languages, func(r *resource) bool {
				plural := strings.ToLower(o["kind"].(string)) + "s"
				return r.gvr.GroupVersion().String() == o["apiVersion"] && r.gvr.Resource == strings.Replace(plural, "policys", "policies", 1)
			})
			if i < 0 {
				t.Fatalf("nobody reads %v of %v", o["kind"], o["apiVersion"])
			}
			if slices.Contains(withStatus, languages[i]) {
				_, o["status"] = amend(nil, verdicts(languages[i], &unstructured.Unstructured{Object: o}, &PolicyObject{}, nil, 1))
				o["status"] = jsonObject{"conditions": o["status"]}
			}
			s.serve(languages[i], true)
			s.put(languages[i].name(), o)
			kinds++
		}
		if all := len(slices.DeleteFunc(slices.Clone(languages), func(r *resource) bool { return r.served != nil })); kinds != all {
			t.Errorf("%d kinds are tried of %d", kinds, all)
		}
		f := following(t, s, hurried())
		u := f.next()
		for _, p := range u.Problems {
			if p.Severity != model.Info {
				t.Error(p)
			}
		}
		if len(u.Cluster.Policies) < 12 || len(u.Cluster.Tiers) != 1 || len(u.Cluster.Sets) != 4 {
			t.Errorf("%d policies, tiers %v, sets %v", len(u.Cluster.Policies), u.Cluster.Tiers, u.Cluster.Sets)
		}
		f.caughtUp()
	}
}

// TestKindsThatAreNeitherOursNorThere: who may not list a kind is told so
// whether it is there or not.
func TestKindsThatAreNeitherOursNorThere(t *testing.T) {
	s := world(t)
	for _, r := range languages {
		s.forbidden[pathOf(r)] = r != networkPolicies
	}
	s.absent[pathOf(resourceNamed("ciliumnetworkpolicies"))] = false
	_, problems, err := Load(context.Background(), s.config())
	if err != nil || len(problems) != 1 || problems[0].Source.Kind != "ciliumnetworkpolicies" {
		t.Errorf("problems %v, error %v", problems, err)
	}
	f := following(t, s, hurried())
	f.next()
	if said := Unread(f.w.Health()); len(said) != 1 || !strings.HasPrefix(said[0], "ciliumnetworkpolicies.cilium.io: ") {
		t.Errorf("says %q", said)
	}
}
