package parity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/projectcalico/calico/libcalico-go/lib/selector/parser"

	"github.com/sallyport-dev/sallyport/dialect/calico/selector"
	"github.com/sallyport-dev/sallyport/model"
)

// plain asks the labels themselves; global() is a selector of its own, which
// the vendor replaces before it evaluates.
var plain = selector.Mapping{Label: func(test model.Selector) model.Selector { return test }}

// TestSelectors takes random texts, most of them selectors and some of them
// nearly: both take the same ones, and read the same into them.
func TestSelectors(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 100_000 {
		text := expression(r, 3)
		if r.IntN(3) == 0 {
			text = damaged(r, text)
		}
		if strings.Contains(text, "global") {
			continue
		}
		ours, err := selector.Parse(text)
		theirs, theirErr := parser.Parse(text)
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%q: we say %v, the vendor %v", text, err, theirErr)
		}
		if err != nil {
			continue
		}
		taken++
		again, err := parser.Parse(ours.String())
		if err != nil {
			t.Fatalf("%q is written as %q, which the vendor does not take: %v", text, ours, err)
		}
		for range 4 {
			labels := someLabels(r)
			got, want := ours.Model(plain).Matches(labels), theirs.Evaluate(labels)
			if got != want || again.Evaluate(labels) != want {
				t.Fatalf("%q on %v: we say %t, the vendor %t, and %t of how we write it", text, labels, got, want, again.Evaluate(labels))
			}
		}
	}
	if taken < 30_000 {
		t.Errorf("only %d texts were selectors", taken)
	}
}

var (
	keys   = []string{"a", "b", "in", "not", "has", "all", "a.b/c-d_e", "contains"}
	values = []string{"", "x", "xy", "yx", "X", "é", `"`, "&&"}
)

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func space(r *rand.Rand) string { return pick(r, []string{"", "", " ", "\t", "  "}) }

func quoted(r *rand.Rand) string {
	v := pick(r, values)
	if v == `"` || r.IntN(2) == 0 {
		return "'" + v + "'"
	}
	return `"` + v + `"`
}

// expression is a selector of at most the depth.
func expression(r *rand.Rand, depth int) string {
	if depth == 0 || r.IntN(3) == 0 {
		return test(r)
	}
	a, b := expression(r, depth-1), expression(r, depth-1)
	switch r.IntN(5) {
	case 0:
		return "(" + space(r) + a + space(r) + ")"
	case 1:
		return "!" + space(r) + a
	case 2:
		return "!(" + a + ")"
	case 3:
		return a + space(r) + "&&" + space(r) + b
	}
	return a + space(r) + "||" + space(r) + b
}

func test(r *rand.Rand) string {
	key := pick(r, keys)
	switch r.IntN(9) {
	case 0:
		return "has(" + space(r) + key + space(r) + ")"
	case 1:
		return "all(" + space(r) + ")"
	case 2, 3:
		var list []string
		for range r.IntN(3) {
			list = append(list, quoted(r))
		}
		text := strings.Join(list, space(r)+","+space(r))
		if len(list) > 0 && r.IntN(4) == 0 {
			text += ","
		}
		return key + " " + pick(r, []string{"in", "not in", "notin", "not\tin"}) + space(r) + "{" + space(r) + text + space(r) + "}"
	}
	return key + " " + pick(r, []string{"==", "!=", "contains", "starts with", "startswith", "ends with", "endswith", "starts  with"}) + space(r) + quoted(r)
}

// damaged takes something away, doubles it or puts something in, but no new
// line, which some releases take inside has() and others do not.
func damaged(r *rand.Rand, text string) string {
	at := r.IntN(len(text) + 1)
	end := min(at+1+r.IntN(3), len(text))
	switch r.IntN(3) {
	case 0:
		return text[:at] + text[end:]
	case 1:
		return text[:end] + text[at:]
	}
	return text[:at] + pick(r, []string{" ", "(", ")", "!", "=", "&", "|", ",", "{", "}", "'", "\"", "a", "in", "has(", "*", "-", "all()"}) + text[at:]
}

func someLabels(r *rand.Rand) map[string]string {
	labels := map[string]string{}
	for _, k := range keys {
		if r.IntN(2) == 0 {
			labels[k] = pick(r, values)
		}
	}
	return labels
}

// TestSelectorsByHand is what articles and the vendor's own texts have.
func TestSelectorsByHand(t *testing.T) {
	for _, text := range []string{
		"a", "a=='x'", "a = 'x'", "a == x", "has (a)", "has()", "all ()", "a in 'x'", "a in {'x' 'y'}", "a in {,}", "a in {'x',,}", "a not contains 'x'", "a inn {'x'}", "a containsx 'x'",
		"a starts 'x'", "!", "!!a", "a == 'x' &&", "a == 'x' & b == 'y'", "a == 'x', b == 'y'", "(a == 'x'", "a == 'x')", "()", "a\n== 'x'", "5 == 'x'", "-/. == ''", "é == 'x'",
		"a == 'x' !has(b)", "a == 'x' b == 'y'", "'x' == a", "a != = 'x'", "a ! = 'x'", "in in {'in'}", "not in in {}", "has(has)", "all == 'x'", "has == 'x'", "!a == 'x'", "! ! a == 'x'", "\r", " ", "\t",
	} {
		_, err := selector.Parse(text)
		_, theirs := parser.Parse(text)
		if (err == nil) != (theirs == nil) {
			t.Error(fmt.Sprintf("%q: we say %v, the vendor %v", text, err, theirs))
		}
	}
}
