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
	x := &effects{m: m, rules: map[*model.Rule]*ruleEffect{}, without: map[*policy]bool{}}
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
			for _, i := range x.at[p] {
				x.doors[i].touched = true
			}
			needless = append(needless, p.Policy)
		}
	}
	slices.Reverse(needless)
	for _, r := range x.order {
		rules = append(rules, r.Effect)
	}
	return rules, needless
}

// effects takes rules out of gates, on paper, and looks at what is left. It
// allocates little: there are as many steps to look at as pods, rules and ports
// make together.
type effects struct {
	m        *Matrix
	policies []*policy // in order
	spare    []*policy // that are not needed while all others are there
	order    []*ruleEffect
	rules    map[*model.Rule]*ruleEffect
	doors    []doorway
	at       map[*policy][]int // doors of the policy
	without  map[*policy]bool  // found not to be needed

	// scratch
	once, twice, own, left, passed bitset
	here                           []share
	matches                        []match
}

type ruleEffect struct {
	Effect
	doors   []int // where it matches
	dropped bool  // found not to be needed
}

// doorway is a gate with one of the classes that have it.
type doorway struct {
	class   *class
	gate    *Gate
	plans   []*plan // with all policies; see effects.plans
	touched bool    // something of it was taken out
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
	shadow bool
	steps  []step
	parts  []share
	keys   []model.PortKey // at which something begins or has ended
	stood  bool            // a rule of it was taken out
}

// share is a rule's share of a step.
type share struct {
	match
	rule *ruleEffect
}

func (s *share) covers(key model.PortKey) bool {
	return s.interval.First <= key && key <= s.interval.Last
}

// plan lays out the doorway's evaluation without the policies taken out, and
// one more.
func (x *effects) plan(d *doorway, staged bool, but *policy) *plan {
	policies := d.class.policies[d.gate.Direction]
	if but != nil || len(x.without) > 0 {
		policies = slices.DeleteFunc(slices.Clone(policies), func(p *policy) bool { return p == but || x.without[p] })
	}
	out := &plan{shadow: staged, steps: steps(policies, d.gate.Direction, staged)}
	var one [1]stepRule
	all := x.matches[:0]
	for i, s := range out.steps {
		for _, r := range s.rules {
			one[0] = r
			first := len(all)
			all = append(all, x.m.matchesOf(all[first:], d.gate, d.class, []step{{op: s.op, rules: one[:]}})...)
			for n := range all[first:] {
				hit := &all[first+n]
				hit.step = i
				out.parts = append(out.parts, share{*hit, x.rules[r.rule.Rule]})
			}
		}
	}
	x.matches = all
	out.keys = boundaries(nil, all)
	return out
}

// plans are the doorway's evaluation and, where policies are staged, the
// shadow's.
func (x *effects) plans(d *doorway, but *policy) []*plan {
	out := []*plan{x.plan(d, false, but)}
	if slices.ContainsFunc(d.gate.Policies, func(p *model.Policy) bool { return p.Staged }) {
		out = append(out, x.plan(d, true, but))
	}
	return out
}

// counting lists the parts that count at a port key. It is good until the next
// call.
func (x *effects) counting(p *plan, key model.PortKey) []share {
	x.here = x.here[:0]
	for i := range p.parts {
		if p.parts[i].covers(key) {
			x.here = append(x.here, p.parts[i])
		}
	}
	return x.here
}

// word evaluates the parts for the 64 identities of one word, of which those
// live count, without the rules that are dropped and one more: what
// Matrix.evaluate does for all at once.
func (p *plan) word(parts []share, w int, live uint64, but *ruleEffect) (out [planes]uint64) {
	undecided, passed, allowed, conditional := live, uint64(0), uint64(0), uint64(0)
	first := true
	join := func() {
		allowed |= undecided
		conditional &^= allowed
		if first {
			out[planeAllow], out[planeConditional] = allowed, conditional
			return
		}
		either := (out[planeAllow] | out[planeConditional]) & (conditional | allowed)
		out[planeAllow] &= allowed
		out[planeConditional] = either &^ out[planeAllow]
	}
	for i := range p.steps {
		op := p.steps[i].op
		switch op {
		case termAnd:
			join()
			undecided, passed, allowed, conditional, first = live, 0, 0, 0, false
			continue
		case termTierDeny:
			undecided, passed = passed, 0
			continue
		case termTierPass:
			undecided |= passed
			passed = 0
			continue
		}
		var some uint64
		for len(parts) > 0 && parts[0].step == i {
			if ids := parts[0].atom.ids; w < len(ids) && parts[0].rule != but && !parts[0].rule.dropped {
				some |= ids[w]
			}
			parts = parts[1:]
		}
		some &= undecided
		switch op {
		case termLog:
			out[planeLog] |= some
			continue
		case termAllowL7:
			conditional |= some
			continue
		case termAllow:
			allowed |= some
		case termPass:
			passed |= some
		}
		undecided &^= some
	}
	join()
	return out
}

// differs says whether the range is another one, for identities of the word,
// than what is left of the parts.
func (x *effects) differs(r *Range, p *plan, parts []share, w int, but *ruleEffect) bool {
	live := x.m.liveIdentities[w]
	is := p.word(parts, w, live, but)
	if p.shadow {
		return (r.Shadow.word(w)^is[planeAllow])&live != 0
	}
	return ((r.Allow.word(w)^is[planeAllow])|(r.Conditional.word(w)^is[planeConditional])|(r.Log.word(w)^is[planeLog]))&live != 0
}

// word is the row's bits of 64 identities.
func (r *Row) word(w int) uint64 {
	switch {
	case r.All:
		return ^uint64(0)
	case w < len(r.Bits):
		return r.Bits[w]
	}
	return 0
}

// screen finds the rules that are needed at the doorway beyond doubt: without
// one of them alone something differs.
func (x *effects) screen(door int) {
	d := &x.doors[door]
	d.plans = x.plans(d, nil)
	for _, p := range d.plans {
		for i := range p.parts {
			r := p.parts[i].rule
			r.Matches = r.Matches || !p.parts[i].atom.ids.empty()
			if n := len(r.doors); n == 0 || r.doors[n-1] != door {
				r.doors = append(r.doors, door)
			}
		}
		for _, key := range p.keys {
			parts := x.counting(p, key)
			if known(parts) {
				continue
			}
			if p.isUnion(parts) {
				x.alone(parts, x.m.liveIdentities, func(r *ruleEffect) { r.Needed = true })
				continue
			}
			at := d.gate.at(key)
			x.sift(p, parts, func(r *ruleEffect) {
				for w, own := range x.own {
					if own != 0 && x.differs(at, p, parts, w, r) {
						r.Needed = true
						return
					}
				}
			})
		}
	}
}

// known says whether there is nothing to be found out about the rules.
func known(parts []share) bool {
	for i := range parts {
		if r := parts[i].rule; !r.Needed || !r.Decides {
			return false
		}
	}
	return true
}

// sift walks through the steps and calls f with the rules that decide about
// somebody whom no other rule of the step matches: no other rule can be needed
// here.
func (x *effects) sift(p *plan, parts []share, f func(*ruleEffect)) {
	live := x.m.liveIdentities
	left, passed := append(x.left[:0], live...), append(x.passed[:0], live...)
	clear(passed)
	for i, s := range p.steps {
		n := 0
		for n < len(parts) && parts[n].step == i {
			n++
		}
		here := parts[:n]
		parts = parts[n:]
		switch s.op {
		case termAnd:
			copy(left, live)
			clear(passed)
			continue
		case termTierDeny:
			left, passed = passed, left
			clear(passed)
			continue
		case termTierPass:
			left.or(passed)
			clear(passed)
			continue
		}
		x.alone(here, left, f)
		if s.op == termLog || s.op == termAllowL7 {
			continue // stays undecided
		}
		for j := range here {
			ids := here[j].atom.ids
			ids = ids[:min(len(ids), len(left))]
			if s.op == termPass {
				for w, word := range ids {
					passed[w] |= left[w] & word
				}
			}
			left.andNot(ids)
		}
	}
	x.left, x.passed = left, passed
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

// alone calls f with the rules, not known to be needed, that have somebody of
// those among to themselves, x.own, and notes which have anybody of them.
func (x *effects) alone(parts []share, among bitset, f func(*ruleEffect)) {
	if known(parts) {
		return
	}
	x.once, x.twice = append(x.once[:0], among...), append(x.twice[:0], among...)
	once, twice := x.once, x.twice
	clear(once)
	clear(twice)
	for i := 0; i < len(parts); {
		ids, n := together(parts[i:])
		for w, word := range ids[:min(len(ids), len(among))] {
			twice[w] |= once[w] & word
			once[w] |= word
		}
		i += n
	}
	for i := 0; i < len(parts); {
		r := parts[i].rule
		ids, n := together(parts[i:])
		i += n
		if r.Needed && r.Decides {
			continue
		}
		var any, all uint64
		x.own = x.own[:0]
		for w, word := range ids[:min(len(ids), len(among))] {
			any |= word & among[w]
			own := word & among[w] &^ twice[w]
			all |= own
			x.own = append(x.own, own)
		}
		r.Decides = r.Decides || any != 0
		if all != 0 && !r.Needed {
			f(r)
		}
	}
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

// mostLooks bounds how often it is looked up who decides instead of a rule.
const mostLooks = 64

// settle decides about a rule that is not needed while all others are there:
// it is dropped unless others that stood for it have been.
func (x *effects) settle(r *ruleEffect) {
	looks := 0
	for _, i := range r.doors {
		d := &x.doors[i]
		for _, p := range d.plans {
			if !p.stood && looks >= mostLooks {
				continue
			}
			for _, key := range p.keys {
				if !p.covers(r, key) {
					continue
				}
				parts := x.counting(p, key)
				if p.stood && x.stoodFor(r, d.gate.at(key), p, parts) {
					r.Needed, r.Decides, r.Others = true, true, nil
					return
				}
				if looks++; looks <= mostLooks {
					x.instead(r, parts)
				}
			}
		}
	}
	r.dropped = true
	for _, i := range r.doors {
		d := &x.doors[i]
		d.touched = true
		for _, p := range d.plans {
			p.stood = p.stood || slices.ContainsFunc(p.parts, func(s share) bool { return s.rule == r })
		}
	}
}

// stoodFor says whether, with all that was dropped, the range is another one
// without the rule; it can differ only for those whom the rule matches.
func (x *effects) stoodFor(r *ruleEffect, at *Range, p *plan, parts []share) bool {
	if !slices.ContainsFunc(parts, func(s share) bool { return s.rule.dropped }) {
		return false
	}
	for w := range x.m.liveIdentities {
		matches := func(s share) bool { return s.rule == r && w < len(s.atom.ids) && s.atom.ids[w] != 0 }
		if slices.ContainsFunc(parts, matches) && x.differs(at, p, parts, w, r) {
			return true
		}
	}
	return false
}

// covers says whether the rule counts at the port key.
func (p *plan) covers(r *ruleEffect, key model.PortKey) bool {
	for i := range p.parts {
		if p.parts[i].rule == r && p.parts[i].covers(key) {
			return true
		}
	}
	return false
}

// instead notes who decides about what the rule matches.
func (x *effects) instead(r *ruleEffect, parts []share) {
	for _, part := range parts {
		if part.rule != r {
			continue
		}
		left := append(x.left[:0], part.atom.ids...)
		for _, other := range parts {
			if other.step > part.step || other.rule == r || other.rule.dropped {
				continue
			}
			var in uint64
			for w, word := range other.atom.ids[:min(len(other.atom.ids), len(left))] {
				in |= left[w] & word
				left[w] &^= word
			}
			if in != 0 && !slices.Contains(r.Others, other.rule.Rule) {
				r.Others = append(r.Others, other.rule.Rule)
			}
		}
		x.left = left
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
	// The classes that came last are those that the fewest policies select.
	for _, i := range slices.Backward(x.at[p]) {
		if d := &x.doors[i]; (!again || d.touched) && x.misses(d, p, again) {
			return false
		}
	}
	return true
}

// misses says whether the doorway is another one without the policy. Where its
// steps stay as they are it can differ only for those whom the policy's rules
// match, and not at all if these are dropped already.
func (x *effects) misses(d *doorway, p *policy, dropped bool) bool {
	for _, plan := range d.plans {
		switch {
		case p.Staged && !plan.shadow:
		case x.shapes(d, p, plan.shadow):
			rest := x.plan(d, plan.shadow, p)
			for _, key := range append(rest.keys, d.gate.firsts()...) {
				parts, at := x.counting(rest, key), d.gate.at(key)
				for w := range x.m.liveIdentities {
					if x.differs(at, rest, parts, w, nil) {
						return true
					}
				}
			}
		case !dropped && x.missesRules(d, p, plan):
			return true
		}
	}
	return false
}

// missesRules says whether the doorway is another one without the policy's
// rules, none of which is needed alone.
func (x *effects) missesRules(d *doorway, p *policy, plan *plan) bool {
	rules := p.rules[d.gate.Direction]
	drop := func(on bool) {
		for i := range rules {
			x.rules[rules[i].Rule].dropped = on
		}
	}
	drop(true)
	defer drop(false)
	for _, key := range plan.keys {
		parts := x.counting(plan, key)
		if !slices.ContainsFunc(parts, func(s share) bool { return s.rule.dropped }) {
			continue
		}
		x.own = x.own[:0]
		for i := range parts {
			if parts[i].rule.dropped {
				x.own.or(parts[i].atom.ids)
			}
		}
		at := d.gate.at(key)
		for w, word := range x.own {
			if word != 0 && x.differs(at, plan, parts, w, nil) {
				return true
			}
		}
	}
	return false
}

// shapes says whether the policy's presence alone makes the steps of the
// doorway what they are: it shuts the end of a tier, it is the only one of a
// family, or it parts a set in two.
func (x *effects) shapes(d *doorway, p *policy, staged bool) bool {
	direction := d.gate.Direction
	var families [3]int // Calico's, Cilium's, and all others
	family := func(q *policy) int {
		switch q.Family {
		case model.FamilyCalico:
			return 0
		case model.FamilyCilium:
			return 1
		}
		return 2
	}
	var shut [3]bool // the end of the policy's tier, by others of the families
	var before, after bool
	seen := false
	for _, q := range d.class.policies[direction] {
		switch {
		case q == p:
			seen = true
			continue
		case x.without[q] || q.Staged && !staged:
			continue
		}
		families[family(q)]++
		if q.Tier != p.Tier {
			continue
		}
		shut[family(q)] = shut[family(q)] || denies([]*policy{q}, direction)
		if s := q.Section(direction); !s.Ordered {
			before, after = before || !seen, after || seen
		}
	}
	if p.Section(direction).Ordered && before && after {
		return true
	}
	own := family(p)
	if own < 2 && families[own] == 0 && families[1-own] > 0 {
		return true
	}
	if !denies([]*policy{p}, direction) {
		return false
	}
	if families[0] == 0 || families[1] == 0 { // one pipeline
		return !shut[0] && !shut[1] && !shut[2]
	}
	return own != 1 && !shut[0] && !shut[2] || own != 0 && !shut[1] && !shut[2]
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
