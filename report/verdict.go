package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Explanation is a verdict in the form of `explain -o json`.
type Explanation struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Port        string `json:"port"`
	Verdict     string `json:"verdict"`
	Egress      Door   `json:"egress"`
	Ingress     Door   `json:"ingress"`
	Suggestion  any    `json:"suggestion"`
}

// Door is one end of an Explanation.
type Door struct {
	Verdict  string   `json:"verdict"`
	Reason   string   `json:"reason"`
	Policies []string `json:"policies"`
	Rule     *Rule    `json:"rule"`
	Nearly   []string `json:"nearly,omitempty"`
}

// Rule says where the deciding rule stands.
type Rule struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
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
		s := d.Rule.Source
		out.Rule = &Rule{Kind: s.Kind, Namespace: s.Namespace, Name: s.Name, Field: s.Field, File: s.File, Line: s.Line, Action: d.Rule.Action.String()}
		return out
	}
	if d.Reason == engine.DefaultDeny {
		out.Nearly = nearly(d)
	}
	return out
}

// nearly lists what the rules of the isolating policies do let in.
func nearly(d engine.Door) []string {
	const most = 6
	var out []string
	for _, p := range d.Policies {
		for i := range p.Section(d.Direction).Rules {
			r := &p.Section(d.Direction).Rules[i]
			if r.Action == model.Allow && len(out) < most {
				out = append(out, r.Source.Object()+" "+r.Source.Field+" allows "+peers(r)+" on "+ports(r))
			}
		}
	}
	return out
}

func peers(r *model.Rule) string {
	if r.AnyPeer {
		return "everybody"
	}
	if len(r.Peers) == 0 {
		return "nobody"
	}
	var out []string
	for _, p := range r.Peers {
		switch {
		case p.Pods != nil:
			out = append(out, p.Pods.String())
		case len(p.Block.Except) > 0:
			out = append(out, fmt.Sprintf("%s except %v", p.Block.CIDR, p.Block.Except))
		default:
			out = append(out, p.Block.CIDR.String())
		}
	}
	return strings.Join(out, " or ")
}

func ports(r *model.Rule) string {
	if r.AnyPort {
		return "any port"
	}
	var out []string
	for _, p := range r.Ports {
		out = append(out, p.String())
	}
	if len(out) == 0 {
		return "no port"
	}
	return strings.Join(out, ", ")
}

// Text prints the explanation for people, door by door.
func (e Explanation) Text(w io.Writer, p Paint) {
	fmt.Fprintf(w, "%s  %s → %s on %s\n", p.Verdict(e.Verdict), e.Source, e.Destination, e.Port)
	e.Egress.text(w, p, "egress of "+e.Source)
	e.Ingress.text(w, p, "ingress of "+e.Destination)
}

func (d Door) text(w io.Writer, p Paint, name string) {
	fmt.Fprintf(w, "  %s  %s: %s\n", p.Verdict(d.Verdict), name, reasons[d.Reason])
	if d.Rule != nil {
		place := ""
		if d.Rule.File != "" {
			place = fmt.Sprintf(" (%s:%d)", d.Rule.File, d.Rule.Line)
		}
		name := d.Rule.Name
		if d.Rule.Namespace != "" {
			name = d.Rule.Namespace + "/" + name
		}
		fmt.Fprintf(w, "        decided by %s %s %s%s\n", d.Rule.Kind, name, d.Rule.Field, place)
	} else if len(d.Policies) > 0 {
		fmt.Fprintf(w, "        isolated by %s\n", strings.Join(d.Policies, ", "))
	}
	for _, n := range d.Nearly {
		fmt.Fprintf(w, "        but %s\n", n)
	}
}

var reasons = map[string]string{
	string(engine.NoDoor):      "no pod, so no policy judges here",
	string(engine.SamePod):     "a pod always reaches itself",
	string(engine.OwnNode):     "a pod's own node always reaches it",
	string(engine.NotIsolated): "no policy isolates the pod in this direction",
	string(engine.ByRule):      "a rule decides",
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
