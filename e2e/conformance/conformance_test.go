package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/clustertest"
	"github.com/sallyport-dev/sallyport/e2e/conformance"
	"github.com/sallyport-dev/sallyport/e2e/suite"
)

func TestMain(m *testing.M) { clustertest.Main(m, cluster.Options{}) }

// TestUpstream first shows that the suite sees a cluster in which nobody
// enforces policies. With SALLYPORT_E2E_LONG it runs three times in a row.
func TestUpstream(t *testing.T) {
	c := clustertest.Cluster(t)
	if err := conformance.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ok := t.Run("negative control", func(t *testing.T) {
		r := run(t, c, "^CNPAdminTierPriorityField$")
		if len(r.Failed) == 0 || strings.Count(r.Failed[0].Spec, "/") != 1 {
			t.Fatalf("without an agent a policy must not hold, but: %v, %+v; see %s", r, r.Failed, r.Output)
		}
	})
	if !ok {
		return
	}
	if err := c.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	runs := 1
	if os.Getenv("SALLYPORT_E2E_LONG") != "" {
		runs = 3
	}
	for i := range runs {
		t.Run(fmt.Sprintf("run %d", i+1), func(t *testing.T) {
			if err := run(t, c, "").Check(conformance.Subtests); err != nil {
				t.Error(err)
			}
		})
	}
}

func run(t *testing.T, c *cluster.Cluster, tests string) suite.Result {
	t.Helper()
	r, err := conformance.Run(t.Context(), c, tests, filepath.Join(os.TempDir(), "sallyport-e2e-conformance", filepath.Base(t.Name())))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	return r
}
