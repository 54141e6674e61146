// Package clustertest gives a package's tests one cluster: it starts in
// TestMain, and is removed when the tests have ended.
//
//	func TestMain(m *testing.M) { clustertest.Main(m, clustertest.Options()) }
//
//	func TestX(t *testing.T) { c := clustertest.Cluster(t); ... }
//
// There is one cluster on a machine, so packages run one after the other:
// go test -p 1. Without root, tests that ask for the cluster are skipped, or
// fail if SALLYPORT_REQUIRE_ROOT is set.
package clustertest

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
)

var shared *cluster.Cluster

// Options are those of the cluster that the environment asks for: its CNI by
// SALLYPORT_E2E_CNI, addresses of both families by SALLYPORT_E2E_DUAL.
func Options() cluster.Options {
	return cluster.Options{CNI: os.Getenv("SALLYPORT_E2E_CNI"), Dual: os.Getenv("SALLYPORT_E2E_DUAL") != ""}
}

// Main starts the cluster, runs the tests, removes the cluster and exits.
func Main(m *testing.M, o cluster.Options) { os.Exit(run(m, o)) }

func run(m *testing.M, o cluster.Options) (code int) {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.Log == nil {
		o.Log = os.Stderr
	}
	c, err := cluster.Start(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// An interrupt ends the tests at once, but not without the cluster.
	defer context.AfterFunc(ctx, func() {
		_ = cluster.Remove()
		os.Exit(1)
	})()
	shared = c
	code = m.Run()
	if err := cluster.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Cluster returns the cluster of this package's tests. If the test fails, the
// cluster's logs are kept.
func Cluster(t testing.TB) *cluster.Cluster {
	t.Helper()
	switch {
	case shared != nil:
	case os.Getenv("SALLYPORT_REQUIRE_ROOT") != "":
		t.Fatal("there is no cluster: it needs root, and TestMain must call clustertest.Main")
	default:
		t.Skip("NOT TESTED: a cluster needs root")
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs := filepath.Join(os.TempDir(), "sallyport-e2e-logs", t.Name())
			t.Logf("the cluster's logs are in %s (%v)", logs, shared.SaveLogs(logs))
		}
	})
	return shared
}
