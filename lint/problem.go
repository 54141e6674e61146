package lint

import (
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// problems makes findings of what reading the input said, but for what a check
// of its own has said already.
func (r *run) problems() {
	told := map[string][]Finding{}
	for _, f := range r.out {
		if f.Code == "SP1107" || f.Code == "SP1407" {
			told[f.Source.Object()] = append(told[f.Source.Object()], f)
		}
	}
	for _, p := range r.Problems {
		code := codeOf(p)
		same := func(f Finding) bool {
			return f.Code == code || code == "SP1902" && strings.HasPrefix(p.Source.Field, f.Source.Field)
		}
		if !slices.ContainsFunc(told[p.Source.Object()], same) {
			r.report(Finding{Code: code, Severity: p.Severity, Source: p.Source, Message: p.Message, Fix: p.Hint})
		}
	}
}

// codeOf is the check that the problem belongs to.
func codeOf(p model.Problem) string {
	switch {
	case strings.HasPrefix(p.Message, "is written twice"):
		return "SP1401"
	case strings.HasPrefix(p.Message, "tier ") && strings.HasSuffix(p.Message, "does not exist"):
		return "SP1407"
	case p.Severity == model.Error:
		return "SP1901"
	case strings.Contains(p.Message, "enforced yet"), strings.Contains(p.Message, "not supported"), strings.Contains(p.Message, "not protected yet"):
		return "SP1601"
	}
	return "SP1902"
}
