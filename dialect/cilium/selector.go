package cilium

import (
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// Label keys with a meaning beyond a pod's own labels.
const (
	namespaceKey       = "io.kubernetes.pod.namespace"
	podNameKey         = "io.kubernetes.pod.name"
	namespaceLabelsKey = "io.cilium.k8s.namespace.labels."
	accountKey         = "io.cilium.k8s.policy.serviceaccount"
	clusterKey         = "io.cilium.k8s.policy.cluster"
)

// requirement is one condition of a selector on one label.
type requirement struct {
	source string // "" and "any": of any source
	key    string
	op     model.SelectorOp // SelectNone: nothing satisfies it
	values []string
	label  bool // written in matchLabels
	at     field.Cursor
}

// selector is a conjunction.
type selector []requirement

// labelSource says what kinds of labels a selector is about.
type labelSource struct {
	sources []string // that carry such labels
	lenient bool     // a value that no label can have is satisfied by nothing, instead of being an error
	silent  bool     // labels of other sources are no reason for a warning
}

var (
	podLabels     = labelSource{sources: []string{"", "any", "k8s", "reserved"}}
	peerLabels    = labelSource{sources: podLabels.sources, lenient: true}
	nodeLabels    = labelSource{sources: []string{"", "any", "node"}}
	groupLabels   = labelSource{sources: []string{"", "any", "cidrgroup"}}
	serviceLabels = labelSource{sources: []string{"", "any", "k8s"}, silent: true}
)

// readSelector reads matchLabels and matchExpressions with their label sources.
func readSelector(c field.Cursor, from labelSource) (selector, bool) {
	if !c.Present() {
		c.Error("must be an object, not null", "{} selects everything")
		return nil, false
	}
	if !c.Mapping() {
		return nil, false
	}
	var out selector
	ok := true
	c.Field("matchLabels").Entries(func(key, value field.Cursor) {
		r := requirement{op: model.SelectIn, values: []string{value.String()}, label: true, at: key}
		ok = r.readKey(key, key.Value()) && r.checkValue(value, from.lenient) && ok
		out = append(out, r)
	})
	for _, e := range c.Field("matchExpressions").Items() {
		r, good := readExpression(e, from.lenient)
		ok = ok && good
		out = append(out, r)
	}
	ok = c.Done() && ok
	for i := range out {
		if ok {
			out[i].restrict(from)
		}
	}
	return out, ok
}

var operators = map[string]model.SelectorOp{
	"In": model.SelectIn, "NotIn": model.SelectNotIn, "Exists": model.SelectExists, "DoesNotExist": model.SelectNotExists,
}

func readExpression(c field.Cursor, lenient bool) (requirement, bool) {
	if !c.Mapping() {
		if !c.Present() {
			c.Error("must be an object, not null", "take the item out")
		}
		return requirement{}, false
	}
	key, operator, values := c.Field("key"), c.Field("operator"), c.Field("values")
	r := requirement{values: values.Strings(), at: c}
	ok := r.readKey(key, key.String())
	op, known := operators[operator.String()]
	if !known {
		operator.Error("unknown operator \""+operator.Value()+"\"", "one of In, NotIn, Exists, DoesNotExist")
		return r, false
	}
	r.op = op
	wantValues := op == model.SelectIn || op == model.SelectNotIn
	items := values.Items()
	if wantValues != (len(items) > 0) {
		values.Error("must be there for In and NotIn, and only for those", "")
		ok = false
	}
	for i, item := range items {
		one := requirement{op: op, values: r.values[i : i+1]}
		ok = one.checkValue(item, lenient && op == model.SelectIn) && ok
	}
	return r, c.Done() && ok
}

var sourceName = regexp.MustCompile(`^[A-Za-z0-9]+$`)

// readKey splits the source off the key.
func (r *requirement) readKey(c field.Cursor, text string) bool {
	source, key, found := strings.Cut(text, ":")
	if !found {
		source, key = "", text
	}
	r.source, r.key = source, key
	switch {
	case found && !sourceName.MatchString(source):
		c.Error("the label source \""+source+"\" cannot exist", "a key is k8s:app, reserved:host or just app")
		return false
	case !field.ValidLabelKey(key):
		c.Error("label key \""+key+"\" cannot exist", "a source and ':' if wanted, an optional DNS prefix and '/', then up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit")
		return false
	}
	return true
}

const spiffe = "spiffe://"

// checkValue reports a value that no label can have. If lenient it takes the
// SPIFFE IDs that people write for what it is: a label that nobody carries.
func (r *requirement) checkValue(c field.Cursor, lenient bool) bool {
	value := r.values[0]
	switch {
	case field.ValidLabelValue(value):
		return true
	case lenient && strings.HasPrefix(value, spiffe):
		c.Report(model.Warning, "no label can have the value \""+value+"\": nothing satisfies it, and Cilium does not accept it",
			"select the peer by "+accountKey+", and write authentication: {mode: required} beside it")
		r.op = model.SelectNone
		return true
	}
	c.Error("label value \""+value+"\" cannot exist", "a label value is up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit; no object can carry any other")
	return false
}

// restrict warns of labels whose source nothing here has.
func (r *requirement) restrict(from labelSource) {
	known := false
	for _, s := range from.sources {
		known = known || s == r.source
	}
	if known {
		return
	}
	if !from.silent {
		r.at.Report(model.Warning, "nothing here carries labels of the source \""+r.source+"\"", "write the key without source, or another peer: entities, CIDRs or nodes")
	}
	switch r.op {
	case model.SelectIn, model.SelectExists:
		r.op = model.SelectNone
	case model.SelectNotIn, model.SelectNotExists:
		r.op = model.SelectAll
	}
}

func (s selector) without(drop func(requirement) bool) selector {
	var out selector
	for _, r := range s {
		if !drop(r) {
			out = append(out, r)
		}
	}
	return out
}

func (s selector) mentions(is func(requirement) bool) bool {
	for _, r := range s {
		if is(r) {
			return true
		}
	}
	return false
}

func (r requirement) isReserved() bool { return r.source == "reserved" }

// isPod says whether the requirement is about a label that Kubernetes gives.
func (r requirement) isPod() bool { return r.source == "" || r.source == "any" || r.source == "k8s" }

// plain is the condition on the labels as they are.
func (r requirement) plain() model.Selector {
	if r.op == model.SelectAll || r.op == model.SelectNone {
		return model.Selector{Op: r.op}
	}
	out := model.Selector{Op: r.op, Key: r.key}
	if r.op == model.SelectIn || r.op == model.SelectNotIn {
		out.Values = r.values
	}
	return out
}

// ofPod is the condition as pods meet it: they have no reserved labels, and
// some keys stand for what is known of them beside their labels.
func (r requirement) ofPod() model.Selector {
	out := r.plain()
	switch {
	case out.Key == "":
	case r.isReserved():
		out = model.Selector{Op: model.SelectNone}
		if r.op == model.SelectNotIn || r.op == model.SelectNotExists {
			out.Op = model.SelectAll
		}
	case r.key == namespaceKey && r.op == model.SelectExists: // every pod has one
		out = model.Selector{}
	case r.key == namespaceKey:
		out.Key = model.NamespaceName
	case r.key == podNameKey:
		out.Key = model.PodName
		r.at.Report(model.Info, "agents of Cilium select by a pod's name only if they are set up to", "")
	case r.key == accountKey:
		out.Key = model.AccountName
	case r.key == clusterKey:
		out.Key = model.ClusterName
	case strings.HasPrefix(r.key, namespaceLabelsKey):
		out.Key = model.NamespaceLabels + strings.TrimPrefix(r.key, namespaceLabelsKey)
	}
	return out
}

// pods is the selector of pods: of the namespace, if that is not "".
func (s selector) pods(namespace string) model.EndpointSelector {
	out := model.EndpointSelector{Namespace: namespace}
	var args []model.Selector
	for _, r := range s {
		m := r.ofPod()
		if m.Op == model.SelectNone {
			out.Pods = m
			return out
		}
		if m.Key == model.NamespaceName && m.Op == model.SelectIn && len(m.Values) == 1 && (out.Namespace == "" || out.Namespace == m.Values[0]) {
			out.Namespace = m.Values[0]
			continue
		}
		args = append(args, m)
	}
	out.Pods = model.And(args...)
	return out
}

// labelled is the conjunction over plain labels, of nodes, sets or Services.
func (s selector) labelled() model.Selector {
	args := make([]model.Selector, len(s))
	for i, r := range s {
		args[i] = r.plain()
		if args[i].Op == model.SelectNone {
			return args[i]
		}
	}
	return model.And(args...)
}
