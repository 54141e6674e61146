package calico_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
