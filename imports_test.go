// Package sallyport_test guards the shape of the tree.
package sallyport_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sallyport-dev/sallyport/"

// directions says, per package tree, which packages of the project it may
// import, and why.
var directions = []struct {
	tree    string
	may     []string
	because string
}{
	{"model", nil, "the nouns stand below everything"},
	{"dialect", []string{"model", "dialect"}, "a dialect turns objects into the model and knows nothing else"},
	{"engine", []string{"model", "engine"}, "the engine compiles the model; no dialect, file or kernel reaches it"},
	{"policytest", []string{"model", "engine", "dialect/field", "policytest"}, "expectations are answered from the Matrix"},
	{"diff", []string{"model", "engine", "diff"}, "a difference is between two Matrices, whoever made them"},
	{"convert", []string{"model", "convert"}, "one model in, text out; whoever calls has it compiled and compared"},
	{"advice", []string{"model", "engine", "diff", "manifest", "policytest", "advice"}, "advice is tried on the engine, as manifests that a user could add"},
	{"recommend", []string{"model", "engine", "flow", "recommend"}, "recommendations are made of flows and tried on the engine"},
	{"report", []string{"model", "engine", "diff", "policytest", "flow", "advice", "report"}, "reports print; they read nothing"},
	{"manifest", []string{"model", "dialect", "manifest"}, "an edge: files in, model out"},
	{"kube", []string{"model", "dialect", "engine", "kube"}, "an edge: the Kubernetes API in, model and changes out"},
	{"flow", []string{"model", "engine", "flow"}, "events are explained by the engine, not by the kernel's edge"},
	{"datapath/bpf", []string{"datapath", "flow", "datapath/bpf"}, "the only place that speaks BPF knows tables, not policies"},
	{"datapath", []string{"model", "engine", "flow", "datapath"}, "the planner writes what the Matrix says"},
	{"scenarios", []string{"model", "engine", "dialect", "manifest", "policytest", "datapath", "scenarios"}, "the corpus is run by every executor"},
	{"lab", []string{"model", "engine", "manifest", "flow", "lab"}, "the lab is a world for the agent, not part of it"},
	{"api", []string{"model", "flow", "api"}, "questions and answers: whoever answers them is handed over"},
	{"cni", []string{"api", "cni"}, "the plugin asks the agent, which knows"},
	{"agent", []string{"model", "engine", "datapath", "flow", "manifest", "kube", "api", "lab", "cni", "agent"}, "the only place that wires parts"},
	{"deploy", nil, "what is delivered is made of files"},
	{"cmd", []string{"cli", "cni"}, "main chooses by its name who runs, and nothing else"},
}

// outside says who alone may import a module from elsewhere.
var outside = map[string][]string{
	"github.com/cilium/ebpf":     {"datapath/bpf"},
	"github.com/spf13/cobra":     {"cli"},
	"k8s.io/client-go":           {"kube", "e2e"},
	"github.com/vishvananda/":    {"lab", "agent", "datapath/bpf", "cli"},
	"github.com/google/nftables": {"lab", "agent", "datapath/bpf"},
	"github.com/containernetw":   {"cni"},
}

func TestImportsGoOneWay(t *testing.T) {
	eachImport(t, func(dir, path string) {
		if !strings.HasPrefix(path, module) {
			return
		}
		target := strings.TrimPrefix(path, module)
		for _, d := range directions {
			if !within(dir, d.tree) {
				continue
			}
			if !slices.ContainsFunc(d.may, func(m string) bool { return within(target, m) }) {
				t.Errorf("%s imports %s, but %s", dir, target, d.because)
			}
			return
		}
	})
}

func TestPurePackagesHaveNoEdges(t *testing.T) {
	pure := []string{"model", "dialect", "engine", "diff", "convert", "policytest", "advice", "report"}
	forbidden := []string{"net", "os", "os/exec", "time", "log", "log/slog", "sync", "syscall"}
	eachImport(t, func(dir, path string) {
		if slices.ContainsFunc(pure, func(p string) bool { return within(dir, p) }) && slices.Contains(forbidden, path) {
			t.Errorf("%s imports %s: pure packages have no I/O, clock, goroutine or log", dir, path)
		}
	})
}

func TestModulesFromElsewhereStayAtTheirEdge(t *testing.T) {
	eachImport(t, func(dir, path string) {
		for prefix, who := range outside {
			if strings.HasPrefix(path, prefix) && !slices.ContainsFunc(who, func(w string) bool { return within(dir, w) }) {
				t.Errorf("%s imports %s, which belongs to %v", dir, path, who)
			}
		}
	})
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string]int{}
	eachFile(t, func(dir, file string) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		comments[dir] += 0
		if f.Doc != nil && strings.HasPrefix(f.Doc.Text(), "Package ") || f.Name.Name == "main" && f.Doc != nil {
			comments[dir]++
		}
	})
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, n)
		}
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "replace ") {
		t.Error("go.mod has a replace: users of the module would not build what we build")
	}
}

func within(dir, tree string) bool { return dir == tree || strings.HasPrefix(dir, tree+"/") }

// eachFile calls f for every Go source file that is no test.
func eachFile(t *testing.T, f func(dir, file string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "e2e") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			f(filepath.ToSlash(filepath.Dir(path)), path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eachImport(t *testing.T, f func(dir, path string)) {
	t.Helper()
	eachFile(t, func(dir, file string) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f(dir, path)
		}
	})
}
