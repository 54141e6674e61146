// Package selector turns Calico's selector language, such as
// `role == "web" && !has(old)`, into the model's selectors. What a label is
// found under differs between pods, sets and namespaces, so whoever asks for
// the model's form hands a [Mapping] over. The package is pure.
package selector

import (
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

type op uint8

const (
	opAll op = iota
	opGlobal
	opHas
	opEqual
	opNotEqual
	opContains
	opPrefix
	opSuffix
	opIn
	opNotIn
	opNot
	opAnd
	opOr
)

// words are the operators between a label and its value.
var words = map[op]string{
	opEqual: "==", opNotEqual: "!=", opContains: "contains", opPrefix: "starts with", opSuffix: "ends with", opIn: "in", opNotIn: "not in",
}

// Selector is a parsed selector in its simplest form: no doubled negation, no
// AND directly in an AND, sets sorted. The zero value is all().
type Selector struct {
	op     op
	label  string
	values []string
	args   []Selector
}

// IsAll says whether the selector is all(), or empty, and nothing else.
func (s Selector) IsAll() bool { return s.op == opAll }

// IsGlobal says whether the selector is global() and nothing else.
func (s Selector) IsGlobal() bool { return s.op == opGlobal }

// HasGlobal says whether global() stands anywhere in the selector.
func (s Selector) HasGlobal() bool {
	return s.op == opGlobal || slices.ContainsFunc(s.args, Selector.HasGlobal)
}

// String writes the selector so that [Parse] gives the same one again.
func (s Selector) String() string {
	switch s.op {
	case opAll:
		return "all()"
	case opGlobal:
		return "global()"
	case opHas:
		return "has(" + s.label + ")"
	case opNot:
		return "!" + s.args[0].operand(opNot)
	case opAnd:
		return s.join(" && ")
	case opOr:
		return s.join(" || ")
	case opIn, opNotIn:
		quoted := make([]string, len(s.values))
		for i, v := range s.values {
			quoted[i] = quote(v)
		}
		return s.label + " " + words[s.op] + " {" + strings.Join(quoted, ", ") + "}"
	default:
		return s.label + " " + words[s.op] + " " + quote(s.values[0])
	}
}

func (s Selector) join(between string) string {
	parts := make([]string, len(s.args))
	for i, a := range s.args {
		parts[i] = a.operand(s.op)
	}
	return strings.Join(parts, between)
}

// operand is the text of s below an operator that may bind closer.
func (s Selector) operand(parent op) string {
	if s.op == opOr && parent != opOr || s.op == opAnd && parent == opNot {
		return "(" + s.String() + ")"
	}
	return s.String()
}

// quote puts the value in the quotes that it does not hold; the language has
// no escapes, so no value holds both kinds.
func quote(v string) string {
	if strings.Contains(v, `"`) {
		return "'" + v + "'"
	}
	return `"` + v + `"`
}

// negate is the opposite of s.
func negate(s Selector) Selector {
	if s.op == opNot {
		return s.args[0]
	}
	return Selector{op: opNot, args: []Selector{s}}
}

// combine joins selectors by opAnd or opOr; what is joined alike already is
// taken apart.
func combine(o op, args []Selector) Selector {
	if len(args) == 1 {
		return args[0]
	}
	var flat []Selector
	for _, a := range args {
		if a.op == o {
			flat = append(flat, a.args...)
		} else {
			flat = append(flat, a)
		}
	}
	return Selector{op: o, args: flat}
}

// Mapping says what a selector asks of the model.
type Mapping struct {
	// Label gives the test of one label its place: it gets the test with the
	// label as written, one of model.SelectIn, SelectNotIn, SelectExists,
	// SelectPrefix, SelectSuffix and SelectContains.
	Label       func(test model.Selector) model.Selector
	All, Global model.Selector // what all() and global() mean
}

// Model is the selector in the model's form.
func (s Selector) Model(m Mapping) model.Selector {
	switch s.op {
	case opAll:
		return m.All
	case opGlobal:
		return m.Global
	case opNot:
		return model.Not(s.args[0].Model(m))
	case opAnd:
		return model.And(s.arguments(m)...)
	case opOr:
		return model.Or(s.arguments(m)...)
	case opIn, opNotIn:
		if len(s.values) == 0 { // in none of them, whatever the label is
			return map[op]model.Selector{opIn: {Op: model.SelectNone}, opNotIn: {}}[s.op]
		}
	}
	return m.Label(model.Selector{Op: tests[s.op], Key: s.label, Values: s.values})
}

func (s Selector) arguments(m Mapping) []model.Selector {
	out := make([]model.Selector, len(s.args))
	for i, a := range s.args {
		out[i] = a.Model(m)
	}
	return out
}

// tests are the model's words for the tests of a label.
var tests = map[op]model.SelectorOp{
	opHas: model.SelectExists, opEqual: model.SelectIn, opIn: model.SelectIn, opNotEqual: model.SelectNotIn, opNotIn: model.SelectNotIn,
	opContains: model.SelectContains, opPrefix: model.SelectPrefix, opSuffix: model.SelectSuffix,
}

// First is the test asked of the first of the keys that is there.
func First(test model.Selector, keys ...string) model.Selector {
	if test.Op == model.SelectNotIn {
		return model.Not(First(model.Not(test), keys...))
	}
	test.Key = keys[0]
	if len(keys) == 1 {
		return test
	}
	return model.Or(test, model.And(model.Selector{Op: model.SelectNotExists, Key: keys[0]}, First(test, keys[1:]...)))
}

// Fixed is the test asked of a label that always has the value.
func Fixed(test model.Selector, value string) model.Selector {
	return known(test.Match(func(string) (string, bool) { return value, true }))
}

// Absent is the test asked of a label that nothing has.
func Absent(test model.Selector) model.Selector {
	return known(test.Match(func(string) (string, bool) { return "", false }))
}

func known(holds bool) model.Selector {
	if holds {
		return model.Selector{}
	}
	return model.Selector{Op: model.SelectNone}
}
