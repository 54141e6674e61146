package engine

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Miss is a rule that would have let a connection pass at a door, had it not
// failed on the things listed.
type Miss struct {
	Policy *model.Policy
	Source model.Source // the part that failed: a peer, a port, a rule, or the policy's own selector
	Fails  []Fail       // never empty
}

// Fail is one thing that a rule wanted and that was otherwise.
type Fail struct {
	Field string // podSelector, namespaceSelector, namespace, ipBlock or port
	Wants string // app=frontend
	Has   string // this pod has app=front

	far int // how much less likely it was meant than a wrong label or port
}

func (f Fail) String() string { return f.Field + " wants " + f.Wants + ", " + f.Has }

// A miss is near if it fails on few things; what is farther away is listed
// only if nothing is near.
const (
	nearFails  = 2
	mostMisses = 6
)

// Misses lists the rules that nearly let the connection pass at the door of
// the direction, nearest first: rules of the policies that isolate the pod
// there, and matching rules of policies that nearly select it. A door that is
// open, or that nobody isolates, has none.
func (m *Matrix) Misses(src, dst Party, key model.PortKey, d model.Direction) []Miss {
	subject, peer := dst, src
	if d == model.Egress {
		subject, peer = src, dst
	}
	door := m.door(m.end(subject), m.end(peer), d, key)
	if door.Allowed || door.Reason != DefaultDeny || subject.Endpoint == nil {
		return nil
	}
	c := connection{m: m, subject: subject.Endpoint, peer: m.known(peer), dst: m.known(dst), key: key}
	var out []Miss
	for _, p := range door.Policies {
		s := p.Section(d)
		for i := range s.Rules {
			if r := &s.Rules[i]; r.Action == model.Allow {
				out = append(out, c.ruleMisses(p, r)...)
			}
		}
	}
	return nearest(append(out, c.subjectMisses(door.Policies, subject.Endpoint, d)...))
}

// nearest keeps the near misses, or the nearest where none is near.
func nearest(misses []Miss) []Miss {
	slices.SortStableFunc(misses, func(a, b Miss) int { return cmp.Compare(a.distance(), b.distance()) })
	least := nearFails
	if len(misses) > 0 {
		least = max(least, misses[0].distance())
	}
	n := 0
	for n < len(misses) && n < mostMisses && misses[n].distance() <= least {
		n++
	}
	return misses[:n]
}

func (m Miss) distance() int {
	n := len(m.Fails)
	for _, f := range m.Fails {
		n += f.far
	}
	return n
}

// connection is what rules are held against.
type connection struct {
	m         *Matrix
	subject   *model.Endpoint
	peer, dst Party
	key       model.PortKey
}

// known is the party with the pod that has its address, and the address of
// its pod.
func (m *Matrix) known(p Party) Party {
	if p.Endpoint == nil && p.Node == "" {
		p.Endpoint = m.EndpointAt(p.Addr)
	}
	if !p.Addr.IsValid() && p.Endpoint != nil && len(p.Endpoint.IPs) > 0 {
		p.Addr = p.Endpoint.IPs[0]
	}
	if ips := m.nodes[p.Node].IPs; !p.Addr.IsValid() && len(ips) > 0 {
		p.Addr = ips[0]
	}
	return p
}

// ruleMisses are the peers of the rule that came nearest; none if it matches
// or can match nothing.
func (c *connection) ruleMisses(p *model.Policy, r *model.Rule) []Miss {
	ports := c.portFails(r)
	if r.AnyPeer {
		if len(ports) == 0 {
			return nil
		}
		return []Miss{{Policy: p, Source: portSource(r), Fails: ports}}
	}
	var out []Miss
	for i := range r.Peers {
		fails := c.peerFails(&r.Peers[i])
		miss := Miss{Policy: p, Source: r.Peers[i].Source, Fails: append(fails, ports...)}
		switch {
		case len(miss.Fails) == 0:
			return nil
		case len(fails) == 0:
			miss.Source = portSource(r)
		}
		if len(out) > 0 && miss.distance() < out[0].distance() {
			out = out[:0]
		}
		if len(out) == 0 || miss.distance() == out[0].distance() {
			out = append(out, miss)
		}
	}
	return out
}

// subjectMisses are the policies beside those that govern the door which nearly
// do so, in order of evaluation.
func (c *connection) subjectMisses(but []*model.Policy, subject *model.Endpoint, d model.Direction) []Miss {
	type near struct {
		*policy
		miss Miss
	}
	var found []near
	for _, p := range c.m.policies {
		if p.Subject.Namespace != subject.Namespace {
			continue
		}
		if miss, ok := c.subjectMiss(p.Policy, subject, d); ok && !slices.Contains(but, p.Policy) {
			found = append(found, near{p, miss})
		}
	}
	slices.SortFunc(found, func(a, b near) int { return comparePolicies(a.policy, b.policy) })
	out := make([]Miss, len(found))
	for i, x := range found {
		out[i] = x.miss
	}
	return out
}

// subjectMiss is a policy of the subject's namespace that has a rule for the
// connection and selects other pods there, for one label only.
func (c *connection) subjectMiss(p *model.Policy, subject *model.Endpoint, d model.Direction) (Miss, bool) {
	s := p.Section(d)
	if s == nil || p.Staged {
		return Miss{}, false
	}
	fails := labelFails("podSelector", p.Subject.Pods, c.m.labelsOf(subject), "this pod")
	if len(fails) != 1 || !slices.ContainsFunc(s.Rules, func(r model.Rule) bool { return r.Action == model.Allow && c.matches(&r) }) {
		return Miss{}, false
	}
	return Miss{Policy: p, Source: p.Source.At("spec.podSelector", 0, 0), Fails: fails}, true
}

func (c *connection) matches(r *model.Rule) bool {
	return len(c.portFails(r)) == 0 && (r.AnyPeer || slices.ContainsFunc(r.Peers, func(p model.Peer) bool { return len(c.peerFails(&p)) == 0 }))
}

// peerFails lists what the peer wants and does not find.
func (c *connection) peerFails(p *model.Peer) []Fail {
	var out []Fail
	if p.Pods != nil {
		out = c.podFails(p.Pods)
	}
	if p.Block != nil {
		out = append(out, blockFails(p.Block, c.peer.Addr)...)
	}
	if isDirect(p) {
		return out
	}
	part := *p // what the two above have not judged
	part.Pods, part.Block, part.Not = nil, nil, nil
	if !c.satisfies(&part) {
		out = append(out, Fail{Field: "peer", Wants: part.String(), Has: "this is " + c.peerName(), far: 1})
	}
	for i := range p.Not {
		if c.satisfies(&p.Not[i]) {
			out = append(out, Fail{Field: "peer", Wants: "not " + p.Not[i].String(), Has: "this is " + c.peerName()})
		}
	}
	return out
}

// satisfies says whether the connection's other end is one of the peer's. A
// selector that no policy in force has need not be known to its class.
func (c *connection) satisfies(p *model.Peer) bool {
	u := c.m.end(c.peer).unit
	if u == nil {
		return false
	}
	for _, x := range c.m.resolve(p, c.subject.Node, false) {
		x.eachPicked(func(p *picked) { p.classes = slices.Clone(c.m.selectClasses(p.selector)) })
		if c.m.matches(&x, u) {
			return true
		}
	}
	return false
}

func (c *connection) peerName() string {
	if e := c.peer.Endpoint; e != nil {
		return "pod " + e.Key()
	}
	if c.peer.Node != "" {
		return "node " + c.peer.Node
	}
	return c.peer.Addr.String()
}

func (c *connection) podFails(s *model.EndpointSelector) []Fail {
	e := c.peer.Endpoint
	switch {
	case e == nil:
		return []Fail{{Field: "podSelector", Wants: "a pod", Has: c.peer.Addr.String() + " is none", far: nearFails}}
	case e.HostNetwork:
		return []Fail{{Field: "podSelector", Wants: "a pod with an address of its own", Has: "this pod is on its node's network"}}
	}
	var out []Fail
	if s.Namespace != "" && s.Namespace != e.Namespace {
		out = append(out, Fail{Field: "namespace", Wants: s.Namespace + " since there is no namespaceSelector", Has: "this pod is in " + e.Namespace})
	}
	labels := c.m.namespaceLabels(e.Namespace)
	out = append(out, labelFails("namespaceSelector", s.Namespaces, func(k string) (string, bool) { v, ok := labels[k]; return v, ok }, "namespace "+e.Namespace)...)
	return append(out, labelFails("podSelector", s.Pods, c.m.labelsOf(e), "this pod")...)
}

func blockFails(b *model.IPBlock, a netip.Addr) []Fail {
	if !b.CIDR.Contains(a) {
		return []Fail{{Field: "ipBlock", Wants: b.CIDR.String(), Has: "this is " + a.String(), far: 1}}
	}
	for _, e := range b.Except {
		if e.Contains(a) {
			return []Fail{{Field: "ipBlock", Wants: b.CIDR.String() + " except " + e.String(), Has: "this is " + a.String()}}
		}
	}
	return nil
}

// labelFails lists the requirements that the labels do not meet.
func labelFails(field string, s model.Selector, label func(string) (string, bool), who string) []Fail {
	if s.Op != model.SelectAnd {
		if s.Match(label) {
			return nil
		}
		return []Fail{{Field: field, Wants: s.String(), Has: who + " has " + having(s, label)}}
	}
	var out []Fail
	for _, a := range s.Args {
		out = append(out, labelFails(field, a, label, who)...)
	}
	return out
}

// having are the labels that the selector looks at, as they are.
func having(s model.Selector, label func(string) (string, bool)) string {
	set := map[string]struct{}{}
	s.Keys(set)
	var out []string
	for k := range set {
		if v, ok := label(k); ok {
			out = append(out, k+"="+v)
		} else {
			out = append(out, "no label "+k)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// portFails is empty if the rule has the port, else one Fail.
func (c *connection) portFails(r *model.Rule) []Fail {
	if r.AnyPort {
		return nil
	}
	var wants []string
	for _, p := range r.Ports {
		if p.Name == "" {
			if iv := p.Interval(); iv.First <= c.key && c.key <= iv.Last {
				return nil
			}
			wants = append(wants, p.String())
			continue
		}
		number, ok := uint16(0), false
		if c.dst.Endpoint != nil {
			number, ok = c.dst.Endpoint.NamedPort(p.Name, p.Protocol)
		}
		switch {
		case ok && model.PortKeyOf(p.Protocol, number) == c.key:
			return nil
		case ok:
			wants = append(wants, fmt.Sprintf("%s (%d at the destination)", p, number))
		default:
			wants = append(wants, p.String()+" (which the destination does not have)")
		}
	}
	return []Fail{{Field: "port", Wants: strings.Join(wants, " or "), Has: "this is " + c.key.String()}}
}

// portSource is where the rule's ports stand.
func portSource(r *model.Rule) model.Source {
	if len(r.Ports) == 1 {
		return r.Ports[0].Source
	}
	return r.Source.At(r.Source.Field+".ports", 0, 0)
}
