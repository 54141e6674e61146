package selector_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/dialect/calico/selector"
	"github.com/sallyport-dev/sallyport/model"
)

// plain asks the labels themselves.
var plain = selector.Mapping{Label: func(test model.Selector) model.Selector { return test }, Global: model.Selector{Op: model.SelectNone}}

// TestMatches holds the semantics: what is absent satisfies != and not in, and
// nothing else.
func TestMatches(t *testing.T) {
	empty, a, ab := map[string]string{}, map[string]string{"a": "x"}, map[string]string{"a": "xyz", "b": ""}
	for _, c := range []struct {
		text   string
		labels map[string]string
		want   bool
	}{
		{"", empty, true}, {" \t", a, true}, {"all()", empty, true}, {"all( )", a, true}, {"global()", a, false}, {"!all()", a, false},
		{"a == 'x'", a, true}, {`a == "x"`, a, true}, {"a=='x'", a, true}, {"a == 'X'", a, false}, {"A == 'x'", a, false}, {"a == 'x'", empty, false},
		{"a == ''", ab, false}, {"b == ''", ab, true}, {"b == ''", a, false},
		{"a != 'x'", a, false}, {"a != 'y'", a, true}, {"a != 'x'", empty, true}, {"!a != 'x'", empty, false}, {"! a == 'x'", empty, true}, {"!(a == 'x')", a, false},
		{"has(a)", a, true}, {"has( a )", a, true}, {"has(a)", empty, false}, {"!has(a)", empty, true}, {"!!has(a)", a, true}, {"! ! !has(a)", a, false}, {"has(b)", ab, true},
		{"a contains 'y'", ab, true}, {"a contains 'y'", a, false}, {"a contains ''", a, true}, {"a contains ''", empty, false}, {"!a contains 'y'", empty, true},
		{"a starts with 'xy'", ab, true}, {"a startswith 'yz'", ab, false}, {"a starts\twith 'x'", a, true}, {"a startswith'x'", a, true}, {"a starts with ''", empty, false},
		{"a ends with 'yz'", ab, true}, {"a endswith 'xy'", ab, false}, {"a ends with ''", empty, false},
		{"a in {'x', 'y'}", a, true}, {"a in {'y'}", a, false}, {"a in {'x',}", a, true}, {"a in{'x'}", a, true}, {"a in {'x'}", empty, false}, {"a in {}", a, false}, {"a in { }", empty, false},
		{"a not in {'x'}", a, false}, {"a notin {'y'}", a, true}, {"a not in {'x'}", empty, true}, {"a not in {}", a, true}, {"a notin{}", empty, true},
		{"has(a) && has(b)", ab, true}, {"has(a) && has(b)", a, false}, {"has(a) || has(b)", a, true}, {"has(a)||has(b)", empty, false},
		{"has(b) && has(c) || has(a)", a, true}, {"has(b) && (has(c) || has(a))", a, false}, {"has(a) || has(b) && has(c)", a, true},
		{"!has(a) || has(a)", a, true}, {"!(has(a) && has(b))", ab, false}, {"((a == 'x'))", a, true},
		{"in in {'x'}", map[string]string{"in": "x"}, true}, {"contains contains 'x'", map[string]string{"contains": "x"}, true}, {"all == 'x'", map[string]string{"all": "x"}, true},
		{"has == 'x'", map[string]string{"has": "x"}, true}, {"not not in {'x'}", map[string]string{"not": "x"}, false}, {"has(has)", map[string]string{"has": ""}, true},
		{"a.b/c-d_E == 'x'", map[string]string{"a.b/c-d_E": "x"}, true}, {"-/. == 'x'", map[string]string{"-/.": "x"}, true}, {"5 == 'x'", map[string]string{"5": "x"}, true},
		{`a == "it's"`, map[string]string{"a": "it's"}, true}, {`a == 'say "x"'`, map[string]string{"a": `say "x"`}, true}, {`a == '\'`, map[string]string{"a": `\`}, true},
		{"a == 'é && b'", map[string]string{"a": "é && b"}, true},
	} {
		s, err := selector.Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := s.Model(plain).Matches(c.labels); got != c.want {
			t.Errorf("%s on %v is %t, want %t", c.text, c.labels, got, c.want)
		}
	}
}

func TestString(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "all()",
		"a=='x'":                        `a == "x"`,
		`a == 'a"b'`:                    `a == 'a"b'`,
		"a!='x'":                        `a != "x"`,
		"a startswith 'x'":              `a starts with "x"`,
		"a endswith'x'":                 `a ends with "x"`,
		"a contains 'x'":                `a contains "x"`,
		"a in {'y','x', 'y'}":           `a in {"x", "y"}`,
		"a notin {}":                    "a not in {}",
		"!!has(a)":                      "has(a)",
		"!(!has(a))":                    "has(a)",
		"!(has(a) && has(b))":           "!(has(a) && has(b))",
		"!(has(a) || has(b))":           "!(has(a) || has(b))",
		"(has(a) && has(b)) && has(c)":  "has(a) && has(b) && has(c)",
		"(has(a) || has(b)) && has(c)":  "(has(a) || has(b)) && has(c)",
		"has(a) || (has(b) && has(c))":  "has(a) || has(b) && has(c)",
		"((has(a)) || (has(b)||all()))": "has(a) || has(b) || all()",
		"! global( )":                   "!global()",
	} {
		s, err := selector.Parse(text)
		if err != nil || s.String() != want {
			t.Errorf("%s is written as %s, want %s (%v)", text, s, want, err)
		}
	}
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("(", 300) + "all()" + strings.Repeat(")", 300)
	for _, c := range []struct {
		text    string
		offset  int
		message string
	}{
		{"a", 1, "compared with nothing"}, {"a = 'x'", 2, "single ="}, {"a == x", 5, "quotes"}, {"a == 'x", 5, "never closed"}, {"a ==", 4, "quotes, not the end"},
		{"a == 'x' & b == 'y'", 9, "single &"}, {"a == 'x' | b == 'y'", 9, "single |"}, {"a == 'x', b == 'y'", 8, "comma"}, {"a == 'x' b", 9, `not "b"`}, {"a == 'x')", 8, "closes nothing"},
		{"(a == 'x'", 9, "expected )"}, {"a in 'x'", 5, "expected {"}, {"a in {'x' 'y'}", 10, "expected , or }"}, {"a in {'x', , }", 11, "quotes"}, {"a in {'x'", 9, "expected , or }"}, {"a in {,}", 6, "quotes"},
		{"has()", 4, "name of a label"}, {"has(a", 5, "expected )"}, {"has(a b)", 6, "expected )"}, {"has (a)", 4, "no space before"}, {"all ()", 4, "no space before"}, {"all(x)", 4, "expected )"},
		{"a is 'x'", 2, `not "is"`}, {"a starts 'x'", 2, "operator"}, {"a inn {'x'}", 2, "operator"}, {"a containsx 'x'", 2, "operator"}, {"a not contains 'x'", 2, "operator"},
		{"'x' == a", 0, "expected a label"}, {"a == 'x' &&", 11, "expected a label"}, {"&& a == 'x'", 0, "expected a label"}, {"!", 1, "expected a label"}, {"a == 'x' || ", 12, "the end"},
		{"a\n== 'x'", 1, "operator"}, {"é == 'x'", 0, "é"}, {strings.Repeat("a", 513) + " == 'x'", 0, "513"}, {"has(" + strings.Repeat("a", 513) + ")", 4, "513"}, {deep, 201, "too many"}, {"a == 'x' !has(b)", 9, `not "!"`},
	} {
		_, err := selector.Parse(c.text)
		var wrong *selector.Error
		if !errors.As(err, &wrong) || wrong.Offset != c.offset || !strings.Contains(wrong.Message, c.message) {
			t.Errorf("%.40s: %v, want %q at %d", c.text, err, c.message, c.offset)
		}
	}
	if s, err := selector.Parse(strings.Repeat("a", 512) + " == 'x'"); err != nil || s.IsAll() {
		t.Error(err)
	}
}

// TestMapping says what a test is where the label may be under several keys.
func TestMapping(t *testing.T) {
	first := selector.Mapping{Label: func(test model.Selector) model.Selector { return selector.First(test, test.Key, "@"+test.Key) }}
	for _, c := range []struct {
		text           string
		own, inherited string // "-" is absent
		want           bool
	}{
		{"a == 'x'", "x", "y", true}, {"a == 'x'", "y", "x", false}, {"a == 'x'", "-", "x", true}, {"a == 'x'", "-", "-", false},
		{"a != 'x'", "x", "y", false}, {"a != 'x'", "y", "x", true}, {"a != 'x'", "-", "x", false}, {"a != 'x'", "-", "-", true},
		{"has(a)", "-", "x", true}, {"has(a)", "x", "-", true}, {"has(a)", "-", "-", false}, {"!has(a)", "-", "-", true}, {"!has(a)", "-", "x", false},
		{"a not in {'x', 'y'}", "z", "x", true}, {"a not in {'x', 'y'}", "-", "y", false}, {"a contains 'x'", "y", "x", false}, {"a contains 'x'", "-", "xy", true}, {"!a contains 'x'", "-", "-", true},
	} {
		s, err := selector.Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		labels := map[string]string{}
		for k, v := range map[string]string{"a": c.own, "@a": c.inherited} {
			if v != "-" {
				labels[k] = v
			}
		}
		if got := s.Model(first).Matches(labels); got != c.want {
			t.Errorf("%s with %s before %s is %t, want %t", c.text, c.own, c.inherited, got, c.want)
		}
	}
	s, err := selector.Parse("a == 'x' && b != 'x' || !has(c)")
	if err != nil {
		t.Fatal(err)
	}
	fixed := selector.Mapping{Label: func(test model.Selector) model.Selector { return selector.Fixed(test, "x") }}
	absent := selector.Mapping{Label: selector.Absent}
	if f, a := s.Model(fixed), s.Model(absent); f.Op != model.SelectNone || a.Op != model.SelectAll {
		t.Errorf("with x everywhere it is %v, with nothing %v", f, a)
	}
}

func TestGlobal(t *testing.T) {
	for text, want := range map[string][2]bool{"global()": {true, true}, "a == 'x' || !(all() && global())": {false, true}, "all()": {false, false}, "": {false, false}} {
		s, err := selector.Parse(text)
		if err != nil || s.IsGlobal() != want[0] || s.HasGlobal() != want[1] || s.IsAll() != (text == "" || text == "all()") {
			t.Errorf("%q: %t %t %v", text, s.IsGlobal(), s.HasGlobal(), err)
		}
	}
}

// FuzzParse holds that nothing makes the parser panic, that an error has its
// place inside the text, and that what is written is read as the same.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "a == 'x'", "!(has(a) && b in {'x', \"y\"}) || c not in {}", "a starts with 'x' || all() && global()", "pcns.a/b contains ''", "has (a)", "a = b", "((", "!!a!='é'",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := selector.Parse(text)
		var wrong *selector.Error
		if errors.As(err, &wrong) {
			if wrong.Offset < 0 || wrong.Offset > len(text) || wrong.Message == "" {
				t.Errorf("%q: %+v", text, wrong)
			}
			return
		}
		again, err := selector.Parse(s.String())
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%q is written as %q, which is %#v (%v), not %#v", text, s, again, err, s)
		}
		s.Model(plain).Matches(map[string]string{"a": "x"})
	})
}
