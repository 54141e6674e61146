package flow

import (
	"bytes"
	"net/netip"

	"github.com/sallyport-dev/sallyport/model"
)

// Reader reads records as ParseRecord does, many and fast: what it has seen
// before it does not parse again, and equal names are one string. The zero
// value is ready. It belongs to one goroutine.
type Reader struct {
	addresses map[string]netip.Addr
	names     map[string]string
	buf       []byte
}

var slash = []byte{'/'}

// mostSeen bounds what a Reader remembers of each kind.
const mostSeen = 1 << 17

// Parse reads one line. The record does not hold on to it.
func (r *Reader) Parse(line []byte) (Record, bool, error) {
	s := scanner{rest: line}
	var f, inner fields
	f.inner = &inner
	s.skipSpace()
	if s.flow(&f) {
		s.skipSpace()
		if len(s.rest) == 0 {
			if f.hasInner {
				f = inner
			}
			if out, ok, plain := r.record(&f); plain {
				return out, ok, nil
			}
		}
	}
	return ParseRecord(line) // it is wrong, or written in an unusual way
}

// record is what the fields say; plain is whether they are as usual.
func (r *Reader) record(f *fields) (out Record, ok, plain bool) {
	if f.hasIP {
		return r.fromHubble(f)
	}
	if f.isInner || string(f.verdict) != "allowed" && string(f.verdict) != "denied" {
		return out, false, true // lost events, or one of Hubble's without addresses
	}
	var good [2]bool
	out.Source, good[0] = r.address(f.source)
	out.Destination, good[1] = r.address(f.destination)
	if !good[0] || !good[1] {
		return out, false, false
	}
	out.SourcePod, out.DestinationPod = r.name(f.sourcePod), r.name(f.destinationPod)
	out.Allowed = len(f.verdict) == len("allowed")
	out.Key = model.PortKeyOf(model.Protocol(f.protocol), uint16(f.port))
	return out, true, true
}

func (r *Reader) fromHubble(f *fields) (out Record, ok, plain bool) {
	var good [2]bool
	out.Source, good[0] = r.address(f.ipSource)
	out.Destination, good[1] = r.address(f.ipDestination)
	if len(f.ipSource) > 0 && !good[0] || len(f.ipDestination) > 0 && !good[1] || f.source != nil || f.destination != nil || f.layers > 1 {
		return out, false, false
	}
	if f.reply || f.layers == 0 || f.kind != nil && string(f.kind) != "" && string(f.kind) != "L3_L4" {
		return out, false, true
	}
	switch string(f.verdict) {
	case "FORWARDED", "REDIRECTED", "AUDIT", "TRACED":
		out.Allowed = true
	case "DROPPED":
	default:
		return out, false, true
	}
	out.Source, out.Destination = out.Source.Unmap(), out.Destination.Unmap()
	out.Key = model.PortKeyOf(f.l4, uint16(f.l4Port))
	if len(f.from.pod) > 0 {
		out.SourcePod = r.name(f.from.namespace, slash, f.from.pod)
	}
	if len(f.to.pod) > 0 {
		out.DestinationPod = r.name(f.to.namespace, slash, f.to.pod)
	}
	return out, true, true
}

// address parses an address; the empty text is none.
func (r *Reader) address(text []byte) (netip.Addr, bool) {
	if a, ok := r.addresses[string(text)]; ok {
		return a, true
	}
	a, err := netip.ParseAddr(string(text))
	if err != nil {
		return a, false
	}
	if r.addresses == nil || len(r.addresses) >= mostSeen {
		r.addresses = map[string]netip.Addr{}
	}
	r.addresses[string(text)] = a
	return a, true
}

// name is the parts as one name.
func (r *Reader) name(parts ...[]byte) string {
	r.buf = r.buf[:0]
	for _, p := range parts {
		r.buf = append(r.buf, p...)
	}
	if s, ok := r.names[string(r.buf)]; ok {
		return s
	}
	if r.names == nil || len(r.names) >= mostSeen {
		r.names = map[string]string{}
	}
	s := string(r.buf)
	r.names[s] = s
	return s
}

// fields are those of a flow that say something about it, our own or Hubble's.
type fields struct {
	source, destination, sourcePod, destinationPod, verdict, kind, ipSource, ipDestination []byte

	port, protocol, l4Port int
	from, to               ends
	l4                     model.Protocol
	layers                 int // of layer 4 that are there
	hasIP, reply           bool
	hasInner, isInner      bool // whether it is in the field "flow", or is it
	inner                  *fields
}

type ends struct{ namespace, pod []byte }

// scanner walks through a line of JSON. Its methods say whether it is as
// expected; what they return lies in the line.
type scanner struct{ rest []byte }

func (s *scanner) skipSpace() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\t' || s.rest[0] == '\r' || s.rest[0] == '\n') {
		s.rest = s.rest[1:]
	}
}

func (s *scanner) take(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) literal(word string) bool {
	if len(s.rest) < len(word) || string(s.rest[:len(word)]) != word {
		return false
	}
	s.rest = s.rest[len(word):]
	return true
}

// text is a string without escapes.
func (s *scanner) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	n := bytes.IndexByte(s.rest, '"')
	if n < 0 {
		return nil, false
	}
	out := s.rest[:n:n]
	for _, c := range out {
		if c == '\\' || c < ' ' || c >= 0x80 {
			return nil, false
		}
	}
	s.rest = s.rest[n+1:]
	return out, true
}

// into is text, or null, which leaves what is there.
func (s *scanner) into(out *[]byte) bool {
	if s.literal("null") {
		return true
	}
	t, ok := s.text()
	*out = t
	return ok
}

// number is a whole number up to most; null leaves what is there.
func (s *scanner) number(out *int, most int) bool {
	if s.literal("null") {
		return true
	}
	n, i := 0, 0
	for i < len(s.rest) && i < 8 && '0' <= s.rest[i] && s.rest[i] <= '9' {
		n = n*10 + int(s.rest[i]-'0')
		i++
	}
	if i == 0 || i > 1 && s.rest[0] == '0' || i < len(s.rest) && (s.rest[i] == '.' || s.rest[i]|0x20 == 'e' || '0' <= s.rest[i] && s.rest[i] <= '9') {
		return false
	}
	s.rest, *out = s.rest[i:], n
	return n <= most
}

func (s *scanner) boolean(out *bool) bool {
	switch {
	case s.literal("true"):
		*out = true
	case s.literal("false"):
		*out = false
	default:
		return s.literal("null")
	}
	return true
}

// object calls f with each key, which reads the value; null has none.
func (s *scanner) object(f func(key []byte) bool) bool {
	if s.literal("null") {
		return true
	}
	if !s.take('{') {
		return false
	}
	s.skipSpace()
	if s.take('}') {
		return true
	}
	for {
		s.skipSpace()
		key, ok := s.text()
		s.skipSpace()
		if !ok || !s.take(':') {
			return false
		}
		s.skipSpace()
		if !f(key) {
			return false
		}
		s.skipSpace()
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// skip passes over a value. What is in an object or list there is not looked
// at, but for where it ends.
func (s *scanner) skip() bool {
	if len(s.rest) == 0 {
		return false
	}
	switch s.rest[0] {
	case '"':
		return s.skipText()
	case '{', '[':
		return s.skipNested()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	i := 0
	for i < len(s.rest) && (s.rest[i] == '-' || s.rest[i] == '+' || s.rest[i] == '.' || s.rest[i]|0x20 == 'e' || '0' <= s.rest[i] && s.rest[i] <= '9') {
		i++
	}
	s.rest = s.rest[i:]
	return i > 0
}

func (s *scanner) skipText() bool {
	n := bytes.IndexByte(s.rest[1:], '"') + 1
	if n > 0 && s.rest[n-1] != '\\' {
		s.rest = s.rest[n+1:]
		return true
	}
	for i := 1; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '\\':
			i++
		case '"':
			s.rest = s.rest[i+1:]
			return true
		}
	}
	return false
}

func (s *scanner) skipNested() bool {
	for depth := 0; len(s.rest) > 0; {
		switch s.rest[0] {
		case '"':
			if !s.skipText() {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.rest = s.rest[1:]
		if depth == 0 {
			return true
		}
	}
	return false
}

// flow reads a flow, or the object that has it in its field "flow".
func (s *scanner) flow(f *fields) bool {
	if len(s.rest) == 0 || s.rest[0] != '{' {
		return false
	}
	return s.object(func(key []byte) bool {
		switch string(key) {
		case "source":
			return s.end(&f.source, &f.from)
		case "destination":
			return s.end(&f.destination, &f.to)
		case "sourcePod":
			return s.into(&f.sourcePod)
		case "destinationPod":
			return s.into(&f.destinationPod)
		case "destinationPort":
			return s.number(&f.port, 65535)
		case "protocol":
			return s.number(&f.protocol, 255)
		case "verdict":
			return s.into(&f.verdict)
		case "Type":
			return s.into(&f.kind)
		case "is_reply":
			return s.boolean(&f.reply)
		case "IP":
			f.hasIP = f.hasIP || len(s.rest) > 0 && s.rest[0] == '{'
			return s.object(func(key []byte) bool {
				switch string(key) {
				case "source":
					return s.into(&f.ipSource)
				case "destination":
					return s.into(&f.ipDestination)
				}
				return s.skip()
			})
		case "l4":
			return s.object(func(key []byte) bool { return s.layer(f, key) })
		case "flow":
			if f.inner == nil {
				return s.skip()
			}
			if s.literal("null") {
				return true
			}
			f.hasInner, f.inner.isInner = true, true
			return s.flow(f.inner)
		}
		return s.skip()
	})
}

// end reads an address, or a pod of Hubble's.
func (s *scanner) end(address *[]byte, pod *ends) bool {
	if len(s.rest) > 0 && s.rest[0] == '"' {
		return s.into(address)
	}
	return s.object(func(key []byte) bool {
		switch string(key) {
		case "namespace":
			return s.into(&pod.namespace)
		case "pod_name":
			return s.into(&pod.pod)
		}
		return s.skip()
	})
}

// layers are the protocols of Hubble's layer 4.
var layers = map[string]model.Protocol{"TCP": model.TCP, "UDP": model.UDP, "SCTP": model.SCTP, "ICMPv4": model.ICMP, "ICMPv6": model.ICMPv6}

func (s *scanner) layer(f *fields, key []byte) bool {
	p, ok := layers[string(key)]
	if !ok || len(s.rest) > 0 && s.rest[0] == 'n' {
		return s.skip()
	}
	f.layers++
	f.l4 = p
	var kind, code int
	good := s.object(func(key []byte) bool {
		switch string(key) {
		case "destination_port":
			return s.number(&f.l4Port, 65535)
		case "type":
			return s.number(&kind, 255)
		case "code":
			return s.number(&code, 255)
		}
		return s.skip()
	})
	if p == model.ICMP || p == model.ICMPv6 {
		f.l4Port = kind<<8 | code
	}
	return good
}
