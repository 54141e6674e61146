package kube

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// parts is what is kept of an object of a policy language.
type parts struct {
	model.Parts
	source   model.Source
	problems []model.Problem
	asks     []key // Services that its policies speak of; the zero key: any
}

// trimParts decodes a policy object by its dialect, with all its fields.
func trimParts(p *pool, o *unstructured.Unstructured) *parts {
	read := object(p, o)
	out := &parts{source: read.Source}
	out.Parts, out.problems = decode(read)
	for _, q := range out.Policies {
		for _, section := range []*model.Section{q.Ingress, q.Egress} {
			if section == nil {
				continue
			}
			for i := range section.Rules {
				out.ask(section.Rules[i].Peers)
			}
		}
	}
	return out
}

// decode is what is done with an object; tests have languages of their own.
var decode = dialect.Decode

func (p *parts) ask(peers []model.Peer) {
	for i := range peers {
		if s := peers[i].Services; s != nil {
			k := key{s.Namespace, s.Name}
			if s.Namespace == "" || s.Name == "" {
				k = key{}
			}
			if !slices.Contains(p.asks, k) {
				p.asks = append(p.asks, k)
			}
		}
		p.ask(peers[i].Not)
	}
}

// speaks says whether what is to be said of problems may depend on the object.
func (p *parts) speaks() bool {
	if p == nil {
		return false
	}
	return len(p.problems) > 0 || len(p.Tiers) > 0 || len(dialect.CheckTiers(p.Policies, nil)) > 0
}

// objectKey names an object of a policy language.
type objectKey struct {
	of *resource
	key
}

// object is what counts of an object; nil: nothing.
func (s *state) object(o objectKey) *parts {
	if s.hidden(o) {
		return nil
	}
	return s.objects[o.of].rows[o.key].value
}

// Calico's names for what has another name elsewhere: a policy of the default
// tier as it is stored, and a Kubernetes NetworkPolicy as it is served.
const (
	defaultPrefix    = model.TierDefault + "."
	kubernetesPrefix = "knp." + defaultPrefix
)

// hidden says whether the object is another form of one that counts.
func (s *state) hidden(o objectKey) bool {
	has := func(r *resource, name string) bool {
		return r != nil && s.objects[r].rows[key{o.namespace, name}].value != nil
	}
	if has(o.of.served, o.name) {
		return true
	}
	if p := s.objects[o.of].rows[o.key].value; !o.of.prefixed() || p == nil || len(p.Policies) > 0 && p.Policies[0].Tier != model.TierDefault {
		return false
	}
	if name, ok := strings.CutPrefix(o.name, kubernetesPrefix); ok && o.of.gvr.Resource == networkPolicies.gvr.Resource && has(networkPolicies, name) {
		return true
	}
	name, ok := strings.CutPrefix(o.name, defaultPrefix)
	return ok && (has(o.of.served, name) || has(o.of, name))
}

// hides lists the objects that may be other forms of this one, and that are there.
func (s *state) hides(o objectKey) (out []objectKey) {
	add := func(r *resource, name string) {
		k := key{o.namespace, name}
		if r != nil && s.objects[r].rows[k].value != nil {
			out = append(out, objectKey{r, k})
		}
	}
	add(o.of.stored, o.name)
	if o.of.prefixed() {
		add(o.of.stored, defaultPrefix+o.name)
		add(o.of, defaultPrefix+o.name)
	}
	if o.of == networkPolicies {
		for _, r := range languages {
			if r.prefixed() && r.gvr.Resource == o.of.gvr.Resource {
				add(r, kubernetesPrefix+o.name)
			}
		}
	}
	return out
}

func (s *state) touchObject(o objectKey) {
	note(s, s.before.objects, o, func() *parts { return s.object(o) })
	s.before.problems = s.before.problems || s.objects[o.of].rows[o.key].value.speaks()
}

func (s *state) changeObject(o objectKey, old, now *parts) {
	s.touchObject(o)
	for _, other := range s.hides(o) {
		s.touchObject(other)
	}
	s.before.problems = s.before.problems || now.speaks()
	if now != nil {
		for i := range now.Sets {
			s.moveIn(now.Sets[i].Namespace)
		}
		for _, k := range now.asks {
			s.ask(k)
		}
	}
	if old != nil {
		for i := range old.Sets {
			s.moveOut(old.Sets[i].Namespace)
		}
		for _, k := range old.asks {
			s.unask(k)
		}
	}
}

// objectChange compares all that changed at once: what one object no longer
// says another one may say now, such as the other form of it.
func (s *state) objectChange(ch *engine.Change, before map[objectKey]*parts) {
	policies, tiers, sets := map[string]*model.Policy{}, map[string]model.Tier{}, map[string]*model.AddressSet{}
	for _, was := range before {
		if was == nil {
			continue
		}
		for _, p := range was.Policies {
			policies[engine.PolicyKey(p)] = p
		}
		for _, t := range was.Tiers {
			tiers[t.Name] = t
		}
		for i := range was.Sets {
			sets[was.Sets[i].Key()] = &was.Sets[i]
		}
	}
	for _, o := range slices.SortedFunc(maps.Keys(before), compareObjects) {
		now := s.object(o)
		if now == nil {
			continue
		}
		for _, p := range now.Policies {
			if differs(policies, engine.PolicyKey(p), p) {
				ch.Policies = append(ch.Policies, p)
			}
		}
		for _, t := range now.Tiers {
			if differs(tiers, t.Name, t) {
				ch.Tiers = append(ch.Tiers, t)
			}
		}
		for i := range now.Sets {
			if p := &now.Sets[i]; differs(sets, p.Key(), p) {
				ch.Sets = append(ch.Sets, p)
			}
		}
	}
	ch.DeletedPolicies = slices.Sorted(maps.Keys(policies))
	ch.DeletedTiers = slices.Sorted(maps.Keys(tiers))
	ch.DeletedSets = slices.Sorted(maps.Keys(sets))
}

// differs takes the entry out and says whether it was another one.
func differs[V any](before map[string]V, k string, now V) bool {
	was, ok := before[k]
	delete(before, k)
	return !ok || !reflect.DeepEqual(was, now)
}

func compareObjects(a, b objectKey) int {
	return cmp.Or(slices.Index(languages, a.of)-slices.Index(languages, b.of), compareKeys(a.key, b.key))
}

// PolicyObject is a policy as it is written, whatever it stands for; or a tier,
// set or the like that something is wrong with.
type PolicyObject struct {
	Source   model.Source
	Resource string // "networkpolicies.networking.k8s.io"
	Version  string // resourceVersion since which it says what it says, as far as is known
	Policies []*model.Policy
	Problems []model.Problem

	key  key
	seen uint64 // its resourceVersion
}

// policyObjects is every one that counts, in order.
func (s *state) policyObjects() []PolicyObject {
	var out []PolicyObject
	tiers := s.tiers()
	for o, p := range s.all() {
		row := s.objects[o.of].rows[o.key]
		x := PolicyObject{
			Source: p.source, Resource: o.of.name(), Version: strconv.FormatUint(row.since, 10), Policies: p.Policies,
			Problems: slices.Concat(p.problems, dialect.CheckTiers(p.Policies, tiers)), key: o.key, seen: row.version,
		}
		wrong := slices.ContainsFunc(x.Problems, func(p model.Problem) bool { return p.Severity > model.Info })
		if wrong || strings.HasSuffix(o.of.gvr.Resource, "policies") {
			out = append(out, x)
		}
	}
	return out
}

// all goes through the objects that count, in order.
func (s *state) all() func(yield func(objectKey, *parts) bool) {
	return func(yield func(objectKey, *parts) bool) {
		for _, r := range languages {
			for _, k := range sortedKeys(s.objects[r].rows) {
				o := objectKey{r, k}
				if p := s.object(o); p != nil && !yield(o, p) {
					return
				}
			}
		}
	}
}

func (s *state) tiers() (out []model.Tier) {
	for _, p := range s.all() {
		out = append(out, p.Tiers...)
	}
	return out
}
