package agent

import (
	"context"
	"net/netip"
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
