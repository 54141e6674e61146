// Package lint turns a compiled cluster into findings: what its policies most
// likely were not meant to say. It evaluates no policy by itself; who is
// selected, what is open and which rule is needed, the [engine.Matrix] says.
//
// A [Check] has a code that never changes its meaning, and a page in docs/lint
// whose examples are run by the tests. The package is pure: no I/O, clock or
// goroutine. Its tests are those pages, the scenarios, whose findings are held
// to a list that was read, and random clusters out of which everything is
// taken that was called superfluous.
package lint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Input is what is looked at. Only Cluster and its Matrix are needed.
type Input struct {
	Cluster  *model.Cluster
	Matrix   *engine.Matrix
	Problems []model.Problem     // that reading the input found
	Ignored  map[string][]string // codes that authors know of, by Source.Object
	Omitted  []model.Source      // fields of policies that were left to their default
	Unused   []model.Source      // lists of rules that a policy's types leave out
	Together func(...func())     // runs what it is given at the same time; nil: one after the other
}

// Finding is something that was most likely not meant.
type Finding struct {
	Code     string         `json:"code"`
	Severity model.Severity `json:"severity"`
	Source   model.Source   `json:"source"`
	Message  string         `json:"message"`           // what is so, with the names
	Fix      string         `json:"fix,omitempty"`     // what to write instead
	Related  []model.Source `json:"related,omitempty"` // other places that have to do with it
}

// String writes the finding on one line, place first, so that editors can jump.
func (f Finding) String() string {
	p := model.Problem{Severity: f.Severity, Source: f.Source, Message: f.Message, Hint: f.Fix}
	return strings.Replace(p.Error(), f.Severity.String()+": ", f.Severity.String()+" "+f.Code+": ", 1)
}

// Run looks at the input. The findings are sorted by place, then code.
func Run(in Input) []Finding {
	r := newRun(in)
	r.together(r.imagine, func() {
		for _, p := range in.Cluster.Policies {
			r.policy(p)
		}
	})
	policies := r.out
	r.out = nil
	r.coverage()
	r.out = append(r.out, policies...)
	r.effects()
	r.names()
	r.doors()
	r.written()
	r.problems()
	slices.SortStableFunc(r.out, compare)
	return r.out
}

func compare(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.Source.File, b.Source.File), cmp.Compare(a.Source.Line, b.Source.Line), cmp.Compare(a.Source.Column, b.Source.Column),
		cmp.Compare(a.Source.Object(), b.Source.Object()), cmp.Compare(a.Source.Field, b.Source.Field), cmp.Compare(a.Code, b.Code),
	)
}

// run is one look at an input.
type run struct {
	Input
	out          []Finding
	samples      map[string][]*model.Endpoint // of selectors, by their key
	shapes       []shape
	imagined     *engine.Matrix
	rules        []engine.Effect        // of the imagined Matrix
	needless     []*model.Policy        // the same
	clouded      map[*model.Policy]bool // of which errors elsewhere do not let one say what is superfluous
	pods         addressIndex
	nodes        addressIndex
	services     addressIndex
	byNamespace  map[string][]*model.Service
	wrong        map[string]bool // objects with errors, by Source.Object
	vocabularies map[string]vocabulary
	keyBuf       []byte
	buf          []pair // scratch of halves
	ends         map[*model.Endpoint]engine.End
}

func newRun(in Input) *run {
	r := &run{Input: in, samples: map[string][]*model.Endpoint{}, ends: map[*model.Endpoint]engine.End{}}
	r.shapes = shapesOf(in.Cluster)
	r.pods, r.nodes, r.services = podAddresses(in.Cluster), nodeAddresses(in.Cluster), serviceAddresses(in.Cluster)
	r.byNamespace = map[string][]*model.Service{}
	for i := range in.Cluster.Services {
		s := &in.Cluster.Services[i]
		r.byNamespace[s.Namespace] = append(r.byNamespace[s.Namespace], s)
	}
	r.wrong = map[string]bool{}
	for _, p := range in.Problems {
		if p.Severity == model.Error {
			r.wrong[p.Source.Object()] = true
		}
	}
	return r
}

// together runs the functions, which share nothing that they write.
func (r *run) together(functions ...func()) {
	if r.Together != nil {
		r.Together(functions...)
		return
	}
	for _, f := range functions {
		f()
	}
}

// find reports a finding of the check, unless its object says that it is known.
func (r *run) find(code string, at model.Source, message, fix string, related ...model.Source) {
	c, ok := checks[code]
	if !ok {
		panic("no check " + code)
	}
	r.report(Finding{Code: code, Severity: c.Severity, Source: at, Message: message, Fix: fix, Related: related})
}

func (r *run) report(f Finding) {
	if !r.ignores(f.Source, f.Code) {
		r.out = append(r.out, f)
	}
}

func (r *run) ignores(s model.Source, code string) bool {
	return slices.Contains(r.Ignored[s.Object()], code)
}

// sample lists pods that stand for all that the selector of a policy selects.
func (r *run) sample(s *model.EndpointSelector) []*model.Endpoint {
	r.keyBuf = s.AppendKey(r.keyBuf[:0])
	if out, ok := r.samples[string(r.keyBuf)]; ok {
		return out
	}
	out := r.Matrix.Sample(s)
	r.samples[string(r.keyBuf)] = out
	return out
}

// directions are both doors.
var directions = []model.Direction{model.Ingress, model.Egress}

// policy looks at one policy and its rules.
func (r *run) policy(p *model.Policy) {
	r.subject(p)
	r.tier(p)
	for _, d := range directions {
		s := p.Section(d)
		if s == nil {
			continue
		}
		for i := range s.Rules {
			x := rule{policy: p, direction: d, Rule: &s.Rules[i]}
			r.peers(&x)
			r.ports(&x)
			r.width(&x)
			r.blocks(&x)
			r.halves(&x)
		}
	}
}

// rule is a rule and where it stands.
type rule struct {
	*model.Rule
	policy    *model.Policy
	direction model.Direction
}

// allows says whether the rule lets anything pass by itself.
func (x *rule) allows() bool { return x.Action == model.Allow && !x.policy.Staged }

// ends names the other end of the rule's direction: from or to.
func (x *rule) word() string {
	if x.direction == model.Ingress {
		return "from"
	}
	return "to"
}
