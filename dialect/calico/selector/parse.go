package selector

import (
	"fmt"
	"slices"
	"strings"
)

// Error is what is wrong with a selector, and where.
type Error struct {
	Offset  int // in bytes
	Message string
	Hint    string
}

func (e *Error) Error() string { return fmt.Sprintf("at offset %d: %s", e.Offset, e.Message) }

// maxDepth is how many parentheses may be open at once.
const maxDepth = 200

// maxLabel is how long a label may be.
const maxLabel = 512

// Parse reads a selector; "" is all(). Its error is an [*Error].
//
//	or    := and { "||" and }
//	and   := not { "&&" not }
//	not   := { "!" } test
//	test  := label operator value | "has(" label ")" | "all()" | "global()" | "(" or ")"
func Parse(text string) (Selector, error) {
	p := &parser{text: text}
	if p.space(); p.rest() == "" {
		return Selector{}, nil
	}
	s, err := p.or()
	if err != nil {
		return Selector{}, err
	}
	if p.rest() != "" {
		return Selector{}, p.fail(p.surplus())
	}
	return s, nil
}

type parser struct {
	text  string
	at    int
	depth int
}

func (p *parser) rest() string { return p.text[p.at:] }

// space passes over what may stand between two words.
func (p *parser) space() { p.at = len(p.text) - len(strings.TrimLeft(p.rest(), " \t")) }

// take passes over the word if it is next, and the space behind it.
func (p *parser) take(word string) bool {
	if !strings.HasPrefix(p.rest(), word) {
		return false
	}
	p.at += len(word)
	p.space()
	return true
}

func (p *parser) fail(message, hint string) error {
	return &Error{Offset: p.at, Message: message, Hint: hint}
}

// found describes what stands here.
func (p *parser) found() string {
	if p.rest() == "" {
		return "the end"
	}
	word := p.label()
	if word == "" {
		for _, r := range p.rest() {
			word = string(r)
			break
		}
	}
	return fmt.Sprintf("%q", word)
}

// surplus is the complaint about what follows a whole selector.
func (p *parser) surplus() (message, hint string) {
	switch p.rest()[0] {
	case '&', '|':
		return "a single " + p.rest()[:1] + " is no operator", "write && or ||"
	case ')':
		return "this ) closes nothing", ""
	case ',':
		return "a comma joins nothing", "write && or ||"
	}
	return "expected &&, || or the end, not " + p.found(), ""
}

func (p *parser) or() (Selector, error)  { return p.joined(opOr, "||", p.and) }
func (p *parser) and() (Selector, error) { return p.joined(opAnd, "&&", p.not) }

func (p *parser) joined(o op, between string, next func() (Selector, error)) (Selector, error) {
	var args []Selector
	for {
		s, err := next()
		if err != nil {
			return Selector{}, err
		}
		args = append(args, s)
		if !p.take(between) {
			return combine(o, args), nil
		}
	}
}

func (p *parser) not() (Selector, error) {
	negated := false
	for p.take("!") {
		negated = !negated
	}
	s, err := p.test()
	if err == nil && negated {
		s = negate(s)
	}
	return s, err
}

func (p *parser) test() (Selector, error) {
	switch {
	case p.take("("):
		return p.group()
	case p.take("has("):
		label := p.label()
		if label == "" {
			return Selector{}, p.fail("has() needs the name of a label", "has(app)")
		}
		return p.closed(Selector{op: opHas, label: label}, len(label))
	case p.take("all("):
		return p.closed(Selector{}, 0)
	case p.take("global("):
		return p.closed(Selector{op: opGlobal}, 0)
	}
	label := p.label()
	switch {
	case label == "":
		return Selector{}, p.fail("expected a label, has(), all() or (, not "+p.found(), "")
	case len(label) > maxLabel:
		return Selector{}, p.fail(fmt.Sprintf("a label of %d characters", len(label)), fmt.Sprintf("at most %d", maxLabel))
	}
	p.at += len(label)
	p.space()
	return p.comparison(label)
}

func (p *parser) group() (Selector, error) {
	if p.depth++; p.depth > maxDepth {
		return Selector{}, p.fail("too many parentheses", "")
	}
	s, err := p.or()
	if err != nil {
		return Selector{}, err
	}
	p.depth--
	return p.closed(s, 0)
}

// closed passes over a label of the length given and the parenthesis behind it.
func (p *parser) closed(s Selector, length int) (Selector, error) {
	if length > maxLabel {
		return Selector{}, p.fail(fmt.Sprintf("a label of %d characters", length), fmt.Sprintf("at most %d", maxLabel))
	}
	p.at += length
	p.space()
	if !p.take(")") {
		return Selector{}, p.fail("expected ), not "+p.found(), "")
	}
	return s, nil
}

// label is the label that begins here, or "".
func (p *parser) label() string {
	end := strings.IndexFunc(p.rest(), func(r rune) bool { return !inLabel(r) })
	if end < 0 {
		return p.rest()
	}
	return p.rest()[:end]
}

func inLabel(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_./-", r)
}

// operators in the order in which they are tried, word by word.
var operators = []struct {
	op    op
	words []string
}{
	{opEqual, []string{"=="}}, {opNotEqual, []string{"!="}}, {opContains, []string{"contains"}}, {opPrefix, []string{"starts", "with"}},
	{opSuffix, []string{"ends", "with"}}, {opNotIn, []string{"not", "in"}}, {opIn, []string{"in"}},
}

func (p *parser) comparison(label string) (Selector, error) {
	for _, o := range operators {
		if !p.operator(o.words) {
			continue
		}
		if o.op == opIn || o.op == opNotIn {
			values, err := p.set()
			return Selector{op: o.op, label: label, values: values}, err
		}
		value, err := p.value()
		return Selector{op: o.op, label: label, values: []string{value}}, err
	}
	const known = "one of ==, !=, in, not in, contains, starts with, ends with"
	switch rest := p.rest(); {
	case strings.HasPrefix(rest, "="):
		return Selector{}, p.fail("a single = is no operator", "write ==")
	case strings.HasPrefix(rest, "(") && slices.Contains([]string{"has", "all", "global"}, label):
		return Selector{}, p.fail("there may be no space before this (", "write "+label+"(")
	case rest == "":
		return Selector{}, p.fail("label "+label+" is compared with nothing", "has("+label+") asks whether it is there")
	}
	return Selector{}, p.fail("expected an operator after label "+label+", not "+p.found(), known)
}

// operator passes over the words if they are next; space between them is
// optional, but the last one ends where a label would.
func (p *parser) operator(words []string) bool {
	start := p.at
	for _, w := range words {
		if !p.take(w) {
			p.at = start
			return false
		}
	}
	last := words[len(words)-1]
	ends := strings.TrimRight(p.text[:p.at], " \t")
	if inLabel(rune(last[0])) && len(ends) == p.at && p.label() != "" {
		p.at = start
		return false
	}
	return true
}

// value is a text in quotes.
func (p *parser) value() (string, error) {
	rest := p.rest()
	if rest == "" || rest[0] != '"' && rest[0] != '\'' {
		return "", p.fail("expected a value in quotes, not "+p.found(), `such as "web" or 'web'`)
	}
	end := strings.IndexByte(rest[1:], rest[0])
	if end < 0 {
		return "", p.fail("this quote is never closed", "there are no escapes: a value with \" in it stands in single quotes")
	}
	p.at += end + 2
	p.space()
	return rest[1 : end+1], nil
}

// set is values in braces, sorted; a comma may follow the last.
func (p *parser) set() ([]string, error) {
	if !p.take("{") {
		return nil, p.fail("expected {, not "+p.found(), `such as {"web", "api"}`)
	}
	values := []string{}
	for !p.take("}") {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		values = append(values, v)
		if !p.take(",") && !strings.HasPrefix(p.rest(), "}") {
			return nil, p.fail("expected , or }, not "+p.found(), "")
		}
	}
	slices.Sort(values)
	return slices.Compact(values), nil
}
