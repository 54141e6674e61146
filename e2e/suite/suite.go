// Package suite turns upstream's NetworkPolicy suite and a cluster into a
// count of specs that passed and failed. It runs in real time, by pods that
// connect to each other; what it prints goes to a file.
package suite

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
)

// Specs is how many specs of upstream's need no SCTP, which few kernels have.
const Specs = 48

// Options of a run.
type Options struct {
	Processes int    // how many specs run at once; 1 if zero
	Focus     string // regular expression of the specs to run; all if empty
	Dir       string // where report and output go; it is made
}

// Result is what came of a run.
type Result struct {
	Passed int
	Failed []Failure
	Took   time.Duration
	Output string // path of what the suite printed
}

// Failure is a spec that failed.
type Failure struct{ Spec, Message string }

func (r Result) String() string {
	return fmt.Sprintf("%d of %d passed in %.0f s", r.Passed, r.Passed+len(r.Failed), r.Took.Seconds())
}

// Check says what is wrong with a run in which want specs were to pass, or nil:
// specs that did not run are no success.
func (r Result) Check(want int) error {
	var errs []error
	for _, f := range r.Failed {
		errs = append(errs, fmt.Errorf("%s: %s", f.Spec, f.Message))
	}
	if ran := r.Passed + len(r.Failed); ran != want {
		errs = append(errs, fmt.Errorf("%d specs ran, want %d: does this version of the suite have others?", ran, want))
	}
	if errs != nil {
		errs = append(errs, fmt.Errorf("all that the suite printed is in %s", r.Output))
	}
	return errors.Join(errs...)
}

// Run runs the suite. Specs that fail are in the result; an error means that
// there is no result.
func Run(ctx context.Context, c *cluster.Cluster, o Options) (Result, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return Result{}, fmt.Errorf("cannot run the suite: %w", err)
	}
	r := Result{Output: filepath.Join(o.Dir, "output.txt")}
	out, err := os.Create(r.Output)
	if err != nil {
		return Result{}, fmt.Errorf("cannot run the suite: %w", err)
	}
	defer func() { _ = out.Close() }()
	report := filepath.Join(o.Dir, "junit.xml")
	_ = os.Remove(report)
	cmd := exec.CommandContext(ctx, c.Program("ginkgo"),
		"--procs="+strconv.Itoa(max(1, o.Processes)), "--focus="+o.Focus, "--label-filter=!Feature:SCTPConnectivity",
		"--no-color", "--timeout=1h", "--output-dir="+o.Dir, "--junit-report=junit.xml",
		c.Program("netpol.test"), "--",
		"--kubeconfig="+c.Kubeconfig, "--provider=skeleton", "--num-nodes="+strconv.Itoa(len(c.Nodes)),
		"--kubectl-path="+c.Program("kubectl"), "--dump-logs-on-failure=false")
	cmd.Stdout, cmd.Stderr = out, out
	// Interrupted, the suite removes its namespaces, if it can in a minute.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	begin := time.Now()
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group, which is empty if all went well
	}
	r.Took = time.Since(begin)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		return r, fmt.Errorf("the suite did not run: %w; see %s", errors.Join(err, readErr), r.Output)
	}
	if readErr := r.read(text); readErr != nil {
		return r, readErr
	}
	if err != nil && len(r.Failed) == 0 {
		return r, fmt.Errorf("the suite failed, but no spec of it: %w; see %s", err, r.Output)
	}
	return r, nil
}

// read counts the specs of a report.
func (r *Result) read(junit []byte) error {
	var report struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(junit, &report); err != nil {
		return fmt.Errorf("cannot read the suite's report: %w", err)
	}
	for _, c := range report.Cases {
		name, spec := strings.CutPrefix(c.Name, "[It] ")
		switch {
		case c.Status == "skipped" || c.Status == "pending" || !spec && c.Status == "passed":
		case c.Status == "passed":
			r.Passed++
		default:
			f := Failure{Spec: name, Message: c.Status}
			if c.Failure != nil {
				f.Message = c.Failure.Message
			}
			r.Failed = append(r.Failed, f)
		}
	}
	return nil
}
