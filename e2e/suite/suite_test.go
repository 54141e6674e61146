package suite

import (
	"strings"
	"testing"
)

const report = `<testsuites><testsuite>
<testcase name="[SynchronizedBeforeSuite]" status="passed"></testcase>
<testcase name="[It] [sig-network] allows" status="passed"></testcase>
<testcase name="[It] [sig-network] denies" status="failed"><failure message="Had 6 wrong results"></failure></testcase>
<testcase name="[It] [sig-network] hangs" status="timedout"></testcase>
<testcase name="[It] [sig-network] SCTP" status="skipped"><skipped message="skipped"></skipped></testcase>
</testsuite></testsuites>`

func TestResult(t *testing.T) {
	var r Result
	if err := r.read([]byte(report)); err != nil {
		t.Fatal(err)
	}
	if got := r.String(); got != "1 of 3 passed in 0 s" {
		t.Errorf("got %q", got)
	}
	err := r.Check(Specs)
	if err == nil {
		t.Fatal("a run with failures is fine")
	}
	for _, want := range []string{"denies: Had 6 wrong results", "hangs: timedout", "3 specs ran, want 48"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := (Result{Passed: 48}).Check(48); err != nil {
		t.Error(err)
	}
	if (Result{Passed: 47}).Check(48) == nil {
		t.Error("specs that did not run are a success")
	}
}
