// Package networkpolicy decodes networking.k8s.io/v1 NetworkPolicy as strictly
// as the API server validates it.
//
// A policy with an error still isolates the pods that it selects as far as
// that can be read, and the part that is wrong allows nothing: the closed
// side, beside the Problem that says so. The package is pure; its tests are
// the scenarios rule-* and invalid-*.
package networkpolicy

import (
	"strconv"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// APIVersion and Kind are what the package decodes.
const (
	APIVersion = "networking.k8s.io/v1"
	Kind       = "NetworkPolicy"
)

// Decoders lists what the package decodes, by apiVersion and kind.
var Decoders = map[[2]string]func(field.Object) (model.Parts, []model.Problem){{APIVersion, Kind}: decode}

func decode(o field.Object) (model.Parts, []model.Problem) {
	p, problems := decodePolicy(o)
	if p == nil {
		return model.Parts{}, problems
	}
	return model.Parts{Policies: []*model.Policy{p}}, problems
}

// decodePolicy turns a NetworkPolicy into the model's policy.
func decodePolicy(o field.Object) (*model.Policy, []model.Problem) {
	problems := &field.Problems{}
	root := field.Open(o, problems)
	field.CheckMetadata(root, o.Source)
	root.Field("apiVersion")
	root.Field("kind")
	root.Field("status")
	spec := root.Field("spec")
	root.Done()
	return Policy(o.Source, spec), problems.List
}

// Policy is the policy that the spec of a NetworkPolicy stands for, or nil if
// the spec is no mapping. Fields that somebody asked spec for before are not
// reported as unknown.
func Policy(source model.Source, spec field.Cursor) *model.Policy {
	d := decoder{namespace: source.Namespace}
	p := &model.Policy{
		Source: source, Family: model.FamilyKubernetes, Tier: model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: source.Namespace},
	}
	p.Source.Field = ""
	if !spec.Present() {
		// The API server fills in an empty spec: every pod of the namespace, ingress.
		p.Ingress = &model.Section{DefaultDeny: true}
		return p
	}
	if !spec.Mapping() {
		return nil
	}
	pods, ok := field.Selector(spec.Field("podSelector"))
	p.Subject.Pods = pods
	if !ok {
		// Whom it selects cannot be read: every pod of the namespace is closed.
		p.Subject.Pods = model.Selector{}
		d.broken = true
	}
	ingress := d.rules(spec.Field("ingress"), "from")
	egress := d.rules(spec.Field("egress"), "to")
	inward, outward := policyTypes(spec, len(egress) > 0)
	if !spec.Done() {
		// Something is misspelt; it may have been a section.
		inward, outward, ingress, egress = true, true, nil, nil
	}
	if inward {
		p.Ingress = &model.Section{DefaultDeny: true, Rules: ingress}
	}
	if outward {
		p.Egress = &model.Section{DefaultDeny: true, Rules: egress}
	}
	return p
}

// policyTypes applies the API server's default: Ingress, and Egress if there
// is an egress rule.
func policyTypes(spec field.Cursor, hasEgress bool) (ingress, egress bool) {
	types := spec.Field("policyTypes")
	items := types.Items()
	if len(items) == 0 {
		return true, hasEgress
	}
	if len(items) > 2 {
		types.Error("may hold at most two items", "Ingress and Egress, each once")
	}
	for _, t := range items {
		switch t.String() {
		case "Ingress":
			ingress = true
		case "Egress":
			egress = true
		default:
			t.Error("unknown policy type \""+t.Value()+"\"", "one of Ingress, Egress (capitalised)")
			ingress, egress = true, true
		}
	}
	return ingress, egress
}

type decoder struct {
	namespace string
	broken    bool // the subject cannot be read: no rule allows anything
}

func (d *decoder) rules(list field.Cursor, peers string) []model.Rule {
	var out []model.Rule
	for _, c := range list.Items() {
		r := d.rule(c, peers)
		if d.broken {
			r = model.Rule{Action: model.Allow, Source: r.Source}
		}
		out = append(out, r)
	}
	return out
}

func (d *decoder) rule(c field.Cursor, peersField string) model.Rule {
	r := model.Rule{Action: model.Allow, Source: c.Source()}
	if c.Present() && !c.Mapping() {
		return r
	}
	peers := c.Field(peersField)
	ports := c.Field("ports")
	clean := c.Done()
	items := peers.Items()
	r.AnyPeer = len(items) == 0 && (!peers.Present() || peers.IsList())
	for _, i := range items {
		if p, ok := d.peer(i); ok {
			r.Peers = append(r.Peers, p)
		}
	}
	items = ports.Items()
	r.AnyPort = len(items) == 0 && (!ports.Present() || ports.IsList())
	for _, i := range items {
		if p, ok := port(i); ok {
			r.Ports = append(r.Ports, p)
		}
	}
	if !clean { // a misspelt from or ports must not read as "everybody"
		return model.Rule{Action: model.Allow, Source: r.Source}
	}
	return r
}

func (d *decoder) peer(c field.Cursor) (model.Peer, bool) {
	out := model.Peer{Source: c.Source()}
	if c.Present() && !c.Mapping() {
		return out, false
	}
	pods, namespaces, block := c.Field("podSelector"), c.Field("namespaceSelector"), c.Field("ipBlock")
	clean := c.Done()
	switch {
	case block.Present() && (pods.Present() || namespaces.Present()):
		c.Error("ipBlock may not stand beside podSelector or namespaceSelector in one peer", "write two items of the list: each is an alternative")
		return out, false
	case block.Present():
		b, ok := ipBlock(block)
		out.Block = &b
		return out, ok && clean
	case !pods.Present() && !namespaces.Present():
		c.Error("a peer must have one of podSelector, namespaceSelector, ipBlock", "to mean everybody leave the whole list out; to mean every pod write namespaceSelector: {}")
		return out, false
	}
	s := &model.EndpointSelector{Namespace: d.namespace}
	podLabels, ok := field.Selector(pods)
	s.Pods = podLabels
	if namespaces.Present() {
		namespaceLabels, good := field.Selector(namespaces)
		ok = ok && good
		s.Namespace, s.Namespaces = "", namespaceLabels
	}
	out.Pods = s
	return out, ok && clean
}

func ipBlock(c field.Cursor) (model.IPBlock, bool) {
	var out model.IPBlock
	if !c.Mapping() {
		return out, false
	}
	cidr, except := c.Field("cidr"), c.Field("except")
	clean := c.Done()
	p, ok := field.Prefix(cidr)
	ok = ok && clean
	out.CIDR = p
	for _, e := range except.Items() {
		x, good := field.Prefix(e)
		switch {
		case !good:
			ok = false
		case !out.CIDR.IsValid():
		case x.Bits() <= p.Bits() || !p.Contains(x.Addr()):
			e.Error(e.Value()+" is not a proper part of "+cidr.Value(), "an exception must lie strictly inside the block's cidr")
			ok = false
		default:
			out.Except = append(out.Except, x)
		}
	}
	return out, ok
}

func port(c field.Cursor) (model.Port, bool) {
	out := model.Port{Protocol: model.TCP, Last: 65535, Source: c.Source()}
	if c.Present() && !c.Mapping() {
		return out, false
	}
	number, end, protocol := c.Field("port"), c.Field("endPort"), c.Field("protocol")
	ok := c.Done()
	if protocol.Present() {
		switch protocol.String() {
		case "TCP":
		case "UDP":
			out.Protocol = model.UDP
		case "SCTP":
			out.Protocol = model.SCTP
		default:
			protocol.Error("unknown protocol \""+protocol.Value()+"\"", "one of TCP, UDP, SCTP, in capitals")
			ok = false
		}
	}
	switch {
	case number.IsInt():
		n, good := number.Int(1, 65535)
		out.First, out.Last = uint16(n), uint16(n)
		ok = ok && good
	case number.Present():
		out.Name = number.String()
		if !field.ValidPortName(out.Name) {
			hint := "at most 15 lower-case letters, digits and single '-', at least one letter"
			if _, err := strconv.Atoi(out.Name); err == nil {
				hint = "a number in quotes is a name; write it without quotes"
			}
			number.Error("\""+out.Name+"\" is no valid port name", hint)
			ok = false
		}
	}
	return out, endPort(end, number, &out) && ok
}

func endPort(end, number field.Cursor, out *model.Port) bool {
	if !end.Present() {
		return true
	}
	n, ok := end.Int(1, 65535)
	switch {
	case !ok:
		return false
	case !number.Present():
		end.Error("may not stand without port", "write the first port of the range as port")
		return false
	case !number.IsInt():
		end.Error("may not stand beside a named port", "write the port as a number")
		return false
	case n < int(out.First):
		end.Error("must not be below port "+number.Value(), "the range is port to endPort, inclusive")
		return false
	}
	out.Last = uint16(n)
	return true
}
