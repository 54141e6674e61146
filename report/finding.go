package report

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/lint"
	"github.com/sallyport-dev/sallyport/model"
)

// FindingFormats are the formats of Findings.
var FindingFormats = []string{"text", "json", "sarif", "junit", "github"}

// pages is where the pages of checks are on the web.
const pages = "https://github.com/sallyport-dev/sallyport/blob/main/"

// Findings prints what lint found in one of FindingFormats.
func Findings(w io.Writer, format string, p Paint, list []lint.Finding) error {
	switch format {
	case "text":
		return findingsText(w, p, list)
	case "json":
		return findingsJSON(w, list)
	case "sarif":
		return findingsSARIF(w, list)
	case "junit":
		return findingsJUnit(w, list)
	case "github":
		return findingsGitHub(w, list)
	}
	return fmt.Errorf("unknown format %q: one of %v", format, FindingFormats)
}

// findingPlace is where the finding is, for people: file and line, or the object.
func findingPlace(s model.Source) string {
	var parts []string
	for _, x := range []string{s.Place(), s.Object(), s.Field} {
		if x != "" {
			parts = append(parts, x)
		}
	}
	return strings.Join(parts, ": ")
}

// colours of the severities, as [Paint.Colour] takes them.
var colours = [...]string{model.Info: "36", model.Warning: "33", model.Error: "31"}

func findingsText(w io.Writer, p Paint, list []lint.Finding) error {
	count := map[model.Severity]int{}
	var b strings.Builder
	for _, f := range list {
		count[f.Severity]++
		fmt.Fprintf(&b, "%s: %s %s: %s\n", findingPlace(f.Source), p.Colour(colours[f.Severity], f.Severity.String()), f.Code, f.Message)
		if f.Fix != "" {
			fmt.Fprintf(&b, "    %s\n", f.Fix)
		}
	}
	if len(list) > 0 {
		fmt.Fprintf(&b, "%d errors, %d warnings, %d infos\n", count[model.Error], count[model.Warning], count[model.Info])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func findingsJSON(w io.Writer, list []lint.Finding) error {
	if list == nil {
		list = []lint.Finding{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"findings": list})
}

// The parts of SARIF 2.1.0 that are written.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string      `json:"id"`
		ShortDescription sarifText   `json:"shortDescription"`
		HelpURI          string      `json:"helpUri"`
		Default          sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
		Related   []sarifLocation `json:"relatedLocations,omitempty"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
)

// levels are SARIF's words for the severities.
var levels = [...]string{model.Info: "note", model.Warning: "warning", model.Error: "error"}

func findingsSARIF(w io.Writer, list []lint.Finding) error {
	index := map[string]int{}
	driver := sarifDriver{Name: "sallyport", InformationURI: strings.TrimSuffix(pages, "/blob/main/")}
	for i, c := range lint.Checks() {
		index[c.Code] = i
		driver.Rules = append(driver.Rules, sarifRule{c.Code, sarifText{c.Title}, pages + c.Page(), sarifConfig{levels[c.Severity]}})
	}
	results := make([]sarifResult, 0, len(list))
	for _, f := range list {
		text := f.Message
		if f.Fix != "" {
			text += ". " + f.Fix
		}
		r := sarifResult{RuleID: f.Code, RuleIndex: index[f.Code], Level: levels[f.Severity], Message: sarifText{text}, Locations: []sarifLocation{sarifPlace(f.Source)}}
		for _, s := range f.Related {
			r.Related = append(r.Related, sarifPlace(s))
		}
		results = append(results, r)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{
		Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0",
		Runs: []sarifRun{{Tool: sarifTool{driver}, Results: results}},
	})
}

func sarifPlace(s model.Source) sarifLocation {
	var out sarifLocation
	if s.File != "" && s.File != "-" {
		out.Physical = &sarifPhysical{Artifact: sarifArtifact{s.File}}
		if s.Line > 0 {
			out.Physical.Region = &sarifRegion{s.Line, s.Column}
		}
	}
	if name := strings.TrimSpace(s.Object() + " " + s.Field); name != "" {
		out.Logical = []sarifLogical{{name, "resource"}}
	}
	return out
}

// The parts of JUnit's XML that are written: a suite per check that found
// something, a failed case per finding.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr,omitempty"`
		Line    int           `xml:"line,attr,omitempty"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	junitFailure struct {
		Type    string `xml:"type,attr"`
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func findingsJUnit(w io.Writer, list []lint.Finding) error {
	byCode := map[string][]lint.Finding{}
	for _, f := range list {
		byCode[f.Code] = append(byCode[f.Code], f)
	}
	var out junitSuites
	for _, c := range lint.Checks() {
		s := junitSuite{Name: c.Code + " " + c.Title, Tests: max(len(byCode[c.Code]), 1), Failures: len(byCode[c.Code])}
		for _, f := range byCode[c.Code] {
			s.Cases = append(s.Cases, junitCase{
				Name: findingPlace(f.Source), Class: c.Code, File: f.Source.File, Line: f.Source.Line,
				Failure: &junitFailure{f.Severity.String(), f.Message, f.Fix},
			})
		}
		if len(s.Cases) == 0 {
			s.Cases = []junitCase{{Name: c.Title, Class: c.Code}}
		}
		out.Suites = append(out.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// commands are the workflow commands of GitHub Actions for the severities.
var commands = [...]string{model.Info: "notice", model.Warning: "warning", model.Error: "error"}

func findingsGitHub(w io.Writer, list []lint.Finding) error {
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	var b strings.Builder
	for _, f := range list {
		var properties []string
		if f.Source.File != "" && f.Source.File != "-" {
			properties = append(properties, "file="+property.Replace(f.Source.File), fmt.Sprintf("line=%d", max(f.Source.Line, 1)))
			if f.Source.Column > 0 {
				properties = append(properties, fmt.Sprintf("col=%d", f.Source.Column))
			}
		}
		properties = append(properties, "title="+property.Replace(f.Code))
		text := f.Message
		if object := strings.TrimSpace(f.Source.Object() + " " + f.Source.Field); object != "" {
			text = object + ": " + text
		}
		if f.Fix != "" {
			text += "\n" + f.Fix
		}
		fmt.Fprintf(&b, "::%s %s::%s\n", commands[f.Severity], strings.Join(properties, ","), data.Replace(text))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ChecksTable lists the checks.
func ChecksTable(w io.Writer, width int) error {
	list := slices.SortedFunc(slices.Values(lint.Checks()), func(a, b lint.Check) int { return cmp.Compare(a.Code, b.Code) })
	return Table(w, width, []string{"CODE", "SEVERITY", "FINDS"}, func(yield func([]string) bool) {
		for _, c := range list {
			if !yield([]string{c.Code, c.Severity.String(), c.Title}) {
				return
			}
		}
	})
}
