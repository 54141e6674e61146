package scenarios

import (
	"errors"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
)

// Executor is something that can say which connections of a scenario's
// cluster are possible.
type Executor interface {
	// Start brings the scenario's cluster and policies up; what has to be
	// taken down again it registers with t.Cleanup. It fails t if it cannot.
	Start(t testing.TB, s *Scenario) World
}

// World is a scenario that is up.
type World interface {
	// Differs is the part of the check's ports for which the opposite of what
	// its case expects is true. An executor that tries points and not ranges
	// answers for the points that it tried.
	Differs(c policytest.Check) (model.PortSet, error)
}

// ErrUntried is what a Judge returns for a connection that it has no means to
// try, such as a protocol that the machine does not speak.
var ErrUntried = errors.New("this executor cannot try the connection")

// Judge says whether one connection can be made. It is the World of those who
// answer point by point.
type Judge func(from, to engine.Party, key model.PortKey) (allowed bool, err error)

// Differs asks for every one of the check's Samples.
func (j Judge) Differs(c policytest.Check) (model.PortSet, error) {
	var out []model.Interval
	for _, key := range Samples(c) {
		allowed, err := j(c.From, c.To, key)
		switch {
		case errors.Is(err, ErrUntried):
		case err != nil:
			return nil, err
		case allowed != c.Case.Allow:
			out = append(out, model.Interval{First: key, Last: key})
		}
	}
	return model.Union(out...), nil
}

// Samples lists the points that stand for the check's ports: both ends of
// every interval, what the destination declares, and, as far as the check
// speaks of them, a few ports of each protocol and an echo request.
func Samples(c policytest.Check) []model.PortKey {
	candidates := []model.PortKey{
		model.PortKeyOf(model.ICMP, 8<<8), model.PortKeyOf(model.ICMPv6, 128<<8), model.PortKeyOf(47, 0),
	}
	for _, p := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		for _, n := range []uint16{1, 80, 443, 65535} {
			candidates = append(candidates, model.PortKeyOf(p, n))
		}
	}
	if c.To.Endpoint != nil {
		for _, p := range c.To.Endpoint.Ports {
			candidates = append(candidates, model.PortKeyOf(p.Protocol, p.Number))
		}
	}
	for _, iv := range c.Ports {
		candidates = append(candidates, iv.First, iv.Last)
	}
	candidates = slices.DeleteFunc(candidates, func(k model.PortKey) bool { return !c.Ports.Contains(k) || !real(k) })
	slices.Sort(candidates)
	return slices.Compact(candidates)
}

// real says whether a packet can carry the key: there is no port 0, and the
// ends of "every protocol" are none that anybody speaks.
func real(k model.PortKey) bool {
	switch k.Protocol() {
	case model.TCP, model.UDP, model.SCTP:
		return k.Port() != 0
	case model.ICMP: // the requests: all else belongs to a connection or is invalid
		return slices.Contains([]uint16{8 << 8, 13 << 8, 15 << 8, 17 << 8}, k.Port())
	case model.ICMPv6:
		return k.Port() == 128<<8
	}
	return k == model.PortKeyOf(47, 0)
}

// Run takes every case of the scenario to the executor, each as a subtest.
func Run(t *testing.T, s *Scenario, e Executor) {
	t.Helper()
	world := e.Start(t, s)
	m := engine.Compile(s.Cluster)
	for i := range s.Cases {
		c := &s.Cases[i]
		t.Run(c.Name, func(t *testing.T) {
			checks, err := policytest.Expand(m, c)
			if err != nil {
				t.Fatalf("%s: %v", c.Source.Place(), err)
			}
			for _, k := range checks {
				runCheck(t, m, world, k)
			}
		})
	}
}

func runCheck(t *testing.T, m *engine.Matrix, w World, k policytest.Check) {
	t.Helper()
	differs, err := w.Differs(k)
	if err != nil {
		t.Fatalf("%s: cannot try %s to %s: %v", k.Case.Source.Place(), partyName(k.From), partyName(k.To), err)
	}
	if len(differs) == 0 {
		return
	}
	want, got := "denied", "allowed"
	if k.Case.Allow {
		want, got = got, want
	}
	v := m.Verdict(k.From, k.To, differs[0].First)
	t.Errorf("%s: %s to %s on %s is %s, want %s; the engine says egress %t (%s), ingress %t (%s)", k.Case.Source.Place(),
		partyName(k.From), partyName(k.To), differs, got, want, v.Egress.Allowed, v.Egress.Reason, v.Ingress.Allowed, v.Ingress.Reason)
}

func partyName(p engine.Party) string {
	switch {
	case p.Endpoint != nil:
		return p.Endpoint.Key()
	case p.Node != "":
		return "node " + p.Node
	}
	return p.Addr.String()
}

// Engine is the executor that compiles the cluster and answers from the
// Matrix, exactly and for whole ranges.
type Engine struct{}

// Start compiles the scenario.
func (Engine) Start(_ testing.TB, s *Scenario) World { return matrixWorld{engine.Compile(s.Cluster)} }

type matrixWorld struct{ matrix *engine.Matrix }

func (w matrixWorld) Differs(c policytest.Check) (model.PortSet, error) {
	open := w.matrix.Connections(c.From, c.To)
	if c.Case.Allow {
		return c.Ports.Subtract(open), nil
	}
	return c.Ports.Intersect(open), nil
}

// Verdicts is the executor that asks the engine for single verdicts, which
// take another way through it than whole ranges do.
type Verdicts struct{}

// Start compiles the scenario.
func (Verdicts) Start(_ testing.TB, s *Scenario) World {
	m := engine.Compile(s.Cluster)
	return Judge(func(from, to engine.Party, key model.PortKey) (bool, error) {
		return m.Verdict(from, to, key).Allowed, nil
	})
}

// Reference is the executor that asks the slow oracle, which shares no code
// with the compiler.
type Reference struct{}

// Start needs nothing: the oracle reads the cluster anew for every question.
func (Reference) Start(_ testing.TB, s *Scenario) World {
	return Judge(func(from, to engine.Party, key model.PortKey) (bool, error) {
		return reference.Judge(s.Cluster, referenceParty(s.Cluster, from), referenceParty(s.Cluster, to), key).Allowed, nil
	})
}

// referenceParty gives the party the address that it leaves open.
func referenceParty(c *model.Cluster, p engine.Party) reference.Party {
	out := reference.Party{Pod: p.Endpoint, Addr: p.Addr}
	if out.Addr.IsValid() {
		return out
	}
	if p.Endpoint != nil && len(p.Endpoint.IPs) > 0 {
		out.Addr = p.Endpoint.IPs[0]
	}
	for _, n := range c.Nodes {
		if n.Name == p.Node && len(n.IPs) > 0 {
			out.Addr = n.IPs[0]
		}
	}
	return out
}
