package parity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	api "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/syncersv1/updateprocessors"
	"github.com/projectcalico/calico/libcalico-go/lib/selector/parser"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect/calico"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// endpoint is whoever may stand at the other end: a pod, a set, or an unknown address.
type endpoint struct {
	set       bool
	namespace string // "" is none
	account   string // of a pod
	labels    map[string]string
}

// world is what endpoints inherit from.
type world struct {
	namespaces, accounts map[string]map[string]string
}

// known are the labels that the vendor gives the endpoint: its own, what it is,
// and what it inherits, each before the next.
func (w world) known(e endpoint) map[string]string {
	out := map[string]string{}
	inherit := func(prefix, name string, labels map[string]string) {
		for k, v := range labels {
			out[prefix+k] = v
		}
		out[prefix+"projectcalico.org/name"] = name
	}
	if e.namespace != "" {
		inherit("pcns.", e.namespace, w.namespaces[e.namespace])
	}
	if e.account != "" {
		inherit("pcsa.", e.account, w.accounts[e.namespace+"/"+e.account])
	}
	maps.Copy(out, e.labels)
	if e.namespace != "" {
		out["projectcalico.org/namespace"] = e.namespace
	}
	if e.account != "" {
		out["projectcalico.org/serviceaccount"] = e.account
		out["projectcalico.org/orchestrator"] = "k8s"
	}
	return out
}

// value is what the model's keys are, of an endpoint.
func (w world) value(e endpoint) func(key string) (string, bool) {
	return func(key string) (string, bool) {
		is := func(v string) (string, bool) { return v, v != "" }
		of := func(labels map[string]string, k string) (string, bool) { v, ok := labels[k]; return v, ok }
		switch rest, _ := strings.CutPrefix(key, model.NamespaceLabels); {
		case key == model.NamespaceName:
			return is(e.namespace)
		case key == model.AccountName:
			return is(e.account)
		case rest != key:
			return of(w.ofNamespace(e.namespace), rest)
		}
		if rest, ok := strings.CutPrefix(key, model.AccountLabels); ok {
			return of(w.accounts[e.namespace+"/"+e.account], rest)
		}
		return of(e.labels, key)
	}
}

func (w world) ofNamespace(name string) map[string]string {
	if name == "" {
		return nil
	}
	out := maps.Clone(w.namespaces[name])
	out[model.MetadataName] = name
	return out
}

// is says whether the endpoint is the peer, as the model says what peers are.
func (w world) is(e *endpoint, p model.Peer) bool {
	if slices.ContainsFunc(p.Not, func(n model.Peer) bool { return w.is(e, n) }) {
		return false
	}
	switch {
	case p.Pods != nil:
		return e != nil && !e.set && (p.Pods.Namespace == "" || p.Pods.Namespace == e.namespace) &&
			p.Pods.Namespaces.Matches(w.ofNamespace(e.namespace)) && p.Pods.Pods.Match(w.value(*e))
	case p.Sets != nil:
		s := p.Sets
		return e != nil && e.set && (s.Namespace == "" || s.Namespace == e.namespace) && (!s.Namespaced || e.namespace != "") && (!s.Global || e.namespace == "") &&
			s.Labels.Match(w.value(*e))
	}
	return true
}

// TestEntities takes random sources, in policies of a namespace and of the
// cluster, and asks both whether endpoints are meant by them.
func TestEntities(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	matched := 0
	for range 20_000 {
		namespace := pick(r, []string{"", "n1", "n2"})
		source := someEntity(r)
		rule := decode(t, namespace, source)
		theirs := updateprocessors.RuleAPIV2ToBackend(api.Rule{Action: api.Allow, Source: source}, namespace)
		w := world{
			namespaces: map[string]map[string]string{"n1": someOf(r), "n2": someOf(r), "n3": someOf(r)},
			accounts:   map[string]map[string]string{"n1/s1": someOf(r), "n2/s1": someOf(r), "n2/s2": someOf(r)},
		}
		for range 8 {
			e := someEndpoint(r)
			got := rule.AnyPeer || slices.ContainsFunc(rule.Peers, func(p model.Peer) bool { return w.is(e, p) })
			want := meant(t, theirs.SrcSelector, w, e, true) && !meant(t, theirs.NotSrcSelector, w, e, false)
			if got != want {
				t.Fatalf("policy of %q, source %+v, accounts %+v: %+v of %+v is %t, the vendor says %t by (%s) and not (%s)", namespace, source, source.ServiceAccounts, e, w, got, want,
					theirs.SrcSelector, theirs.NotSrcSelector)
			}
			if want {
				matched++
			}
		}
	}
	if matched < 20_000 {
		t.Errorf("only %d endpoints were meant", matched)
	}
}

// meant says whether the vendor's selector selects the endpoint; an empty one
// is as said.
func meant(t *testing.T, text string, w world, e *endpoint, empty bool) bool {
	t.Helper()
	if text == "" {
		return empty
	}
	s, err := parser.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return e != nil && s.Evaluate(w.known(*e))
}

// decode is the rule that our decoder makes of the source.
func decode(t *testing.T, namespace string, source api.EntityRule) model.Rule {
	t.Helper()
	entity := map[string]any{}
	for k, v := range map[string]string{"selector": source.Selector, "notSelector": source.NotSelector, "namespaceSelector": source.NamespaceSelector} {
		if v != "" {
			entity[k] = v
		}
	}
	if a := source.ServiceAccounts; a != nil {
		entity["serviceAccounts"] = map[string]any{"names": a.Names, "selector": a.Selector}
	}
	kind := "NetworkPolicy"
	if namespace == "" {
		kind = "GlobalNetworkPolicy"
	}
	parts, problems := decodeObject(t, map[string]any{
		"apiVersion": calico.Served, "kind": kind, "metadata": map[string]any{"name": "p", "namespace": namespace},
		"spec": map[string]any{"ingress": []any{map[string]any{"action": "Allow", "source": entity}}},
	})
	if len(problems) > 0 {
		t.Fatalf("%+v: %v", source, problems)
	}
	return parts.Policies[0].Ingress.Rules[0]
}

// decodeObject takes an object to our decoder.
func decodeObject(t *testing.T, object map[string]any) (model.Parts, []model.Problem) {
	t.Helper()
	var n yaml.Node
	if err := n.Encode(object); err != nil {
		t.Fatal(err)
	}
	meta, _ := object["metadata"].(map[string]any)
	text := func(v any) string {
		if v == nil {
			return ""
		}
		return fmt.Sprint(v)
	}
	s := model.Source{APIVersion: text(object["apiVersion"]), Kind: text(object["kind"]), Name: text(meta["name"]), Namespace: text(meta["namespace"])}
	return calico.Decoders[[2]string{s.APIVersion, s.Kind}](field.Object{Source: s, Root: &n})
}

func someEntity(r *rand.Rand) api.EntityRule {
	own := []string{"", "", "all()", "a == 'x'", "a != 'x'", "!has(a)", "a not in {'x', 'y'} || b == 'x'", "pcns.a == 'x'", "pcns.a != 'x'", "!has(pcsa.a)", "pcsa.projectcalico.org/name == 's1'",
		"pcns.projectcalico.org/name in {'n1', 'n3'}", "projectcalico.org/namespace == 'n1'", "!has(projectcalico.org/namespace)", "projectcalico.org/serviceaccount != 's1'", "projectcalico.org/orchestrator == 'k8s'",
		"! projectcalico.org/orchestrator == 'k8s'", "a in {}", "a contains 'x' && !(b starts with 'y')", "has(projectcalico.org/serviceaccount)"}
	e := api.EntityRule{Selector: pick(r, own), NotSelector: pick(r, append([]string{"", "", "", "", ""}, own...))}
	e.NamespaceSelector = pick(r, []string{"", "", "", "all()", "global()", "a == 'x'", "a != 'x'", "has(a) || b == 'y'", "projectcalico.org/name == 'n1'", "!projectcalico.org/name == 'n1'", "all() && a != 'x'", "!all()"})
	if r.IntN(3) == 0 {
		e.ServiceAccounts = &api.ServiceAccountMatch{Selector: pick(r, []string{"", "a == 'x'", "a != 'x'", "!has(a)", "projectcalico.org/name == 's1'", "projectcalico.org/name != 's1'", "all()"})}
		if r.IntN(2) == 0 || e.ServiceAccounts.Selector == "" {
			e.ServiceAccounts.Names = []string{"s1", "s2"}[:1+r.IntN(2)]
		}
	}
	return e
}

func someOf(r *rand.Rand) map[string]string {
	out := map[string]string{}
	for _, k := range []string{"a", "b"} {
		if r.IntN(2) == 0 {
			out[k] = pick(r, []string{"x", "y", "xy"})
		}
	}
	return out
}

// someEndpoint is a pod, a set, or nil: an unknown address.
func someEndpoint(r *rand.Rand) *endpoint {
	e := &endpoint{labels: someOf(r)}
	switch r.IntN(8) {
	case 0:
		return nil
	case 1:
		e.set = true
	case 2:
		e.set, e.namespace = true, pick(r, []string{"n1", "n2", "n3"})
	default:
		e.namespace, e.account = pick(r, []string{"n1", "n2", "n3"}), pick(r, []string{"s1", "s2"})
	}
	return e
}

// TestLabelsOfOnesOwnComeFirst is the selector of a pod with a label under the
// name of an inherited one. The vendor asks such a label for namespaceSelector
// and serviceAccounts, too; here those ask the namespace and the account.
func TestLabelsOfOnesOwnComeFirst(t *testing.T) {
	w := world{namespaces: map[string]map[string]string{"n1": {"a": "x"}}, accounts: map[string]map[string]string{"n1/s1": {"a": "x"}}}
	pretender := endpoint{namespace: "n1", account: "s1", labels: map[string]string{"pcns.a": "y", "pcsa.a": "y"}}
	for _, c := range []struct {
		source       api.EntityRule
		ours, theirs bool
	}{
		{api.EntityRule{Selector: "pcns.a == 'x'"}, false, false}, {api.EntityRule{Selector: "pcns.a == 'y' && pcsa.a == 'y'"}, true, true},
		{api.EntityRule{NamespaceSelector: "a == 'x'"}, true, false}, {api.EntityRule{NamespaceSelector: "a == 'y'"}, false, true},
		{api.EntityRule{ServiceAccounts: &api.ServiceAccountMatch{Selector: "a == 'y'"}}, false, true},
	} {
		rule := decode(t, "", c.source)
		theirs := updateprocessors.RuleAPIV2ToBackend(api.Rule{Source: c.source}, "")
		got := slices.ContainsFunc(rule.Peers, func(p model.Peer) bool { return w.is(&pretender, p) })
		if want := meant(t, theirs.SrcSelector, w, &pretender, true); got != c.ours || want != c.theirs {
			t.Errorf("%+v: we say %t, want %t; the vendor says %t, want %t", c.source, got, c.ours, want, c.theirs)
		}
	}
}
