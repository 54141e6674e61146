package engine

import (
	"cmp"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// policy is a policy in the Matrix: its rules with their peers interned.
type policy struct {
	*model.Policy
	key   string
	id    int // never used again: it stands for the policy in the keys of gates
	rules [2][]rule
	atoms []*atom // held: of the rules, and restricted by port numbers
}

// rule is a rule with its peers as an atom.
type rule struct {
	*model.Rule
	atom      *atom
	intervals []model.Interval // of its numeric ports
	named     []named          // of its named ports
}

// tierOrder is where a tier stands; tiers of other names follow the default
// tier's policies. Lower is first.
func tierOrder(name string) float64 {
	switch name {
	case model.TierAdmin:
		return 1_000
	case model.TierBaseline:
		return 10_000_000
	case model.TierDefault:
		return 1_000_000
	}
	return 1_000_001
}

// comparePolicies is the order of evaluation. It is total, so that gates do
// not depend on the order in which policies came.
func comparePolicies(a, b *policy) int {
	return cmp.Or(
		cmp.Compare(tierOrder(a.Tier), tierOrder(b.Tier)),
		cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(a.Order, b.Order),
		cmp.Compare(a.Source.Name, b.Source.Name),
		cmp.Compare(a.Source.Namespace, b.Source.Namespace),
		cmp.Compare(a.Source.Kind, b.Source.Kind),
		cmp.Compare(a.key, b.key),
	)
}

// newPolicy widens the interest to what the policy's selectors look at.
// Its atoms are interned later, when the prefixes are known.
func (m *Matrix) newPolicy(p *model.Policy, widened func(key string)) (out *policy, newPorts bool) {
	m.nextPolicy++
	out = &policy{Policy: p, key: PolicyKey(p), id: m.nextPolicy}
	m.noteSelector(p.Subject.Pods, widened)
	for d := range out.rules {
		s := p.Section(model.Direction(d))
		if s == nil {
			continue
		}
		out.rules[d] = make([]rule, len(s.Rules))
		for i := range s.Rules {
			r := &out.rules[d][i]
			r.Rule = &s.Rules[i]
			for j := range r.Peers {
				if pods := r.Peers[j].Pods; pods != nil {
					m.noteSelector(pods.Pods, widened)
				}
			}
			r.setPorts()
			for _, n := range r.named {
				newPorts = m.notePort(n) || newPorts
			}
		}
	}
	return out, newPorts
}

func (r *rule) setPorts() {
	if r.AnyPort {
		r.intervals = model.AllPorts()
		return
	}
	for _, p := range r.Ports {
		if p.Name != "" {
			r.named = append(r.named, named{p.Protocol, p.Name})
		} else {
			r.intervals = append(r.intervals, p.Interval())
		}
	}
	r.intervals = model.Union(r.intervals...)
}

// insertPolicy adds the policy to a class's list at its place.
func (c *class) insertPolicy(d model.Direction, p *policy) {
	list := c.policies[d]
	i := len(list)
	if i > 0 && comparePolicies(list[i-1], p) > 0 {
		i, _ = slices.BinarySearchFunc(list, p, comparePolicies)
	}
	c.policies[d] = slices.Insert(list, i, p)
}

func (c *class) removePolicy(d model.Direction, p *policy) bool {
	i := slices.Index(c.policies[d], p)
	if i < 0 {
		return false
	}
	c.policies[d] = slices.Delete(c.policies[d], i, i+1)
	return true
}

// denies says whether the end of the tier drops whoever is left undecided.
func denies(tier []*policy, d model.Direction) bool {
	return slices.ContainsFunc(tier, func(p *policy) bool { return p.Section(d).DefaultDeny })
}

// step is a run of rules that are evaluated together: one rule of an ordered
// section, or all rules of one action of an unordered set.
type step struct {
	op    termOp
	rules []stepRule
}

type stepRule struct {
	policy *policy
	rule   *rule
}

// steps lists the evaluation of the policies, which are in order, as steps
// with the ends of tiers between them. Staged policies count if staged is set.
func steps(policies []*policy, d model.Direction, staged bool) []step {
	var out []step
	for len(policies) > 0 {
		n := 1
		for n < len(policies) && policies[n].Tier == policies[0].Tier {
			n++
		}
		tier := slices.Clone(policies[:n])
		policies = policies[n:]
		if !staged {
			tier = slices.DeleteFunc(tier, func(p *policy) bool { return p.Staged })
		}
		if len(tier) == 0 {
			continue
		}
		out = tierSteps(out, tier, d)
		end := step{op: termTierPass}
		if denies(tier, d) {
			end.op = termTierDeny
		}
		out = append(out, end)
	}
	return out
}

func tierSteps(out []step, tier []*policy, d model.Direction) []step {
	for i := 0; i < len(tier); {
		if tier[i].Section(d).Ordered {
			for r := range tier[i].rules[d] {
				rule := &tier[i].rules[d][r]
				out = append(out, step{op: opOf(rule.Rule), rules: []stepRule{{tier[i], rule}}})
			}
			i++
			continue
		}
		j := i + 1
		for j < len(tier) && !tier[j].Section(d).Ordered && tier[j].Order == tier[i].Order {
			j++
		}
		out = append(out, setSteps(tier[i:j], d)...)
		i = j
	}
	return out
}

// setSteps orders an unordered set by what beats what: log, deny, pass,
// allow, allow through the proxy.
func setSteps(set []*policy, d model.Direction) []step {
	var out []step
	for _, op := range []termOp{termLog, termDeny, termPass, termAllow, termAllowL7} {
		s := step{op: op}
		for _, p := range set {
			for r := range p.rules[d] {
				if opOf(p.rules[d][r].Rule) == op {
					s.rules = append(s.rules, stepRule{p, &p.rules[d][r]})
				}
			}
		}
		if len(s.rules) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func opOf(r *model.Rule) termOp {
	switch r.Action {
	case model.Deny:
		return termDeny
	case model.Pass:
		return termPass
	case model.Log:
		return termLog
	}
	if r.L7 != nil {
		return termAllowL7
	}
	return termAllow
}
