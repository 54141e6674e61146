package convert

import (
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// clause is conditions on one pod, of which all must hold. Each is a test of
// one key, or the negation of a prefix, suffix or contains test. Conditions on
// the pod's namespace have the keys NamespaceName and NamespaceLabels.
type clause []model.Selector

// mostClauses bounds how many alternatives a selector is written as.
const mostClauses = 32

// podClauses is the selector as alternatives; ok is false if they are too many.
func podClauses(s model.EndpointSelector) ([]clause, bool) {
	var args []model.Selector
	if s.Namespace != "" {
		args = append(args, oneOf(model.NamespaceName, s.Namespace))
	}
	return clausesOf(model.And(append(args, ofNamespace(s.Namespaces), s.Pods)...))
}

func oneOf(key string, values ...string) model.Selector {
	return model.Selector{Op: model.SelectIn, Key: key, Values: values}
}

// ofNamespace turns a selector over a namespace's labels into one over pods.
func ofNamespace(s model.Selector) model.Selector {
	switch {
	case s.Key == "":
	case s.Key[0] == model.Implied: // no namespace has such a label
		return truth(s.Matches(nil))
	default:
		s.Key = model.NamespaceLabels + s.Key
	}
	args := s.Args
	s.Args = nil
	for _, a := range args {
		s.Args = append(s.Args, ofNamespace(a))
	}
	return s
}

// clausesOf writes the selector as alternatives of clauses.
func clausesOf(s model.Selector) ([]clause, bool) {
	switch s.Op {
	case model.SelectAll:
		return []clause{{}}, true
	case model.SelectNone:
		return nil, true
	case model.SelectAnd:
		out := []clause{{}}
		for _, a := range s.Args {
			more, ok := clausesOf(a)
			if out = product(out, more); !ok || len(out) > mostClauses {
				return nil, false
			}
		}
		return out, true
	case model.SelectOr:
		var out []clause
		for _, a := range s.Args {
			more, ok := clausesOf(a)
			if out = append(out, more...); !ok || len(out) > mostClauses {
				return nil, false
			}
		}
		return out, true
	case model.SelectNot:
		return negated(s.Args[0])
	}
	return []clause{{leaf(s)}}, true
}

// negated pushes a negation down to the tests.
func negated(s model.Selector) ([]clause, bool) {
	switch s.Op {
	case model.SelectAnd, model.SelectOr:
		opposite := model.Selector{Op: model.SelectOr}
		if s.Op == model.SelectOr {
			opposite.Op = model.SelectAnd
		}
		for _, a := range s.Args {
			opposite.Args = append(opposite.Args, model.Not(a))
		}
		return clausesOf(opposite)
	case model.SelectPrefix, model.SelectSuffix, model.SelectContains:
		return []clause{{{Op: model.SelectNot, Args: []model.Selector{s}}}}, true
	}
	return clausesOf(model.Not(s))
}

// leaf is the test in the one form that it has here: a namespace's name is no
// label, and every pod is in a namespace.
func leaf(s model.Selector) model.Selector {
	if s.Key == model.NamespaceLabels+model.MetadataName {
		s.Key = model.NamespaceName
	}
	return s
}

// product joins every clause of a with every one of b, without those that
// nobody satisfies.
func product(a, b []clause) []clause {
	var out []clause
	for _, x := range a {
		for _, y := range b {
			if z, ok := join(x, y); ok {
				out = append(out, z)
			}
		}
	}
	return out
}

// join is both clauses at once; ok is false if nobody satisfies that. Values
// of one key are narrowed to what is left of them.
func join(a, b clause) (out clause, ok bool) {
	out = slices.Clone(a)
	for _, s := range b {
		i := slices.IndexFunc(out, func(o model.Selector) bool { return o.Op == model.SelectIn && o.Key == s.Key })
		switch {
		case slices.ContainsFunc(out, func(o model.Selector) bool { return equal(o, s) }):
		case s.Op == model.SelectIn && i >= 0:
			out[i].Values = slices.DeleteFunc(slices.Clone(out[i].Values), func(v string) bool { return !slices.Contains(s.Values, v) })
		default:
			out = append(out, s)
		}
	}
	return out.tidy()
}

// tidy drops what other conditions imply; ok is false for a contradiction.
func (c clause) tidy() (out clause, ok bool) {
	for i, s := range c {
		if s.Op != model.SelectIn {
			continue
		}
		s.Values = slices.DeleteFunc(slices.Clone(s.Values), func(v string) bool { return !c.admits(s.Key, v) })
		if c[i] = s; len(s.Values) == 0 {
			return nil, false
		}
	}
	for i, s := range c {
		redundant := false
		for j, o := range c {
			if i != j && contradict(s, o) {
				return nil, false
			}
			redundant = redundant || i != j && implies(o, s) && (j < i || !implies(s, o))
		}
		if !redundant {
			out = append(out, s)
		}
	}
	return out, true
}

// admits says whether the clause leaves the key the value.
func (c clause) admits(key, value string) bool {
	for _, s := range c {
		if keyOf(s) == key && !s.Matches(map[string]string{key: value}) {
			return false
		}
	}
	return true
}

func keyOf(s model.Selector) string {
	if s.Op == model.SelectNot {
		return s.Args[0].Key
	}
	return s.Key
}

func equal(a, b model.Selector) bool { return string(a.AppendKey(nil)) == string(b.AppendKey(nil)) }

// contradict says whether two tests surely exclude one another.
func contradict(a, b model.Selector) bool {
	if keyOf(a) != keyOf(b) {
		return false
	}
	if b.Op == model.SelectIn {
		a, b = b, a
	}
	switch {
	case a.Op == model.SelectIn:
		return !slices.ContainsFunc(a.Values, func(v string) bool { return b.Matches(map[string]string{a.Key: v}) })
	case a.Op == model.SelectNotExists:
		return !b.Matches(nil)
	}
	return b.Op == model.SelectNotExists && !a.Matches(nil)
}

// implies says whether whoever satisfies a surely satisfies b.
func implies(a, b model.Selector) bool {
	switch {
	case keyOf(a) != keyOf(b):
		return false
	case equal(a, b):
		return true
	case a.Op == model.SelectIn:
		return !slices.ContainsFunc(a.Values, func(v string) bool { return !b.Matches(map[string]string{a.Key: v}) })
	case a.Op == model.SelectNotExists:
		return b.Matches(nil)
	case a.Op == model.SelectNotIn && b.Op == model.SelectNotIn:
		return !slices.ContainsFunc(b.Values, func(v string) bool { return !slices.Contains(a.Values, v) })
	case b.Op == model.SelectExists:
		return !a.Matches(nil)
	}
	return false
}

// within says whether whoever satisfies the clause surely satisfies o.
func (c clause) within(o clause) bool {
	for _, want := range o {
		if !slices.ContainsFunc(c, func(s model.Selector) bool { return implies(s, want) }) {
			return false
		}
	}
	return true
}

// withinAny says whether the clause lies within one of the list.
func (c clause) withinAny(list []clause) bool {
	return slices.ContainsFunc(list, func(o clause) bool { return c.within(o) })
}

// minus is whoever satisfies the clause and none of the list.
func (c clause) minus(list []clause) ([]clause, bool) {
	out := []clause{c}
	for _, o := range list {
		var not []clause
		for _, s := range o {
			alternatives, ok := negated(s)
			if !ok {
				return nil, false
			}
			not = append(not, alternatives...)
		}
		if out = product(out, not); len(out) > mostClauses {
			return nil, false
		}
	}
	return out, true
}

// split divides the conditions into those on the namespace, with keys of its
// labels, those on the account, and those on the pod's own labels. ok is false
// if there are others.
func (c clause) split() (namespace, account, pod clause, ok bool) {
	for _, s := range c {
		key := keyOf(s)
		switch {
		case key == model.NamespaceName:
			namespace = append(namespace, rekeyed(s, model.MetadataName))
		case strings.HasPrefix(key, model.NamespaceLabels):
			namespace = append(namespace, rekeyed(s, strings.TrimPrefix(key, model.NamespaceLabels)))
		case key == model.AccountName || strings.HasPrefix(key, model.AccountLabels):
			account = append(account, s)
		case key[0] == model.Implied:
			return nil, nil, nil, false
		default:
			pod = append(pod, s)
		}
	}
	return namespace, account, pod, true
}

func rekeyed(s model.Selector, key string) model.Selector {
	if s.Op == model.SelectNot {
		return model.Selector{Op: model.SelectNot, Args: []model.Selector{rekeyed(s.Args[0], key)}}
	}
	s.Key = key
	return s
}

// namespaceOf is the one namespace that the clause leaves, and the rest of it.
func (c clause) namespaceOf() (name string, rest clause) {
	for i, s := range c {
		if s.Op == model.SelectIn && s.Key == model.NamespaceName && len(s.Values) == 1 {
			return s.Values[0], slices.Delete(slices.Clone(c), i, i+1)
		}
	}
	return "", c
}
