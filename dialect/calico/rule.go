package calico

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// notYet follows the name of what is decoded and cannot be enforced yet.
const notYet = " are decoded, but not enforced yet: what only this rule allows is denied"

var actions = map[string]model.Action{"Allow": model.Allow, "Deny": model.Deny, "Pass": model.Pass, "Log": model.Log}

// rule reads one rule of a direction.
func (d *decoder) rule(c field.Cursor, dir model.Direction) model.Rule {
	r := model.Rule{Action: model.Deny, Source: c.Source()}
	ok := d.clean(func() {
		if c.Present() && !c.Mapping() {
			return
		}
		action := c.Field("action")
		a, known := actions[action.String()]
		switch {
		case known:
			r.Action = a
		case action.Present():
			action.Error("unknown action \""+action.Value()+"\"", "one of Allow, Deny, Log, Pass (capitalised)")
		default:
			action.Error("is missing", "one of Allow, Deny, Log, Pass (capitalised)")
		}
		d.conditions(c, dir, &r)
	})
	if ok {
		return r
	}
	return closed(r)
}

// closed is what stands for a rule that cannot be read.
func closed(r model.Rule) model.Rule {
	switch r.Action {
	case model.Allow, model.Log:
		return model.Rule{Action: r.Action, Source: r.Source}
	}
	return model.Rule{Action: model.Deny, AnyPeer: true, AnyPort: true, Source: r.Source}
}

// conditions reads everything but the action into r.
func (d *decoder) conditions(c field.Cursor, dir model.Direction, r *model.Rule) {
	source, destination := c.Field("source"), c.Field("destination")
	peerSide, ownSide := source, destination
	if dir == model.Egress {
		peerSide, ownSide = destination, source
	}
	d.metadata(c.Field("metadata"))
	l4 := d.l4(c, source, destination)
	peer := d.entity(peerSide, side{peer: true, dir: dir, action: r.Action})
	own := d.entity(ownSide, side{dir: dir, action: r.Action})
	version := d.version(c.Field("ipVersion"), l4, peer, own)
	d.http(c.Field("http"), dir, r, &l4)
	if l4.tls {
		d.tls(r, peer.names)
	}
	c.Done()
	r.Subject = own.subject()
	if r.Peers, r.AnyPeer = peer.peers(version, peerSide.Source()); r.AnyPeer {
		r.Peers = nil
	}
	r.Ports = l4.list(c.Source())
	r.AnyPort = l4.any()
	if peer.services != nil && peer.services.Behind == model.BehindPorts {
		d.behind(c, l4)
	}
}

func (d *decoder) metadata(c field.Cursor) {
	if c.Mapping() {
		c.Field("annotations").StringMap()
		c.Done()
	}
}

// version is the IP version of the packets that the rule matches: as written,
// or as its nets or its protocol have it; 0 is both.
func (d *decoder) version(c field.Cursor, l4 l4, sides ...entity) int {
	written, _ := c.Int(4, 6)
	if written == 5 {
		c.Error("must be 4 or 6, not 5", "")
	}
	version := written
	for _, e := range sides {
		for _, n := range slices.Concat(e.nets, e.notNets) {
			switch v := family(n.prefix); {
			case version == 0:
				version = v
			case version != v && written != 0:
				n.at.Error(n.prefix.String()+" is no IPv"+itoa(written)+", as the rule's ipVersion says", "")
			case version != v:
				n.at.Error("a rule may not hold both IPv4 and IPv6", "make two rules of it")
			}
		}
	}
	if v := l4.version(); v != 0 && version != 0 && v != version {
		c.Error("protocol "+l4.protocol.String()+" does not go over IPv"+itoa(version), "")
	}
	return version
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 4
	}
	return 6
}

// everything is all the addresses of an IP version.
func everything(version int) *model.IPBlock {
	if version == 4 {
		return &model.IPBlock{CIDR: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	}
	return &model.IPBlock{CIDR: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}
