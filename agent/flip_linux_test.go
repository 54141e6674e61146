package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

const twoPods = `
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: a, labels: {app: client}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: a, labels: {app: server}}
spec: {nodeName: node-0, containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 90, protocol: UDP}]}]}
`

func doors(egress, ingress string) string {
	return `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: a}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: ` + egress + `}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: a}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], ingress: ` + ingress + `}
`
}

func cluster(t *testing.T, text string) *model.Cluster {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"in": []byte(text)}, []string{"in"}, manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r.Cluster
}

// prober tries one pod to another again and again, on TCP and UDP. With Patience
// it says little of packets that are lost: dropped does.
type prober struct {
	tried, reached, failed atomic.Int64
	stop                   context.CancelFunc
	done                   sync.WaitGroup
}

func probeClientToServer(t *testing.T, l *Lab, patience time.Duration) *prober {
	t.Helper()
	return probePair(t, l, "a/client", "a/server", patience)
}

func probePair(t *testing.T, l *Lab, from, server string, patience time.Duration) *prober {
	t.Helper()
	to := l.Matrix.Endpoint(server).IPs[0]
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{stop: cancel}
	for range 4 {
		p.done.Go(func() {
			for ctx.Err() == nil {
				for _, o := range l.Probe(context.Background(), []lab.Probe{
					{From: from, To: to, Protocol: model.TCP, Port: 80},
					{From: from, To: to, Protocol: model.UDP, Port: 90},
				}, patience) {
					p.tried.Add(1)
					if o == lab.Connected {
						p.reached.Add(1)
					} else {
						p.failed.Add(1)
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return p
}

func (p *prober) end() { p.stop(); p.done.Wait() }

// dropped counts the packets that the nodes' programs have dropped.
func dropped(t *testing.T, l *Lab) (n uint64) {
	t.Helper()
	for _, a := range l.agents {
		stats, err := a.program.Stats()
		must(t, err)
		for _, r := range flow.Reasons() {
			if !r.Accepts() && r != flow.LostEvents {
				n += stats[r]
			}
		}
	}
	return n
}

// flips is how often the policies change under traffic.
const flips = 1000

func flip(t *testing.T, l *Lab, states [2]*model.Cluster) {
	t.Helper()
	for i := range flips {
		if err := l.Update(context.Background(), states[i%2]); err != nil {
			t.Fatal(err)
		}
	}
}

// Old: egress open, ingress shut. New: the reverse. A packet that met the old
// egress door and the new ingress door would pass; none may.
func TestPermissionMovingBetweenDoorsLetsNothingThrough(t *testing.T) {
	needRoot(t)
	states := [2]*model.Cluster{cluster(t, twoPods+doors("[{}]", "[]")), cluster(t, twoPods+doors("[]", "[{}]"))}
	l := start(t, states[1])
	p := probeClientToServer(t, l, 3*time.Millisecond)
	flip(t, l, states)
	p.end()
	t.Logf("%d flips, %d probes, %d got through", flips, p.tried.Load(), p.reached.Load())
	if p.reached.Load() > 0 || p.tried.Load() < 100 {
		t.Errorf("%d of %d probes got through", p.reached.Load(), p.tried.Load())
	}
	// The same prober sees an open path: its silence above means something.
	if err := l.Update(context.Background(), cluster(t, twoPods)); err != nil {
		t.Fatal(err)
	}
	p = probeClientToServer(t, l, 300*time.Millisecond)
	for end := time.Now().Add(30 * time.Second); p.reached.Load() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	p.end()
	if p.reached.Load() == 0 {
		t.Error("the prober reaches nobody even without policies")
	}
}

// Both states allow the pair, by different rules: nothing may be dropped.
func TestWhatBothStatesAllowIsNeverDropped(t *testing.T) {
	needRoot(t)
	byName := "[{to: [{podSelector: {matchLabels: {app: server}}}]}]"
	states := [2]*model.Cluster{
		cluster(t, twoPods+doors("[{}]", "[{from: [{podSelector: {matchLabels: {app: client}}}]}]")),
		cluster(t, twoPods+doors(byName, "[{from: [{ipBlock: {cidr: 10.244.0.0/14, except: [10.245.0.0/16]}}]}]")),
	}
	l := start(t, states[1])
	p, before := probeClientToServer(t, l, Patience), dropped(t, l)
	flip(t, l, states)
	p.end()
	n := dropped(t, l) - before
	t.Logf("%d flips, %d probes, %d failed, %d packets dropped", flips, p.tried.Load(), p.failed.Load(), n)
	if n > 0 || p.failed.Load() > 0 || p.tried.Load() < 100 {
		t.Errorf("%d of %d probes failed, %d packets were dropped", p.failed.Load(), p.tried.Load(), n)
	}
}

// An agent that ends without cleaning up leaves its policies in force, and the
// next one takes over without a gap, also when they changed meanwhile.
func TestRestartsLeakNothingAndBreakNothing(t *testing.T) {
	needRoot(t)
	l := start(t, cluster(t, twoPods+doors("[{to: [{podSelector: {matchLabels: {app: nobody}}}]}]", "[{}]")))
	denied := probeClientToServer(t, l, 3*time.Millisecond)
	restart(t, l, 50, nil)
	denied.end()
	if denied.reached.Load() > 0 || denied.tried.Load() < 100 {
		t.Errorf("%d of %d probes got through while agents restarted", denied.reached.Load(), denied.tried.Load())
	}
	if err := l.Update(context.Background(), cluster(t, twoPods+doors("[{}]", "[{}]"))); err != nil {
		t.Fatal(err)
	}
	allowed, before := probeClientToServer(t, l, Patience), dropped(t, l)
	restart(t, l, 50, func(i int) engine.Change {
		other := cluster(t, twoPods+doors("[{}]", "[{ports: [{port: 80}, {port: 90, protocol: UDP}]}]"))
		if i%2 == 1 {
			other = cluster(t, twoPods+doors("[{}]", "[{}]"))
		}
		ch := engine.Between(l.cluster, other)
		l.cluster = other
		return ch
	})
	allowed.end()
	if n := dropped(t, l) - before; n > 0 || allowed.failed.Load() > 0 || allowed.tried.Load() < 100 {
		t.Errorf("%d of %d probes failed while agents restarted, %d packets were dropped", allowed.failed.Load(), allowed.tried.Load(), n)
	}
}

// restart ends the agent and starts another, n times; change is what happens
// to the policies while there is none.
func restart(t *testing.T, l *Lab, n int, change func(i int) engine.Change) {
	t.Helper()
	for i := range n {
		if err := l.agents["node-0"].Close(); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			l.Matrix.Apply(change(i))
		}
		if err := l.nodeUp("node-0"); err != nil {
			t.Fatal(err)
		}
		if err := l.enforce(engine.Delta{Full: true}); err != nil {
			t.Fatal(err)
		}
	}
}
