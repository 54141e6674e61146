// Package reference judges one connection by the letter of the policies: slow,
// obvious loops over rules, labels and addresses. It shares no code with the
// compiler, which is compared with it. It knows everything that the model can
// say, tiers included, but nothing of identities, rows or gates. The package
// is pure; its tests are the comparisons in package engine.
package reference

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Party is one end of a connection: a pod, or an address, or a node.
type Party struct {
	Pod  *model.Endpoint // nil: no pod
	Addr netip.Addr      // the address that the connection uses
}

// Verdict is what each door says, and both together.
type Verdict struct{ Allowed, Egress, Ingress bool }

// Judge judges the connection from src to dst.
func Judge(c *model.Cluster, src, dst Party, key model.PortKey) Verdict {
	v := Verdict{
		Egress:  door(c, src, dst, dst, model.Egress, key),
		Ingress: door(c, dst, src, dst, model.Ingress, key),
	}
	v.Allowed = v.Egress && v.Ingress
	return v
}

// isPod says whether pod selectors and doors are about the party at all:
// hostNetwork pods are their node.
func isPod(p Party) bool { return p.Pod != nil && !p.Pod.HostNetwork }

// nodeOf is the name of the node whose own address the party uses, or "".
func nodeOf(c *model.Cluster, p Party) string {
	if isPod(p) {
		return ""
	}
	for _, n := range c.Nodes {
		if slices.Contains(n.IPs, p.Addr) {
			return n.Name
		}
	}
	return ""
}

// unknown says whether the address lies where only pods are and is nobody's.
func unknown(c *model.Cluster, p Party) bool {
	if isPod(p) || nodeOf(c, p) != "" {
		return false
	}
	for _, r := range c.PodRanges {
		if r.Contains(p.Addr) {
			return true
		}
	}
	return false
}

func door(c *model.Cluster, subject, peer, destination Party, d model.Direction, key model.PortKey) bool {
	if !isPod(subject) {
		return true
	}
	if isPod(peer) && peer.Pod.Namespace == subject.Pod.Namespace && peer.Pod.Name == subject.Pod.Name {
		return true
	}
	if d == model.Ingress && nodeOf(c, peer) != "" && nodeOf(c, peer) == subject.Pod.Node {
		return true
	}
	if unknown(c, peer) {
		return false
	}
	var policies []*model.Policy
	for _, p := range c.Policies {
		if p.Section(d) != nil && !p.Staged && selects(c, p.Subject, subject) {
			policies = append(policies, p)
		}
	}
	return walk(c, policies, peer, destination, d, key)
}

func order(tier string) float64 {
	switch tier {
	case "kube-admin":
		return 1000
	case "default":
		return 1000000
	case "kube-baseline":
		return 10000000
	}
	return 1000001
}

// walk goes through the tiers in order. Whoever no tier decides about passes.
func walk(c *model.Cluster, policies []*model.Policy, peer, destination Party, d model.Direction, key model.PortKey) bool {
	tiers := map[string][]*model.Policy{}
	var names []string
	for _, p := range policies {
		if tiers[p.Tier] == nil {
			names = append(names, p.Tier)
		}
		tiers[p.Tier] = append(tiers[p.Tier], p)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a, b)) })
	for _, name := range names {
		switch action, decided := tier(c, tiers[name], peer, destination, d, key); {
		case decided && action == model.Pass:
		case decided:
			return action == model.Allow
		default:
			for _, p := range tiers[name] {
				if p.Section(d).DefaultDeny {
					return false
				}
			}
		}
	}
	return true
}

// tier finds what the policies of one tier decide.
func tier(c *model.Cluster, policies []*model.Policy, peer, destination Party, d model.Direction, key model.PortKey) (model.Action, bool) {
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, func(a, b *model.Policy) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Source.Name, b.Source.Name),
			cmp.Compare(a.Source.Namespace, b.Source.Namespace), cmp.Compare(a.Source.Kind, b.Source.Kind))
	})
	for len(sorted) > 0 {
		n := 1
		if !sorted[0].Section(d).Ordered {
			for n < len(sorted) && !sorted[n].Section(d).Ordered && sorted[n].Order == sorted[0].Order {
				n++
			}
		}
		matched := map[model.Action]bool{}
		for _, p := range sorted[:n] {
			for i := range p.Section(d).Rules {
				r := &p.Section(d).Rules[i]
				if r.Action == model.Log || !matches(c, r, peer, destination, key) {
					continue
				}
				if p.Section(d).Ordered {
					return r.Action, true
				}
				matched[r.Action] = true
			}
		}
		for _, a := range []model.Action{model.Deny, model.Pass, model.Allow} {
			if matched[a] {
				return a, true
			}
		}
		sorted = sorted[n:]
	}
	return 0, false
}

func matches(c *model.Cluster, r *model.Rule, peer, destination Party, key model.PortKey) bool {
	if r.L7 != nil && r.Action == model.Allow {
		return false // only through the proxy
	}
	return matchesPeer(c, r, peer) && matchesPort(r, destination, key)
}

func matchesPeer(c *model.Cluster, r *model.Rule, peer Party) bool {
	if r.AnyPeer {
		return true
	}
	for _, p := range r.Peers {
		if p.Pods != nil && isPod(peer) && selects(c, *p.Pods, peer) {
			return true
		}
		if p.Block != nil && inBlock(p.Block, peer.Addr) {
			return true
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

func matchesPort(r *model.Rule, destination Party, key model.PortKey) bool {
	if r.AnyPort {
		return true
	}
	for _, p := range r.Ports {
		switch {
		case p.Protocol == model.AnyProtocol:
			return true
		case p.Protocol != key.Protocol():
		case p.Name == "":
			if p.First <= key.Port() && key.Port() <= p.Last {
				return true
			}
		case isPod(destination):
			if n, ok := numberOf(destination.Pod, p); ok && n == key.Port() {
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

func selects(c *model.Cluster, s model.EndpointSelector, p Party) bool {
	if !isPod(p) || s.Namespace != "" && s.Namespace != p.Pod.Namespace {
		return false
	}
	labels := map[string]string{"kubernetes.io/metadata.name": p.Pod.Namespace}
	for _, n := range c.Namespaces {
		if n.Name == p.Pod.Namespace {
			labels = n.Labels
		}
	}
	return holds(s.Namespaces, labels) && holds(s.Pods, p.Pod.Labels)
}

// holds evaluates a selector once more, apart from the model's own Matches.
func holds(s model.Selector, labels map[string]string) bool {
	v, has := labels[s.Key]
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
		return !holds(s.Args[0], labels)
	case model.SelectAnd, model.SelectOr:
		n := 0
		for _, a := range s.Args {
			if holds(a, labels) {
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
