package provider

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// last is the arrival from an address that was sent last.
func last(s prober.State, from string) (out prober.Arrival) {
	for _, a := range s.Arrivals {
		if a.From == from && a.Seq >= out.Seq {
			out = a
		}
	}
	return out
}

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
	// flows returns when packets of all clients arrive.
	flows := func() prober.State {
		from, s := time.Now(), prober.State{}
		must(t, eventually(func() error {
			s = l.state(server)
			for _, c := range clients {
				if last(s, c.ip).Last.Before(from) {
					return fmt.Errorf("nothing arrives from %s, and no policy forbids it", c.name)
				}
			}
			return nil
		}))
		return s
	}
	var took []time.Duration
	blurred := 0
	for trial := 0; len(took) < trials*len(clients) && trial < 3*trials; trial++ {
		flows()
		ack, _ := l.policy(home, "deny", object{"podSelector": object{}, "policyTypes": []string{"Ingress"}})
		time.Sleep(300 * time.Millisecond)
		after := l.state(server)
		for _, c := range clients {
			a := last(after, c.ip)
			in, err := c.SentAt(t.Context(), a.Seq)
			must(t, err)
			out, err := c.SentAt(t.Context(), a.Seq+1)
			must(t, err)
			if out.Sub(in) > 5*time.Millisecond {
				blurred++ // the prober had to wait for a processor, and saw nothing
				continue
			}
			took = append(took, out.Sub(ack))
		}
		time.Sleep(50 * time.Millisecond)
		again := l.state(server)
		for _, c := range clients {
			if arrived(again, c.ip) != arrived(after, c.ip) {
				t.Errorf("%s still gets through 300 ms after the policy", c.name)
			}
		}
		l.deletePolicy(home, "deny")
	}
	if len(took) < trials {
		t.Fatalf("only %d of the trials were sharp: the machine is too busy", len(took))
	}
	slices.Sort(took)
	median, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d trials: median %v, p99 %v (fastest %v, slowest %v; %d more were blurred)", len(took), median, p99, took[0], took[len(took)-1], blurred)
	if median > 10*time.Millisecond || p99 > 50*time.Millisecond {
		t.Errorf("a new policy takes %v (median) and %v (p99), want 10 ms and 50 ms", median, p99)
	}
}
