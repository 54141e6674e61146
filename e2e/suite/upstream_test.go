package suite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/clustertest"
	"github.com/sallyport-dev/sallyport/e2e/suite"
)

func TestMain(m *testing.M) { clustertest.Main(m, clustertest.Options()) }

// TestUpstream first shows that the suite sees a cluster in which nobody
// enforces policies: a lab that cuts all traffic, or none, must not read as a
// pass. With SALLYPORT_E2E_LONG it runs three times serially and three times in
// parallel, for an hour.
func TestUpstream(t *testing.T) {
	c := clustertest.Cluster(t)
	ok := t.Run("negative control", func(t *testing.T) {
		r := run(t, c, suite.Options{Focus: "client should support a 'default-deny-ingress' policy"})
		if r.Passed != 0 || len(r.Failed) != 1 || !strings.Contains(r.Failed[0].Message, "wrong results in reachability matrix") {
			t.Fatalf("without an agent a policy must not hold, but: %v, %+v; see %s", r, r.Failed, r.Output)
		}
	})
	if !ok {
		return
	}
	if err := c.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	runs := []int{4}
	if os.Getenv("SALLYPORT_E2E_LONG") != "" {
		runs = []int{1, 1, 1, 4, 4, 4}
	}
	for i, processes := range runs {
		t.Run(fmt.Sprintf("run %d, %d at once", i+1, processes), func(t *testing.T) {
			if err := run(t, c, suite.Options{Processes: processes}).Check(suite.Specs); err != nil {
				t.Error(err)
			}
		})
	}
}

func run(t *testing.T, c *cluster.Cluster, o suite.Options) suite.Result {
	t.Helper()
	o.Dir = filepath.Join(os.TempDir(), "sallyport-e2e-suite", filepath.Base(t.Name()))
	r, err := suite.Run(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	return r
}
