// Package advice finds the smallest change of policies that turns a verdict
// over: a NetworkPolicy to add, or rules to take out. Nothing is advised that
// was not tried: the change is applied to the cluster, compiled, and asked
// again, and the advice says what else would open and close. The package is
// pure; it is tested with manifests.
package advice

import (
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// Question is a connection whose verdict is to be turned over.
type Question struct {
	From, To engine.Party
	Key      model.PortKey
	External bool // an address stands for its whole prefix, as far as policies tell it apart
}

// Suggestion is a change that turns the verdict over.
type Suggestion struct {
	Policies string         `json:"policies,omitempty"` // NetworkPolicies to add, as YAML
	Remove   []model.Source `json:"remove,omitempty"`   // rules to take out
	Opens    []Pair         `json:"opens"`              // beside what was asked for
	Closes   []Pair         `json:"closes"`             // beside what was asked for
}

// Pair is what opens or closes between two workloads or prefixes.
type Pair struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Connections string `json:"connections"`
}

// mostSteps bounds how many rules are taken out for one suggestion.
const mostSteps = 16

// Suggest finds the smallest change that turns over what the Matrix of the
// cluster says; nil if there is none.
func Suggest(c *model.Cluster, m *engine.Matrix, q Question) *Suggestion {
	v := m.Verdict(q.From, q.To, q.Key)
	if !v.Allowed {
		return flip(c, m, q, []model.Direction{model.Egress, model.Ingress})
	}
	// One shut door is enough: the one at which less else changes.
	var best *Suggestion
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		s := flip(c, m, q, []model.Direction{d})
		if s != nil && (best == nil || s.size() < best.size()) {
			best = s
		}
	}
	return best
}

func (s *Suggestion) size() int { return len(s.Opens) + len(s.Closes) }

// attempt is a cluster on its way to another verdict.
type attempt struct {
	question Question
	allowed  bool // before
	matrix   *engine.Matrix
	cluster  model.Cluster
	added    [2]bool // whether a policy was added for the direction
	out      Suggestion
}

// flip turns the doors of the directions over, one step after the other.
func flip(c *model.Cluster, m *engine.Matrix, q Question, doors []model.Direction) *Suggestion {
	a := &attempt{question: q, matrix: m, cluster: *c, allowed: m.Verdict(q.From, q.To, q.Key).Allowed}
	a.cluster.Policies = slices.Clone(c.Policies)
	for range mostSteps {
		stepped := false
		v := a.matrix.Verdict(q.From, q.To, q.Key)
		for _, d := range doors {
			door := v.Egress
			if d == model.Ingress {
				door = v.Ingress
			}
			if door.Allowed != a.allowed {
				continue
			}
			if !a.step(door) {
				return nil
			}
			stepped = true
		}
		if !stepped {
			return nil
		}
		a.matrix = engine.Compile(&a.cluster)
		if a.matrix.Verdict(q.From, q.To, q.Key).Allowed != a.allowed {
			a.compare(m)
			return &a.out
		}
	}
	return nil
}

// step changes the policies at one door; it says whether it could.
func (a *attempt) step(door engine.Door) bool {
	switch {
	case door.Rule != nil:
		return a.remove(door.Policy, door.Rule)
	case a.added[door.Direction]:
		return false // a policy was added, and something else decides
	case door.Reason == engine.DefaultDeny, door.Reason == engine.NotIsolated:
		a.added[door.Direction] = true
		return a.add(door.Direction, door.Reason == engine.DefaultDeny)
	}
	return false
}

// remove takes a rule out of its policy.
func (a *attempt) remove(p *model.Policy, r *model.Rule) bool {
	at := slices.IndexFunc(a.cluster.Policies, func(o *model.Policy) bool { return o == p })
	if at < 0 {
		return false
	}
	without := *p
	for _, section := range []**model.Section{&without.Ingress, &without.Egress} {
		if *section == nil {
			continue
		}
		s := **section
		s.Rules = nil
		for i := range (*section).Rules {
			if &(*section).Rules[i] != r {
				s.Rules = append(s.Rules, (*section).Rules[i])
			}
		}
		*section = &s
	}
	a.cluster.Policies[at] = &without
	a.out.Remove = append(a.out.Remove, r.Source)
	return true
}

// add writes a NetworkPolicy for the pod of the door, and reads it as a user's.
func (a *attempt) add(d model.Direction, allow bool) bool {
	text := a.write(d, allow)
	const name = "suggestion.yaml"
	r := manifest.Parse(map[string][]byte{name: []byte(text)}, []string{name}, manifest.Options{})
	if len(r.Problems) > 0 || len(r.Cluster.Policies) != 1 {
		return false
	}
	if a.out.Policies != "" {
		a.out.Policies += "---\n"
	}
	a.out.Policies += text
	a.cluster.Policies = append(a.cluster.Policies, r.Cluster.Policies[0])
	return true
}
