// Package scenarios is the corpus: each *.txtar file is a small cluster, its
// policies and what must hold, with a comment that says why. The package turns
// the files into Scenarios and takes them to an Executor; decoder, engine,
// reference, the datapath's Fake and a lab with real packets answer the same
// files, so that none of them can be right alone.
//
// A file holds cluster.yaml, any number of policies*.yaml, test.yaml (one or
// more PolicyTests) and, where they matter, problems.txt (every Problem, one
// per line), explain-*.txt, matrix.csv and lint.txt (every finding). Scenarios are immutable once loaded.
package scenarios

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
)

// Files holds the corpus itself.
//
//go:embed *.txtar
var Files embed.FS

// Scenario is one file of the corpus.
type Scenario struct {
	Name     string            // the file's name without .txtar
	Comment  string            // what it shows, and where the semantic comes from
	Files    map[string][]byte // as in the archive, by name
	Order    []string          // the names of the manifests, in the archive's order
	Cluster  *model.Cluster
	Cases    []policytest.Case
	Problems []model.Problem  // what loading found
	Written  manifest.Written // what the manifests say beside what they mean
	Expected []string         // what problems.txt says loading must find, a line for each
}

// Load reads every *.txtar file at the root of the file system, sorted by
// name. Its error is about files that are no scenario; what is wrong inside
// the manifests is in Problems.
func Load(fsys fs.FS) ([]*Scenario, error) {
	names, err := fs.Glob(fsys, "*.txtar")
	if err != nil {
		return nil, fmt.Errorf("cannot list scenarios: %w", err)
	}
	slices.Sort(names)
	var out []*Scenario
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("cannot read scenario %s: %w", name, err)
		}
		s, err := Parse(strings.TrimSuffix(name, ".txtar"), data)
		if err != nil {
			return nil, fmt.Errorf("cannot load scenario %s: %w", name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Parse makes a scenario of an archive's bytes.
func Parse(name string, data []byte) (*Scenario, error) {
	archive := ParseArchive(data)
	s := &Scenario{Name: name, Comment: strings.TrimSpace(string(archive.Comment)), Files: map[string][]byte{}}
	for _, f := range archive.Files {
		if err := s.add(f); err != nil {
			return nil, err
		}
	}
	if s.Comment == "" {
		return nil, fmt.Errorf("it does not say what it shows")
	}
	for _, needed := range []string{"cluster.yaml", "test.yaml"} {
		if s.Files[needed] == nil {
			return nil, fmt.Errorf("it has no %s", needed)
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Scenario) add(f File) error {
	if s.Files[f.Name] != nil {
		return fmt.Errorf("file %s is in it twice", f.Name)
	}
	known := []string{"cluster.yaml", "policies*.yaml", "test.yaml", "problems.txt", "explain-*.txt", "matrix.csv", "lint.txt"}
	if !slices.ContainsFunc(known, func(pattern string) bool { ok, _ := path.Match(pattern, f.Name); return ok }) {
		return fmt.Errorf("file %s is none of %s", f.Name, strings.Join(known, ", "))
	}
	if strings.HasSuffix(f.Name, ".yaml") {
		s.Order = append(s.Order, f.Name)
	}
	s.Files[f.Name] = append([]byte{}, f.Data...) // never nil: an empty file is there
	return nil
}

func (s *Scenario) load() error {
	r := manifest.Parse(s.Files, s.Order, manifest.Options{})
	if usesIPv6(r.Cluster) {
		r = manifest.Parse(s.Files, s.Order, manifest.Options{DualStack: true})
	}
	s.Cluster, s.Problems, s.Written = r.Cluster, r.Problems, r.Written
	for _, p := range r.Problems {
		if p.Source.File == "test.yaml" {
			return p
		}
	}
	for _, o := range r.Tests {
		cases, problems := policytest.Decode(o)
		if len(problems) > 0 {
			return problems[0]
		}
		s.Cases = append(s.Cases, cases...)
	}
	if len(s.Cases) == 0 {
		return fmt.Errorf("test.yaml expects nothing")
	}
	for line := range strings.Lines(string(s.Files["problems.txt"])) {
		if line = strings.TrimSpace(line); line != "" {
			s.Expected = append(s.Expected, line)
		}
	}
	return nil
}

// usesIPv6 says whether a pod's or node's written address asks for a
// dual-stack cluster.
func usesIPv6(c *model.Cluster) bool {
	for _, e := range c.Endpoints {
		for _, a := range e.IPs {
			if a.Is6() {
				return true
			}
		}
	}
	return false
}
