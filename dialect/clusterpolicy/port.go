package clusterpolicy

import (
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// protocols are those that a rule can name ports of.
var protocols = []struct {
	field string // of v1alpha2
	word  string // of v1alpha1
	model model.Protocol
}{
	{"tcp", "TCP", model.TCP},
	{"udp", "UDP", model.UDP},
	{"sctp", "SCTP", model.SCTP},
}

// protocol reads an item of v1alpha2's protocols.
func protocol(c field.Cursor) []model.Port {
	const byName = "destinationNamedPort"
	name, at := one(c, "an item", "tcp", "udp", "sctp", byName)
	if name == byName {
		return named(at, c.Source())
	}
	for _, p := range protocols {
		if p.field == name {
			return destination(at, model.Port{Protocol: p.model, Source: c.Source()})
		}
	}
	return nil
}

// destination reads the port of one protocol.
func destination(c field.Cursor, out model.Port) []model.Port {
	if !object(c) {
		return nil
	}
	at := c.Field("destinationPort")
	c.Done()
	if !at.Present() {
		at.Error("is missing", "for every port write {range: {start: 1, end: 65535}}")
		return nil
	}
	switch name, at := one(at, "a port", "number", "range"); name {
	case "number":
		out.First = portNumber(at)
		out.Last = out.First
	case "range":
		if !object(at) {
			return nil
		}
		interval(at, &out)
		at.Done()
		if out.First > 0 && out.First == out.Last {
			at.Error("start must be below end", "write number for one port")
		}
	}
	return []model.Port{out}
}

// port reads an item of v1alpha1's ports.
func port(c field.Cursor) []model.Port {
	name, at := one(c, "an item", "portNumber", "namedPort", "portRange")
	out := model.Port{Protocol: model.TCP, Source: c.Source()}
	switch name {
	case "":
		return nil
	case "namedPort":
		return named(at, c.Source())
	}
	if !object(at) {
		return nil
	}
	if p := at.Field("protocol"); p.Present() {
		out.Protocol = protocolWord(p)
	}
	if name == "portNumber" {
		out.First = portNumber(at.Field("port"))
		out.Last = out.First
	} else {
		interval(at, &out)
	}
	at.Done()
	return []model.Port{out}
}

func protocolWord(c field.Cursor) model.Protocol {
	word := c.String()
	for _, p := range protocols {
		if p.word == word {
			return p.model
		}
	}
	c.Error("unknown protocol \""+c.Value()+"\"", "one of TCP, UDP, SCTP, in capitals")
	return model.TCP
}

func portNumber(c field.Cursor) uint16 {
	if !required(c) {
		return 0
	}
	n, _ := c.Int(1, 65535)
	return uint16(n)
}

func interval(c field.Cursor, out *model.Port) {
	end := c.Field("end")
	out.First, out.Last = portNumber(c.Field("start")), portNumber(end)
	if out.Last > 0 && out.First > out.Last {
		end.Error("must not be below start", "the range is start to end, inclusive")
	}
}

// named reads a port's name. It means the port of every protocol that a pod
// gives this name to.
func named(c field.Cursor, source model.Source) []model.Port {
	name := c.String()
	if !field.ValidPortName(name) {
		c.Error("\""+c.Value()+"\" is no valid port name", "at most 15 lower-case letters, digits and single '-', at least one letter; no container's port can have any other")
	}
	var out []model.Port
	for _, p := range protocols {
		out = append(out, model.Port{Protocol: p.model, Name: name, Source: source})
	}
	return out
}
