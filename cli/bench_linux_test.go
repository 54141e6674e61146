package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// andThen separates command lines that one process runs, one after the other.
const andThen = "--and-then"

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

// run runs a command line as a process of its own and returns what it used.
func run(b *testing.B, args ...string) (cpu time.Duration, peak float64) {
	b.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	c.Stderr = os.Stderr
	var failed *exec.ExitError
	if err := c.Run(); errors.As(err, &failed) && failed.ExitCode() > cli.ExitFindings || err != nil && failed == nil {
		b.Fatal(err)
	}
	return c.ProcessState.UserTime() + c.ProcessState.SystemTime(), float64(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}

// usage adds up what processes used.
type usage struct {
	cpu  time.Duration
	peak float64
}

func (u *usage) add(cpu time.Duration, peak float64) {
	u.cpu += cpu
	u.peak = max(u.peak, peak)
}

func (u *usage) report(b *testing.B) {
	b.ReportMetric(u.cpu.Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(u.peak, "peak-MB")
}

// versions writes two folders of YAML files of 10,000 pods and 5,000 policies,
// of which one in a hundred is missing on the one side.
func versions(b *testing.B) (old, next string) {
	c := synth.Scale(synth.Ten)
	old = writeManifests(b, c)
	i := 0
	c.Policies = slices.DeleteFunc(c.Policies, func(*model.Policy) bool { i++; return i%100 == 0 })
	return old, writeManifests(b, c)
}

// BenchmarkManifestsToDiff is the whole way to what opens and closes.
func BenchmarkManifestsToDiff(b *testing.B) {
	old, next := versions(b)
	var u usage
	for b.Loop() {
		u.add(run(b, "diff", old, next, "-o", "json", "--exit-zero"))
	}
	u.report(b)
}

// BenchmarkManifestsToLintAndDiff has one process look for mistakes first, and
// then compare, reading all files again.
func BenchmarkManifestsToLintAndDiff(b *testing.B) {
	old, next := versions(b)
	var u usage
	for b.Loop() {
		u.add(run(b, "lint", "-f", next, "-o", "json", andThen, "diff", old, next, "-o", "json", "--exit-zero"))
	}
	u.report(b)
}

// BenchmarkManifestsToExplain is the whole way to why one pair may not connect,
// and what would change it.
func BenchmarkManifestsToExplain(b *testing.B) {
	_, next := versions(b)
	var u usage
	for b.Loop() {
		u.add(run(b, "explain", "-f", next, "ns-1/w1-0", "ns-7/w7-0", "80", "-o", "json"))
	}
	u.report(b)
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

// BenchmarkFlowsToCheck replays 1,000,000 recorded flows between 10,000 pods
// and addresses outside, nearly all of them different, against one policy more.
// "ours" and "hubble" are two ways to write them; "none" is check without any.
func BenchmarkFlowsToCheck(b *testing.B) {
	c := synth.Scale(synth.Ten)
	dir := writeManifests(b, c)
	policy := filepath.Join(b.TempDir(), "new.yaml")
	const text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: new, namespace: ns-1}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n"
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"none", "ours", "hubble"} {
		b.Run(format, func(b *testing.B) {
			args := []string{"check", "-f", dir, "--test-policy", policy, "-o", "brief"}
			if format != "none" {
				args = append(args, "--flows", writeFlows(b, c, format == "hubble", 1_000_000))
			}
			var u usage
			for b.Loop() {
				u.add(run(b, args...))
			}
			u.report(b)
		})
	}
}

// writeFlows writes so many random flows.
func writeFlows(b *testing.B, c *model.Cluster, hubble bool, n int) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "flows.json")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		// The manifests' pods have other addresses, as those that were started again.
		from, to := &c.Endpoints[r.IntN(len(c.Endpoints))], &c.Endpoints[r.IntN(len(c.Endpoints))]
		port, verdict := []int{80, 443, 8080, 5432, 53}[r.IntN(5)], r.IntN(8)
		if hubble {
			fmt.Fprintf(w, `{"flow":{"time":"2026-01-01T00:00:%02[1]d.%09[2]dZ","uuid":"8f6c0c1e-4b1d-4f6e-9c60-%012[3]d","verdict":"%[4]s","ethernet":{"source":"0a:58:0a:00:00:01","destination":"0a:58:0a:00:00:02"},"IP":{"source":"%[5]s","destination":"%[6]s","ipVersion":"IPv4"},`+
				`"l4":{"TCP":{"source_port":%[7]d,"destination_port":%[8]d,"flags":{"SYN":true}}},"source":{"ID":1,"identity":%[9]d,"namespace":"%[10]s","labels":["k8s:app=a","k8s:io.kubernetes.pod.namespace=%[10]s"],"pod_name":"%[11]s","workloads":[{"name":"w","kind":"Deployment"}]},`+
				`"destination":{"ID":2,"identity":%[12]d,"namespace":"%[13]s","labels":["k8s:app=b","k8s:io.kubernetes.pod.namespace=%[13]s"],"pod_name":"%[14]s","workloads":[{"name":"w","kind":"Deployment"}]},"Type":"L3_L4","node_name":"node-1","event_type":{"type":4,"sub_type":3},`+
				`"traffic_direction":"INGRESS","trace_observation_point":"TO_ENDPOINT","is_reply":false,"Summary":"TCP Flags: SYN"},"node_name":"node-1","time":"2026-01-01T00:00:00Z"}`+"\n",
				i%60, i, i, []string{"FORWARDED", "DROPPED"}[verdict/7], from.IPs[0], to.IPs[0], 32768+i%28000, port, r.IntN(5000), from.Namespace, from.Name, r.IntN(5000), to.Namespace, to.Name)
			continue
		}
		fmt.Fprintf(w, `{"time":%d,"revision":7,"hook":"forward","reason":"allowed","source":"%s","destination":"%s","sourcePort":%d,"destinationPort":%d,"protocol":6,"sourcePod":"%s","destinationPod":"%s","verdict":"%s"}`+"\n",
			1767225600000000000+i, from.IPs[0], to.IPs[0], 32768+i%28000, port, from.Key(), to.Key(), []string{"allowed", "denied"}[verdict/7])
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		b.Fatal(err)
	}
	return path
}
