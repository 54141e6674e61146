package lint

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// effects looks for rules and policies without which everything would be as it
// is, for today's pods and for those that the policies speak of.
func (r *run) effects() {
	rules, needless := r.imagined.Effects()
	for _, p := range needless {
		r.find("SP1304", p.Source, "taking the policy out changes no connection: others isolate the same pods and allow the same", "remove it, or make it say something else")
	}
	places := map[*model.Rule]model.Source{}
	for _, e := range rules {
		places[e.Rule] = e.Rule.Source
	}
	for _, e := range rules {
		if e.Needed || !e.Matches || slices.Contains(needless, e.Policy) {
			continue
		}
		var others []model.Source
		for _, o := range e.Others {
			others = append(others, places[o])
		}
		by := few(describeAll(others))
		switch {
		case !e.Decides && len(others) > 0:
			r.find("SP1302", e.Rule.Source, "the rule never decides about a connection: "+by+" come first and match all of it", "remove it, or put it before them", others...)
		case len(others) > 0:
			r.find("SP1301", e.Rule.Source, "the rule is superfluous: what it allows, "+by+" allow as well", "remove it, or narrow the others", others...)
		default:
			r.find("SP1303", e.Rule.Source, "the rule changes nothing: without it the same connections would pass", "remove it, unless it stands there for policies to come")
		}
	}
}

func describeAll(at []model.Source) []string {
	var out []string
	for _, s := range at {
		out = append(out, s.Object()+" "+s.Field)
	}
	return out
}
