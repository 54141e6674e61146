package cli

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/scenarios"
)

var update = flag.Bool("update", false, "write the outputs in the documents anew")

// TestTour runs every command of docs/tour.md and docs/ci.md, in order and
// where the tour's reader stands, and compares what it prints with what the
// document shows.
func TestTour(t *testing.T) {
	for name, least := range map[string]int{"tour.md": 15, "ci.md": 1} {
		t.Run(name, func(t *testing.T) { testConsole(t, filepath.Join("..", "docs", name), least) })
	}
}

func testConsole(t *testing.T, path string, least int) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := scenarios.Fenced(string(text), "console")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) < least {
		t.Fatalf("found %d blocks: are they still marked as console?", len(blocks))
	}
	dir := t.TempDir()
	copyFolder(t, dir, "../docs/tour")
	run := shellIn(t, dir)
	shell := func(block string) string {
		var out strings.Builder
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				printed, code := run(command)
				out.WriteString(line + printed)
				if code != 0 {
					fmt.Fprintf(&out, "(exit %d)\n", code)
				}
			}
		}
		return out.String()
	}
	renewed := string(text)
	for i := len(blocks) - 1; i >= 0; i-- { // backwards, so that the earlier ones stay where they are
		renewed = renewed[:blocks[i].Start] + "\x00" + renewed[blocks[i].Start+len(blocks[i].Text):]
	}
	for _, b := range blocks {
		got := shell(b.Text)
		renewed = strings.Replace(renewed, "\x00", got, 1)
		if got != b.Text && !*update {
			t.Errorf("the document and the commands differ; if that is right, run go test ./cli -run Tour -update (-document +commands):\n%s", cmp.Diff(b.Text, got))
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(renewed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFolder(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(filepath.FromSlash(from))); err != nil {
		t.Fatal(err)
	}
}

// shellIn is a shell in the folder that knows sallyport. It returns what a
// command prints, diagnostics too, as a terminal shows them.
func shellIn(t *testing.T, dir string) func(command string) (printed string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\n" + asCommand + "=1 exec '" + self + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "sallyport"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return func(command string) (string, int) {
		c := exec.Command("bash", "-c", command)
		c.Dir = dir
		c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
		printed, _ := c.CombinedOutput()
		return string(printed), c.ProcessState.ExitCode()
	}
}

// TestPipelines runs what the pipelines of docs/ci.md and the hooks of
// pre-commit run, on manifests that are fine and on others that are not.
func TestPipelines(t *testing.T) {
	text, err := os.ReadFile("../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := scenarios.Fenced(string(text), "yaml")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, b := range blocks {
		var pipeline any
		if err := yaml.Unmarshal([]byte(b.Text), &pipeline); err != nil {
			t.Fatalf("%v in\n%s", err, b.Text)
		}
		eachText(pipeline, func(text string) {
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "sallyport ") {
					commands = append(commands, strings.TrimSpace(line))
				}
			}
		})
	}
	if commands = append(commands, hooks(t, blocks)...); len(commands) != 8 {
		t.Fatalf("found %d commands: %q", len(commands), commands)
	}
	for state, want := range map[string]func(command string) int{
		"fine": func(string) int { return 0 },
		"failing expectations": func(c string) int {
			if strings.HasPrefix(c, "sallyport test ") {
				return 1
			}
			return 0
		},
		"wrong input": func(string) int { return 4 },
	} {
		run := shellIn(t, pipelineFolder(t, state))
		for _, c := range commands {
			if strings.Contains(c, "|| [ $? = 1 ]") && want(c) == 4 {
				c = strings.TrimSuffix(c, " || [ $? = 1 ]") // which makes 1 of it
			}
			if printed, code := run(c); code != want(c) {
				t.Errorf("%s: %s: exit %d, want %d\n%s", state, c, code, want(c), printed)
			}
		}
		if printed, code := run("sallyport lint -f manifests/ -o sarif > lint.sarif || [ $? = 1 ]"); (code != 0) != (state == "wrong input") {
			t.Errorf("%s: the lint step ends with %d\n%s", state, code, printed)
		}
	}
}

// pipelineFolder is a repository's folder, beside what it was before.
func pipelineFolder(t *testing.T, state string) string {
	t.Helper()
	dir := t.TempDir()
	repository := filepath.Join(dir, "repository")
	copyFolder(t, filepath.Join(dir, "base", "manifests"), "../docs/tour/layers")
	copyFolder(t, filepath.Join(repository, "manifests"), "../docs/tour/layers")
	extra := map[string]string{"failing expectations": "", "fine": "", "wrong input": "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: x, namespace: secure-app}\nspec: {podselector: {}}\n"}[state]
	if state == "fine" {
		missing, err := os.ReadFile("demo/5-what-was-missing.yaml")
		if err != nil {
			t.Fatal(err)
		}
		extra = string(missing)
	}
	if err := os.WriteFile(filepath.Join(repository, "manifests", "more.yaml"), []byte(extra), 0o600); err != nil {
		t.Fatal(err)
	}
	return repository
}

func eachText(v any, f func(string)) {
	switch v := v.(type) {
	case string:
		f(v)
	case []any:
		for _, x := range v {
			eachText(x, f)
		}
	case map[string]any:
		for _, x := range v {
			eachText(x, f)
		}
	}
}

// hooks are the commands that pre-commit makes of our hooks and of the
// arguments that the document gives them.
func hooks(t *testing.T, blocks []scenarios.Block) (out []string) {
	t.Helper()
	text, err := os.ReadFile("../.pre-commit-hooks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type hook struct {
		ID, Entry, Language string
		Args                []string
		PassFilenames       *bool `yaml:"pass_filenames"`
	}
	var ours []hook
	if err := yaml.Unmarshal(text, &ours); err != nil {
		t.Fatal(err)
	}
	var theirs struct {
		Repos []struct{ Hooks []hook }
	}
	for _, b := range blocks {
		if strings.Contains(b.Text, "repos:") {
			if err := yaml.Unmarshal([]byte(b.Text), &theirs); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, x := range theirs.Repos[0].Hooks {
		i := slices.IndexFunc(ours, func(h hook) bool { return h.ID == x.ID })
		if i < 0 || ours[i].Language != "golang" || ours[i].PassFilenames == nil || *ours[i].PassFilenames {
			t.Fatalf("the hook %s: %+v", x.ID, ours)
		}
		out = append(out, ours[i].Entry+" "+strings.Join(x.Args, " "))
	}
	return out
}
