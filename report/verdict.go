package report

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/advice"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Explanation is a verdict in the form of `explain -o json`.
type Explanation struct {
	Source      string             `json:"source"`
	Destination string             `json:"destination"`
	Port        string             `json:"port"`
	Verdict     string             `json:"verdict"`
	Connections string             `json:"connections,omitempty"` // everything that passes, on all ports
	Egress      Door               `json:"egress"`
	Ingress     Door               `json:"ingress"`
	Suggestion  *advice.Suggestion `json:"suggestion"` // null: no change of NetworkPolicies turns it over
}

// Door is one end of an Explanation.
type Door struct {
	Verdict    string     `json:"verdict"`
	Reason     string     `json:"reason"`
	Policies   []string   `json:"policies"`
	Rule       *Rule      `json:"rule"`
	Tiers      []Tier     `json:"tiers,omitempty"` // the way through the tiers, where there is more to it than NetworkPolicies
	NearMisses []NearMiss `json:"nearMisses,omitempty"`
}

// Tier is what one tier says on the way to a door's verdict.
type Tier struct {
	Tier     string   `json:"tier"`
	Cilium   bool     `json:"cilium,omitempty"` // of the second way, as Cilium counts policies: both must allow
	Says     string   `json:"says"`
	Policies []string `json:"policies"`
	Rule     *Rule    `json:"rule,omitempty"`
	Logs     []Rule   `json:"logs,omitempty"` // rules that log and matched before
}

// NearMiss is a rule that a shut door's connection nearly matched.
type NearMiss struct {
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Field     string   `json:"field"`
	File      string   `json:"file,omitempty"`
	Line      int      `json:"line,omitempty"`
	Failed    []string `json:"failed"` // what was wanted and what is there
}

// Rule says where the deciding rule stands.
type Rule struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	RuleName  string `json:"ruleName,omitempty"`
	Field     string `json:"field"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Action    string `json:"action"`
}

// Explain puts a verdict into words.
func Explain(src, dst string, key model.PortKey, v engine.Verdict) Explanation {
	return Explanation{
		Source: src, Destination: dst, Port: key.String(), Verdict: word(v.Allowed),
		Egress: door(v.Egress), Ingress: door(v.Ingress),
	}
}

func word(allowed bool) string {
	if allowed {
		return "allow"
	}
	return "deny"
}

func door(d engine.Door) Door {
	out := Door{Verdict: word(d.Allowed), Reason: string(d.Reason), Policies: []string{}}
	for _, p := range d.Policies {
		out.Policies = append(out.Policies, p.Source.Object())
	}
	if d.Rule != nil {
		r := ruleOf(d.Rule)
		out.Rule = &r
	}
	return out
}

func ruleOf(r *model.Rule) Rule {
	s := r.Source
	return Rule{Kind: s.Kind, Namespace: s.Namespace, Name: s.Name, RuleName: r.Name, Field: s.Field, File: s.File, Line: s.Line, Action: r.Action.String()}
}

// AddTiers adds to the doors their way through the tiers.
func (e *Explanation) AddTiers(m *engine.Matrix, from, to engine.Party, key model.PortKey) {
	e.Egress.Tiers = tiers(m.Stages(from, to, key, model.Egress))
	e.Ingress.Tiers = tiers(m.Stages(from, to, key, model.Ingress))
}

// tiers lists the stages; there is nothing to say of NetworkPolicies alone.
func tiers(stages []engine.Stage) []Tier {
	plain := len(stages) < 2
	var out []Tier
	for _, s := range stages {
		t := Tier{Tier: s.Tier, Cilium: s.Pipeline > 0, Says: string(s.Said), Policies: []string{}}
		for _, p := range s.Policies {
			t.Policies = append(t.Policies, p.Source.Object())
			plain = plain && p.Family == model.FamilyKubernetes
		}
		if s.Rule != nil {
			r := ruleOf(s.Rule)
			t.Rule = &r
		}
		for _, r := range s.Logs {
			t.Logs = append(t.Logs, ruleOf(r))
		}
		out = append(out, t)
	}
	if plain {
		return nil
	}
	return out
}

// AddNearMisses adds to the doors that deny which rules nearly matched.
func (e *Explanation) AddNearMisses(m *engine.Matrix, from, to engine.Party, key model.PortKey) {
	e.Egress.NearMisses = nearMisses(m.Misses(from, to, key, model.Egress))
	e.Ingress.NearMisses = nearMisses(m.Misses(from, to, key, model.Ingress))
}

func nearMisses(list []engine.Miss) []NearMiss {
	var out []NearMiss
	for _, x := range list {
		s, at := x.Policy.Source, x.Source
		n := NearMiss{Kind: s.Kind, Namespace: s.Namespace, Name: s.Name, Field: at.Field, File: at.File, Line: at.Line}
		for _, f := range x.Fails {
			n.Failed = append(n.Failed, f.String())
		}
		out = append(out, n)
	}
	return out
}

// Text prints the explanation for people, door by door.
func (e Explanation) Text(w io.Writer, p Paint) {
	fmt.Fprintf(w, "%s  %s → %s on %s\n", p.Verdict(e.Verdict), e.Source, e.Destination, e.Port)
	e.Egress.text(w, p, "egress of "+e.Source)
	e.Ingress.text(w, p, "ingress of "+e.Destination)
	if e.Suggestion != nil {
		suggestion(w, p, e)
	}
}

func (d Door) text(w io.Writer, p Paint, name string) {
	fmt.Fprintf(w, "  %s  %s: %s\n", p.Verdict(d.Verdict), name, reasons[d.Reason])
	if d.Rule != nil {
		fmt.Fprintf(w, "        decided by %s\n", d.Rule)
	} else if d.Reason == string(engine.DefaultDeny) || d.Reason == string(engine.UnknownPeer) && len(d.Policies) > 0 {
		fmt.Fprintf(w, "        isolated by %s\n", strings.Join(d.Policies, ", "))
	}
	first := slices.IndexFunc(d.Tiers, func(t Tier) bool { return t.Cilium })
	if first < 0 {
		first = len(d.Tiers)
	}
	for _, t := range d.Tiers[:first] {
		t.text(w)
	}
	switch theirs := d.Tiers[first:]; {
	case len(theirs) == 0:
	case slices.EqualFunc(d.Tiers[:first], theirs, sameTier):
		fmt.Fprintln(w, "        and the same as Cilium counts policies")
	default:
		fmt.Fprintln(w, "        and, as Cilium counts policies:")
		for _, t := range theirs {
			t.text(w)
		}
	}
	for _, n := range d.NearMisses {
		fmt.Fprintf(w, "        nearly %s: %s\n", place(n.Kind, n.Namespace, n.Name, n.Field, n.File, n.Line), strings.Join(n.Failed, "; "))
	}
}

// sameTier says whether the tier says the same in the one way as in the other.
func sameTier(ours, theirs Tier) bool {
	ours.Cilium = theirs.Cilium
	return reflect.DeepEqual(ours, theirs)
}

var says = map[string]string{
	string(engine.SaidAllow):   "allows",
	string(engine.SaidAllowL7): "allows under conditions that a proxy checks",
	string(engine.SaidDeny):    "denies",
	string(engine.SaidPass):    "passes on",
	string(engine.EndDeny):     "no rule matches, so it denies",
	string(engine.EndPass):     "no rule matches, so the next tier decides",
}

func (t Tier) text(w io.Writer) {
	for _, r := range t.Logs {
		fmt.Fprintf(w, "        tier %s: logged by %s\n", t.Tier, r)
	}
	if t.Rule != nil {
		fmt.Fprintf(w, "        tier %s: %s, by %s\n", t.Tier, says[t.Says], *t.Rule)
		return
	}
	fmt.Fprintf(w, "        tier %s (%s): %s\n", t.Tier, strings.Join(t.Policies, ", "), says[t.Says])
}

// String names the rule and its place.
func (r Rule) String() string {
	at := place(r.Kind, r.Namespace, r.Name, r.Field, r.File, r.Line)
	if r.RuleName != "" {
		return fmt.Sprintf("rule %q of %s", r.RuleName, at)
	}
	return at
}

// place names a part of a policy: NetworkPolicy shop/web spec.ingress[0] (web.yaml:12).
func place(kind, namespace, name, field, file string, line int) string {
	return model.Source{Kind: kind, Namespace: namespace, Name: name, Field: field, File: file, Line: line}.String()
}

// mostPairs is how many pairs a suggestion lists for people.
const mostPairs = 8

// suggestion prints what would turn the verdict over, and what else changes.
func suggestion(w io.Writer, p Paint, e Explanation) {
	s, other := e.Suggestion, "allow"
	if e.Verdict == "allow" {
		other = "deny"
	}
	for _, r := range s.Remove {
		fmt.Fprintf(w, "  to %s it, remove %s\n", other, r)
	}
	if s.Policies != "" {
		fmt.Fprintf(w, "  to %s it, add\n", other)
		for line := range strings.Lines(s.Policies) {
			fmt.Fprint(w, "    "+line)
		}
	}
	if len(s.Opens)+len(s.Closes) == 0 {
		fmt.Fprintln(w, "  which changes nothing else")
	}
	changes(w, p.Colour("33", "opens"), s.Opens)
	changes(w, p.Colour("33", "closes"), s.Closes)
}

func changes(w io.Writer, verb string, pairs []advice.Pair) {
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(w, "  which also %s\n", verb)
	for _, x := range pairs[:min(len(pairs), mostPairs)] {
		fmt.Fprintf(w, "    %s → %s: %s\n", x.Source, x.Destination, x.Connections)
	}
	if n := len(pairs) - mostPairs; n > 0 {
		fmt.Fprintf(w, "    and %d more pairs\n", n)
	}
}

var reasons = map[string]string{
	string(engine.NoDoor):      "no pod, so no policy judges here",
	string(engine.SamePod):     "a pod always reaches itself",
	string(engine.OwnNode):     "a pod's own node always reaches it",
	string(engine.NotIsolated): "no policy isolates the pod in this direction",
	string(engine.ByRule):      "a rule decides",
	string(engine.ByCondition): "a rule allows it under conditions (HTTP, DNS, TLS names or authentication) that nothing checks yet, so it is shut",
	string(engine.DefaultDeny): "policies isolate the pod and no rule allows this",
	string(engine.UnknownPeer): "the other end is an address in the pod range that no pod has",
}

// Paint colours words on a terminal; the zero value does not.
type Paint struct{ On bool }

// Verdict is ALLOW in green or DENY in red, padded to equal width.
func (p Paint) Verdict(verdict string) string {
	text, colour := "DENY ", "31"
	if verdict == "allow" {
		text, colour = "ALLOW", "32"
	}
	return p.Colour(colour, text)
}

// Colour puts an ANSI colour around the text.
func (p Paint) Colour(code, text string) string {
	if !p.On {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
