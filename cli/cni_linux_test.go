package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// writer is called with what is written.
type writer func(string)

func (w writer) Write(b []byte) (int, error) { w(string(b)); return len(b), nil }

func TestCNIInstallWaitsAndUninstallUndoes(t *testing.T) {
	root := t.TempDir()
	conf, plugins := filepath.Join(root, "net.d"), filepath.Join(root, "bin")
	folders := []string{"--conf-dir", conf, "--bin-dir", plugins}
	const list = `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"ptp"}]}`
	path := filepath.Join(conf, "10-x.conflist")
	waits := sync.OnceFunc(func() {
		next := filepath.Join(root, "next")
		if os.Mkdir(conf, 0o755) != nil || os.WriteFile(next, []byte(list), 0o644) != nil || os.Rename(next, path) != nil {
			t.Error("cannot write the configuration")
		}
	})
	code := Run(append([]string{"cni", "install"}, folders...), nil, io.Discard, writer(func(said string) {
		if strings.Contains(said, "waiting: no CNI is configured") {
			waits()
		}
	}))
	if text, err := os.ReadFile(path); code != ExitFine || err != nil || !strings.Contains(string(text), "sallyport-cni") {
		t.Errorf("exit %d, %v\n%s", code, err, text)
	}
	code, _, stderr := run(t, "", append([]string{"cni", "uninstall"}, folders...)...)
	left, err := os.ReadDir(plugins)
	if text, _ := os.ReadFile(path); code != ExitFine || string(text) != list || err != nil || len(left) != 0 {
		t.Errorf("exit %d, left %v %v\n%s%s", code, left, err, text, stderr)
	}
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "", append([]string{"cni", "install"}, folders...)...); code != ExitEnvironment || !strings.Contains(stderr, path) {
		t.Errorf("exit %d\n%s", code, stderr)
	}
}
