package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// add adds an object of the result.
func (c *converter) add(apiVersion, kind, namespace, name string, spec mapping) {
	meta := mapping{{"name", c.unique(kind, namespace, name)}}
	if namespace != "" {
		meta = meta.with("namespace", namespace)
	}
	c.objects = append(c.objects, mapping{{"apiVersion", apiVersion}, {"kind", kind}, {"metadata", meta}, {"spec", spec}})
}

// mostName is how long the name of an object may be, with room for a number.
const mostName = 240

// unique is a name that no object of the kind in the namespace has.
func (c *converter) unique(kind, namespace, name string) string {
	name = strings.TrimRight(name[:min(len(name), mostName)], "-.")
	for i, candidate := 2, name; ; i++ {
		if key := kind + " " + namespace + "/" + candidate; !c.taken[key] {
			c.taken[key] = true
			return candidate
		}
		candidate = fmt.Sprintf("%s-%d", name, i)
	}
}

// global is the name of what a unit makes where objects have no namespace.
func (u *unit) global() string {
	if s := u.policy.Source; s.Namespace != "" {
		return s.Namespace + "-" + s.Name
	}
	return u.policy.Source.Name
}

var directions = []model.Direction{model.Ingress, model.Egress}

// typeNames are the words for directions that several languages have.
var typeNames = [2]string{model.Ingress: "Ingress", model.Egress: "Egress"}

// types lists the directions in which the unit isolates.
func (u *unit) types() []string {
	var out []string
	for _, d := range directions {
		if u.sections[d] != nil {
			out = append(out, typeNames[d])
		}
	}
	return out
}

// rules are the unit's rules of a direction.
func (u *unit) rules(d model.Direction) []rule {
	if u.sections[d] == nil {
		return nil
	}
	return u.sections[d].rules
}

// labelSelector writes conditions on labels as Kubernetes does; ok is false
// for those that it has no operator for.
func labelSelector(c clause) (out mapping, ok bool) {
	labels, expressions := mapping{}, []mapping{}
	words := map[model.SelectorOp]string{
		model.SelectIn: "In", model.SelectNotIn: "NotIn", model.SelectExists: "Exists", model.SelectNotExists: "DoesNotExist",
	}
	for _, s := range c {
		word, known := words[s.Op]
		switch {
		case !known:
			return nil, false
		case s.Op == model.SelectIn && len(s.Values) == 1 && !slices.ContainsFunc(labels, func(e entry) bool { return e.key == s.Key }):
			labels = labels.with(s.Key, s.Values[0])
		case s.Values == nil:
			expressions = append(expressions, mapping{{"key", s.Key}, {"operator", word}})
		default:
			expressions = append(expressions, mapping{{"key", s.Key}, {"operator", word}, {"values", s.Values}})
		}
	}
	out = mapping{}
	if len(labels) > 0 {
		out = out.with("matchLabels", labels)
	}
	if len(expressions) > 0 {
		out = out.with("matchExpressions", expressions)
	}
	return out, true
}

// plainBlocks are the addresses of a peer that is a block, what is outside, or
// nodes, for languages that know nothing but prefixes: pods and nodes are told
// apart by the addresses that they have now.
func (c *converter) plainBlocks(p peer, d model.Direction) []model.IPBlock {
	switch p.kind {
	case block:
		return []model.IPBlock{p.block}
	case outside:
		return c.outsideBlocks(p)
	}
	return c.nodeBlocks(p, d)
}

func (c *converter) outsideBlocks(p peer) []model.IPBlock {
	out := []model.IPBlock{p.block}
	cutAll := func(inside netip.Prefix) {
		var rest []model.IPBlock
		for _, b := range out {
			rest = append(rest, cut(b, model.IPBlock{CIDR: inside})...)
		}
		out = rest
	}
	for _, r := range c.cluster.PodRanges {
		cutAll(r)
	}
	for _, a := range slices.Concat(c.facts.podAddresses, c.facts.nodeAddresses) {
		cutAll(netip.PrefixFrom(a, a.BitLen()))
	}
	if c.facts.nodes(p.block) != nothing {
		c.omit(p.source, "what is outside the cluster is written as all addresses but those that pods may get and nodes have now")
	}
	return out
}

func (c *converter) nodeBlocks(p peer, d model.Direction) []model.IPBlock {
	switch {
	case d == model.Ingress && p.nodes.Which == model.OwnNode:
		return nil // a pod's own node always reaches it
	case d == model.Egress && p.nodes.Which != model.AnyNode:
		c.omit(p.source, "a pod's own node cannot be told from others: it is left out")
		return nil
	}
	c.omit(p.source, "nodes are written as the addresses that they have now")
	var out []model.IPBlock
	for _, n := range c.cluster.Nodes {
		if p.nodes.Labels.Matches(n.Labels) {
			for _, a := range n.IPs {
				out = append(out, model.IPBlock{CIDR: netip.PrefixFrom(a, a.BitLen())})
			}
		}
	}
	return out
}

// servicePorts is the ports of TCP, UDP and SCTP; it notes others as left out.
func (c *converter) servicePorts(r rule) []model.Port {
	var out []model.Port
	for _, p := range r.ports.list {
		if nobodys(p) {
			continue
		}
		if p.Through <= p.Protocol {
			p.Through = p.Protocol
		}
		others := false
		for n := int(p.Protocol); n <= int(p.Through); n++ {
			one := p
			one.Protocol, one.Through = model.Protocol(n), 0
			if p.Through > p.Protocol {
				one.First, one.Last = 0, 65535
			}
			switch one.Protocol {
			case model.TCP, model.UDP, model.SCTP:
				out = append(out, one)
			default:
				others = true
			}
		}
		if others {
			c.omit(r.source, "of protocols only TCP, UDP and SCTP can be named: the others are left out")
		}
	}
	return out
}

// nobodys says whether the port is port 0 alone, which no connection has.
func nobodys(p model.Port) bool {
	return p.Name == "" && p.Last == 0 && p.Through <= p.Protocol && (p.Protocol == model.TCP || p.Protocol == model.UDP || p.Protocol == model.SCTP)
}

// full says whether the port is every port of its protocol.
func full(p model.Port) bool { return p.Name == "" && p.First <= 1 && p.Last == 65535 }

// prefixes is the block as prefixes without exceptions.
func prefixes(b model.IPBlock) []netip.Prefix {
	i := slices.IndexFunc(b.Except, func(e netip.Prefix) bool { return b.CIDR.Overlaps(e) })
	switch {
	case i < 0:
		return []netip.Prefix{b.CIDR}
	case contains(b.Except[i], b.CIDR):
		return nil
	}
	var out []netip.Prefix
	for _, half := range halves(b.CIDR) {
		out = append(out, prefixes(model.IPBlock{CIDR: half, Except: b.Except})...)
	}
	return out
}

func halves(p netip.Prefix) [2]netip.Prefix {
	bits := p.Bits() + 1
	raw := p.Addr().AsSlice()
	raw[(bits-1)/8] |= 1 << (7 - (bits-1)%8)
	upper, _ := netip.AddrFromSlice(raw)
	return [2]netip.Prefix{netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(upper, bits)}
}

func texts(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return out
}
