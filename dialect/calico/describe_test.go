package calico_test

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect/calico"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// decode decodes one object, as a file of that text.
func decode(t *testing.T, text string) (model.Parts, []model.Problem) {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	root := n.Content[0]
	source := model.Source{File: "f", Line: root.Line, Column: root.Column}
	scratch := &field.Problems{}
	c := field.Open(field.Object{Source: source, Root: root}, scratch)
	source.APIVersion, source.Kind = c.Field("apiVersion").Value(), c.Field("kind").Value()
	source.Name, source.Namespace = c.Field("metadata").Field("name").Value(), c.Field("metadata").Field("namespace").Value()
	f, ok := calico.Decoders[[2]string{source.APIVersion, source.Kind}]
	if !ok {
		t.Fatalf("nobody decodes %s %s", source.APIVersion, source.Kind)
	}
	return f(field.Object{Source: source, Root: root})
}

// describe writes what was decoded, a line for everything.
func describe(p model.Parts) string {
	var b strings.Builder
	for _, t := range p.Tiers {
		fmt.Fprintf(&b, "tier %s order %v pass %t\n", t.Name, t.Order, t.Pass)
	}
	for _, s := range p.Sets {
		fmt.Fprintf(&b, "set %q %s %v %v\n", s.Namespace, s.Name, s.Labels, s.Blocks)
	}
	for _, x := range p.Policies {
		fmt.Fprintf(&b, "policy %s/%s tier %s order %v", x.Source.Namespace, x.Source.Name, x.Tier, x.Order)
		if x.Staged {
			b.WriteString(" staged")
		}
		fmt.Fprintf(&b, "\n  of %s\n", x.Subject)
		for _, d := range []model.Direction{model.Ingress, model.Egress} {
			if s := x.Section(d); s != nil {
				b.WriteString("  " + d.String() + attributes(s) + "\n")
				for i := range s.Rules {
					b.WriteString("    " + rule(&s.Rules[i]) + "\n")
				}
			}
		}
	}
	return b.String()
}

func attributes(s *model.Section) string {
	var out string
	if !s.Ordered {
		out += " unordered"
	}
	if !s.DefaultDeny {
		out += " open"
	}
	return out
}

func rule(r *model.Rule) string {
	out := r.Action.String()
	if r.Subject != nil {
		out += " of " + r.Subject.String()
	}
	peers := make([]string, len(r.Peers))
	for i := range r.Peers {
		peers[i] = "[" + r.Peers[i].String() + "]"
	}
	out += " with " + orWord(r.AnyPeer, "anybody", strings.Join(peers, " "))
	ports := make([]string, len(r.Ports))
	for i, p := range r.Ports {
		ports[i] = p.String()
	}
	out += " on " + orWord(r.AnyPort, "anything", strings.Join(ports, ", "))
	if l := r.L7; l != nil {
		out += " if"
		for _, h := range l.HTTP {
			out += fmt.Sprintf(" http %v %v", h.Methods, h.Paths)
		}
		for _, n := range l.ServerNames {
			out += " server name " + n.Text
		}
	}
	return out
}

func orWord(any bool, all, some string) string {
	switch {
	case any && some != "":
		return all + " AND " + some
	case any:
		return all
	case some == "":
		return "nobody"
	}
	return some
}

func texts(problems []model.Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&b, "%d:%d %s %s: %s\n", p.Source.Line, p.Source.Column, p.Severity, p.Source.Field, p.Message)
	}
	return b.String()
}
