package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/model"
)

// A node whose namespace is made anew, because its address changed or because
// it went and came back, must be enforced on like before.
func TestARemadeNodeIsEnforcedOn(t *testing.T) {
	needRoot(t)
	c := load(t, 2, "0-application.yaml", "1-deny-all.yaml")
	l := start(t, c)
	compare(t, l)
	moved := *c
	moved.Nodes = append([]model.Node(nil), c.Nodes...)
	moved.Nodes[1].IPs = []netip.Addr{netip.MustParseAddr("172.30.7.7"), netip.MustParseAddr("fd00:172:30::77")}
	if err := l.Update(context.Background(), &moved); err != nil {
		t.Fatal(err)
	}
	compare(t, l)
	fewer := moved
	fewer.Nodes = moved.Nodes[:1]
	fewer.Endpoints = nil
	for _, e := range moved.Endpoints {
		if e.Node == fewer.Nodes[0].Name {
			fewer.Endpoints = append(fewer.Endpoints, e)
		}
	}
	for _, step := range []*model.Cluster{&fewer, &moved} {
		if err := l.Update(context.Background(), step); err != nil {
			t.Fatal(err)
		}
		compare(t, l)
	}
}

// TestProblemsAreLoggedOnce, and what is merely worth knowing once of a kind.
func TestProblemsAreLoggedOnce(t *testing.T) {
	var out strings.Builder
	n := &Node{log: slog.New(slog.NewTextHandler(&out, nil))}
	problem := func(s model.Severity, name string) model.Problem {
		return model.Problem{Severity: s, Source: model.Source{APIVersion: "v", Kind: "Kind", Name: name, Field: "spec"}, Message: "so it is"}
	}
	list := []model.Problem{
		problem(model.Error, "a"), problem(model.Error, "b"), problem(model.Warning, "a"), problem(model.Info, "a"), problem(model.Info, "b"),
	}
	n.tellProblems(list)
	n.tellProblems(append(list, problem(model.Info, "c"), problem(model.Warning, "c")))
	for level, want := range map[string]int{"ERROR": 2, "WARN": 2, "INFO": 1} {
		if got := strings.Count(out.String(), "level="+level); got != want {
			t.Errorf("%s: %d lines, want %d\n%s", level, got, want, out.String())
		}
	}
	if len(n.problems) != 7 {
		t.Errorf("%d problems are known", len(n.problems))
	}
}
