package engine

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// policy is a policy in the Matrix: its rules with their peers interned.
type policy struct {
	*model.Policy
	key      string
	id       int // never used again: it stands for the policy in the keys of gates
	tier     model.Tier
	rules    [2][]rule
	atoms    []*atom // held: of the rules, and restricted by port numbers
	relative bool    // some rule is another one on each node
	refers   bool    // some peer names sets or Services
}

// rule is a rule with its peers as an atom. A rule of the model that means
// something else on each node, or on each port of a Service, is several of these.
type rule struct {
	*model.Rule
	any       bool
	direct    []*model.Peer // alternatives of one condition
	peers     []peer        // all others
	relative  []*model.Peer // in the place of peers: resolved for each node
	atom      *atom
	views     map[string]*atom // of a relative rule: by the node of the subject
	intervals []model.Interval // of its numeric ports
	named     []named          // of its named ports
}

// atomFor is the rule's atom for subjects of the class; nil matches nobody.
func (r *rule) atomFor(c *class) *atom {
	if r.relative != nil {
		return r.views[c.labels[nodeLabel]]
	}
	return r.atom
}

// comparePolicies is the order of evaluation. It is total, so that gates do
// not depend on the order in which policies came.
func comparePolicies(a, b *policy) int {
	return cmp.Or(
		compareTiers(a.tier, b.tier),
		cmp.Compare(a.Order, b.Order),
		cmp.Compare(a.Source.Name, b.Source.Name),
		cmp.Compare(a.Source.Namespace, b.Source.Namespace),
		cmp.Compare(a.Source.Kind, b.Source.Kind),
		cmp.Compare(a.key, b.key),
	)
}

// compareTiers is the order of tiers: that of the profiles is always last.
func compareTiers(a, b model.Tier) int {
	if (a.Name == model.TierProfiles) != (b.Name == model.TierProfiles) {
		if a.Name == model.TierProfiles {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name))
}

func (m *Matrix) tier(name string) model.Tier {
	if t, ok := m.tiers[name]; ok {
		return t
	}
	return model.UnknownTier(name)
}

// newPolicy widens the interest to what the policy's selectors look at.
// Its atoms are interned later, when the prefixes are known.
func (m *Matrix) newPolicy(p *model.Policy, widened func(key string)) (out *policy, newPorts bool) {
	m.nextPolicy++
	out = &policy{Policy: p, key: PolicyKey(p), id: m.nextPolicy, tier: m.tier(p.Tier)}
	m.noteSelector(p.Subject.Pods, widened)
	eachPeer(p, func(x *model.Peer) {
		m.watchNodes = m.watchNodes || looksAtNodes(x)
		out.refers = out.refers || mayRefer(x)
	})
	for d := range out.rules {
		s := p.Section(model.Direction(d))
		if s == nil {
			continue
		}
		out.rules[d] = make([]rule, 0, len(s.Rules))
		for i := range s.Rules {
			out.rules[d] = m.addRules(out.rules[d], &s.Rules[i], model.Direction(d))
		}
		for i := range out.rules[d] {
			r := &out.rules[d][i]
			m.noteRule(r, widened)
			out.relative = out.relative || r.relative != nil
			for _, n := range r.named {
				newPorts = m.notePort(n) || newPorts
			}
		}
	}
	return out, newPorts
}

// addRules adds what a rule of the model is to the engine: one rule mostly.
func (m *Matrix) addRules(out []rule, given *model.Rule, d model.Direction) []rule {
	main := rule{Rule: given, any: given.AnyPeer}
	views := rule{Rule: given}
	var ports []rule
	for i := range given.Peers {
		p := &given.Peers[i]
		switch {
		case isDirect(p):
			main.direct = append(main.direct, p)
		case p.Services != nil && p.Services.Behind == model.BehindPorts:
			ports = m.behindPorts(ports, given, p)
		case d == model.Egress && isRelative(p):
			views.relative = append(views.relative, p)
		default:
			main.peers = append(main.peers, m.resolve(p, "", given.Action == model.Deny)...)
		}
	}
	main.setPorts()
	out = append(out, main)
	if views.relative != nil {
		views.intervals = main.intervals
		out = append(out, views)
	}
	return append(out, ports...)
}

// behindPorts makes a rule for each port of the Services' endpoints.
func (m *Matrix) behindPorts(out []rule, given *model.Rule, p *model.Peer) []rule {
	without := *p
	without.Services = nil
	for _, s := range m.servicesOf(p.Services) {
		at := map[model.PortKey][]model.IPBlock{}
		for i := range s.Ports {
			for _, b := range s.Ports[i].Backends {
				key := model.PortKeyOf(s.Ports[i].Protocol, b.Port)
				at[key] = append(at[key], hostBlock(b.IP))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(at)) {
			r := rule{Rule: given, intervals: []model.Interval{{First: key, Last: key}}, peers: m.resolve(&without, "", given.Action == model.Deny)}
			for i := range r.peers {
				r.peers[i].within = append(r.peers[i].within, tidy(at[key]))
			}
			out = append(out, r)
		}
	}
	return out
}

// noteRule widens the interest to what the rule looks at.
func (m *Matrix) noteRule(r *rule, widened func(key string)) {
	if r.Subject != nil {
		m.noteSelector(r.Subject.Pods, widened)
	}
	for _, p := range r.direct {
		if p.Pods != nil {
			m.noteSelector(p.Pods.Pods, widened)
		}
	}
	note := func(p *picked) { m.noteSelector(p.selector.Pods, widened) }
	for i := range r.peers {
		r.peers[i].eachPicked(note)
	}
	for _, p := range r.relative {
		m.noteSelector(model.Selector{Op: model.SelectPrefix, Key: nodeLabel, Values: []string{""}}, widened)
		for _, x := range m.resolve(p, "", false) {
			x.eachPicked(note)
		}
	}
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
	return slices.ContainsFunc(tier, func(p *policy) bool { return p.Section(d).DefaultDeny && !p.tier.Pass })
}

// step is a run of rules that are evaluated together: one rule of an ordered
// section, or all rules of one action of an unordered set.
type step struct {
	op       termOp
	rules    []stepRule
	policies []*policy // of the end of a tier: the tier's
}

type stepRule struct {
	policy *policy
	rule   *rule
}

// steps lists the evaluation of the policies, which are in order, as steps
// with the ends of tiers between them. Staged policies count if staged is set.
// Where policies of Calico and of Cilium govern one door, both must let a
// connection pass: each as its vendor counts all others.
func steps(policies []*policy, d model.Direction, staged bool) []step {
	if !staged {
		policies = slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return p.Staged })
	}
	ordered, cilium := without(policies, model.FamilyCilium)
	set, calico := without(policies, model.FamilyCalico)
	if !cilium || !calico {
		return tiersSteps(policies, d)
	}
	return append(append(tiersSteps(ordered, d), step{op: termAnd}), tiersSteps(set, d)...)
}

// without leaves the policies of a family out and says whether there are any.
func without(policies []*policy, f model.Family) (rest []*policy, any bool) {
	for _, p := range policies {
		if p.Family == f {
			any = true
		} else {
			rest = append(rest, p)
		}
	}
	return rest, any
}

func tiersSteps(policies []*policy, d model.Direction) []step {
	var out []step
	for len(policies) > 0 {
		n := 1
		for n < len(policies) && policies[n].Tier == policies[0].Tier {
			n++
		}
		tier := policies[:n]
		policies = policies[n:]
		out = tierSteps(out, tier, d)
		end := step{op: termTierPass, policies: tier}
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
