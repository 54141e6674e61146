package cli_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/cli"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

// asCommand makes this test binary the sallyport command (see TestMain), so that
// its time and memory are those of a process of its own.
const asCommand = "SALLYPORT_TEST_AS_COMMAND"

// writeCluster writes the cluster's manifests to a folder.
func writeCluster(t testing.TB, p synth.Params) string { return writeManifests(t, synth.Scale(p)) }

func writeManifests(t testing.TB, cluster *model.Cluster) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteYAML(f, cluster); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BenchmarkManifestsToCSV is the whole way from YAML files of 10,000 pods to
// the matrix by workload, with the peak memory of the process.
func BenchmarkManifestsToCSV(b *testing.B) {
	dir := writeCluster(b, synth.Ten)
	var peak int64
	var rows int
	for b.Loop() {
		c := exec.Command(os.Args[0], "matrix", "-f", dir, "-o", "csv")
		c.Env = append(os.Environ(), asCommand+"=1")
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, os.Stderr
		if err := c.Run(); err != nil {
			b.Fatal(err)
		}
		rows = bytes.Count(out.Bytes(), []byte("\n")) - 1
		peak = max(peak, c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	b.ReportMetric(float64(peak)/1024, "peak-MB")
	b.ReportMetric(float64(rows), "rows")
}

// BenchmarkManifestsToDiff is the whole way from two folders of YAML files of
// 10,000 pods and 5,000 policies, of which one in a hundred is missing on the
// one side, to what opens and closes.
func BenchmarkManifestsToDiff(b *testing.B) {
	next := synth.Scale(synth.Ten)
	old := writeManifests(b, next)
	i := 0
	next.Policies = slices.DeleteFunc(next.Policies, func(*model.Policy) bool { i++; return i%100 == 0 })
	changed := writeManifests(b, next)
	var used time.Duration
	for b.Loop() {
		c := exec.Command(os.Args[0], "diff", old, changed, "-o", "json", "--exit-zero")
		c.Env = append(os.Environ(), asCommand+"=1")
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			b.Fatal(err)
		}
		used += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}
	b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
}

// TestManifestsEqualTheirModel checks that a generated cluster written as YAML
// has the same matrix as the model that it was written from.
func TestManifestsEqualTheirModel(t *testing.T) {
	p := synth.Params{Pods: 600, Workloads: 120, Policies: 300, Seed: 7}
	dir := writeCluster(t, p)
	var csv bytes.Buffer
	if code := cli.Run([]string{"matrix", "-f", dir, "-o", "csv"}, nil, &csv, io.Discard); code != 0 {
		t.Fatalf("exit code %d, want 0", code)
	}
	m := engine.Compile(synth.Scale(p))
	want := 0
	for range m.EachPair() {
		want++
	}
	if got := bytes.Count(csv.Bytes(), []byte("\n")) - 1; got != want || want == 0 {
		t.Errorf("%d rows from the manifests, want the %d pairs of the model", got, want)
	}
}
