package convert

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Labels that Calico has of pods beside their own.
const (
	calicoName         = "projectcalico.org/name"
	calicoAccount      = "projectcalico.org/serviceaccount"
	calicoAccountLabel = "pcsa."
	calicoPods         = `projectcalico.org/orchestrator == "k8s"` // and no network set or host
)

// How many rules a direction may have, and how many ports a rule: what is
// longer is divided.
const (
	mostCalicoRules = 1024
	mostCalicoPorts = 50
)

// calico writes a unit as a NetworkPolicy of projectcalico.org, or a global one
// where it is not about one namespace.
func (c *converter) calico(u *unit) {
	namespace, account, pod, ok := u.subject.split()
	kind, name := "GlobalNetworkPolicy", u.global()
	own, _ := u.subject.namespaceOf()
	if own != "" && len(namespace) == 1 {
		kind, name = "NetworkPolicy", u.policy.Source.Name
	} else {
		own = ""
	}
	spec := mapping{{"tier", "default"}, {"order", model.KubernetesOrder}}
	if !ok {
		c.omit(u.policy.Source, "whom it selects has no selector in Calico: every pod that it may mean is closed")
		account, pod = nil, nil
	}
	spec = spec.with("selector", calicoSelector(append(account, pod...)))
	if own == "" {
		spec = spec.with("namespaceSelector", calicoNamespaces(namespace))
	}
	spec = spec.with("types", u.types())
	var lists [2][]mapping
	for _, d := range directions {
		if ok {
			lists[d] = c.calicoRules(u.rules(d), d, own)
		}
	}
	for first := true; first || len(lists[0])+len(lists[1]) > 0; first = false {
		some := slices.Clone(spec)
		for _, d := range directions {
			n := min(len(lists[d]), mostCalicoRules)
			if n > 0 {
				some = some.with(d.String(), lists[d][:n])
			}
			lists[d] = lists[d][n:]
		}
		c.add("projectcalico.org/v3", kind, own, name, some)
	}
}

// calicoSelector writes conditions in Calico's language; none is all().
func calicoSelector(c clause) string {
	var parts []string
	for _, s := range c {
		parts = append(parts, calicoTest(s))
	}
	if len(parts) == 0 {
		return "all()"
	}
	return strings.Join(parts, " && ")
}

// calicoNamespaces writes conditions on labels of namespaces; all() is every
// namespace, and nothing that is in none.
func calicoNamespaces(c clause) string {
	named := slices.Clone(c)
	for i, s := range named {
		if keyOf(s) == model.MetadataName {
			named[i] = rekeyed(s, calicoName)
		}
	}
	return calicoSelector(named)
}

func calicoTest(s model.Selector) string {
	if s.Op == model.SelectNot {
		return "!(" + calicoTest(s.Args[0]) + ")"
	}
	key := s.Key
	if key == model.AccountName {
		key = calicoAccount
	} else if label, ok := strings.CutPrefix(key, model.AccountLabels); ok {
		key = calicoAccountLabel + label
	}
	values := make([]string, len(s.Values))
	for i, v := range s.Values {
		values[i] = `"` + v + `"`
	}
	list := "{" + strings.Join(values, ", ") + "}"
	switch s.Op {
	case model.SelectIn:
		if len(values) == 1 {
			return key + " == " + values[0]
		}
		return key + " in " + list
	case model.SelectNotIn:
		if len(values) == 1 {
			return key + " != " + values[0]
		}
		return key + " not in " + list
	case model.SelectExists:
		return "has(" + key + ")"
	case model.SelectNotExists:
		return "!has(" + key + ")"
	}
	word := map[model.SelectorOp]string{model.SelectPrefix: "starts with", model.SelectSuffix: "ends with", model.SelectContains: "contains"}[s.Op]
	return fmt.Sprintf("%s %s %s", key, word, values[0])
}

// calicoRules writes a rule for each peer and each protocol: Calico's have one
// of either.
func (c *converter) calicoRules(rules []rule, d model.Direction, own string) []mapping {
	out := []mapping{}
	peerSide := map[model.Direction]string{model.Ingress: "source", model.Egress: "destination"}[d]
	for _, r := range rules {
		for _, l4 := range c.calicoPorts(r) {
			for _, e := range c.calicoEntities(r, d, own) {
				if e.version != 0 && l4.version != 0 && e.version != l4.version {
					continue
				}
				out = append(out, l4.rule(e, peerSide))
			}
		}
	}
	return out
}

// calicoEntity is a source or destination; version is the IP version of its
// nets, 0 without any.
type calicoEntity struct {
	mapping
	version int
}

func (c *converter) calicoEntities(r rule, d model.Direction, own string) []calicoEntity {
	var out []calicoEntity
	for _, p := range r.peers {
		switch p.kind {
		case anyone:
			return []calicoEntity{{}}
		case pods:
			if m, ok := calicoPodPeer(p.pods, own); ok {
				out = append(out, calicoEntity{mapping: m})
			} else {
				c.omit(p.source, "the pods that it means have no selector in Calico: it is left out")
			}
		default:
			for _, b := range c.plainBlocks(p, d) {
				out = append(out, calicoNets(b))
			}
		}
	}
	return out
}

func calicoNets(b model.IPBlock) calicoEntity {
	e := calicoEntity{mapping{{"nets", []string{b.CIDR.String()}}}, 6}
	if b.CIDR.Addr().Is4() {
		e.version = 4
	}
	if len(b.Except) > 0 {
		e.mapping = e.with("notNets", texts(b.Except))
	}
	return e
}

// calicoPodPeer writes pods; without a selector for the namespace they are of
// the policy's own.
func calicoPodPeer(c clause, own string) (mapping, bool) {
	namespace, account, pod, ok := c.split()
	selector := calicoPods
	if conditions := append(account, pod...); len(conditions) > 0 {
		selector += " && " + calicoSelector(conditions)
	}
	m := mapping{{"selector", selector}}
	if name, _ := c.namespaceOf(); name == "" || name != own || len(namespace) != 1 {
		m = m.with("namespaceSelector", calicoNamespaces(namespace))
	}
	return m, ok
}

// calicoL4 is a protocol with its ports.
type calicoL4 struct {
	protocol any
	not      any
	icmp     mapping
	ports    []any
	version  int
}

// rule joins the parts in the vendor's form: ports are the destination's.
func (l calicoL4) rule(e calicoEntity, peerSide string) mapping {
	m := mapping{{"action", "Allow"}}
	if l.protocol != nil {
		m = m.with("protocol", l.protocol)
	}
	if l.not != nil {
		m = m.with("notProtocol", l.not)
	}
	if l.icmp != nil {
		m = m.with("icmp", l.icmp)
	}
	sides := map[string]mapping{peerSide: e.mapping}
	if len(l.ports) > 0 {
		sides["destination"] = slices.Clone(sides["destination"]).with("ports", l.ports)
	}
	for _, side := range []string{"source", "destination"} {
		if len(sides[side]) > 0 {
			m = m.with(side, sides[side])
		}
	}
	return m
}

func (c *converter) calicoPorts(r rule) []calicoL4 {
	if r.ports.any {
		return []calicoL4{{}}
	}
	var out []calicoL4
	list := r.ports.list
	if p, rest, ok := allBut(list); ok {
		out, list = append(out, calicoL4{not: calicoProtocol(p)}), rest
	}
	var order []model.Protocol
	byProtocol := map[model.Protocol][]any{}
	for _, p := range list {
		switch {
		case nobodys(p):
		case p.Through > p.Protocol:
			out = append(out, c.calicoRun(p, r)...)
		case p.Name == "" && p.First == 0 && p.Last == 65535:
			out = append(out, calicoProtocolOnly(p.Protocol))
		case p.Protocol == model.ICMP || p.Protocol == model.ICMPv6:
			out = append(out, c.calicoICMP(p, r)...)
		case p.Protocol != model.TCP && p.Protocol != model.UDP && p.Protocol != model.SCTP:
			c.omit(r.source, p.String()+" has no form in Calico: it is left out")
		default:
			if byProtocol[p.Protocol] == nil {
				order = append(order, p.Protocol)
			}
			byProtocol[p.Protocol] = append(byProtocol[p.Protocol], calicoPort(p))
		}
	}
	for _, p := range order {
		for part := range slices.Chunk(byProtocol[p], mostCalicoPorts) {
			out = append(out, calicoL4{protocol: calicoProtocol(p), ports: part})
		}
	}
	return out
}

// mostInRun is how many protocols are written one by one.
const mostInRun = 16

// calicoRun writes a run of protocols: of a long one those that have names.
func (c *converter) calicoRun(p model.Port, r rule) []calicoL4 {
	short := p.Through-p.Protocol < mostInRun
	if !short {
		c.omit(r.source, "of "+p.String()+" only those that have names are written")
	}
	var out []calicoL4
	for n := int(p.Protocol); n <= int(p.Through); n++ {
		if _, named := calicoProtocol(model.Protocol(n)).(string); short || named {
			out = append(out, calicoProtocolOnly(model.Protocol(n)))
		}
	}
	return out
}

// allBut recognises whole protocols that are all but one.
func allBut(list []model.Port) (but model.Protocol, rest []model.Port, ok bool) {
	whole := map[model.Protocol]bool{}
	for _, p := range list {
		switch {
		case p.Through > p.Protocol:
			for n := int(p.Protocol); n <= int(p.Through); n++ {
				whole[model.Protocol(n)] = true
			}
		case p.Name == "" && p.First == 0 && p.Last == 65535:
			whole[p.Protocol] = true
		default:
			rest = append(rest, p)
		}
	}
	if len(whole) != 254 || whole[0] {
		return 0, nil, false
	}
	for n := 1; n < 256; n++ {
		if !whole[model.Protocol(n)] {
			but = model.Protocol(n)
		}
	}
	return but, rest, true
}

func calicoProtocolOnly(p model.Protocol) calicoL4 {
	return calicoL4{protocol: calicoProtocol(p), version: map[model.Protocol]int{model.ICMP: 4, model.ICMPv6: 6}[p]}
}

// calicoProtocol is a protocol's name, or its number.
func calicoProtocol(p model.Protocol) any {
	if _, err := strconv.Atoi(p.String()); err == nil {
		return int(p)
	}
	return p.String()
}

func calicoPort(p model.Port) any {
	switch first := max(p.First, 1); {
	case p.Name != "":
		return p.Name
	case first >= p.Last:
		return int(first)
	default:
		return fmt.Sprintf("%d:%d", first, p.Last)
	}
}

// calicoICMP writes types with all of their codes, or one type with one code.
func (c *converter) calicoICMP(p model.Port, r rule) []calicoL4 {
	var out []calicoL4
	one := calicoProtocolOnly(p.Protocol)
	switch {
	case p.First == p.Last:
		one.icmp = mapping{{"type", int(p.First >> 8)}, {"code", int(p.First & 0xff)}}
		return []calicoL4{one}
	case p.First&0xff != 0 || p.Last&0xff != 0xff || p.Last>>8 == 255:
		c.omit(r.source, p.String()+" has no form in Calico: it is left out")
		return nil
	}
	for t := int(p.First >> 8); t <= int(p.Last>>8); t++ {
		one.icmp = mapping{{"type", t}}
		out = append(out, one)
	}
	return out
}
