//go:build linux

package lab

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// execStubborn starts a command in the pod that ignores SIGTERM, and a child
// of it that has left its session; ended receives when both are gone.
func execStubborn(t *testing.T, l *Lab, podKey string) (ended chan error) {
	t.Helper()
	ended = make(chan error, 1)
	started := make(chan struct{})
	go func() {
		ended <- l.Exec(context.Background(), podKey, []string{"sh", "-c", "trap '' TERM; setsid sleep 3600 & echo up; wait"}, nil, closeOn(started), nil)
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(wait):
		t.Fatal("the command does not start")
	}
	return ended
}

// closeOn closes the channel at the first write.
type closeOn chan struct{}

func (c closeOn) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "up") {
		close(c)
	}
	return len(p), nil
}

func mustEnd(t *testing.T, ended chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("the command ended otherwise: %v", err)
		}
	case <-time.After(wait):
		t.Error("the command still runs")
	}
}

func TestCommandsEndWithTheirPod(t *testing.T) {
	c := testCluster()
	l := upLab(t, c)
	web, client := execStubborn(t, l, "shop/web2"), execStubborn(t, l, "shop/client")
	less := testCluster()
	less.Endpoints = slices.DeleteFunc(less.Endpoints, func(e model.Endpoint) bool { return e.Name == "web2" })
	if err := l.Update(context.Background(), less); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, web)
	select {
	case err := <-client:
		t.Fatalf("a command of another pod ended: %v", err)
	default:
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, client)
}

func TestALabIsNotItsOwnLeftover(t *testing.T) {
	l := upLab(t, testCluster())
	id, ok := nsIDOf(nsPath(l.pods["shop/web"].name))
	if !ok {
		t.Fatal("the pod has no namespace")
	}
	pids, err := processesIn(map[nsID]bool{id: true})
	if err != nil || len(pids) != 0 {
		t.Errorf("processes %v live in a pod without any (%v)", pids, err)
	}
	if err := endProcesses([]string{"no-such-namespace"}); err != nil {
		t.Error(err)
	}
}
