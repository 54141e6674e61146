package cilium

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// portList is what an item says about ports and ICMP.
type portList struct {
	given   bool // at least one entry is there, if only an empty one, which is no port
	entries []portEntry
}

// portEntry is one entry of toPorts, or the fields of one of icmps.
type portEntry struct {
	ports  []model.Port
	l7     *model.L7 // nil: only ports are asked for
	source model.Source
}

// maxPorts is how many ports, or ICMP types, one entry may list.
const maxPorts = 40

func (d *decoder) ports(c field.Cursor, l list) portList {
	toPorts, icmps := c.Field("toPorts"), c.Field("icmps")
	var out portList
	for _, i := range toPorts.Items() {
		out.entries = append(out.entries, d.portRule(i, l))
	}
	types := icmps.Items()
	if len(out.entries) > 0 && len(types) > 0 {
		icmps.Error("may not stand beside toPorts", "write two items: each is an alternative")
	}
	for _, i := range types {
		out.entries = append(out.entries, icmpRule(i))
	}
	out.given = len(out.entries) > 0
	return out
}

// portRule reads one entry of toPorts.
func (d *decoder) portRule(c field.Cursor, l list) portEntry {
	out := portEntry{source: c.Source()}
	if !c.Present() || !c.Mapping() {
		return out
	}
	ports := c.Field("ports")
	items := ports.Items()
	if len(items) > maxPorts {
		ports.Error("has "+strconv.Itoa(len(items))+" ports", "at most 40; write several entries of toPorts")
	}
	read := make([]portProtocol, 0, len(items))
	for _, i := range items {
		p := readPort(i)
		read = append(read, p)
		out.ports = append(out.ports, p.ports()...)
	}
	if l.action == model.Deny {
		checkDenied(c)
	} else {
		out.l7 = d.conditions(c, l, ports, read)
	}
	c.Done()
	return out
}

// checkDenied reports what only an entry that allows may have.
func checkDenied(c field.Cursor) {
	for _, name := range []string{"rules", "serverNames", "terminatingTLS", "originatingTLS", "listener"} {
		if f := c.Field(name); f.Present() {
			f.Error("a denial is about ports and nothing beyond them", "take it out, or write it in what is allowed")
		}
	}
}

// portProtocol is one item of ports as it is written.
type portProtocol struct {
	protocols   []model.Protocol
	first, last uint16
	name        string
	zero        bool // port 0: every port
	ranged      bool
	source      model.Source
}

var (
	anyOf    = []model.Protocol{model.TCP, model.UDP, model.SCTP}
	portless = map[string]model.Protocol{"IGMP": 2, "IPIP": 4, "IPV6": 41, "GRE": 47, "ESP": 50, "AH": 51, "VRRP": 112}
	withPort = map[string]model.Protocol{"TCP": model.TCP, "UDP": model.UDP, "SCTP": model.SCTP}
)

// serviceName is how IANA writes the name of a port; every such text is a name.
var serviceName = regexp.MustCompile(`^([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$`)

// readPort reads one item of ports.
func readPort(c field.Cursor) portProtocol {
	out := portProtocol{source: c.Source(), protocols: anyOf}
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "")
		}
		return out
	}
	port, end, protocol := c.Field("port"), c.Field("endPort"), c.Field("protocol")
	c.Done()
	hasPorts := out.readProtocol(protocol)
	text := port.String()
	switch {
	case port.Present() && text == "" && port.Value() != "": // reported: no string
	case text == "" && hasPorts:
		port.Error("is missing", "a number or a name in quotes; \"0\" is every port")
	case !hasPorts:
		if text != "" && text != "0" {
			port.Error("protocol "+protocol.Value()+" has no ports", "leave the port out, or write \"0\"")
		}
		out.zero = true
	case len(text) <= 15 && serviceName.MatchString(text):
		out.name = strings.ToLower(text)
	default:
		out.readNumber(port, text)
	}
	out.readEnd(end, port)
	return out
}

// readProtocol says whether the protocol has ports.
func (p *portProtocol) readProtocol(c field.Cursor) bool {
	text := c.String()
	upper := strings.ToUpper(text)
	if one, ok := withPort[upper]; ok {
		p.protocols = []model.Protocol{one}
	} else if one, ok := portless[upper]; ok {
		p.protocols = []model.Protocol{one}
	} else if upper != "" && upper != "ANY" {
		hint := "one of TCP, UDP, SCTP, ANY, VRRP, IGMP, GRE, IPIP, IPV6, ESP, AH"
		if strings.HasPrefix(upper, "ICMP") {
			hint = "ICMP is allowed by icmps: [{fields: [{type: EchoRequest}]}], in an item of its own"
		}
		c.Error("unknown protocol \""+text+"\"", hint)
	}
	if text != upper {
		c.Report(model.Warning, "protocol \""+text+"\" is read as "+upper+"; the API server takes capitals only", "write "+upper)
	}
	_, none := portless[upper]
	return !none
}

// readNumber reads a number as Cilium does: 010 is 8, as in C.
func (p *portProtocol) readNumber(c field.Cursor, text string) {
	n, err := strconv.ParseUint(text, 0, 16)
	if err != nil {
		c.Error("\""+text+"\" is no port", "a number up to 65535, or a name of at most 15 letters, digits and single '-' with at least one letter")
		return
	}
	if written := strconv.FormatUint(n, 10); written != text {
		c.Report(model.Warning, "\""+text+"\" is port "+written, "write \""+written+"\"")
	}
	p.first, p.last, p.zero = uint16(n), uint16(n), n == 0
}

// readEnd reads endPort, which counts only above a number.
func (p *portProtocol) readEnd(c, port field.Cursor) {
	n, ok := c.Int(0, 65535)
	if !ok || n == 0 {
		return
	}
	switch {
	case p.name != "" || p.zero:
		c.Report(model.Warning, "is ignored beside port \""+port.Value()+"\"", "a range begins with a number above 0")
	case n < int(p.first):
		c.Report(model.Warning, "is ignored: it is below port "+port.Value(), "the range is port to endPort, inclusive")
	default:
		p.ranged = n > int(p.first)
		p.last = uint16(n)
	}
}

func (p portProtocol) ports() []model.Port {
	out := make([]model.Port, 0, len(p.protocols))
	for _, proto := range p.protocols {
		port := model.Port{Protocol: proto, First: p.first, Last: p.last, Name: p.name, Source: p.source}
		if p.zero {
			port.Last = 65535
		}
		out = append(out, port)
	}
	return out
}

// icmpRule reads one entry of icmps.
func icmpRule(c field.Cursor) portEntry {
	out := portEntry{source: c.Source()}
	if !c.Present() || !c.Mapping() {
		return out
	}
	fields := c.Field("fields")
	c.Done()
	items := fields.Items()
	if len(items) > maxPorts {
		fields.Error("has "+strconv.Itoa(len(items))+" types", "at most 40; write several entries of icmps")
	}
	for _, i := range items {
		if p, ok := icmpField(i); ok {
			out.ports = append(out.ports, p)
		}
	}
	return out
}

func icmpField(c field.Cursor) (model.Port, bool) {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "")
		}
		return model.Port{}, false
	}
	family, kind := c.Field("family"), c.Field("type")
	c.Done()
	protocol, names := model.ICMP, icmpTypes
	switch family.String() {
	case "", "IPv4":
	case "IPv6":
		protocol, names = model.ICMPv6, icmpv6Types
	default:
		family.Error("unknown family \""+family.Value()+"\"", "IPv4 or IPv6")
		return model.Port{}, false
	}
	n, ok := icmpType(kind, names)
	out := model.ICMPPort(protocol, uint8(n), -1)
	out.Source = c.Source()
	return out, ok
}

// icmpType reads a number, in quotes or not, or a name of the family.
func icmpType(c field.Cursor, names map[string]int) (int, bool) {
	if !c.Present() {
		c.Error("is missing", "a number up to 255, or a name such as EchoRequest")
		return 0, false
	}
	if c.IsInt() {
		return c.Int(0, 255)
	}
	text := c.String()
	if n, ok := names[text]; ok {
		return n, true
	}
	if n, err := strconv.ParseUint(text, 10, 8); err == nil {
		return int(n), true
	}
	if c.Value() == text {
		c.Error("unknown ICMP type \""+text+"\" of this family", "a number up to 255, or a name such as EchoRequest; family is IPv4 unless it is written")
	}
	return 0, false
}

// The names of ICMP types, per family.
var (
	icmpTypes = map[string]int{
		"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8, "RouterAdvertisement": 9,
		"RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13, "TimestampReply": 14,
		"Photuris": 40, "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43,
	}
	icmpv6Types = map[string]int{
		"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128, "EchoReply": 129,
		"MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132, "RouterSolicitation": 133,
		"RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136, "RedirectMessage": 137,
		"RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
		"InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
		"HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145,
		"MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147,
		"DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
		"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
	}
)
