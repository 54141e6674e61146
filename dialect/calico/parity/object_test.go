package parity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	api "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	validator "github.com/projectcalico/calico/libcalico-go/lib/validator/v3"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-dev/sallyport/dialect/calico"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// kinds make the vendor's object of a kind.
var kinds = map[string]func() any{
	"NetworkPolicy":       func() any { return &api.NetworkPolicy{} },
	"GlobalNetworkPolicy": func() any { return &api.GlobalNetworkPolicy{} },
	"NetworkSet":          func() any { return &api.NetworkSet{} },
	"GlobalNetworkSet":    func() any { return &api.GlobalNetworkSet{} },
	"HostEndpoint":        func() any { return &api.HostEndpoint{} },
	"Profile":             func() any { return &api.Profile{} },
}

// theirs is what the vendor has against an object.
func theirs(object map[string]any) (err error) {
	if meta, ok := object["metadata"].(map[string]any); ok && strings.HasSuffix(fmt.Sprint(object["kind"]), "Policy") {
		_, name, found := strings.Cut(fmt.Sprint(meta["name"]), ".")
		if object = maps.Clone(object); found && !strings.HasPrefix(fmt.Sprint(meta["name"]), "knp.") {
			object["metadata"] = map[string]any{"name": name, "namespace": meta["namespace"]}
		}
	}
	defer func() {
		if recover() != nil { // over a selector that it cannot read
			err = errors.New("the validation panics")
		}
	}()
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	o := kinds[fmt.Sprint(object["kind"])]()
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return err
	}
	switch o := o.(type) { // the vendor validates by value
	case *api.NetworkPolicy:
		return validator.Validate(*o)
	case *api.GlobalNetworkPolicy:
		return validator.Validate(*o)
	case *api.NetworkSet:
		return validator.Validate(*o)
	case *api.GlobalNetworkSet:
		return validator.Validate(*o)
	case *api.HostEndpoint:
		return validator.Validate(*o)
	case *api.Profile:
		return validator.Validate(*o)
	}
	return nil
}

// parts are objects that each hold one rule of the object, and one without any.
func parts(object map[string]any) []map[string]any {
	spec, ok := object["spec"].(map[string]any)
	if !ok {
		return []map[string]any{object}
	}
	with := func(field string, value any) map[string]any {
		out, s := maps.Clone(object), maps.Clone(spec)
		delete(s, "ingress")
		delete(s, "egress")
		for _, field := range newer {
			delete(s, field)
		}
		if field != "" {
			s[field] = value
		}
		out["spec"] = s
		return out
	}
	out := []map[string]any{with("", nil)}
	for _, direction := range []string{"ingress", "egress"} {
		switch rules := spec[direction].(type) {
		case nil:
		case []any:
			for _, rule := range rules {
				out = append(out, with(direction, []any{rule}))
			}
		default:
			out = append(out, with(direction, rules))
		}
	}
	return out
}

// newer are fields of a spec that the vendor's version at hand does not have;
// nor does it know names that begin with the name of a tier.
var newer = []string{"tier", "performanceHints"}

// looser and stricter are parts of the vendor's errors, or of the object, and
// of ours, by which that is known that one takes and the other does not.
var (
	looser = map[string]string{
		"protocol name invalid":                 "the vendor's names have capitals; where they are compared they have none",
		"ICMP fields must set protocol to ICMP": "the number says the same",
		"Ports = '[http":                        "newer releases take names without a protocol",
		"Tag: portName":                         "newer releases take longer names",
		"Tag: net ":                             "a net with bits beyond its length means one without them",
		`"serviceAccounts":[{`:                  "an article's spelling",
		`"domains"`:                             "of the vendor's commercial releases",
	}
	stricter = map[string]string{
		"the ports of the source are not enforced": "valid, but not enforced",
		"a port by name cannot be excluded":        "valid, but not enforced",
		"may not stand beside ports by name":       "valid, but not enforced",
		"a protocol beside it is not enforced":     "valid, but not enforced",
		"notICMP: needs protocol ICMP":             "the vendor's text wants one, too",
		"does not go over IPv":                     "the rule would match nothing",
		"excludes every address":                   "newer releases reject it",
	}
)

func knownAs(list map[string]string, text string) bool {
	for part := range list {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// TestObjects takes every object of the corpus and of the decoder's own tests,
// rule by rule: what one has an error against, the other has.
func TestObjects(t *testing.T) {
	compared, wrong := 0, 0
	for name, objects := range corpus(t) {
		for _, object := range objects {
			if kinds[fmt.Sprint(object["kind"])] == nil || object["apiVersion"] != calico.Served {
				continue
			}
			for _, part := range parts(object) {
				compared++
				err := theirs(part)
				_, problems := decodeObject(t, part)
				if err != nil {
					wrong++
				}
				text, _ := json.Marshal(part)
				switch ours := model.HasErrors(problems); {
				case ours && err == nil && !knownAs(stricter, fmt.Sprint(problems)), !ours && err != nil && !knownAs(looser, fmt.Sprint(err)+string(text)):
					t.Errorf("%s: %s\n  we: %v\n  the vendor: %v", name, text, problems, err)
				}
			}
		}
	}
	if compared < 300 || wrong < 80 {
		t.Errorf("only %d objects compared, of which %d are wrong", compared, wrong)
	}
}

// corpus is the objects of every scenario and of every case of testdata.
func corpus(t *testing.T) map[string][]map[string]any {
	t.Helper()
	out := map[string][]map[string]any{}
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		for _, file := range s.Order {
			out[s.Name] = append(out[s.Name], objects(t, string(s.Files[file]))...)
		}
	}
	files, err := filepath.Glob("../testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range strings.Split(string(text), "\n=== ")[1:] {
			name, rest, _ := strings.Cut(c, "\n")
			object, _, _ := strings.Cut(rest, "--- means")
			if kind, spec, _ := strings.Cut(object, "\n"); strings.HasPrefix(kind, "@") {
				object = "apiVersion: " + calico.Served + "\nkind: " + kind[1:] + "\nmetadata: {name: web, namespace: shop}\nspec:\n  " + strings.ReplaceAll(spec, "\n", "\n  ")
				if kind == "@GlobalNetworkPolicy" {
					object = strings.Replace(object, ", namespace: shop", "", 1)
				}
			}
			out[filepath.Base(file)+": "+name] = objects(t, object)
		}
	}
	return out
}

func objects(t *testing.T, text string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, document := range strings.Split("\n"+text, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out
}
