// Package conformance turns upstream's suite for policy.networking.k8s.io and a
// cluster into a count of subtests that passed and failed. Its pods connect to
// each other by TCP, UDP and SCTP, through the image that [Prepare] makes; what
// the suite prints goes to a file.
package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/image"
	"github.com/sallyport-dev/sallyport/e2e/suite"
)

// Subtests is how many subtests upstream's 24 tests have.
const Subtests = 92

// agnhost is the image that upstream's pods name.
const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.45"

// Prepare makes and loads the image of the suite's pods, and installs the
// definitions of the policies' kinds.
func Prepare(ctx context.Context, c *cluster.Cluster) error {
	module, err := binary.Module()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sallyport-conformance")
	if err != nil {
		return fmt.Errorf("cannot make the suite's image: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := binary.Compile(ctx, dir, "agnhost"); err != nil {
		return err
	}
	front := filepath.Join(dir, "agnhost")
	err = c.LoadImage(ctx, image.Image{
		Name: agnhost,
		Files: []image.File{
			{Path: "agnhost", Source: front},
			{Path: "bin/bash", Source: front},
			{Path: "upstream", Source: c.Program("agnhost")},
		},
		Entrypoint: []string{"/agnhost", "pause"},
	})
	if err != nil {
		return err
	}
	definitions, err := filepath.Glob(filepath.Join(module, "../deploy/crds/policy.networking.k8s.io_*.yaml"))
	if err != nil || len(definitions) == 0 {
		return errors.Join(errors.New("cannot install the kinds: deploy/crds has none of policy.networking.k8s.io"), err)
	}
	files := "--filename=" + strings.Join(definitions, ",")
	if _, err := c.Kubectl(ctx, "apply", files); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=2m", files)
	return err
}

// Run runs the tests whose names the regular expression matches; "" is all.
// Output and report go to dir, which is made. Subtests that fail are in the
// result; an error means that there is no result.
func Run(ctx context.Context, c *cluster.Cluster, tests, dir string) (suite.Result, error) {
	program, err := binary.Conformance(ctx, os.Stderr)
	if err != nil {
		return suite.Result{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return suite.Result{}, fmt.Errorf("cannot run the suite: %w", err)
	}
	r := suite.Result{Output: filepath.Join(dir, "output.txt")}
	out, err := os.Create(r.Output)
	if err != nil {
		return r, fmt.Errorf("cannot run the suite: %w", err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.CommandContext(ctx, program, "-test.v", "-test.timeout=1h", "-test.run=^TestConformance$/"+tests)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdout, cmd.Stderr = out, out
	begin := time.Now()
	runErr := cmd.Run()
	r.Took = time.Since(begin)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	text, err := os.ReadFile(r.Output)
	if err != nil {
		return r, fmt.Errorf("cannot read what the suite printed: %w", err)
	}
	read(&r, text)
	if runErr != nil && len(r.Failed) == 0 {
		return r, fmt.Errorf("the suite did not run: %w; see %s", runErr, r.Output)
	}
	return r, nil
}

// verdict is the line of a test that has ended.
var verdict = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): TestConformance/([^/ ]+)(?:/(\S+))? \(`)

// read counts the subtests. A test that failed before it came to one is a
// failure, too.
func read(r *suite.Result, output []byte) {
	for lines := bufio.NewScanner(bytes.NewReader(output)); lines.Scan(); {
		m := verdict.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		test, subtest := m[2], m[3]
		switch {
		case m[1] == "PASS" && subtest != "":
			r.Passed++
		case m[1] == "FAIL":
			r.Failed = append(r.Failed, suite.Failure{Spec: strings.Trim(test+"/"+subtest, "/"), Message: "failed"})
		}
	}
	// A test's own line comes before those of its subtests, which say more.
	for i := 0; i < len(r.Failed)-1; i++ {
		if strings.HasPrefix(r.Failed[i+1].Spec, r.Failed[i].Spec+"/") {
			r.Failed = append(r.Failed[:i], r.Failed[i+1:]...)
		}
	}
}
