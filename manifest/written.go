package manifest

import (
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/dialect/networkpolicy"
	"github.com/sallyport-dev/sallyport/model"
)

// IgnoreAnnotation lists the codes of findings that the object's author knows
// of, separated by commas.
const IgnoreAnnotation = "sallyport.dev/ignore"

// Written is what the text of the objects says beside what they mean. The
// zero value says nothing.
type Written struct {
	Ignored map[string][]string // codes of IgnoreAnnotation, by Source.Object
	Omitted []model.Source      // fields of policies that were left to their default
	Unused  []model.Source      // lists of rules that policyTypes leaves out
}

// note notes what the object's text says; namespaced is whether it names its
// namespace, if it lives in one.
func (w *Written) note(o field.Object, namespaced bool) {
	c := field.Open(o, &field.Problems{})
	if text := c.Field("metadata").Field("annotations").Field(IgnoreAnnotation); text.Present() {
		if w.Ignored == nil {
			w.Ignored = map[string][]string{}
		}
		for code := range strings.SplitSeq(text.Value(), ",") {
			w.Ignored[o.Source.Object()] = append(w.Ignored[o.Source.Object()], strings.TrimSpace(code))
		}
	}
	if o.Source.APIVersion != networkpolicy.APIVersion || o.Source.Kind != networkpolicy.Kind {
		return
	}
	if !namespaced {
		w.omit(c.Field("metadata"), "metadata.namespace")
	}
	w.policyTypes(c.Field("spec"))
}

// omit notes a field that is not there, at the mapping that could have it.
func (w *Written) omit(in field.Cursor, path string) {
	s := in.Source()
	w.Omitted = append(w.Omitted, s.At(path, 0, 0))
}

func (w *Written) policyTypes(spec field.Cursor) {
	var types []string
	for _, t := range spec.Field("policyTypes").Items() {
		types = append(types, t.Value())
	}
	if len(types) == 0 {
		w.omit(spec, "spec.policyTypes")
	}
	for _, d := range []struct{ word, rules, peers string }{{"Ingress", "ingress", "from"}, {"Egress", "egress", "to"}} {
		list := spec.Field(d.rules).Items()
		if len(types) > 0 && len(list) > 0 && !strings.Contains(strings.Join(types, " "), d.word) {
			w.Unused = append(w.Unused, spec.Field(d.rules).Source())
		}
		for _, rule := range list {
			for _, p := range rule.Field("ports").Items() {
				if p.Field("port").Present() && !p.Field("protocol").Present() {
					w.omit(p, p.Field("protocol").Source().Field)
				}
			}
		}
	}
}
