package provider

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// TestAgentsAreKilled kills the agents of all nodes, in every phase of their
// lives, and changes policies meanwhile.
func TestAgentsAreKilled(t *testing.T) {
	s := enforced(t).scene()
	const enough = 12
	kills, began := 0, time.Now()
	sinceNew := map[*cluster.Node]int{} // kills since the node's agent got a new pod
	for next := began; time.Since(began) < 20*time.Second || kills < enough && time.Since(began) < patience; time.Sleep(300 * time.Millisecond) {
		for _, n := range s.Nodes {
			killed := s.kill(n)
			kills += killed
			sinceNew[n] += killed
		}
		// A kubelet waits longer and longer before it runs a container again,
		// but not with a new pod.
		if time.Since(next) > 2*time.Second {
			next = time.Now()
			for _, n := range s.Nodes {
				if sinceNew[n] > 0 {
					must(t, s.agentPods(n))
					sinceNew[n] = 0
				}
			}
		}
	}
	t.Logf("%d agents killed", kills)
	if kills < enough {
		t.Errorf("only %d agents were killed: they did not start again", kills)
	}
	s.check("kills")

	// With no agent: open one door, shut another.
	for _, n := range s.Nodes {
		s.kill(n)
	}
	s.policy(s.home, "wild", object{
		"podSelector": object{}, "policyTypes": []string{"Egress"},
		"egress": []object{{"to": []object{{"namespaceSelector": object{"matchLabels": object{"name": s.wild}}}}}},
	})
	_, version := s.policy(s.away, "deny", object{"podSelector": object{}, "policyTypes": []string{"Ingress"}})
	must(t, s.Each(s.agentPods))
	s.rollout()
	s.realised(version)
	must(t, eventually(func() error {
		for i, in := range s.inside {
			if arrived(s.state(s.strange[i]), in.ip, prober.UDPRequest) == 0 {
				return fmt.Errorf("a policy that was written while the agents were dead does not open %s", in.node.Name)
			}
			for _, x := range s.state(in).Streams {
				if time.Since(x.Last) < 300*time.Millisecond {
					return fmt.Errorf("a policy that was written while the agents were dead does not shut %s", in.node.Name)
				}
			}
		}
		return nil
	}))
}

// TestAPIServerAway stops the API server: what is enforced stays so, agents
// say that they are cut off, and catch up.
func TestAPIServerAway(t *testing.T) {
	away := time.Minute
	if testing.Short() {
		away = 20 * time.Second
	}
	s := enforced(t).scene()
	must(t, s.StopAPIServer(syscall.SIGKILL))
	stopped := time.Now()
	up := false
	defer func() {
		if !up {
			_ = s.StartAPIServer(t.Context())
		}
	}()
	for _, n := range s.Nodes {
		if err := eventually(func() error {
			a, err := agent(n)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(a.Degraded, saysAway)
			if i < 0 {
				return fmt.Errorf("the agent of %s does not say that the API server is away: %v", n.Name, a.Degraded)
			}
			if !a.Ready {
				t.Errorf("the agent of %s is not ready: %v", n.Name, a.Degraded)
			}
			t.Logf("%s says after %.0f s: %.120s... (and %d more)", n.Name, time.Since(stopped).Seconds(), a.Degraded[i], len(a.Degraded)-1)
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	module, err := binary.Module()
	must(t, err)
	out, err := s.Nodes[0].Command(t.Context(), filepath.Join(module, "../bin/sallyport"), "status").CombinedOutput()
	t.Logf("sallyport status: %v, %.300s...", err, out)
	if !saysAway(string(out)) {
		t.Errorf("status does not say that the API server is away")
	}
	// The agent itself may end now: what it left stays in force.
	s.kill(s.Nodes[1])
	time.Sleep(away - time.Since(stopped))
	s.check(fmt.Sprintf("%v without an API server", away))
	must(t, s.StartAPIServer(t.Context()))
	up = true
	began := time.Now()
	if err := eventually(func() error {
		return s.Each(func(n *cluster.Node) error {
			a, err := agent(n)
			if err == nil && (!a.Ready || len(a.Degraded) > 0) {
				err = fmt.Errorf("%s: %v", n.Name, a.Degraded)
			}
			return err
		})
	}); err != nil {
		t.Errorf("the agents do not recover: %v", err)
	}
	t.Logf("all is well %.1f s after the API server's return", time.Since(began).Seconds())
	s.control() // a change works
	_, version := s.policy(s.away, "deny", object{"podSelector": object{}, "policyTypes": []string{"Ingress"}})
	s.realised(version)
}

func saysAway(s string) bool { return strings.Contains(s, "the API server is away") }

// kill ends the node's agents, as many as there are.
func (l lab) kill(n *cluster.Node) (killed int) {
	for _, pid := range l.agents(n) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// TestReboot cuts a node's power: its pods come back with other addresses,
// beside an agent that starts at the same time, and are isolated from their
// first instruction on.
func TestReboot(t *testing.T) {
	l := enforced(t)
	home, away, wild := l.namespace("boot"), l.namespace("boot-away"), l.namespace("boot-wild")
	node, other := l.Nodes[0], l.Nodes[1]
	l.policy(home, "deny", deny)
	_, version := l.policy(home, "peer", peer(away))
	l.realised(version)
	victim := &pod{ns: wild, name: "victim", node: other, args: []string{"-listen", "7000"}}
	ally := &pod{ns: away, name: "ally", node: other, args: []string{"-listen", "7000"}}
	hunter := &pod{ns: wild, name: "hunter", node: other, args: []string{"-every", "4ms"}}
	l.start(victim, ally, hunter)
	var prey []*pod
	for i := range 5 {
		prey = append(prey, &pod{ns: home, name: fmt.Sprint("prey-", i), node: node,
			args: []string{"-listen", "7000", "-to", victim.at(7000) + "," + ally.at(7000)}})
	}
	control := &pod{ns: wild, name: "control", node: node, args: []string{"-listen", "7000", "-to", victim.at(7000)}}
	all := append([]*pod{control}, prey...)
	l.start(all...)
	before := map[*pod]string{}
	for _, p := range all {
		before[p] = p.ip
	}
	stop := l.hunt([]*pod{hunter})
	defer stop()
	cut := time.Now()
	must(t, l.Reboot(node))
	// The API server says for a while that the pods are ready as they were.
	for _, p := range all {
		p.Client = prober.NewClient(node.Root(prober.Dir + "/" + p.id() + ".sock"))
	}
	must(t, eventually(func() error {
		for _, p := range all {
			if _, err := p.State(t.Context()); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, eventually(func() error {
		l.wait(all...)
		for _, p := range all {
			if p.ip == before[p] { // the plugin gives every other address before it gives one again
				return fmt.Errorf("the API server says that %s is still at %s", p.name, p.ip)
			}
		}
		return nil
	}))
	must(t, eventually(func() error {
		a, err := agent(node)
		if err == nil && (!a.Ready || len(a.Degraded) > 0) {
			err = fmt.Errorf("%s: %v", node.Name, a.Degraded)
		}
		for _, p := range prey {
			if err == nil && (arrived(l.state(ally), p.ip, prober.UDPRequest) == 0 || arrived(l.state(p), ally.ip, prober.TCPAnswer) == 0) {
				err = fmt.Errorf("%s, now at %s, does not reach its peer", p.name, p.ip)
			}
		}
		return err
	}))
	back := time.Since(cut)
	time.Sleep(time.Second)
	stop()
	atVictim := l.state(victim)
	var out, in, answered, sent uint64
	for _, p := range prey {
		s := l.state(p)
		sent += s.Sent
		in += arrived(s, hunter.ip)
		for _, ip := range []string{before[p], p.ip} {
			out += arrived(atVictim, ip)
			answered += arrived(l.state(hunter), ip, prober.UDPAnswer, prober.TCPAnswer, prober.Unreachable)
		}
	}
	t.Logf("all is well %.1f s after the power was cut; since then %d pods, all with other addresses, sent %d packets, hunters %d; leaked %d out, %d in, %d answered",
		back.Seconds(), len(prey), sent, l.state(hunter).Sent, out, in, answered)
	if out+in+answered > 0 {
		t.Errorf("%d packets leaked out, %d in, %d were answered", out, in, answered)
	}
	if arrived(atVictim, control.ip, prober.UDPRequest) == 0 {
		t.Error("control: of a pod without policies nothing arrives either")
	}
}

// TestRevoke deletes the policy that allows live connections.
func TestRevoke(t *testing.T) {
	s := enforced(t).scene()
	time.Sleep(time.Second)
	for _, p := range append(append([]*pod{}, s.inside...), s.strange...) {
		s.targets(p) // no other packets
	}
	must(t, s.flowing())
	ack := s.deletePolicy(s.home, "peer")
	_, version := s.policy(s.wild, "marker", object{"podSelector": object{"matchLabels": object{"is": "nobody"}}})
	s.realised(version) // and what came before it
	gone := time.Now()
	time.Sleep(1500 * time.Millisecond)
	slowest := map[string]time.Duration{}
	for _, x := range s.streams() {
		d := x.LastSent.Sub(ack)
		slowest[x.Proto] = max(slowest[x.Proto], d)
		if x.LastSent.After(gone) || d > time.Second && !testing.Short() {
			t.Errorf("the stream %s to %s still flows %v after the policy went", x.Proto, x.To, d)
		}
	}
	t.Logf("%d streams were cut; the last number that arrived was sent after the acknowledgement by %v", s.opened, slowest)
	// Not for ever: what is allowed again goes on.
	s.policy(s.home, "peer", peer(s.away))
	must(t, s.flowing())
}
