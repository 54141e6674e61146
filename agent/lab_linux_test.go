package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
		t.Fatal("this test needs root, and SALLYPORT_REQUIRE_ROOT is set")
	}
	t.Skip("SKIPPED, NOT TESTED: needs root for network namespaces and BPF")
}

func load(t *testing.T, nodes int, files ...string) *model.Cluster {
	t.Helper()
	for i := range files {
		files[i] = filepath.Join("..", "cli", "demo", files[i])
	}
	r, err := manifest.Load(files, nil, manifest.Options{Nodes: nodes, DualStack: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return lab.WithDNS(r.Cluster)
}

func start(t *testing.T, c *model.Cluster) *Lab {
	t.Helper()
	needRoot(t)
	l, err := StartLab(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// compare probes every pair and reports where kernel and Matrix disagree.
func compare(t *testing.T, l *Lab) {
	t.Helper()
	list := l.Pairs()
	l.Observe(context.Background(), list, 400*time.Millisecond)
	for _, o := range list {
		if !o.Agrees() {
			t.Errorf("%s to %s %s %d/%s: %s, computed allowed=%v", o.From, o.To, o.Probe.To, o.Port, o.Protocol, o.Outcome, o.Computed.Allowed)
		}
	}
	if len(list) == 0 {
		t.Error("nothing was probed")
	}
}

func TestTheKernelDoesWhatWasComputed(t *testing.T) {
	needRoot(t)
	files := []string{"0-application.yaml", "1-deny-all.yaml", "2-frontend-to-backend.yaml", "3-backend-to-database.yaml", "4-restrict-backend-egress.yaml", "5-what-was-missing.yaml"}
	l := start(t, load(t, 3, files[:1]...))
	compare(t, l)
	for i := range files[1:] {
		names := []string{"0-application.yaml"}
		for _, f := range files[1 : i+2] {
			names = append(names, filepath.Base(f))
		}
		if err := l.Update(context.Background(), load(t, 3, names...)); err != nil {
			t.Fatal(err)
		}
		compare(t, l)
	}
}
