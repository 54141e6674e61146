package cilium

import (
	"slices"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// item decodes one entry of a list to rules: one for its plain ports, and one
// for each entry of toPorts that asks for more than ports.
func (d *decoder) item(c field.Cursor, l list) []model.Rule {
	plain := model.Rule{Action: l.action, Source: c.Source()}
	if !c.Present() { // null is {}
		return []model.Rule{plain}
	}
	before := d.errors()
	if !c.Mapping() {
		return []model.Rule{unreadable(l.action, plain.Source)}
	}
	from := d.peers(c, l)
	ports := d.ports(c, l)
	auth := model.Authentication("")
	if l.action == model.Allow {
		auth = authentication(c.Field("authentication"))
	}
	if c.Field("authentication").Present() && l.action == model.Deny {
		c.Field("authentication").Error("a denial asks for no authentication", "take it out")
	}
	c.Done()
	if d.errors() > before {
		return []model.Rule{unreadable(l.action, plain.Source)}
	}
	if !from.given && !ports.given {
		return []model.Rule{plain} // an empty item isolates, and matches nothing
	}
	plain.AnyPeer = from.any || !from.given || from.anyPorts && ports.given
	if !plain.AnyPeer {
		plain.Peers = from.list
	}
	own := func(p model.Peer) bool { return p.Nodes != nil && p.Nodes.Which == model.OwnNode }
	if l.action == model.Deny && l.direction == model.Ingress && slices.ContainsFunc(plain.Peers, own) {
		c.Report(model.Warning, "the pod's own node is not kept out: it always reaches its pods, as the kubelet's probes must", "Cilium would shut it out, and the kubelet with it; take \"host\" out if others are meant")
	}
	return ports.rules(plain, auth)
}

// rules spreads the item's ports over rules: what asks for nothing but ports
// is one rule, everything else one of its own.
func (p portList) rules(plain model.Rule, auth model.Authentication) []model.Rule {
	if auth != "" && auth != model.AuthDisabled { // "disabled" alone asks for nothing
		plain.L7 = &model.L7{Authentication: auth}
	}
	plain.AnyPort = !p.given
	var out []model.Rule
	plainPorts := plain
	for _, e := range p.entries {
		if e.l7 == nil {
			plainPorts.Ports = append(plainPorts.Ports, e.ports...)
			continue
		}
		r := plain
		r.Ports, r.Source, r.L7 = e.ports, e.source, e.l7
		r.L7.Authentication = auth
		out = append(out, r)
	}
	if len(plainPorts.Ports) > 0 || len(out) == 0 {
		out = append([]model.Rule{plainPorts}, out...)
	}
	return out
}

// authentication reads what both ends must have proven.
func authentication(c field.Cursor) model.Authentication {
	if !c.Mapping() {
		return ""
	}
	mode := c.Field("mode")
	c.Done()
	a := model.Authentication(mode.String())
	switch a {
	case model.AuthDisabled:
	case model.AuthRequired, model.AuthAlwaysFail:
		notEnforced(c, "authentication is")
	default:
		mode.Error("unknown mode \""+mode.Value()+"\"", "one of required, disabled, test-always-fail")
	}
	return a
}
