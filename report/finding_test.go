package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// found are findings with and without a file, a line, a fix and related places.
var found = []lint.Finding{
	{
		Code: "SP1101", Severity: model.Warning, Message: "no pod, 100% sure", Fix: "did you mean app: web?",
		Source:  model.Source{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", Field: "spec.podSelector", File: "a,b.yaml", Line: 4, Column: 3},
		Related: []model.Source{{Kind: "NetworkPolicy", Namespace: "shop", Name: "api", File: "c.yaml"}},
	},
	{Code: "SP1001", Severity: model.Info, Message: "open <here>", Source: model.Source{Kind: "Namespace", Name: "shop"}},
	{Code: "SP1901", Severity: model.Error, Message: "wrong", Source: model.Source{File: "-", Line: 1}},
}

func print(t *testing.T, format string) string {
	t.Helper()
	var out bytes.Buffer
	if err := report.Findings(&out, format, report.Paint{}, found); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// required are the fields that the schema of SARIF 2.1.0 requires, by the
// object that has them, of those that are written.
var required = map[string][]string{
	"":                       {"version", "runs"},
	"runs":                   {"tool"},
	"runs.tool":              {"driver"},
	"runs.tool.driver":       {"name"},
	"runs.tool.driver.rules": {"id"},
	"runs.tool.driver.rules.shortDescription": {"text"},
	"runs.results":                                   {"message"},
	"runs.results.message":                           {"text"},
	"runs.results.locations.physicalLocation":        {"artifactLocation"},
	"runs.results.relatedLocations.physicalLocation": {"artifactLocation"},
}

func TestSARIFHasWhatItsSchemaRequires(t *testing.T) {
	var log map[string]any
	if err := json.Unmarshal([]byte(print(t, "sarif")), &log); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	checkRequired(t, "", log, seen)
	for path := range required {
		if !seen[path] {
			t.Errorf("nothing is written at %q", path)
		}
	}
	if log["version"] != "2.1.0" || log["$schema"] == "" {
		t.Errorf("version %v, schema %v", log["version"], log["$schema"])
	}
}

func checkRequired(t *testing.T, path string, v any, seen map[string]bool) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			checkRequired(t, path, x, seen)
		}
	case map[string]any:
		seen[path] = true
		for _, field := range required[path] {
			if v[field] == nil || v[field] == "" {
				t.Errorf("%s has no %s", path, field)
			}
		}
		for k, x := range v {
			checkRequired(t, strings.TrimPrefix(path+"."+k, "."), x, seen)
		}
	case string:
		checkWord(t, path, v)
	case float64:
		if v < 0 || v < 1 && strings.HasPrefix(path[strings.LastIndex(path, ".")+1:], "start") {
			t.Errorf("%s is %v", path, v)
		}
	}
}

// checkWord checks what the schema says of the text of a field.
func checkWord(t *testing.T, path, v string) {
	t.Helper()
	switch path[strings.LastIndex(path, ".")+1:] {
	case "level":
		if !slices.Contains([]string{"none", "note", "warning", "error"}, v) {
			t.Errorf("%s is %q", path, v)
		}
	case "helpUri", "informationUri", "$schema":
		if u, err := url.Parse(v); err != nil || u.Scheme != "https" {
			t.Errorf("%s is %q", path, v)
		}
	}
}

func TestSARIFRulesAreFoundByTheirIndex(t *testing.T) {
	var log struct {
		Runs []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
			}
		}
	}
	if err := json.Unmarshal([]byte(print(t, "sarif")), &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	for _, r := range run.Results {
		if id := run.Tool.Driver.Rules[r.RuleIndex].ID; id != r.RuleID {
			t.Errorf("result of %s points to rule %s", r.RuleID, id)
		}
	}
}

func TestFindingsOnGitHub(t *testing.T) {
	want := `::warning file=a%2Cb.yaml,line=4,col=3,title=SP1101::NetworkPolicy shop/web spec.podSelector: no pod, 100%25 sure%0Adid you mean app: web?
::notice title=SP1001::Namespace shop: open <here>
::error title=SP1901::wrong
`
	if got := print(t, "github"); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestFindingsAsJUnitAndJSON(t *testing.T) {
	var suites struct {
		Suites []struct {
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(print(t, "junit")), &suites); err != nil {
		t.Fatal(err)
	}
	failures := 0
	for _, s := range suites.Suites {
		failures += s.Failures
		if len(s.Cases) == 0 {
			t.Error("a suite has no case")
		}
	}
	if failures != len(found) || len(suites.Suites) != len(lint.Checks()) {
		t.Errorf("%d failures in %d suites", failures, len(suites.Suites))
	}
	var list struct{ Findings []lint.Finding }
	if err := json.Unmarshal([]byte(print(t, "json")), &list); err != nil || len(list.Findings) != len(found) {
		t.Errorf("%d findings, %v", len(list.Findings), err)
	}
}
