package binary

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestModule(t *testing.T) {
	want, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "..", "../..", "../build/kubernetes/netpol"} {
		t.Run(dir, func(t *testing.T) {
			t.Chdir(dir)
			if got, err := Module(); err != nil || got != want {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	t.Chdir(os.TempDir())
	if got, err := Module(); err == nil {
		t.Errorf("found %s from %s", got, os.TempDir())
	}
}

// TestLocate changes what is to be built, so that it belongs elsewhere.
func TestLocate(t *testing.T) {
	t.Setenv("SALLYPORT_CACHE", "/cache")
	module := t.TempDir()
	if err := os.CopyFS(module, os.DirFS("..")); err != nil {
		t.Fatal(err)
	}
	before, err := locate(module)
	if err != nil {
		t.Fatal(err)
	}
	if prefix := "/cache/e2e/" + before.Version + "-"; !strings.HasPrefix(before.Dir, prefix) || before.Version == "" {
		t.Errorf("the programs are in %s, want %s...", before.Dir, prefix)
	}
	suite := filepath.Join(module, "build/kubernetes/netpol/suite_test.go")
	if err := os.WriteFile(suite, []byte("package netpol\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := locate(module); err != nil || after.Dir == before.Dir {
		t.Errorf("another suite is in the same folder, %s, %v", after.Dir, err)
	}
}
