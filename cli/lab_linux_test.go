package cli

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/lab"
)

// asCommand makes the test's own binary the sallyport command.
const asCommand = "SALLYPORT_TEST_AS_COMMAND"

// andThen separates command lines that one process runs, one after the other.
const andThen = "--and-then"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		for rest, more := os.Args[1:], true; more; {
			args := rest
			if n := slices.Index(rest, andThen); n >= 0 {
				args, rest = rest[:n], rest[n+1:]
			} else {
				more = false
			}
			if code := Run(args, os.Stdin, os.Stdout, os.Stderr); code != ExitFine && !more {
				os.Exit(code)
			}
		}
		os.Exit(ExitFine)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// turn is for labs of other tests on this machine, which go first.
const turn = 5 * time.Minute

// sallyport is a command line as a process of its own.
func sallyport(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), turn)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	return c
}

// startLab starts a lab of the demo's pods and waits until it is up.
func startLab(t *testing.T) *exec.Cmd {
	t.Helper()
	c := sallyport(t, "lab", "-f", "demo")
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Signal(syscall.SIGTERM); _ = c.Wait() })
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "run a command") {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			return c
		}
		t.Log(lines.Text())
	}
	t.Fatal("the lab did not come up")
	return nil
}

// execSleep runs a command in a pod that outlives its parent, and returns
// the command's process.
func execSleep(t *testing.T) (pid string) {
	t.Helper()
	c := sallyport(t, "lab", "exec", "secure-app/backend", "--", "sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $!")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func runs(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// mustBeClean checks that nothing of a lab is left, while no other lab can begin.
func mustBeClean(t *testing.T, pid string) {
	t.Helper()
	unlock, err := lab.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	spaces, err := filepath.Glob("/run/netns/" + lab.NamePrefix + "*")
	if err != nil || len(spaces) > 0 {
		t.Errorf("namespaces %v are left (%v)", spaces, err)
	}
	for _, path := range []string{agent.LabPins, lab.StateDir} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left", path)
		}
	}
	if runs(pid) {
		t.Errorf("process %s of the lab still runs", pid)
	}
}

func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
}

func TestAKilledLabLeavesNothingBehindLabDown(t *testing.T) {
	needRoot(t)
	l := startLab(t)
	pid := execSleep(t)
	kill(t, l)
	if out, err := sallyport(t, "lab", "down").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mustBeClean(t, pid)
}

func TestAKilledLabLeavesNothingBehindTheNext(t *testing.T) {
	needRoot(t)
	l := startLab(t)
	pid := execSleep(t)
	kill(t, l)
	l = startLab(t)
	if runs(pid) {
		t.Errorf("process %s of the killed lab still runs", pid)
	}
	next := execSleep(t)
	if !runs(next) {
		t.Error("the command does not outlive lab exec")
	}
	if err := l.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(); err != nil {
		t.Errorf("the lab ended with %v", err)
	}
	mustBeClean(t, next)
}

func TestLabDownEndsTheLabThatIsUp(t *testing.T) {
	needRoot(t)
	l := startLab(t)
	pid := execSleep(t)
	if out, err := sallyport(t, "lab", "down").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := l.Wait(); err != nil {
		t.Errorf("the lab ended with %v", err)
	}
	mustBeClean(t, pid)
}

func TestLabExecHasTheCommandsExitCode(t *testing.T) {
	needRoot(t)
	startLab(t)
	err := sallyport(t, "lab", "exec", "secure-app/backend", "--", "sh", "-c", "exit 7").Run()
	if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 7 {
		t.Errorf("got %v", err)
	}
}
