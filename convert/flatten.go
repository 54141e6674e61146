package convert

import (
	"cmp"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// unit is one object to be: its subject is isolated in the directions that it
// has a section for, and what the sections list may pass. Whatever order,
// tiers and denials said is worked into the lists.
type unit struct {
	policy   *model.Policy // where it comes from
	subject  clause
	sections [2]*section // by direction
}

type section struct{ rules []rule }

// rule lets the peers pass on the ports.
type rule struct {
	peers  []peer
	ports  ports
	source model.Source
}

// item is one step of the evaluation of a direction.
type item struct {
	policy   *model.Policy
	tier     string
	action   model.Action
	end      bool // the end of a tier, for the subjects of one policy
	proxy    bool // allows under conditions, which nobody here can check: it denies, and comes after all of its set
	walled   bool // its policy isolates the subjects
	subjects []clause
	peers    []peer
	ports    ports
	source   model.Source
}

// flatten works the policies of a direction into units.
func (c *converter) flatten(d model.Direction) {
	items := c.items(d)
	walls := wallsOf(items)
	for _, w := range walls {
		for _, s := range w.subjects {
			c.isolate(w.policy, s, d)
		}
	}
	for i := range items {
		if items[i].action == model.Allow {
			c.allow(items[:i], &items[i], walls, d)
		}
	}
	passing := map[string]bool{} // tiers
	for i := range items {
		passing[items[i].tier] = passing[items[i].tier] || items[i].action == model.Pass
	}
	for _, w := range walls {
		// Whoever is denied something only may do all the rest; at the end of
		// a tier, those who were passed on.
		if !w.end || passing[w.tier] {
			rest := w
			rest.action, rest.peers, rest.ports, rest.tier, rest.walled = model.Allow, []peer{{source: w.source}}, ports{any: true}, "", true
			c.allow(items, &rest, walls, d)
		}
	}
}

// wallsOf lists the items that isolate somebody in what is written, each policy's
// subjects once: the ends of tiers, and denials.
func wallsOf(items []item) []item {
	var out []item
	for _, x := range items {
		if x.end || x.action == model.Deny && !walled(x, out) {
			out = append(out, x)
		}
	}
	return slices.DeleteFunc(out, func(x item) bool {
		return !x.end && slices.ContainsFunc(out, func(o item) bool { return o.end && within(x.subjects, o.subjects) })
	})
}

// walled says whether one of the walls isolates all subjects of the item.
func walled(x item, walls []item) bool {
	return slices.ContainsFunc(walls, func(o item) bool { return within(x.subjects, o.subjects) })
}

func within(a, b []clause) bool {
	return !slices.ContainsFunc(a, func(s clause) bool { return !s.withinAny(b) })
}

// part is a part of an item that allows, on its way.
type part struct {
	subject clause
	peers   []peer
	ports   ports
}

// mostParts bounds how often an item is divided.
const mostParts = 64

// allow writes what is left of the item behind those before it.
func (c *converter) allow(before []item, x *item, walls []item, d model.Direction) {
	var parts []part
	for _, s := range c.walledSubjects(x, walls) {
		parts = append(parts, part{s, x.peers, x.ports})
	}
	for i := range before {
		q := &before[i]
		if q.action != model.Deny && !(q.action == model.Pass && q.tier == x.tier) {
			continue
		}
		var rest []part
		for _, p := range parts {
			rest = append(rest, c.subtract(p, q, x)...)
			if q.action == model.Deny {
				rest = append(rest, c.passed(p, before[:i], q, x)...)
			}
		}
		if parts = rest; len(parts) > mostParts {
			c.omit(x.source, "what stands before it divides it into too many parts")
			return
		}
	}
	for _, p := range parts {
		s := c.isolate(x.policy, p.subject, d)
		s.rules = append(s.rules, rule{p.peers, p.ports, x.source})
	}
}

// walledSubjects are the subjects of the item as far as something isolates
// them: what is not isolated needs nobody's leave, and a policy that lets it
// pass would isolate.
func (c *converter) walledSubjects(x *item, walls []item) []clause {
	if x.walled {
		return x.subjects
	}
	var out []clause
	for _, s := range x.subjects {
		if slices.ContainsFunc(walls, func(w item) bool { return s.withinAny(w.subjects) }) {
			out = append(out, s)
			continue
		}
		for _, w := range walls {
			for _, o := range w.subjects {
				if both, ok := join(s, o); ok && !both.withinAny(out) {
					out = append(out, both)
				}
			}
		}
	}
	return out
}

// subtract takes from the part what the item q takes.
func (c *converter) subtract(p part, q, x *item) []part {
	var inside []clause
	for _, s := range q.subjects {
		if both, ok := join(p.subject, s); ok {
			inside = append(inside, both)
		}
	}
	shared := c.names.meet(p.ports, q.ports)
	if len(inside) == 0 || shared.none() || len(q.peers) == 0 {
		return []part{p}
	}
	others, exact := c.peersMinus(p.peers, q.peers)
	if exact && slices.EqualFunc(p.peers, others, samePeer) {
		return []part{p}
	}
	rest, exactPorts := c.names.minus(p.ports, q.ports)
	var out []part
	if p.subject.withinAny(q.subjects) {
		inside = []clause{p.subject}
	} else if untouched, ok := p.subject.minus(q.subjects); ok {
		for _, s := range untouched {
			out = append(out, part{s, p.peers, p.ports})
		}
	} else {
		exact = false
	}
	if !exact || !exactPorts {
		c.omit(x.source, "it cannot be said apart from what "+describe(q)+" takes out of it")
	}
	for _, s := range inside {
		if !rest.none() {
			out = append(out, part{s, p.peers, rest})
		}
		if len(others) > 0 {
			out = append(out, part{s, others, shared})
		}
	}
	return out
}

func samePeer(a, b peer) bool {
	return a.kind == b.kind && sameBlock(a.block, b.block) && slices.EqualFunc(a.pods, b.pods, equal) &&
		a.nodes.Which == b.nodes.Which && equal(a.nodes.Labels, b.nodes.Labels)
}

func (c *converter) peersMinus(list, taken []peer) (out []peer, exact bool) {
	out, exact = list, true
	for _, t := range taken {
		var rest []peer
		for _, p := range out {
			more, ok := c.facts.minus(p, t)
			rest, exact = append(rest, more...), exact && ok
		}
		out = rest
	}
	return out, exact
}

// passed is what a denial does not take from the part, since an item of its
// tier has it pass before.
func (c *converter) passed(p part, before []item, q, x *item) []part {
	var out []part
	for i := range before {
		if before[i].action != model.Pass || before[i].tier != q.tier {
			continue
		}
		var peers []peer
		exact := true
		for _, a := range p.peers {
			for _, b := range before[i].peers {
				more, ok := c.facts.meet(a, b)
				peers, exact = append(peers, more...), exact && ok
			}
		}
		if !exact {
			c.omit(x.source, "it cannot be said together with what "+describe(&before[i])+" has pass")
		}
		shared := c.names.meet(p.ports, before[i].ports)
		for _, s := range before[i].subjects {
			if both, ok := join(p.subject, s); ok && len(peers) > 0 && !shared.none() {
				out = append(out, part{both, peers, shared})
			}
		}
	}
	return out
}

// describe names an item: where it was written.
func describe(x *item) string {
	s := x.source
	s.File, s.Line, s.Column = "", 0, 0
	return s.String()
}

// items lists the evaluation of a direction in order. Where policies of Calico
// and of Cilium are, both must let a connection pass: what Cilium's isolate is
// then closed, before all others.
func (c *converter) items(d model.Direction) []item {
	var policies []*model.Policy
	calico, cilium := false, false
	for _, p := range c.cluster.Policies {
		if p.Section(d) == nil || p.Staged {
			continue
		}
		policies = append(policies, p)
		calico, cilium = calico || p.Family == model.FamilyCalico, cilium || p.Family == model.FamilyCilium
	}
	var out []item
	if calico && cilium {
		for _, p := range policies {
			if p.Family == model.FamilyCilium {
				c.omit(p.Source, "policies of Calico and of Cilium must both let a connection pass, and no one dialect says that: the pods that it selects are closed")
				out = append(out, item{policy: p, action: model.Deny, subjects: c.subjects(p, nil), peers: []peer{{}}, ports: ports{any: true}, source: p.Source})
			}
		}
		policies = slices.DeleteFunc(policies, func(p *model.Policy) bool { return p.Family == model.FamilyCilium })
	}
	slices.SortStableFunc(policies, c.comparePolicies)
	for len(policies) > 0 {
		n := 1
		for n < len(policies) && policies[n].Tier == policies[0].Tier {
			n++
		}
		out = c.tierItems(out, policies[:n], d)
		policies = policies[n:]
	}
	return out
}

// comparePolicies is the order of evaluation.
func (c *converter) comparePolicies(a, b *model.Policy) int {
	last := func(p *model.Policy) int {
		if p.Tier == model.TierProfiles {
			return 1
		}
		return 0
	}
	return cmp.Or(last(a)-last(b), cmp.Compare(c.tier(a.Tier).Order, c.tier(b.Tier).Order), cmp.Compare(a.Tier, b.Tier),
		cmp.Compare(a.Order, b.Order), cmp.Compare(a.Source.Name, b.Source.Name), cmp.Compare(a.Source.Namespace, b.Source.Namespace),
		cmp.Compare(a.Source.Kind, b.Source.Kind), a.Part-b.Part)
}

func (c *converter) tier(name string) model.Tier {
	for _, t := range append(slices.Clone(c.cluster.Tiers), model.ReservedTiers()...) {
		if t.Name == name {
			return t
		}
	}
	return model.UnknownTier(name)
}

// tierItems adds the rules of a tier, and its end.
func (c *converter) tierItems(out []item, tier []*model.Policy, d model.Direction) []item {
	for i := 0; i < len(tier); {
		n := 1
		ordered := tier[i].Section(d).Ordered
		for !ordered && i+n < len(tier) && !tier[i+n].Section(d).Ordered && tier[i+n].Order == tier[i].Order {
			n++
		}
		first := len(out)
		for _, p := range tier[i : i+n] {
			out = c.ruleItems(out, p, d)
		}
		if !ordered {
			slices.SortStableFunc(out[first:], func(a, b item) int { return a.rank() - b.rank() })
		}
		i += n
	}
	if c.tier(tier[0].Tier).Pass {
		return out
	}
	for _, p := range tier {
		if p.Section(d).DefaultDeny {
			out = append(out, item{
				policy: p, tier: p.Tier, action: model.Deny, end: true, subjects: c.subjects(p, nil), peers: []peer{{}}, ports: ports{any: true}, source: p.Source,
			})
		}
	}
	return out
}

// rank is the place of an item in a set without order.
func (x *item) rank() int {
	switch {
	case x.proxy:
		return 3
	case x.action == model.Allow:
		return 2
	case x.action == model.Pass:
		return 1
	}
	return 0
}

// ruleItems adds the rules of a policy.
func (c *converter) ruleItems(out []item, p *model.Policy, d model.Direction) []item {
	walled := p.Section(d).DefaultDeny && !c.tier(p.Tier).Pass
	for i := range p.Section(d).Rules {
		r := &p.Section(d).Rules[i]
		x := item{policy: p, tier: p.Tier, action: r.Action, subjects: c.subjects(p, r), ports: portsOf(r), source: r.Source, walled: walled}
		switch {
		case r.Action == model.Log:
			c.omit(r.Source, "it only logs: nothing of it is converted")
			continue
		case r.Action == model.Allow && r.L7 != nil:
			c.omit(r.Source, "it allows under conditions beyond addresses and ports, which are not converted: what it would allow is denied")
			x.action, x.proxy = model.Deny, true
		}
		if r.AnyPeer {
			x.peers = []peer{{source: r.Source}}
		}
		for j := range r.Peers {
			x.peers = append(x.peers, c.peers(&r.Peers[j], x.action, r.Source)...)
		}
		if len(x.peers) > 0 && !x.ports.none() {
			out = append(out, x)
		}
	}
	return out
}
