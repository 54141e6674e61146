package cli

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/scenarios"
)

var update = flag.Bool("update", false, "write the outputs in the documents anew")

// TestTour runs every command of docs/tour.md, in order and where its reader
// stands, and compares what it prints with what the document shows.
func TestTour(t *testing.T) {
	path := filepath.Join("..", "docs", "tour.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := scenarios.Fenced(string(text), "console")
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) < 15 {
		t.Fatalf("found %d blocks: are they still marked as console?", len(blocks))
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("..", "docs", "tour"))); err != nil {
		t.Fatal(err)
	}
	shell := shellIn(t, dir)
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

// shellIn runs a block's commands in the folder and returns the block with
// what they print: results and diagnostics, as a terminal shows them, and the
// exit code where it is not 0.
func shellIn(t *testing.T, dir string) func(block string) string {
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
	return func(block string) string {
		var out strings.Builder
		for line := range strings.Lines(block) {
			command, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			c := exec.Command("bash", "-c", command)
			c.Dir = dir
			c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
			printed, _ := c.CombinedOutput()
			out.WriteString(line)
			out.Write(printed)
			if code := c.ProcessState.ExitCode(); code != 0 {
				out.WriteString("(exit " + string(rune('0'+code)) + ")\n")
			}
		}
		return out.String()
	}
}
