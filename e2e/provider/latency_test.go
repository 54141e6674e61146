package provider

import (
	"slices"
	"testing"
	"time"
)

// TestLatency measures how long a new policy takes: from the API server's
// acknowledgement of the write until the first packet that stays out, sent by
// a prober on the same node and by one on another.
func TestLatency(t *testing.T) {
	l := enforced(t)
	const trials = 30
	home, wild := l.namespace("slow"), l.namespace("slow-wild")
	server := &pod{ns: home, name: "server", node: l.Nodes[0], args: []string{"-listen", "7000"}}
	clients := []*pod{{ns: wild, name: "same-node", node: l.Nodes[0]}, {ns: wild, name: "other-node", node: l.Nodes[1]}}
	l.start(append([]*pod{server}, clients...)...)
	for _, c := range clients {
		l.targets(c, server.at(7000))
	}
	time.Sleep(500 * time.Millisecond)
	var took []time.Duration
	for range trials {
		before := l.state(server)
		ack, _ := l.policy(home, "deny", object{"podSelector": object{}, "policyTypes": []string{"Ingress"}})
		time.Sleep(400 * time.Millisecond)
		after := l.state(server)
		for _, c := range clients {
			if arrived(after, c.ip) == arrived(before, c.ip) {
				t.Fatalf("control: nothing arrived from %s before the policy", c.name)
			}
			var last uint32
			for _, a := range after.Arrivals {
				if a.From == c.ip {
					last = max(last, a.Seq)
				}
			}
			out, err := c.SentAt(t.Context(), last+1)
			must(t, err)
			took = append(took, out.Sub(ack))
			if again := l.state(server); arrived(again, c.ip) != arrived(after, c.ip) {
				t.Errorf("%s still gets through 400 ms after the policy", c.name)
			}
		}
		l.deletePolicy(home, "deny")
		time.Sleep(150 * time.Millisecond)
	}
	slices.Sort(took)
	median, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d trials: median %v, p99 %v (fastest %v, slowest %v)", len(took), median, p99, took[0], took[len(took)-1])
	if median > 10*time.Millisecond || p99 > 50*time.Millisecond {
		t.Errorf("a new policy takes %v (median) and %v (p99), want 10 ms and 50 ms", median, p99)
	}
}
