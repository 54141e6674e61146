package calico

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// protocols are those that have a name, in lower case.
var protocols = map[string]model.Protocol{
	"tcp": model.TCP, "udp": model.UDP, "sctp": model.SCTP, "icmp": model.ICMP, "icmpv6": model.ICMPv6, "udplite": 136,
}

// tlsName is a protocol of some articles.
const tlsName = "TLS"

// maxPorts is how many ports a list may have.
const maxPorts = 50

// l4 is what a rule says about protocol and port.
type l4 struct {
	protocol model.Protocol // AnyProtocol if none is named
	tls      bool           // the protocol is written as TLS
	base     []model.Port   // alternatives; nil is everything
	except   []model.Interval
}

// any says whether nothing is asked.
func (l l4) any() bool { return l.base == nil && len(l.except) == 0 }

// version is the IP version that the protocol goes over; 0 is both.
func (l l4) version() int {
	switch l.protocol {
	case model.ICMP:
		return 4
	case model.ICMPv6:
		return 6
	}
	return 0
}

// list is the ports in the model's form.
func (l l4) list(at model.Source) []model.Port {
	if len(l.except) == 0 {
		return l.base
	}
	except := model.Union(l.except...)
	if l.base == nil {
		return portsOf(model.AllPorts().Subtract(except), at)
	}
	var out []model.Port
	for _, p := range l.base {
		switch {
		case p.Name == "":
			out = append(out, portsOf(model.PortSet{p.Interval()}.Subtract(except), p.Source)...)
		case !except.Contains(model.PortKeyOf(p.Protocol, 1)):
			out = append(out, p)
		}
	}
	return out
}

// portsOf writes a set as ports: whole protocols with Through. Protocol 0, of
// which no packet is, has no place of its own there.
func portsOf(set model.PortSet, at model.Source) []model.Port {
	var out []model.Port
	for _, iv := range set {
		first, last := iv.First.Protocol(), iv.Last.Protocol()
		switch {
		case last == model.AnyProtocol:
			continue
		case first == last:
			out = append(out, model.Port{Protocol: first, First: iv.First.Port(), Last: iv.Last.Port(), Source: at})
			continue
		}
		if n := iv.First.Port(); n != 0 {
			out = append(out, model.Port{Protocol: first, First: n, Last: 65535, Source: at})
			first++
		}
		end := iv.Last.Port()
		if end != 65535 {
			last--
		}
		switch {
		case first < last:
			out = append(out, model.Port{Protocol: first, Through: last, Source: at})
		case first == last && first != model.AnyProtocol:
			out = append(out, model.Port{Protocol: first, Last: 65535, Source: at})
		}
		if end != 65535 {
			out = append(out, model.Port{Protocol: last + 1, Last: end, Source: at})
		}
	}
	return out
}

func whole(p model.Protocol) model.Interval {
	return model.Interval{First: model.PortKeyOf(p, 0), Last: model.PortKeyOf(p, 65535)}
}

// l4 reads what the rule says about protocol and port.
func (d *decoder) l4(c, source, destination field.Cursor) l4 {
	var out l4
	protocol, not := c.Field("protocol"), c.Field("notProtocol")
	out.protocol, out.tls = readProtocol(protocol)
	if out.protocol == model.AnyProtocol && protocol.Present() {
		out.protocol = model.TCP // reported; the ports are read for their own problems
	}
	if p, _ := readProtocol(not); p != model.AnyProtocol {
		out.except = append(out.except, whole(p))
	}
	if strings.EqualFold(not.Value(), tlsName) {
		not.Error("what is not TLS cannot be told", "notProtocol: TCP")
	}
	if out.protocol != model.AnyProtocol {
		out.base = []model.Port{{Protocol: out.protocol, Last: 65535, Source: protocol.Source()}}
	}
	out.icmp(c.Field("icmp"), c.Field("notICMP"))
	for _, name := range []string{"ports", "notPorts"} {
		if list := source.Field(name); len(list.Items()) > 0 {
			list.Error("the ports of the source are not enforced: a rule sees the destination's only", "leave them out, or write them below destination")
		}
	}
	out.ports(destination.Field("ports"))
	out.notPorts(destination.Field("notPorts"))
	return out
}

// readProtocol reads a protocol by name or number.
func readProtocol(c field.Cursor) (p model.Protocol, tls bool) {
	if !c.Present() {
		return model.AnyProtocol, false
	}
	if c.IsInt() {
		n, _ := c.Int(1, 255)
		return model.Protocol(n), false
	}
	text := c.String()
	if !c.IsString() {
		return model.AnyProtocol, false
	}
	if p, ok := protocols[strings.ToLower(text)]; ok {
		return p, false
	}
	if n, err := strconv.ParseUint(text, 10, 8); err == nil && n > 0 {
		return model.Protocol(n), false
	}
	if strings.EqualFold(text, tlsName) {
		c.Report(model.Warning, "TLS is no protocol of the vendor's; it is read as TCP with a TLS server name. Server names"+notYet, "the vendor's form is protocol: TCP")
		return model.TCP, true
	}
	c.Error("unknown protocol \""+text+"\"", "TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255")
	return model.AnyProtocol, false
}

// hasPorts says whether the protocol has ports to name.
func hasPorts(p model.Protocol) bool { return p == model.TCP || p == model.UDP || p == model.SCTP }

// icmp reads the types and codes that match and that do not.
func (l *l4) icmp(is, not field.Cursor) {
	if p, ok := l.icmpPort(is); ok {
		l.base = []model.Port{p}
	}
	if p, ok := l.icmpPort(not); ok {
		l.except = append(l.except, p.Interval())
	}
}

func (l *l4) icmpPort(c field.Cursor) (model.Port, bool) {
	if !c.Mapping() {
		return model.Port{}, false
	}
	kind, code := c.Field("type"), c.Field("code")
	t, ok := kind.Int(0, 254)
	number := -1
	if n, written := code.Int(0, 255); written {
		number = n
	}
	c.Done()
	switch {
	case l.version() == 0:
		c.Error("needs protocol ICMP or ICMPv6", "")
		return model.Port{}, false
	case code.Present() && !kind.Present():
		code.Error("may not stand without type", "")
		return model.Port{}, false
	case !ok:
		return model.Port{Protocol: l.protocol, Last: 65535, Source: c.Source()}, !kind.Present()
	}
	p := model.ICMPPort(l.protocol, uint8(t), number)
	p.Source = c.Source()
	return p, true
}

// ports reads the destination's ports.
func (l *l4) ports(list field.Cursor) {
	items := list.Items()
	if len(items) == 0 {
		return
	}
	atMost(items, maxPorts, list)
	l.base = []model.Port{}
	for _, c := range items {
		p, ok := l.port(c)
		if !ok {
			continue
		}
		if p.Name != "" && l.protocol == model.AnyProtocol {
			p.Protocol = model.TCP // a name alone is one of TCP
		}
		l.base = append(l.base, p)
	}
}

// notPorts reads the destination's ports that do not match.
func (l *l4) notPorts(list field.Cursor) {
	items := list.Items()
	atMost(items, maxPorts, list)
	for _, c := range items {
		p, ok := l.port(c)
		switch {
		case !ok:
		case p.Name != "":
			c.Error("a port by name cannot be excluded: each destination has its own number for it", "write the number")
		default:
			l.except = append(l.except, p.Interval())
		}
	}
	for _, p := range l.base {
		if len(items) > 0 && p.Name != "" {
			list.Error("may not stand beside ports by name: they may come to the same number", "write the numbers")
			return
		}
	}
}

var portName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// port reads a number, a range such as 100:200, or a name.
func (l *l4) port(c field.Cursor) (model.Port, bool) {
	out := model.Port{Protocol: l.protocol, Source: c.Source()}
	first, last := 0, 0
	if c.IsInt() {
		n, ok := c.Int(1, 65535)
		if !ok {
			return out, false
		}
		first, last = n, n
	} else {
		text := c.String()
		a, b, isRange := strings.Cut(text, ":")
		if !isRange {
			b = a
		}
		var errA, errB error
		first, errA = strconv.Atoi(a)
		last, errB = strconv.Atoi(b)
		switch {
		case !isRange && errA != nil && portName.MatchString(text):
			out.Name = text
		case errA != nil || errB != nil:
			if c.IsString() {
				c.Error("\""+text+"\" is no port", "a number, a range such as 8000:8080, or a name")
			}
			return out, false
		case first < 1 || last > 65535 || first > last:
			c.Error("\""+text+"\" is no range of ports", "the first and the last, from 1 to 65535")
			return out, false
		}
	}
	switch {
	case out.Name == "" && l.protocol == model.AnyProtocol:
		c.Error("a port by number needs a protocol", "protocol: TCP, UDP or SCTP")
		return out, false
	case l.protocol != model.AnyProtocol && !hasPorts(l.protocol):
		c.Error("protocol "+l.protocol.String()+" has no ports", "protocol: TCP, UDP or SCTP")
		return out, false
	case out.Name == "":
		out.First, out.Last = uint16(first), uint16(last)
	}
	return out, true
}
