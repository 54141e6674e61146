// Package reference judges one connection by the letter of the policies: slow,
// obvious loops over rules, labels and addresses. It shares no code with the
// compiler, which is compared with it. It knows everything that the model can
// say, tiers included, but nothing of identities, rows or gates. The package
// is pure; its tests are the comparisons in package engine.
package reference

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Party is one end of a connection: a pod, or an address, or a node.
type Party struct {
	Pod  *model.Endpoint // nil: no pod
	Addr netip.Addr      // the address that the connection uses
}

// Said is what a door says.
type Said int

// What a door can say. Conditional is closed to everybody but the proxy.
const (
	Shut Said = iota
	Conditional
	Open
)

// Verdict is what each door says, and both together.
type Verdict struct {
	Allowed         bool
	Egress, Ingress Said
}

// Judge judges the connection from src to dst.
func Judge(c *model.Cluster, src, dst Party, key model.PortKey) Verdict {
	return judge(c, src, dst, key, false)
}

// JudgeStaged judges as if the staged policies were enforced.
func JudgeStaged(c *model.Cluster, src, dst Party, key model.PortKey) Verdict {
	return judge(c, src, dst, key, true)
}

func judge(c *model.Cluster, src, dst Party, key model.PortKey, staged bool) Verdict {
	v := Verdict{
		Egress:  door{c, src, dst, dst, model.Egress, key, staged}.says(),
		Ingress: door{c, dst, src, dst, model.Ingress, key, staged}.says(),
	}
	v.Allowed = v.Egress == Open && v.Ingress == Open
	return v
}

// isPod says whether pod selectors and doors are about the party at all:
// hostNetwork pods are their node.
func isPod(p Party) bool { return p.Pod != nil && !p.Pod.HostNetwork }

// nodeOf is the node whose own address the party uses, or nil.
func nodeOf(c *model.Cluster, p Party) *model.Node {
	if isPod(p) {
		return nil
	}
	for i := range c.Nodes {
		if slices.Contains(c.Nodes[i].IPs, p.Addr) {
			return &c.Nodes[i]
		}
	}
	return nil
}

// unknown says whether the address lies where only pods are and is nobody's.
func unknown(c *model.Cluster, p Party) bool {
	if isPod(p) || nodeOf(c, p) != nil {
		return false
	}
	for _, r := range c.PodRanges {
		if r.Contains(p.Addr) {
			return true
		}
	}
	return false
}

// door is one connection at one pod.
type door struct {
	c                          *model.Cluster
	subject, peer, destination Party
	direction                  model.Direction
	key                        model.PortKey
	staged                     bool
}

func (d door) says() Said {
	if !isPod(d.subject) {
		return Open
	}
	if isPod(d.peer) && d.peer.Pod.Namespace == d.subject.Pod.Namespace && d.peer.Pod.Name == d.subject.Pod.Name {
		return Open
	}
	if n := nodeOf(d.c, d.peer); d.direction == model.Ingress && n != nil && n.Name == d.subject.Pod.Node {
		return Open
	}
	if unknown(d.c, d.peer) {
		return Shut
	}
	var ordered, set []*model.Policy
	calico, cilium := false, false
	for _, p := range d.c.Policies {
		if p.Section(d.direction) == nil || p.Staged && !d.staged || !d.selects(p.Subject, d.subject) {
			continue
		}
		if p.Family != model.FamilyCilium {
			ordered = append(ordered, p)
		}
		if p.Family != model.FamilyCalico {
			set = append(set, p)
		}
		calico, cilium = calico || p.Family == model.FamilyCalico, cilium || p.Family == model.FamilyCilium
	}
	switch {
	case calico && cilium:
		return min(d.walk(ordered), d.walk(set))
	case cilium:
		return d.walk(set)
	}
	return d.walk(ordered)
}

// tierOf is the tier of the name; reserved ones are what they are.
func (d door) tierOf(name string) model.Tier {
	switch name {
	case "kube-admin":
		return model.Tier{Name: name, Order: 1000, Pass: true}
	case "default":
		return model.Tier{Name: name, Order: 1000000}
	case "kube-baseline":
		return model.Tier{Name: name, Order: 10000000, Pass: true}
	}
	for _, t := range d.c.Tiers {
		if t.Name == name {
			return t
		}
	}
	return model.Tier{Name: name, Order: math.Inf(1)}
}

// walk goes through the tiers in order. Whoever no tier decides about passes.
func (d door) walk(policies []*model.Policy) Said {
	tiers := map[string][]*model.Policy{}
	var names []string
	for _, p := range policies {
		if tiers[p.Tier] == nil {
			names = append(names, p.Tier)
		}
		tiers[p.Tier] = append(tiers[p.Tier], p)
	}
	last := func(name string) int {
		if name == "@profiles" {
			return 1
		}
		return 0
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(last(a)-last(b), cmp.Compare(d.tierOf(a).Order, d.tierOf(b).Order), cmp.Compare(a, b))
	})
	shut := Shut // until a rule allows under conditions
	for _, name := range names {
		r, condition := d.first(tiers[name])
		if condition {
			shut = Conditional
		}
		switch {
		case r != nil && r.Action == model.Deny:
			return shut
		case r != nil && r.Action == model.Allow:
			return Open
		case r == nil && !d.tierOf(name).Pass:
			for _, p := range tiers[name] {
				if p.Section(d.direction).DefaultDeny {
					return shut
				}
			}
		}
	}
	return Open
}

// first is the rule of a tier's policies that decides, or nil, and whether a
// rule before it allows under conditions: whoever does not meet them goes on.
func (d door) first(policies []*model.Policy) (r *model.Rule, condition bool) {
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, func(a, b *model.Policy) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Source.Name, b.Source.Name),
			cmp.Compare(a.Source.Namespace, b.Source.Namespace), cmp.Compare(a.Source.Kind, b.Source.Kind))
	})
	for len(sorted) > 0 {
		n := 1
		if !sorted[0].Section(d.direction).Ordered {
			for n < len(sorted) && !sorted[n].Section(d.direction).Ordered && sorted[n].Order == sorted[0].Order {
				n++
			}
		}
		var matched [3]*model.Rule // deny, pass, allow
		maybe := false
		for _, p := range sorted[:n] {
			for i := range p.Section(d.direction).Rules {
				r := &p.Section(d.direction).Rules[i]
				if r.Action == model.Log || !d.matches(r) {
					continue
				}
				switch {
				case r.Action == model.Allow && r.L7 != nil:
					maybe = true
				case p.Section(d.direction).Ordered:
					return r, condition || maybe
				case r.Action == model.Deny:
					matched[0] = r
				case r.Action == model.Pass:
					matched[1] = r
				default:
					matched[2] = r
				}
			}
		}
		for _, r := range matched {
			if r != nil {
				return r, condition
			}
		}
		condition = condition || maybe
		sorted = sorted[n:]
	}
	return nil, condition
}

func (d door) matches(r *model.Rule) bool {
	if r.Subject != nil && !d.selects(*r.Subject, d.subject) {
		return false
	}
	if r.AnyPeer {
		return d.matchesPort(r)
	}
	for i := range r.Peers {
		p := &r.Peers[i]
		if p.Services != nil && p.Services.Behind == model.BehindPorts {
			if d.behindPort(p, r.Action == model.Deny) {
				return true
			}
			continue
		}
		if d.isPeer(p, r.Action == model.Deny) && d.matchesPort(r) {
			return true
		}
	}
	return false
}

// behindPort says whether an endpoint of some Service has the very address and port.
func (d door) behindPort(p *model.Peer, denies bool) bool {
	rest := *p
	rest.Services = nil
	if !d.isPeer(&rest, denies) {
		return false
	}
	for _, s := range d.services(p.Services) {
		for _, port := range s.Ports {
			for _, b := range port.Backends {
				if b.IP == d.peer.Addr && port.Protocol == d.key.Protocol() && b.Port == d.key.Port() {
					return true
				}
			}
		}
	}
	return false
}

// isPeer says whether everything that the peer wants holds of the other end.
// What cannot be read of a set is everybody to a rule that denies.
func (d door) isPeer(p *model.Peer, denies bool) bool {
	node := nodeOf(d.c, d.peer)
	if len(p.Names) > 0 || p.Outside && (isPod(d.peer) || node != nil) {
		return false
	}
	if p.Pods != nil && !d.selects(*p.Pods, d.peer) {
		return false
	}
	if p.Block != nil && !inBlock(p.Block, d.peer.Addr) {
		return false
	}
	if p.Nodes != nil {
		if node == nil || !holds(p.Nodes.Labels, in(node.Labels)) {
			return false
		}
		// The own node of the subject of an ingress rule never comes to this.
		if own := node.Name == d.subject.Pod.Node; p.Nodes.Which == model.OwnNode && !own || p.Nodes.Which == model.OtherNode && own {
			return false
		}
	}
	if p.Sets != nil && !d.inSet(p.Sets, denies) {
		return false
	}
	if p.Services != nil && !d.behind(p.Services) {
		return false
	}
	for i := range p.Not {
		if d.isPeer(&p.Not[i], !denies) {
			return false
		}
	}
	return true
}

func (d door) inSet(s *model.SetSelector, denies bool) bool {
	for _, set := range d.c.Sets {
		if set.Family != s.Family || s.Name != "" && set.Name != s.Name || s.Namespace != "" && set.Namespace != s.Namespace ||
			s.Namespaced && set.Namespace == "" || s.Global && set.Namespace != "" {
			continue
		}
		if s.Namespaces.Op != model.SelectAll && (set.Namespace == "" || !holds(s.Namespaces, in(d.namespaceLabels(set.Namespace)))) {
			continue
		}
		label := func(k string) (string, bool) {
			if strings.HasPrefix(k, "@") {
				if set.Namespace == "" {
					return "", false
				}
				return d.ofNamespace(set.Namespace, k)
			}
			return in(set.Labels)(k)
		}
		if !holds(s.Labels, label) {
			continue
		}
		if set.Unreadable && denies {
			return true
		}
		for _, b := range set.Blocks {
			if b.Contains(d.peer.Addr) {
				return true
			}
		}
	}
	return false
}

func (d door) services(s *model.ServiceSelector) []model.Service {
	var out []model.Service
	for _, x := range d.c.Services {
		if (s.Namespace == "" || s.Namespace == x.Namespace) && (s.Name == "" || s.Name == x.Name) && holds(s.Labels, in(x.Labels)) {
			out = append(out, x)
		}
	}
	return out
}

func (d door) behind(s *model.ServiceSelector) bool {
	for _, x := range d.services(s) {
		if s.Behind == model.BehindPods && x.Selector != nil {
			if d.selects(model.EndpointSelector{Namespace: x.Namespace, Pods: model.MatchLabels(x.Selector)}, d.peer) {
				return true
			}
			continue
		}
		if s.Behind == model.BehindPods && (isPod(d.peer) || nodeOf(d.c, d.peer) != nil) {
			continue
		}
		for _, port := range x.Ports {
			for _, b := range port.Backends {
				if b.IP == d.peer.Addr {
					return true
				}
			}
		}
	}
	return false
}

func inBlock(b *model.IPBlock, a netip.Addr) bool {
	if !b.CIDR.Contains(a) {
		return false
	}
	for _, e := range b.Except {
		if e.Contains(a) {
			return false
		}
	}
	return true
}

func (d door) matchesPort(r *model.Rule) bool {
	if r.AnyPort {
		return true
	}
	for _, p := range r.Ports {
		switch {
		case p.Protocol == model.AnyProtocol && p.Through == 0:
			return true
		case p.Through > p.Protocol:
			if p.Protocol <= d.key.Protocol() && d.key.Protocol() <= p.Through {
				return true
			}
		case p.Protocol != d.key.Protocol():
		case p.Name == "":
			if p.First <= d.key.Port() && d.key.Port() <= p.Last {
				return true
			}
		case isPod(d.destination):
			if n, ok := numberOf(d.destination.Pod, p); ok && n == d.key.Port() {
				return true
			}
		}
	}
	return false
}

// numberOf is the first of the pod's container ports of that name and protocol.
func numberOf(e *model.Endpoint, p model.Port) (uint16, bool) {
	for _, c := range e.Ports {
		if c.Name == p.Name && c.Protocol == p.Protocol {
			return c.Number, true
		}
	}
	return 0, false
}

func (d door) namespaceLabels(name string) map[string]string {
	for _, n := range d.c.Namespaces {
		if n.Name == name {
			return n.Labels
		}
	}
	return map[string]string{"kubernetes.io/metadata.name": name}
}

func in(labels map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := labels[k]; return v, ok }
}

func (d door) selects(s model.EndpointSelector, p Party) bool {
	if !isPod(p) || s.Namespace != "" && s.Namespace != p.Pod.Namespace {
		return false
	}
	return holds(s.Namespaces, in(d.namespaceLabels(p.Pod.Namespace))) && holds(s.Pods, func(k string) (string, bool) { return d.ofPod(p.Pod, k) })
}

// ofPod is a label of the pod or something that is implied of it.
func (d door) ofPod(e *model.Endpoint, key string) (string, bool) {
	rest := ""
	switch {
	case !strings.HasPrefix(key, "@"):
		return in(e.Labels)(key)
	case key == "@cluster":
		if d.c.Name == "" {
			return "default", true
		}
		return d.c.Name, true
	case key == "@name":
		return e.Name, true
	case key == "@serviceaccount":
		return e.ServiceAccount, e.ServiceAccount != ""
	case cut(key, "@serviceaccount/", &rest):
		for _, a := range d.c.Accounts {
			if a.Namespace == e.Namespace && a.Name == e.ServiceAccount {
				return in(a.Labels)(rest)
			}
		}
		return "", false
	case cut(key, "@in/", &rest):
		for _, a := range e.IPs {
			if netip.MustParsePrefix(rest).Contains(a) {
				return "", true
			}
		}
		return "", false
	}
	return d.ofNamespace(e.Namespace, key)
}

func (d door) ofNamespace(namespace, key string) (string, bool) {
	rest := ""
	switch {
	case key == "@namespace":
		return namespace, true
	case cut(key, "@namespace/", &rest):
		return in(d.namespaceLabels(namespace))(rest)
	}
	return "", false
}

func cut(s, prefix string, rest *string) bool {
	after, ok := strings.CutPrefix(s, prefix)
	if ok {
		*rest = after
	}
	return ok
}

// holds evaluates a selector once more, apart from the model's own Matches.
func holds(s model.Selector, label func(string) (string, bool)) bool {
	v, has := "", false
	if s.Key != "" {
		v, has = label(s.Key)
	}
	in := false
	for _, x := range s.Values {
		in = in || has && x == v
	}
	switch s.Op {
	case model.SelectAll:
		return true
	case model.SelectNone:
		return false
	case model.SelectIn:
		return in
	case model.SelectNotIn:
		return !in
	case model.SelectExists:
		return has
	case model.SelectNotExists:
		return !has
	case model.SelectNot:
		return !holds(s.Args[0], label)
	case model.SelectAnd, model.SelectOr:
		n := 0
		for _, a := range s.Args {
			if holds(a, label) {
				n++
			}
		}
		return s.Op == model.SelectOr && n > 0 || s.Op == model.SelectAnd && n == len(s.Args)
	}
	if !has {
		return false
	}
	want := s.Values[0]
	for i := 0; i+len(want) <= len(v); i++ {
		if v[i:i+len(want)] == want && (s.Op == model.SelectContains ||
			s.Op == model.SelectPrefix && i == 0 || s.Op == model.SelectSuffix && i+len(want) == len(v)) {
			return true
		}
	}
	return false
}
