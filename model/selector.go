package model

import (
	"slices"
	"strconv"
	"strings"
)

// SelectorOp is the operator at the root of a [Selector].
type SelectorOp uint8

// The operators. SelectAll is the zero value: an empty selector matches
// everything, as in Kubernetes. Labels that are absent satisfy SelectNotIn and
// SelectNotExists and none of the other label operators.
const (
	SelectAll SelectorOp = iota
	SelectNone
	SelectIn        // label Key has one of Values
	SelectNotIn     // label Key is absent or has none of Values
	SelectExists    // label Key is present
	SelectNotExists // label Key is absent
	SelectPrefix    // label Key is present and starts with Values[0]
	SelectSuffix    // label Key is present and ends with Values[0]
	SelectContains  // label Key is present and contains Values[0]
	SelectAnd       // every one of Args
	SelectOr        // any of Args
	SelectNot       // not Args[0]
)

// Selector is a boolean expression over a set of labels. The zero value
// matches everything.
type Selector struct {
	Op     SelectorOp
	Key    string
	Values []string
	Args   []Selector
}

// MatchLabels is the selector that wants exactly these labels.
func MatchLabels(labels map[string]string) Selector {
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	args := make([]Selector, 0, len(keys))
	for _, k := range keys {
		args = append(args, Selector{Op: SelectIn, Key: k, Values: []string{labels[k]}})
	}
	return And(args...)
}

// And is the conjunction of the selectors, flattened; And() matches everything.
func And(selectors ...Selector) Selector {
	var args []Selector
	for _, s := range selectors {
		switch s.Op {
		case SelectAll:
		case SelectAnd:
			args = append(args, s.Args...)
		default:
			args = append(args, s)
		}
	}
	switch len(args) {
	case 0:
		return Selector{}
	case 1:
		return args[0]
	}
	return Selector{Op: SelectAnd, Args: args}
}

// Or is the disjunction of the selectors, flattened; Or() matches nothing.
func Or(selectors ...Selector) Selector {
	var args []Selector
	for _, s := range selectors {
		switch s.Op {
		case SelectAll:
			return Selector{}
		case SelectNone:
		case SelectOr:
			args = append(args, s.Args...)
		default:
			args = append(args, s)
		}
	}
	switch len(args) {
	case 0:
		return Selector{Op: SelectNone}
	case 1:
		return args[0]
	}
	return Selector{Op: SelectOr, Args: args}
}

// Not is the negation of the selector, in the simplest form.
func Not(s Selector) Selector {
	opposite := map[SelectorOp]SelectorOp{
		SelectAll: SelectNone, SelectNone: SelectAll, SelectIn: SelectNotIn, SelectNotIn: SelectIn,
		SelectExists: SelectNotExists, SelectNotExists: SelectExists,
	}
	if op, ok := opposite[s.Op]; ok {
		s.Op = op
		return s
	}
	if s.Op == SelectNot {
		return s.Args[0]
	}
	return Selector{Op: SelectNot, Args: []Selector{s}}
}

// Implied begins the keys that are no labels of the pod itself. No label key
// begins like this, so a selector over such keys means nothing else.
const Implied = '@'

// What a pod selector can ask of a pod beside its labels. NamespaceLabels and
// AccountLabels are prefixes, followed by the key of a label; InPrefix is
// followed by a CIDR and is there on pods with an address in it.
const (
	ClusterName     = "@cluster"
	NamespaceName   = "@namespace"
	NamespaceLabels = "@namespace/"
	AccountName     = "@serviceaccount"
	AccountLabels   = "@serviceaccount/"
	PodName         = "@name"
	InPrefix        = "@in/"
)

// Matches says whether the labels satisfy the selector.
func (s Selector) Matches(labels map[string]string) bool {
	return s.Match(func(key string) (string, bool) { v, ok := labels[key]; return v, ok })
}

// Match says whether the labels, which get looks up by key, satisfy the selector.
func (s Selector) Match(get func(key string) (value string, present bool)) bool {
	switch s.Op {
	case SelectAll:
		return true
	case SelectNone:
		return false
	case SelectAnd:
		return !slices.ContainsFunc(s.Args, func(a Selector) bool { return !a.Match(get) })
	case SelectOr:
		return slices.ContainsFunc(s.Args, func(a Selector) bool { return a.Match(get) })
	case SelectNot:
		return !s.Args[0].Match(get)
	}
	value, present := get(s.Key)
	switch s.Op {
	case SelectIn:
		return present && slices.Contains(s.Values, value)
	case SelectNotIn:
		return !present || !slices.Contains(s.Values, value)
	case SelectExists:
		return present
	case SelectNotExists:
		return !present
	case SelectPrefix:
		return present && strings.HasPrefix(value, s.Values[0])
	case SelectSuffix:
		return present && strings.HasSuffix(value, s.Values[0])
	case SelectContains:
		return present && strings.Contains(value, s.Values[0])
	}
	panic("unknown selector operator " + strconv.Itoa(int(s.Op)))
}

// Keys adds to the set every label key that the selector looks at.
func (s Selector) Keys(set map[string]struct{}) {
	if s.Key != "" {
		set[s.Key] = struct{}{}
	}
	for _, a := range s.Args {
		a.Keys(set)
	}
}

// AppendKey appends an unambiguous encoding of the selector: two selectors
// with equal encodings match the same labels.
func (s Selector) AppendKey(b []byte) []byte {
	b = append(b, byte('A'+s.Op))
	if s.Key != "" {
		b = strconv.AppendQuote(b, s.Key)
	}
	for _, v := range s.Values {
		b = strconv.AppendQuote(append(b, '='), v)
	}
	if len(s.Args) > 0 {
		b = append(b, '(')
		for _, a := range s.Args {
			b = a.AppendKey(b)
		}
		b = append(b, ')')
	}
	return b
}

// String writes the selector for people: `app=web,tier in (a,b),!old`.
func (s Selector) String() string {
	switch s.Op {
	case SelectAll:
		return "all"
	case SelectNone:
		return "none"
	case SelectIn:
		if len(s.Values) == 1 {
			return s.Key + "=" + s.Values[0]
		}
		return s.Key + " in (" + strings.Join(s.Values, ",") + ")"
	case SelectNotIn:
		if len(s.Values) == 1 {
			return s.Key + "!=" + s.Values[0]
		}
		return s.Key + " notin (" + strings.Join(s.Values, ",") + ")"
	case SelectExists:
		return s.Key
	case SelectNotExists:
		return "!" + s.Key
	case SelectPrefix:
		return s.Key + " starts with " + s.Values[0]
	case SelectSuffix:
		return s.Key + " ends with " + s.Values[0]
	case SelectContains:
		return s.Key + " contains " + s.Values[0]
	case SelectNot:
		return "!(" + s.Args[0].String() + ")"
	}
	parts := make([]string, len(s.Args))
	for i, a := range s.Args {
		parts[i] = a.String()
		if a.Op == SelectOr {
			parts[i] = "(" + parts[i] + ")"
		}
	}
	if s.Op == SelectOr {
		return strings.Join(parts, " || ")
	}
	return strings.Join(parts, ",")
}
