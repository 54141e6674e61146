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
	r.clouded = r.besideWrong()
	r.rules, r.needless = r.imagined.Effects(func(p *model.Policy) bool {
		return p.Staged || r.clouded[p] || isDefaultDeny(p) && !r.deniedElsewhere(p)
	})
}

// besideWrong is the policies that are wrong, and those of whose pods a wrong
// one is, too: it is shut until it is mended, so that others look superfluous.
func (r *run) besideWrong() map[*model.Policy]bool {
	out := map[*model.Policy]bool{}
	var pods [2]map[*model.Endpoint]bool
	for _, d := range directions {
		pods[d] = map[*model.Endpoint]bool{}
		for _, p := range r.Cluster.Policies {
			if p.Section(d) != nil && r.isWrong(p) {
				out[p] = true
				for _, e := range r.imagined.Sample(&p.Subject) {
					pods[d][e] = true
				}
			}
		}
	}
	for _, p := range r.Cluster.Policies {
		for _, d := range directions {
			if len(pods[d]) > 0 && p.Section(d) != nil && slices.ContainsFunc(r.imagined.Sample(&p.Subject), func(e *model.Endpoint) bool { return pods[d][e] }) {
				out[p] = true
			}
		}
	}
	return out
}

// isWrong says whether there is an error in the policy, or in a set of
// addresses that it selects.
func (r *run) isWrong(p *model.Policy) bool {
	if len(r.wrong) == 0 || r.wrong[p.Source.Object()] {
		return len(r.wrong) > 0
	}
	for _, d := range directions {
		s := p.Section(d)
		for i := 0; s != nil && i < len(s.Rules); i++ {
			if slices.ContainsFunc(s.Rules[i].Peers, func(x model.Peer) bool { return x.Sets != nil && r.wrongSet(x.Sets) }) {
				return true
			}
		}
	}
	return false
}

// effects looks for rules and policies without which everything would be as it
// is, for today's pods and for those that the policies speak of.
func (r *run) effects() {
	objects := map[*model.Rule]engine.Effect{}
	guards := map[*model.Policy]bool{} // that decide as others would, whatever policies come: in tiers of their own, or as denials of Cilium
	for _, e := range r.rules {
		objects[e.Rule] = e
		guards[e.Policy] = guards[e.Policy] || e.Decides && (e.Policy.Tier != model.TierDefault || e.Policy.Family == model.FamilyCilium && e.Rule.Action == model.Deny)
	}
	for _, p := range r.needless {
		f := Finding{Code: "SP1304", Severity: checks["SP1304"].Severity, Source: p.Source, Message: "taking the policy out changes no connection, neither of today's pods nor of others that it may select", Fix: "remove it, or make it say what it was meant to"}
		if guards[p] {
			f.Severity, f.Fix = model.Info, "remove it, unless it stands there for policies to come"
		}
		r.report(f)
	}
	for _, e := range r.rules {
		if !e.Needed && e.Matches && !slices.Contains(r.needless, e.Policy) && !r.clouded[e.Policy] {
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
	instead := "put it before them"
	if f := e.Policy.Family; f == model.FamilyKubernetes || f == model.FamilyCilium {
		instead = "narrow the others" // the order in which these are written is none
	}
	switch by := few(names); {
	case !e.Decides && len(others) > 0:
		r.find("SP1302", e.Rule.Source, "the rule never decides about a connection: all that it matches, these decide before it: "+by, "remove it, or "+instead, others...)
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
