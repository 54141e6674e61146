package field

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/model"
)

// ErrorInside adds an Error at a place inside the node's text, given as an
// offset in bytes. In a text that goes over several lines it is at the text's
// beginning.
func (c Cursor) ErrorInside(offset int, message, hint string) {
	s := c.Source()
	if n := c.node; n != nil && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 && !strings.Contains(n.Value, "\n") && offset <= len(n.Value) {
		before := n.Value[:offset]
		s.Column += utf8.RuneCountInString(before)
		switch {
		case n.Style&yaml.SingleQuotedStyle != 0:
			s.Column += 1 + strings.Count(before, "'")
		case n.Style&yaml.DoubleQuotedStyle != 0:
			s.Column += 1 + strings.Count(before, `"`) + strings.Count(before, `\`)
		}
	}
	c.object.problems.List = append(c.object.problems.List, model.Problem{Severity: model.Error, Source: s, Message: message, Hint: hint})
}

// IsString says whether the node is a text.
func (c Cursor) IsString() bool {
	return c.node != nil && c.node.Kind == yaml.ScalarNode && c.node.Tag == "!!str"
}

// Number is the value of a node that is a number, whole or not; ok is false if
// it is absent, or something else, which is reported.
func (c Cursor) Number() (v float64, ok bool) {
	if !c.Present() {
		return 0, false
	}
	v, err := strconv.ParseFloat(c.node.Value, 64)
	if c.node.Tag != "!!int" && c.node.Tag != "!!float" || err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		c.Error("must be a number, not "+c.describe(), "")
		return 0, false
	}
	return v, true
}
