package engine

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Effect is what a rule does at the doors of all pods.
type Effect struct {
	Policy    *model.Policy
	Direction model.Direction
	Rule      *model.Rule
	Matches   bool          // some known address, on some port, at some pod's door
	Decides   bool          // about some of it, before another rule does
	Needed    bool          // without it some connection would have another verdict, or another line in a log
	Others    []*model.Rule // some of those that decide about it instead, if it is not needed
}

// Effects lists what each rule does, in order of evaluation, and the policies
// that are not needed as a whole. Taking one of them out changes no verdict,
// nor does taking all of them out, with all rules that are not needed: of two
// that stand for one another the first is needed. What keep names counts as
// needed, and so do rules with conditions that a proxy checks: the Matrix does
// not tell one condition from another.
func (m *Matrix) Effects(keep func(*model.Policy) bool) (rules []Effect, needless []*model.Policy) {
	x := &effects{m: m, rules: map[*model.Rule]*ruleEffect{}, dropped: map[*model.Rule]bool{}, without: map[*policy]bool{}}
	x.list(keep)
	for i := range x.doors {
		x.screen(i)
	}
	for _, p := range x.policies {
		if !keep(p.Policy) && x.needless(p, false) {
			x.spare = append(x.spare, p)
		}
	}
	for _, r := range slices.Backward(x.order) {
		if r.Matches && !r.Needed {
			x.settle(r)
		}
	}
	for _, p := range slices.Backward(x.spare) {
		if x.needless(p, true) {
			x.without[p] = true
			needless = append(needless, p.Policy)
		}
	}
	slices.Reverse(needless)
	for _, r := range x.order {
		rules = append(rules, r.Effect)
	}
	return rules, needless
}

// effects takes rules out of gates, on paper, and looks at what is left.
type effects struct {
	m        *Matrix
	policies []*policy // in order
	spare    []*policy // that are not needed while all others are there
	order    []*ruleEffect
	rules    map[*model.Rule]*ruleEffect
	doors    []doorway
	at       map[*policy][]int    // doors of the policy
	dropped  map[*model.Rule]bool // found not to be needed
	without  map[*policy]bool     // the same
	sum      [2]bitset            // scratch of unique
}

type ruleEffect struct {
	Effect
	doors []int // where it matches
}

// doorway is a gate with one of the classes that have it.
type doorway struct {
	class *class
	gate  *Gate
	plans []*plan // with all policies; see effects.plans
}

// list finds the rules in order, and every gate once.
func (x *effects) list(keep func(*model.Policy) bool) {
	for _, p := range x.m.policies {
		x.policies = append(x.policies, p)
	}
	slices.SortFunc(x.policies, comparePolicies)
	for _, p := range x.policies {
		for _, d := range []model.Direction{model.Ingress, model.Egress} {
			s := p.Section(d)
			for i := 0; s != nil && i < len(s.Rules); i++ {
				r := &ruleEffect{Effect: Effect{Policy: p.Policy, Direction: d, Rule: &s.Rules[i], Needed: keep(p.Policy) || s.Rules[i].L7 != nil}}
				x.order = append(x.order, r)
				x.rules[r.Rule] = r
			}
		}
	}
	x.at = map[*policy][]int{}
	seen := map[*Gate]bool{}
	x.m.liveClasses.each(func(i int) {
		c := x.m.classes[i]
		for _, d := range []model.Direction{model.Ingress, model.Egress} {
			g := x.m.gate(c, d)
			if g == nil || seen[g] {
				continue
			}
			seen[g] = true
			for _, p := range c.policies[d] {
				x.at[p] = append(x.at[p], len(x.doors))
			}
			x.doors = append(x.doors, doorway{class: c, gate: g})
		}
	})
}

// plan is the evaluation of a doorway: who matches what in which step.
type plan struct {
	steps []step
	parts []share
	keys  []model.PortKey // at which something begins or has ended
}

// share is a rule's share of a step.
type share struct {
	match
	rule *model.Rule
}

// plan lays out the doorway's evaluation without the policies taken out, and
// one more.
func (x *effects) plan(d doorway, staged bool, but *policy) *plan {
	policies := d.class.policies[d.gate.Direction]
	if but != nil || len(x.without) > 0 {
		policies = slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return p == but || x.without[p] })
	}
	out := &plan{steps: steps(policies, d.gate.Direction, staged)}
	var one [1]stepRule
	var matches []match
	for i, s := range out.steps {
		for _, r := range s.rules {
			one[0] = r
			matches = x.m.matchesOf(matches[:0], d.gate, d.class, []step{{op: s.op, rules: one[:]}})
			for _, hit := range matches {
				hit.step = i
				out.parts = append(out.parts, share{hit, r.rule.Rule})
			}
		}
	}
	all := make([]match, len(out.parts))
	for i := range out.parts {
		all[i] = out.parts[i].match
	}
	out.keys = boundaries(nil, all)
	return out
}

// plans are the doorway's evaluation and, where policies are staged, the
// shadow's.
func (x *effects) plans(d doorway, but *policy) []*plan {
	out := []*plan{x.plan(d, false, but)}
	if slices.ContainsFunc(d.gate.Policies, func(p *model.Policy) bool { return p.Staged }) {
		out = append(out, x.plan(d, true, but))
	}
	return out
}

// at lists the parts that count at a port key.
func (p *plan) at(key model.PortKey) []share {
	var out []share
	for _, x := range p.parts {
		if x.interval.First <= key && key <= x.interval.Last {
			out = append(out, x)
		}
	}
	return out
}

// terms is the expression of the parts, without the rules that are dropped.
func (p *plan) terms(parts []share, dropped func(*model.Rule) bool) []term {
	var out []term
	for i, s := range p.steps {
		if s.op == termTierDeny || s.op == termTierPass || s.op == termAnd {
			out = append(out, term{op: s.op})
			continue
		}
		t := term{op: s.op}
		for len(parts) > 0 && parts[0].step == i {
			if !dropped(parts[0].rule) {
				t.atoms = append(t.atoms, parts[0].atom)
			}
			parts = parts[1:]
		}
		if len(t.atoms) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// screen finds the rules that are needed at the doorway beyond doubt: without
// one of them alone something differs.
func (x *effects) screen(door int) {
	d := x.doors[door]
	d.plans = x.plans(d, nil)
	x.doors[door] = d
	for shadow, p := range d.plans {
		for _, part := range p.parts {
			r := x.rules[part.rule]
			r.Matches = r.Matches || !part.atom.ids.empty()
			if n := len(r.doors); n == 0 || r.doors[n-1] != door {
				r.doors = append(r.doors, door)
			}
		}
		for _, key := range p.keys {
			parts := p.at(key)
			if p.isUnion(parts) {
				x.alone(parts, x.m.liveIdentities, func(r *ruleEffect) { r.Needed = true })
				continue
			}
			x.sift(p, parts, func(r *ruleEffect) {
				if !r.Needed && x.differs(d, p, parts, key, shadow == 1, r.Rule) {
					r.Needed = true
				}
			})
		}
	}
}

// sift walks through the steps and calls f with the rules that decide about
// somebody whom no other rule of the step matches: no other rule can be needed
// here.
func (x *effects) sift(p *plan, parts []share, f func(*ruleEffect)) {
	left, passed := slices.Clone(x.m.liveIdentities), bitset(nil)
	for i, s := range p.steps {
		n := 0
		for n < len(parts) && parts[n].step == i {
			n++
		}
		here := parts[:n]
		parts = parts[n:]
		switch s.op {
		case termAnd:
			left, passed = slices.Clone(x.m.liveIdentities), nil
			continue
		case termTierDeny:
			left, passed = passed, nil
			continue
		case termTierPass:
			left.or(passed)
			passed = nil
			continue
		}
		x.alone(here, left, f)
		for _, part := range here {
			if s.op == termLog || s.op == termAllowL7 {
				continue // stays undecided
			}
			in, _ := left.split(part.atom.ids)
			if s.op == termPass {
				passed.or(in)
			}
			left = slices.Clone(left)
			left.andNot(part.atom.ids)
		}
	}
}

// isUnion says whether all parts are allows of one step before a denial.
func (p *plan) isUnion(parts []share) bool {
	for i, s := range p.steps {
		if s.op == termTierDeny {
			return i == len(p.steps)-1 && !slices.ContainsFunc(parts, func(s share) bool { return s.step != parts[0].step })
		}
		if s.op != termAllow {
			return false
		}
	}
	return false
}

// alone calls f with the rules that have somebody of those among to
// themselves, and notes which have anybody of them.
func (x *effects) alone(parts []share, among bitset, f func(*ruleEffect)) {
	once, twice := x.sum[0][:0], x.sum[1][:0]
	for i := 0; i < len(parts); {
		ids, n := together(parts[i:])
		once.grow(len(ids))
		twice.grow(len(once))
		for w, word := range ids {
			twice[w] |= once[w] & word
			once[w] |= word
		}
		i += n
	}
	for i := 0; i < len(parts); {
		ids, n := together(parts[i:])
		var any, own uint64
		for w, word := range ids[:min(len(ids), len(among))] {
			any |= word & among[w]
			own |= word & among[w] &^ twice[w]
		}
		r := x.rules[parts[i].rule]
		r.Decides = r.Decides || any != 0
		i += n
		if own != 0 {
			f(r)
		}
	}
	clear(once[:cap(once)])
	clear(twice[:cap(twice)])
	x.sum[0], x.sum[1] = once, twice
}

// together is the identities of the first part's rule, whose parts stand together.
func together(parts []share) (bitset, int) {
	n := 1
	for n < len(parts) && parts[n].rule == parts[0].rule {
		n++
	}
	if n == 1 {
		return parts[0].atom.ids, 1
	}
	var ids bitset
	for _, p := range parts[:n] {
		ids.or(p.atom.ids)
	}
	return ids, n
}

// differs says whether the range of the key is another one without the rule
// and all that are dropped.
func (x *effects) differs(d doorway, p *plan, parts []share, key model.PortKey, shadow bool, without *model.Rule) bool {
	terms := p.terms(parts, func(r *model.Rule) bool { return r == without || x.dropped[r] })
	return x.m.differs(d.gate.at(key), x.m.evaluate(terms), shadow)
}

// differs compares a range with what an expression gives.
func (m *Matrix) differs(r *Range, is [planes][]uint64, shadow bool) bool {
	if shadow {
		return m.otherRow(r.Shadow, is[planeAllow])
	}
	return m.otherRow(r.Allow, is[planeAllow]) || m.otherRow(r.Conditional, is[planeConditional]) || m.otherRow(r.Log, is[planeLog])
}

// otherRow says whether the row and the bits differ in an identity that some
// address has.
func (m *Matrix) otherRow(r *Row, is []uint64) bool {
	for w, live := range m.liveIdentities {
		var was, now uint64
		if r.All {
			was = ^was
		} else if w < len(r.Bits) {
			was = r.Bits[w]
		}
		if w < len(is) {
			now = is[w]
		}
		if (was^now)&live != 0 {
			return true
		}
	}
	return false
}

// mostLooks bounds how often it is looked up who decides instead of a rule.
const mostLooks = 64

// settle decides about a rule that is not needed while all others are there:
// it is dropped unless others that stood for it have been.
func (x *effects) settle(r *ruleEffect) {
	looks := 0
	for _, i := range r.doors {
		d := x.doors[i]
		for shadow, p := range d.plans {
			for _, key := range p.keys {
				dropped := func(s share) bool { return x.dropped[s.rule] && s.interval.First <= key && key <= s.interval.Last }
				stood := len(x.dropped) > 0 && slices.ContainsFunc(p.parts, dropped)
				if !stood && looks >= mostLooks || !p.covers(r.Rule, key) {
					continue
				}
				parts := p.at(key)
				if stood && x.differs(d, p, parts, key, shadow == 1, r.Rule) {
					r.Needed, r.Decides, r.Others = true, true, nil
					return
				}
				if looks++; looks <= mostLooks {
					x.instead(r, parts)
				}
			}
		}
	}
	x.dropped[r.Rule] = true
}

// covers says whether the rule counts at the port key.
func (p *plan) covers(r *model.Rule, key model.PortKey) bool {
	return slices.ContainsFunc(p.parts, func(s share) bool { return s.rule == r && s.interval.First <= key && key <= s.interval.Last })
}

// instead notes who decides about what the rule matches.
func (x *effects) instead(r *ruleEffect, parts []share) {
	for _, part := range parts {
		if part.rule != r.Rule {
			continue
		}
		left := slices.Clone(part.atom.ids)
		for _, other := range parts {
			if other.step > part.step || other.rule == r.Rule || x.dropped[other.rule] {
				continue
			}
			if in, rest := left.split(other.atom.ids); in != nil {
				left = rest
				if !slices.Contains(r.Others, other.rule) {
					r.Others = append(r.Others, other.rule)
				}
			}
		}
	}
}

// needless says whether the policy can go, with all of its rules: its mere
// presence isolates. If it was so before, only doors at which something was
// taken out since are looked at again.
func (x *effects) needless(p *policy, again bool) bool {
	if len(x.at[p]) == 0 {
		return false
	}
	for d := range p.rules {
		for i := range p.rules[d] {
			if x.rules[p.rules[d][i].Rule].Needed {
				return false
			}
		}
	}
	dropped := func(r *model.Rule) bool { return x.dropped[r] }
	// The classes that came last are those that the fewest policies select.
	for _, i := range slices.Backward(x.at[p]) {
		d := x.doors[i]
		if again && !x.touched(d) {
			continue
		}
		for shadow, rest := range x.plans(d, p) {
			for _, key := range append(rest.keys, d.gate.firsts()...) {
				if x.m.differs(d.gate.at(key), x.m.evaluate(rest.terms(rest.at(key), dropped)), shadow == 1) {
					return false
				}
			}
		}
	}
	return true
}

// touched says whether a rule or policy of the doorway was taken out.
func (x *effects) touched(d doorway) bool {
	return slices.ContainsFunc(d.class.policies[d.gate.Direction], func(p *policy) bool { return x.without[p] }) ||
		slices.ContainsFunc(d.plans, func(p *plan) bool {
			return slices.ContainsFunc(p.parts, func(s share) bool { return x.dropped[s.rule] })
		})
}

// firsts lists where the gate's ranges begin.
func (g *Gate) firsts() []model.PortKey {
	out := make([]model.PortKey, len(g.Ranges))
	for i := range g.Ranges {
		out[i] = g.Ranges[i].First
	}
	return out
}

// Sample lists one pod for each identity of the pods that the selector
// selects, sorted by class. The selector must be one of a policy in force.
func (m *Matrix) Sample(s *model.EndpointSelector) []*model.Endpoint {
	var out []*model.Endpoint
	var seen []Identity
	m.selectClasses(s).each(func(i int) {
		seen = seen[:0]
		for _, e := range m.classes[i].members {
			var id Identity
			if len(e.units) > 0 {
				id = e.units[0].identity
			}
			if !slices.Contains(seen, id) {
				seen = append(seen, id)
				out = append(out, e.Endpoint)
			}
		}
	})
	return out
}
