package crdtest

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// beyond are the scenarios whose errors no schema can find, and why.
var beyond = map[string]string{
	"calico-tier-unknown":                              "whether a tier exists no schema knows",
	"invalid-calico-namespace-selector-of-the-subject": "schemas do not read selectors",
	"invalid-calico-selector-of-the-subject":           "schemas do not read selectors",
	"invalid-calico-selectors-of-peers":                "schemas do not read selectors",
	"invalid-calico-source-ports":                      "source ports are valid, but not enforced",
	"invalid-cilium-http-of-any":                       "the protocol of every port depends on the rules beside the ports",
	"invalid-cilium-http-pattern":                      "whether a text is a regular expression",
	"invalid-cilium-port-of-gre":                       "the port depends on the protocol; Cilium's own definition does not look either",
	"invalid-cilium-server-names-and-http":             "the names depend on the rules and the TLS beside them",
	"invalid-cilium-two-peers":                         "lists of which only one may have items, of six and eight",
}

// understood are the scenarios with a form that no vendor's definition takes,
// and that is understood in files all the same.
var understood = map[string]string{
	"calico-tutorial-payment-service":      "an article's spellings of Calico's fields",
	"cilium-peers-spiffe-id":               "a SPIFFE ID is no label's value",
	"cilium-tutorial-http-header-unquoted": "a header is a text, and not a mapping",
	"tutorial-other-dialects":              "an article's spellings of Calico's fields",
}

// TestScenarios has the API server create the policies of every scenario: what
// the decoder takes, the definition takes; what the one rejects, the other does.
func TestScenarios(t *testing.T) {
	defined := definitions(t)
	all, err := scenarios.Load(scenarios.Files)
	must(t, err)
	tried := map[[2]string]int{}
	for _, s := range all {
		wrong := map[string]bool{}
		for _, p := range s.Problems {
			if p.Severity == model.Error {
				wrong[p.Source.Kind+" "+p.Source.Name] = true
			}
		}
		for _, file := range s.Order {
			for _, o := range documents(t, string(s.Files[file])) {
				kind, name := kindOf(o)
				d, ok := defined[kind]
				if !ok {
					continue
				}
				tried[kind]++
				said := d.check(o)
				switch {
				case len(said) > 0 && !wrong[name] && understood[s.Name] == "":
					t.Errorf("%s: the decoder takes %s, the definition does not: %s", s.Name, name, strings.Join(said, "; "))
				case len(said) == 0 && wrong[name] && beyond[s.Name] == "":
					t.Errorf("%s: the definition takes %s, the decoder does not", s.Name, name)
				}
			}
		}
	}
	for kind := range defined {
		if tried[kind] == 0 {
			t.Errorf("no scenario has a %v", kind)
		}
	}
}
