package calico_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/dialect/calico"
)

var update = flag.Bool("update", false, "write what the objects in testdata mean; read the difference before committing it")

// TestObjects says what the model has of each object in testdata, and what is
// reported of it. A file is cases "=== name": an object, what it means after
// "--- means", and its problems after "--- problems".
func TestObjects(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("files %v: %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { testFile(t, file) })
	}
}

// shorthands stand for the head of an object whose spec follows.
var shorthands = map[string]string{
	"@NetworkPolicy":       "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n",
	"@GlobalNetworkPolicy": "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\nspec:\n",
}

func testFile(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(data), "=== ")
	out := head
	for _, text := range strings.Split(rest, "\n=== ") {
		name, text, _ := strings.Cut(text, "\n")
		object, want, _ := strings.Cut(strings.TrimSuffix(text, "\n")+"\n", "--- means\n")
		var got string
		t.Run(name, func(t *testing.T) {
			parts, problems := decode(t, expand(object))
			got = describe(parts)
			if len(problems) > 0 {
				got += "--- problems\n" + texts(problems)
			}
			if d := cmp.Diff(want, got); d != "" && !*update {
				t.Errorf("-want +got:\n%s", d)
			}
		})
		out += "=== " + name + "\n" + object + "--- means\n" + got
	}
	if *update {
		if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func expand(object string) string {
	first, rest, _ := strings.Cut(object, "\n")
	head, ok := shorthands[first]
	if !ok {
		return object
	}
	return head + "  " + strings.ReplaceAll(strings.TrimSuffix(rest, "\n"), "\n", "\n  ") + "\n"
}

// TestFormsAreAlike takes every object of testdata as it is served and as it is
// stored. They differ in what is left out: stored policies without types govern
// both directions.
func TestFormsAreAlike(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range strings.Split(string(data), "\n=== ")[1:] {
			name, text, _ := strings.Cut(text, "\n")
			object, _, _ := strings.Cut(text, "--- means")
			if strings.HasPrefix(object, "@") && !strings.Contains(object, "\ntypes:") {
				object += "types: [Ingress, Egress]\n"
			}
			served := expand(strings.TrimSuffix(object, "\n"))
			if !strings.Contains(served, calico.Served) {
				continue
			}
			a, problems := decode(t, served)
			b, stored := decode(t, strings.Replace(served, calico.Served, calico.Stored, 1))
			if strings.Contains(texts(stored), "spec.types: is missing") {
				continue
			}
			compared++
			if d := cmp.Diff(describe(a)+texts(problems), describe(b)+texts(stored)); d != "" {
				t.Errorf("%s: served (-) and stored (+): %s", name, d)
			}
		}
	}
	if compared < 80 {
		t.Errorf("only %d objects compared", compared)
	}
}

// TestLimits holds that lists which the API server would not take are reported
// and read all the same.
func TestLimits(t *testing.T) {
	list := func(n int, item string) string { return "[" + strings.Repeat(item+", ", n) + item + "]" }
	for name, c := range map[string]struct {
		text, complaint string
	}{
		"rules": {"ingress: " + list(1024, "{action: Allow}"), "spec.ingress: has 1025 items"},
		"nets":  {"ingress: [{action: Allow, source: {nets: " + list(256, "10.0.0.0/8") + "}}]", "nets: has 257 items"},
		"ports": {"ingress: [{action: Allow, protocol: TCP, destination: {ports: " + list(50, "80") + "}}]", "ports: has 51 items"},
		"long":  {"selector: a == '" + strings.Repeat("x", 1100) + "'", "warning spec.selector: is longer"},
	} {
		t.Run(name, func(t *testing.T) {
			parts, problems := decode(t, expand("@NetworkPolicy\n"+c.text))
			if !strings.Contains(texts(problems), c.complaint) || len(parts.Policies) != 1 {
				t.Errorf("%d policies, problems %s", len(parts.Policies), texts(problems))
			}
		})
	}
}

func TestNames(t *testing.T) {
	for _, c := range [][3]string{
		{"web", "", "web"}, {"default.web", "", "web"}, {"default.web", "default", "web"}, {"default.web", "security", "default.web"}, {"security.web", "security", "security.web"},
		{"knp.default.web", "", "web"}, {"default.", "", "default."}, {"defaults.web", "", "defaults.web"},
	} {
		if got := calico.Name(c[0], c[1]); got != c[2] {
			t.Errorf("%s in tier %q is %s, want %s", c[0], c[1], got, c[2])
		}
	}
}
