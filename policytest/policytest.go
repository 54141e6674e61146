// Package policytest decodes PolicyTest objects and checks them against a
// Matrix. A case speaks of every pair, port and address that its selectors,
// "external" or ranges stand for; a failure names the part that differs. The
// package is pure; the lab checks the same Checks with real connections.
package policytest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Case is one expectation.
type Case struct {
	Name     string
	Test     string // name of the PolicyTest
	From, To Side
	Ports    []Port // none: every protocol and port
	Allow    bool
	Isolated bool // From is everybody but To, and nodes: nobody of them may reach it
	Source   model.Source
}

// Side is one end of a case: pods by name or labels, an address, "external" or "node".
type Side struct {
	Text     string // as written, or the selector for people
	Pod      string // namespace/name, or namespace/kind/name, of a pod or workload
	Selector *model.EndpointSelector
	Addr     netip.Addr
	External bool
	Node     bool
	Source   model.Source
}

// Port is a port as a case writes it.
type Port struct {
	Interval model.Interval
	Name     string // of the destination's container port; Interval is unused
	Protocol model.Protocol
}

// Decode reads one PolicyTest.
func Decode(o field.Object) ([]Case, []model.Problem) {
	p := &field.Problems{}
	root := field.Open(o, p)
	root.Field("apiVersion")
	root.Field("kind")
	root.Field("metadata")
	spec := root.Field("spec")
	root.Done()
	var out []Case
	if !spec.Mapping() {
		root.Error("spec is missing", "a PolicyTest has spec.cases")
		return nil, p.List
	}
	for i, c := range spec.Field("cases").Items() {
		if !c.Mapping() {
			continue
		}
		for _, k := range decodeCase(c) {
			k.Test = o.Source.Name
			switch {
			case k.Name == "" && k.Isolated:
				k.Name = fmt.Sprintf("case %d: nobody else to %s", i+1, k.To.Text)
			case k.Name == "":
				k.Name = fmt.Sprintf("case %d: %s to %s", i+1, k.From.Text, k.To.Text)
			}
			out = append(out, k)
		}
	}
	spec.Done()
	return out, p.List
}

// decodeCase reads one case: several, if from or to are lists.
func decodeCase(c field.Cursor) []Case {
	k := Case{Source: c.Source(), Name: c.Field("name").String()}
	from, to := c.Field("from"), decodeSides(c.Field("to"))
	k.decodePorts(c)
	k.Isolated = c.Field("expect").Value() == "isolated"
	if !k.Isolated {
		out := product(k, decodeSides(from), to)
		c.Done()
		return out
	}
	if from.Present() {
		from.Error("may not stand beside expect: isolated", "it is everybody who is not in to")
	}
	c.Done()
	return product(k, []Side{{Text: "everybody else"}}, to)
}

// product is the case for every pair of sides.
func product(k Case, from, to []Side) []Case {
	var out []Case
	for _, f := range from {
		for _, t := range to {
			x := k
			x.From, x.To = f, t
			if k.Name != "" && len(from)*len(to) > 1 {
				x.Name = fmt.Sprintf("%s: %s to %s", k.Name, f.Text, t.Text)
			}
			out = append(out, x)
		}
	}
	return out
}

func decodeSides(c field.Cursor) []Side {
	if !c.IsList() {
		return []Side{decodeSide(c)}
	}
	var out []Side
	for _, i := range c.Items() {
		out = append(out, decodeSide(i))
	}
	if len(out) == 0 {
		c.Error("is an empty list", "a pod as namespace/name, an IP, external, node, or {namespace: …, pod: …}")
	}
	return out
}

// decodePorts reads the ports of a case and what it expects.
func (k *Case) decodePorts(c field.Cursor) {
	protocol := model.TCP
	if p := c.Field("protocol"); p.Present() {
		var ok bool
		if protocol, ok = model.ParseProtocol(p.String()); !ok {
			p.Error("unknown protocol \""+p.Value()+"\"", "one of TCP, UDP, SCTP, ICMP")
		}
	}
	port := c.Field("port")
	switch {
	case port.IsList():
		for _, i := range port.Items() {
			k.addPort(i, protocol)
		}
	case port.Present():
		k.addPort(port, protocol)
	case c.Field("protocol").Present():
		k.Ports = []Port{{Interval: model.Interval{First: model.PortKeyOf(protocol, 0), Last: model.PortKeyOf(protocol, 65535)}}}
	}
	switch e := c.Field("expect"); e.String() {
	case "allow":
		k.Allow = true
	case "deny", "isolated":
	default:
		e.Error("must be allow, deny or isolated, not \""+e.Value()+"\"", "")
	}
}

func (k *Case) addPort(c field.Cursor, protocol model.Protocol) {
	p, err := ParsePort(c.Value(), protocol)
	if err != nil {
		c.Error(err.Error(), "a number, a name, or a range such as 8000-8080; with /UDP behind it for another protocol")
		return
	}
	k.Ports = append(k.Ports, p)
}

// ParsePort reads 80, 80/TCP, 53/UDP, 8000-8080/TCP or a port name.
func ParsePort(s string, protocol model.Protocol) (Port, error) {
	text, suffix, found := strings.Cut(s, "/")
	if found {
		var ok bool
		if protocol, ok = model.ParseProtocol(suffix); !ok {
			return Port{}, fmt.Errorf("unknown protocol %q", suffix)
		}
	}
	first, last, isRange := strings.Cut(text, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		if text == "" || text[0] >= '0' && text[0] <= '9' {
			return Port{}, fmt.Errorf("%q is no port", s)
		}
		return Port{Name: text, Protocol: protocol}, nil
	}
	b := a
	if isRange {
		if b, err = strconv.ParseUint(last, 10, 16); err != nil || b < a {
			return Port{}, fmt.Errorf("%q is no range of ports", s)
		}
	}
	return Port{Protocol: protocol, Interval: model.Interval{First: model.PortKeyOf(protocol, uint16(a)), Last: model.PortKeyOf(protocol, uint16(b))}}, nil
}

func decodeSide(c field.Cursor) Side {
	if !c.Present() {
		c.Error("is missing", "a pod as namespace/name, an IP, external, node, or {namespace: …, pod: …}")
		return Side{Source: c.Source()}
	}
	if c.Value() != "" {
		s := ParseSide(c.Value())
		s.Source = c.Source()
		return s
	}
	s := Side{Selector: &model.EndpointSelector{}, Source: c.Source()}
	if c.Mapping() {
		s.Selector.Namespaces, _ = field.Selector(c.Field("namespace"))
		s.Selector.Pods, _ = field.Selector(c.Field("pod"))
		c.Done()
	}
	s.Text = s.Selector.String()
	return s
}

// ParseSide reads a side as the command line writes it.
func ParseSide(s string) Side {
	side := Side{Text: s}
	if a, err := netip.ParseAddr(s); err == nil {
		side.Addr = a.Unmap()
		return side
	}
	switch s {
	case "external":
		side.External = true
	case "node":
		side.Node = true
	default:
		side.Pod = s
	}
	return side
}

// Parties lists who the side stands for. peer is the other end, whose node
// "node" means. It is an error if nobody is meant.
func (s Side) Parties(m *engine.Matrix, peers []engine.Party) ([]engine.Party, error) {
	var out []engine.Party
	switch {
	case s.Addr.IsValid():
		return []engine.Party{{Addr: s.Addr, Endpoint: m.EndpointAt(s.Addr)}}, nil
	case s.External:
		for _, a := range m.Outside() {
			out = append(out, engine.Party{Addr: a})
		}
		return out, nil
	case s.Node:
		for _, p := range peers {
			if p.Endpoint != nil {
				out = append(out, engine.Party{Node: p.Endpoint.Node})
			}
		}
	case s.Selector != nil:
		for _, e := range m.Selected(*s.Selector) {
			out = append(out, engine.Party{Endpoint: e})
		}
	default:
		for _, e := range m.Endpoints() {
			if Names(s.Pod, e) {
				out = append(out, engine.Party{Endpoint: e})
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s matches no pod", s.Text)
	}
	return out, nil
}

// Names says whether NS/NAME or NS/KIND/NAME is the pod or its workload.
func Names(text string, e *model.Endpoint) bool {
	switch text {
	case e.Key(), e.Namespace + "/" + e.Workload.Name, e.Namespace + "/" + e.Workload.Kind + "/" + e.Workload.Name:
		return true
	}
	return false
}

// Check is one pair of a case, and what the case says of it.
type Check struct {
	Case     *Case
	From, To engine.Party
	Ports    model.PortSet // every protocol and port if the case names none
}

// Result is how a check came out.
type Result struct {
	Check
	Differs model.PortSet // the part that is not as expected; none: passed
	Verdict engine.Verdict
	At      model.PortKey // what Verdict judges: the first that differs
	Error   error         // the case speaks of nobody
}

// Passed says whether everything is as the case expects.
func (r Result) Passed() bool { return r.Error == nil && len(r.Differs) == 0 }

// Expand lists the checks of a case.
func Expand(m *engine.Matrix, c *Case) ([]Check, error) {
	from, to, err := c.sides(m)
	if err != nil {
		return nil, err
	}
	var out []Check
	for _, f := range from {
		for _, t := range to {
			if skip(c, f, t) {
				continue
			}
			ports, err := c.portsOf(t)
			if err != nil {
				return nil, err
			}
			for _, p := range addressPairs(f, t) {
				out = append(out, Check{Case: c, From: p[0], To: p[1], Ports: ports})
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the case speaks of no pair of two different ends")
	}
	return out, nil
}

func (c *Case) sides(m *engine.Matrix) (from, to []engine.Party, err error) {
	if c.Isolated {
		to, err = c.To.Parties(m, nil)
		return others(m, to), to, err
	}
	if c.From.Node {
		if to, err = c.To.Parties(m, nil); err != nil {
			return nil, nil, err
		}
		from, err = c.From.Parties(m, to)
		return from, to, err
	}
	if from, err = c.From.Parties(m, nil); err != nil {
		return nil, nil, err
	}
	to, err = c.To.Parties(m, from)
	return from, to, err
}

// others is every pod with an address of its own that is not among the
// parties, and everybody outside.
func others(m *engine.Matrix, parties []engine.Party) []engine.Party {
	in := map[*model.Endpoint]bool{}
	for _, p := range parties {
		in[p.Endpoint] = true
	}
	var out []engine.Party
	for _, e := range m.Endpoints() {
		if !in[e] && !e.HostNetwork {
			out = append(out, engine.Party{Endpoint: e})
		}
	}
	for _, a := range m.Outside() {
		out = append(out, engine.Party{Addr: a})
	}
	return out
}

// skip leaves out pairs that the case cannot mean: a pod and itself where a
// selector stands for both, and another pod's node.
func skip(c *Case, f, t engine.Party) bool {
	if f.Endpoint != nil && f.Endpoint == t.Endpoint {
		return c.From.Selector != nil || c.To.Selector != nil
	}
	if c.From.Node && t.Endpoint != nil || c.To.Node && f.Endpoint != nil {
		if c.From.Node {
			return t.Endpoint.Node != f.Node
		}
		return f.Endpoint.Node != t.Node
	}
	return false
}

// addressPairs lists the two parties once for each pair of their addresses
// that can have a connection: two of one family. There is none between an
// IPv4 and an IPv6 address.
func addressPairs(f, t engine.Party) [][2]engine.Party {
	var out [][2]engine.Party
	for _, a := range addresses(f) {
		for _, b := range addresses(t) {
			if a.IsValid() && b.IsValid() && a.Is4() != b.Is4() {
				continue
			}
			f.Addr, t.Addr = a, b
			out = append(out, [2]engine.Party{f, t})
		}
	}
	return out
}

// addresses lists the addresses that the party may use: the one that was
// asked for or all of the pod. Who has none that is known keeps it open.
func addresses(p engine.Party) []netip.Addr {
	if !p.Addr.IsValid() && p.Endpoint != nil && len(p.Endpoint.IPs) > 0 {
		return p.Endpoint.IPs
	}
	return []netip.Addr{p.Addr}
}

func (c *Case) portsOf(to engine.Party) (model.PortSet, error) {
	if len(c.Ports) == 0 {
		return model.AllPorts(), nil
	}
	var out []model.Interval
	for _, p := range c.Ports {
		iv := p.Interval
		if p.Name != "" {
			if to.Endpoint == nil {
				return nil, fmt.Errorf("port name %s has no meaning for %s", p.Name, c.To.Text)
			}
			n, ok := to.Endpoint.NamedPort(p.Name, p.Protocol)
			if !ok {
				return nil, fmt.Errorf("%s has no %s port named %s", to.Endpoint.Key(), p.Protocol, p.Name)
			}
			iv = model.Interval{First: model.PortKeyOf(p.Protocol, n), Last: model.PortKeyOf(p.Protocol, n)}
		}
		out = append(out, iv)
	}
	return model.Union(out...), nil
}

// Run checks a case: one Result for each pair that it speaks of.
func Run(m *engine.Matrix, c *Case) []Result {
	checks, err := Expand(m, c)
	if err != nil {
		return []Result{{Check: Check{Case: c}, Error: err}}
	}
	out := make([]Result, 0, len(checks))
	for _, k := range checks {
		out = append(out, k.run(m))
	}
	return out
}

func (k Check) run(m *engine.Matrix) Result {
	open := m.Connections(k.From, k.To)
	r := Result{Check: k}
	if k.Case.Allow {
		r.Differs = k.Ports.Subtract(open)
	} else {
		r.Differs = k.Ports.Intersect(open)
	}
	if len(r.Differs) > 0 {
		r.At = r.Differs[0].First
	} else {
		r.At = k.Ports[0].First
	}
	r.Verdict = m.Verdict(k.From, k.To, r.At)
	return r
}
