package engine

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// end is one end of a connection as the Matrix knows it.
type end struct {
	pod      *endpoint // with a door; nil for everybody else
	identity Identity
	unit     *unit
	node     string // whose own traffic this is; "" for pods and outsiders
}

func (m *Matrix) end(p Party) end {
	if p.Endpoint == nil {
		return m.addressEnd(p)
	}
	e := m.endpoints[p.Endpoint.Key()]
	switch {
	case e == nil:
		return end{}
	case e.class == nil:
		a := p.Addr
		if !a.IsValid() && len(e.IPs) > 0 {
			a = e.IPs[0]
		}
		out := m.addressEnd(Party{Addr: a})
		if out.node == "" {
			out.node = e.Node
		}
		return out
	case len(e.units) == 0:
		return end{pod: e}
	}
	i := max(slices.Index(e.IPs, p.Addr), 0)
	return end{pod: e, identity: e.units[i].identity, unit: e.units[i]}
}

func (m *Matrix) addressEnd(p Party) end {
	out := end{node: p.Node}
	if !p.Addr.IsValid() {
		if ips := m.nodes[p.Node].IPs; len(ips) > 0 {
			p.Addr = ips[0]
		} else {
			return out
		}
	}
	a := p.Addr.Unmap()
	if o, ok := m.addresses[a]; ok && p.Node == "" {
		return end{pod: o.endpoint, identity: o.unit.identity, unit: o.unit}
	}
	if out.node == "" {
		out.node = m.nodeOf[a]
	}
	if out.node == "" && m.inPodRange(a) {
		return out
	}
	out.unit = m.longest(a, a.BitLen()).external
	out.identity = out.unit.identity
	return out
}

// Verdict judges one connection at both of its doors.
func (m *Matrix) Verdict(src, dst Party, key model.PortKey) Verdict {
	s, d := m.end(src), m.end(dst)
	v := Verdict{Egress: m.door(s, d, model.Egress, key), Ingress: m.door(d, s, model.Ingress, key)}
	v.Allowed = v.Egress.Allowed && v.Ingress.Allowed
	return v
}

// Answer is what a door says to one port, with what each tier had to say.
type Answer struct {
	Door   Door
	Stages []Stage
}

// DoorTo judges at the subject's door alone, once for each port. The peer
// stands for everybody who has its identity: it is another pod than the
// subject, and not on the subject's node, as EachPair has it.
func (m *Matrix) DoorTo(subject, peer Party, keys []model.PortKey, d model.Direction) []Answer {
	s, p := m.end(subject), m.end(peer)
	p.pod, p.node = nil, ""
	out := make([]Answer, len(keys))
	if s.pod == nil || p.identity == 0 {
		for i, key := range keys {
			out[i].Door = m.door(s, p, d, key)
		}
		return out
	}
	g := m.gate(s.pod.class, d)
	for i, key := range keys {
		if g == nil {
			out[i].Door = m.door(s, p, d, key)
			continue
		}
		out[i].Stages = m.stages(s.pod.class, d, p, key)
		out[i].Door = g.judge(out[i].Stages, p.identity, key)
	}
	return out
}

// Identity is the identity of a party by the address that it uses; 0 if it has
// none that policies know.
func (m *Matrix) Identity(p Party) Identity { return m.end(p).identity }

// End is a party that was looked up once, for many questions. It is good until
// the Matrix changes.
type End struct{ end end }

// End looks the party up.
func (m *Matrix) End(p Party) End { return End{m.end(p)} }

// Open says of each door whether it is open to the connection: what Verdict
// says, without the reasons.
func (m *Matrix) Open(src, dst End, key model.PortKey) (egress, ingress bool) {
	egress, _ = m.open(src.end, dst.end, model.Egress, key)
	ingress, _ = m.open(dst.end, src.end, model.Ingress, key)
	return egress, ingress
}

// OpenFor says whether src may open a connection to dst on any of the ports.
func (m *Matrix) OpenFor(src, dst End, ports model.PortSet) bool {
	s, d := src.end, dst.end
	for _, iv := range ports {
		for key := iv.First; ; key++ {
			egress, untilEgress := m.open(s, d, model.Egress, key)
			ingress, untilIngress := m.open(d, s, model.Ingress, key)
			if egress && ingress {
				return true
			}
			if key = min(untilEgress, untilIngress); key >= iv.Last {
				break
			}
		}
	}
	return false
}

// open says whether the subject's door is open at the port key, and up to which
// key that holds at least.
func (m *Matrix) open(subject, peer end, d model.Direction, key model.PortKey) (open bool, until model.PortKey) {
	if open, _ := exempt(subject, peer, d); open {
		return true, model.MaxPortKey
	}
	if peer.identity == 0 {
		return false, model.MaxPortKey
	}
	g := m.gate(subject.pod.class, d)
	if g == nil {
		return true, model.MaxPortKey
	}
	i := g.index(key)
	until = model.MaxPortKey
	if i+1 < len(g.Ranges) {
		until = g.Ranges[i+1].First - 1
	}
	return g.Ranges[i].Allow.Has(peer.identity), until
}

// door judges at the subject's door.
func (m *Matrix) door(subject, peer end, d model.Direction, key model.PortKey) Door {
	if open, reason := exempt(subject, peer, d); open {
		return Door{Direction: d, Allowed: true, Reason: reason}
	}
	g := m.gate(subject.pod.class, d)
	if g == nil {
		if peer.identity == 0 {
			return Door{Direction: d, Reason: UnknownPeer}
		}
		return Door{Direction: d, Allowed: true, Reason: NotIsolated}
	}
	if peer.identity == 0 {
		return Door{Direction: d, Policies: g.Policies, Reason: UnknownPeer}
	}
	return g.judge(m.stages(subject.pod.class, d, peer, key), peer.identity, key)
}

// judge is the gate's verdict about an identity that it knows, with the reason
// that the stages give.
func (g *Gate) judge(stages []Stage, id Identity, key model.PortKey) Door {
	out := Door{Direction: g.Direction, Policies: g.Policies, Reason: DefaultDeny}
	at := g.at(key)
	out.Allowed = at.Allow.Has(id)
	out.Policy, out.Rule = deciding(stages, out.Allowed)
	switch {
	case at.Conditional.Has(id):
		out.Reason = ByCondition
	case out.Rule != nil:
		out.Reason = ByRule
	case out.Allowed:
		out.Reason = NotIsolated
	}
	return out
}

// exempt lists the doors that no policy shuts.
func exempt(subject, peer end, d model.Direction) (bool, Reason) {
	switch {
	case subject.pod == nil:
		return true, NoDoor
	case subject.pod == peer.pod:
		return true, SamePod
	case d == model.Ingress && peer.node != "" && peer.node == subject.pod.Node:
		return true, OwnNode
	}
	return false, ""
}

// Stages walks through the tiers as the door's gate was compiled from them and
// says what each had to say about the connection. A door that no policy judges
// has none.
func (m *Matrix) Stages(src, dst Party, key model.PortKey, d model.Direction) []Stage {
	subject, peer := m.end(dst), m.end(src)
	if d == model.Egress {
		subject, peer = peer, subject
	}
	if open, _ := exempt(subject, peer, d); open || peer.identity == 0 {
		return nil
	}
	return m.stages(subject.pod.class, d, peer, key)
}

// stages walks through the steps of the class's door.
func (m *Matrix) stages(c *class, d model.Direction, peer end, key model.PortKey) []Stage {
	var out []Stage
	walk := Stage{Said: Undecided}
	pipeline, decided := 0, false
	var condition *stepRule // that matched: what denies from there on does so unless it holds
	for _, s := range m.gate(c, d).enforced(c) {
		switch s.op {
		case termAnd:
			pipeline, decided, condition = pipeline+1, false, nil
			continue
		case termTierDeny, termTierPass:
			if !decided {
				out = append(out, walk.finish(s, pipeline, condition))
				decided = out[len(out)-1].decides()
			}
			walk = Stage{Said: Undecided}
			continue
		}
		if decided || walk.Said != Undecided {
			continue
		}
		for _, r := range s.rules {
			if !m.ruleMatches(r.rule, c, d, peer, key) {
				continue
			}
			if s.op != termAllowL7 {
				walk.take(s.op, r)
			} else if condition == nil {
				condition = &r
			}
			break
		}
	}
	return out
}

// take notes the rule that matched.
func (s *Stage) take(op termOp, r stepRule) {
	if op == termLog {
		s.Logs = append(s.Logs, r.rule.Rule)
		return
	}
	s.Said = map[termOp]Said{termAllow: SaidAllow, termDeny: SaidDeny, termPass: SaidPass}[op]
	s.Policy, s.Rule = r.policy.Policy, r.rule.Rule
}

// finish is the stage at the end of its tier. A condition is a rule that
// allows under one: what would be denied is then allowed under it.
func (s Stage) finish(end step, pipeline int, condition *stepRule) Stage {
	s.Tier, s.Pipeline = end.policies[0].Tier, pipeline
	for _, p := range end.policies {
		s.Policies = append(s.Policies, p.Policy)
	}
	if s.Said == Undecided {
		s.Said = EndPass
		if end.op == termTierDeny {
			s.Said = EndDeny
		}
	}
	if condition != nil && (s.Said == SaidDeny || s.Said == EndDeny) {
		s.Said, s.Policy, s.Rule = SaidAllowL7, condition.policy.Policy, condition.rule.Rule
	}
	return s
}

func (s *Stage) decides() bool { return s.Said != SaidPass && s.Said != EndPass }

// deciding is the rule that made the verdict: one that shuts the door before
// one that opens it. There is none if the end of a tier shut it, or nothing did.
func deciding(stages []Stage, allowed bool) (*model.Policy, *model.Rule) {
	var opened *Stage
	for i := range stages {
		switch s := &stages[i]; s.Said {
		case SaidDeny, EndDeny:
			return s.Policy, s.Rule
		case SaidAllowL7:
			opened = s
		case SaidAllow:
			if opened == nil || allowed {
				opened = s
			}
		}
	}
	if opened == nil {
		return nil, nil
	}
	return opened.Policy, opened.Rule
}

func (m *Matrix) ruleMatches(r *rule, c *class, d model.Direction, peer end, key model.PortKey) bool {
	a := r.atomFor(c)
	if a == nil || !a.ids.has(int(peer.identity)) || r.Subject != nil && !m.selects(r.Subject, c) {
		return false
	}
	if model.PortSet(r.intervals).Contains(key) {
		return true
	}
	destination := c
	if d == model.Egress {
		if peer.unit == nil || peer.unit.class == nil {
			return false
		}
		destination = peer.unit.class
	}
	return slices.ContainsFunc(r.named, func(n named) bool {
		number, ok := destination.namedPort(n)
		return ok && model.PortKeyOf(n.protocol, number) == key
	})
}

// Connections is everything that src may open towards dst.
func (m *Matrix) Connections(src, dst Party) model.PortSet {
	s, d := m.end(src), m.end(dst)
	out := m.through(s, d, model.Egress)
	if len(out) == 0 {
		return nil
	}
	return out.Intersect(m.through(d, s, model.Ingress))
}

func (m *Matrix) through(subject, peer end, d model.Direction) model.PortSet {
	if open, _ := exempt(subject, peer, d); open {
		return model.AllPorts()
	}
	if peer.identity == 0 {
		return nil
	}
	return m.gate(subject.pod.class, d).PortSet(peer.identity)
}
