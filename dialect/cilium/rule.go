package cilium

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// list is one of the four lists of a rule.
type list struct {
	field     string
	direction model.Direction
	action    model.Action
}

var lists = []list{
	{"ingress", model.Ingress, model.Allow},
	{"ingressDeny", model.Ingress, model.Deny},
	{"egress", model.Egress, model.Allow},
	{"egressDeny", model.Egress, model.Deny},
}

// rule decodes spec or one item of specs.
func (d *decoder) rule(c field.Cursor) {
	p := d.everybody()
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "take the item out")
		}
		d.add(p)
		return
	}
	p.Source = c.Source()
	p.Subject = d.subject(c)
	p.Log = logValue(c.Field("log"))
	checkLabels(c.Field("labels"))
	checkStrings(c.Field("description"))
	isolates := defaultDeny(c.Field("enableDefaultDeny"))
	p.Ingress = d.section(c, model.Ingress, isolates)
	p.Egress = d.section(c, model.Egress, isolates)
	d.misspelt(c, p)
	d.add(p)
}

// section decodes the rules of one direction; nil if there are none. A list
// that is there and cannot be read is one of a rule that cannot be read.
func (d *decoder) section(c field.Cursor, direction model.Direction, isolates map[model.Direction]field.Cursor) *model.Section {
	s := &model.Section{DefaultDeny: true}
	named := false
	for _, l := range lists {
		if l.direction != direction {
			continue
		}
		items := c.Field(l.field)
		for _, i := range items.Items() {
			s.Rules = append(s.Rules, d.item(i, l)...)
			named = true
		}
		if items.Present() && !items.IsList() {
			s.Rules = append(s.Rules, unreadable(l.action, items.Source()))
			named = true
		}
	}
	flag := isolates[direction]
	if flag.Present() {
		s.DefaultDeny = flag.Bool()
		if s.DefaultDeny && !named {
			flag.Report(model.Warning, "has no effect: the rule has nothing for "+direction.String(), "to deny everything add an empty item: "+direction.String()+": [{}]")
		}
	}
	if !named {
		return nil
	}
	return s
}

func defaultDeny(c field.Cursor) map[model.Direction]field.Cursor {
	if !c.Mapping() {
		return nil
	}
	out := map[model.Direction]field.Cursor{model.Ingress: c.Field("ingress"), model.Egress: c.Field("egress")}
	c.Done()
	return out
}

// misspelt closes what an unknown field may have said, and a rule that says
// nothing at all.
func (d *decoder) misspelt(c field.Cursor, p *model.Policy) {
	before := len(d.problems.List)
	clean := c.Done()
	if clean && (p.Ingress != nil || p.Egress != nil) {
		return
	}
	if clean {
		c.Error("a rule needs at least one item in ingress, ingressDeny, egress or egressDeny", "to deny everything that comes in: ingress: [{}]")
	}
	denies := false
	for _, problem := range d.problems.List[before:] {
		denies = denies || strings.HasSuffix(problem.Hint, "Deny?") // "did you mean egressDeny?"
	}
	for _, s := range []**model.Section{&p.Ingress, &p.Egress} {
		if *s == nil {
			*s = &model.Section{DefaultDeny: true}
		}
		if denies {
			(*s).Rules = append((*s).Rules, unreadable(model.Deny, c.Source()))
		}
	}
}

// subject reads endpointSelector or nodeSelector.
func (d *decoder) subject(c field.Cursor) model.EndpointSelector {
	pods, nodes := c.Field("endpointSelector"), c.Field("nodeSelector")
	all := model.EndpointSelector{Namespace: d.namespace}
	d.unscoped = false
	switch {
	case pods.Present() && nodes.Present():
		c.Error("endpointSelector and nodeSelector exclude each other", "write two rules in specs")
		return all
	case nodes.Present() && d.namespace != "":
		nodes.Error("a "+NetworkPolicy+" selects pods only", "nodes are selected by "+ClusterwideNetworkPolicy)
		return all
	case nodes.Present():
		readSelector(nodes, podLabels)
		nodes.Report(model.Warning, "the rule governs nodes: it is checked and kept, but nodes are not protected yet", "pods are selected by endpointSelector")
		return model.EndpointSelector{Pods: model.Selector{Op: model.SelectNone}}
	case !pods.Present():
		c.Error("endpointSelector is missing", "to select every pod write endpointSelector: {}")
		return all
	}
	s, ok := readSelector(pods, podLabels)
	if !ok {
		return all
	}
	d.unscoped = s.mentions(func(r requirement) bool { return r.isReserved() && r.key == "init" })
	return d.scopeSubject(s, pods)
}

// scopeSubject keeps the subject of a namespaced policy inside its namespace.
func (d *decoder) scopeSubject(s selector, c field.Cursor) model.EndpointSelector {
	if d.namespace != "" {
		s = s.without(func(r requirement) bool {
			if r.key != namespaceKey || r.op == model.SelectIn && len(r.values) == 1 && r.values[0] == d.namespace {
				return false
			}
			r.at.Report(model.Warning, "a "+NetworkPolicy+" governs pods of its own namespace only", "make it a "+ClusterwideNetworkPolicy+", or put it into the other namespace")
			return r.source == "k8s" && r.label
		})
	}
	out := s.pods(d.namespace)
	if out.Pods.Op == model.SelectNone {
		c.Report(model.Warning, "selects no pod", "reserved labels stand for nodes and for what is outside the cluster, which have no policy")
	}
	return out
}

func logValue(c field.Cursor) string {
	if !c.Mapping() {
		return ""
	}
	value := c.Field("value")
	c.Done()
	s := value.String()
	if utf8.RuneCountInString(s) > 32 || strings.ContainsFunc(s, func(r rune) bool { return unicode.Is(unicode.C, r) }) {
		value.Error("is longer than 32 characters or has unprintable ones", "at most 32 printable characters")
	}
	return s
}

// checkLabels checks the labels that the author gives the rule; they decide nothing.
func checkLabels(c field.Cursor) {
	for _, i := range c.Items() {
		if i.Value() != "" { // the short form source:key=value
			continue
		}
		if !i.Mapping() {
			continue
		}
		key := i.Field("key")
		if key.String() == "" {
			key.Error("is missing", "a label of a rule is {key, value, source}")
		}
		checkStrings(i.Field("value"), i.Field("source"))
		i.Done()
	}
}
