package lint

import (
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// imagine adds the pods that the policies speak of, and looks up what each rule
// does for them and for today's.
func (r *run) imagine() {
	r.imagined = engine.Compile(imagine(r.Cluster))
	r.rules, r.needless = r.imagined.Effects(func(p *model.Policy) bool {
		return p.Staged || r.wrong[p.Source.Object()] || isDefaultDeny(p) && !r.deniedElsewhere(p)
	})
}

// effects looks for rules and policies without which everything would be as it
// is, for today's pods and for those that the policies speak of.
func (r *run) effects() {
	for _, p := range r.needless {
		r.find("SP1304", p.Source, "taking the policy out changes no connection, neither of today's pods nor of others that it may select", "remove it, or make it say what it was meant to")
	}
	objects := map[*model.Rule]engine.Effect{}
	for _, e := range r.rules {
		objects[e.Rule] = e
	}
	for _, e := range r.rules {
		if !e.Needed && e.Matches && !slices.Contains(r.needless, e.Policy) {
			r.needlessRule(e, objects)
		}
	}
}

// needlessRule says why a rule changes nothing.
func (r *run) needlessRule(e engine.Effect, all map[*model.Rule]engine.Effect) {
	var others []model.Source
	var names []string
	same := e.Rule.Action == model.Allow
	for _, o := range e.Others {
		others = append(others, o.Source)
		names = append(names, o.Source.Object()+" "+o.Source.Field)
		same = same && o.Action == model.Allow
	}
	switch by := few(names); {
	case !e.Decides && len(others) > 0:
		r.find("SP1302", e.Rule.Source, "the rule never decides about a connection: all that it matches, these decide before it: "+by, "remove it, or put it before them", others...)
	case same && len(others) > 0 && r.oneTier(e, all):
		r.find("SP1301", e.Rule.Source, "the rule is superfluous: all that it allows, these allow as well: "+by, "remove it, or narrow the others", others...)
	default:
		r.find("SP1303", e.Rule.Source, "the rule changes nothing: without it the same connections would pass", "remove it, unless it stands there for policies to come", others...)
	}
}

// oneTier says whether those who decide instead are of the same tier.
func (r *run) oneTier(e engine.Effect, all map[*model.Rule]engine.Effect) bool {
	return !slices.ContainsFunc(e.Others, func(o *model.Rule) bool { return all[o].Policy.Tier != e.Policy.Tier })
}

// isDefaultDeny says whether the policy is a denial of everything for all pods
// of a namespace, or of all. It is the base on which others stand, also where
// they would isolate the same pods without it.
func isDefaultDeny(p *model.Policy) bool {
	isolates := false
	for _, d := range directions {
		if s := p.Section(d); s != nil {
			if len(s.Rules) > 0 {
				return false
			}
			isolates = isolates || s.DefaultDeny
		}
	}
	return isolates && p.Subject.Pods.Op == model.SelectAll
}

// deniedElsewhere says whether another policy denies everything for the same pods.
func (r *run) deniedElsewhere(p *model.Policy) bool {
	key := string(p.Subject.AppendKey(nil))
	return slices.ContainsFunc(r.Cluster.Policies, func(q *model.Policy) bool {
		return q != p && isDefaultDeny(q) && string(q.Subject.AppendKey(nil)) == key
	})
}
