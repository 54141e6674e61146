package crdtest

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/network-policy-api/conformance"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// stricter are the scenarios in which our definition rejects what upstream's
// takes, and why it does.
var stricter = map[string]string{
	"invalid-cnp-domain-names-denied": "the API's text allows domainNames in Accept rules only",
	"invalid-cnp-protocols":           "no container's port can have such a name",
	"invalid-cnp-subject":             "no object can carry such a label",
}

// TestUpstreamsDefinition compares ours with upstream's, channel experimental.
func TestUpstreamsDefinition(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	must(t, err)
	theirs := read(t, filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml"))[0]
	ours := definitions(t)[theirs.kind]
	all, err := scenarios.Load(scenarios.Files)
	must(t, err)
	compared := 0
	for _, s := range all {
		for _, file := range s.Order {
			for _, o := range documents(t, string(s.Files[file])) {
				kind, name := kindOf(o)
				if kind != theirs.kind {
					continue
				}
				compared++
				a, b := ours.check(o), theirs.check(o)
				switch {
				case len(a) == 0 && len(b) > 0:
					t.Errorf("%s: %s: upstream's definition rejects what ours takes: %s", s.Name, name, strings.Join(b, "; "))
				case len(a) > 0 && len(b) == 0 && stricter[s.Name] == "":
					t.Errorf("%s: %s: upstream's definition takes what ours rejects: %s", s.Name, name, strings.Join(a, "; "))
				}
			}
		}
	}
	if compared < 50 {
		t.Errorf("only %d policies compared", compared)
	}
}

// TestUpstreamsPolicies reads all policies of upstream's conformance suite.
func TestUpstreamsPolicies(t *testing.T) {
	defined := definitions(t)
	n := 0
	must(t, fs.WalkDir(conformance.Manifests, "base", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		source, err := fs.ReadFile(conformance.Manifests, path)
		must(t, err)
		parsed, err := template.New(path).Parse(string(source))
		must(t, err)
		var text strings.Builder
		must(t, parsed.Execute(&text, map[string]any{"HostNetworkPorts": []int{34345, 34346, 34347, 34348, 34349, 34350, 34351, 34352}}))
		for _, p := range manifest.Parse(map[string][]byte{path: []byte(text.String())}, []string{path}, manifest.Options{}).Problems {
			if p.Severity == model.Error {
				t.Error(p)
			}
		}
		for _, o := range documents(t, text.String()) {
			kind, name := kindOf(o)
			if d, ok := defined[kind]; ok {
				n++
				if said := d.check(o); len(said) > 0 {
					t.Errorf("%s: %s: %s", path, name, strings.Join(said, "; "))
				}
			}
		}
		return nil
	}))
	if n < 20 {
		t.Errorf("only %d policies read", n)
	}
}
