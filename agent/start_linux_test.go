package agent

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// starts is how many pods appear under policies that deny them everything.
const starts = 200

// manyPods is a prober and n pods that may neither send nor receive.
func manyPods(n int) string {
	var b strings.Builder
	b.WriteString(`
apiVersion: v1
kind: Pod
metadata: {name: aaa-prober, namespace: a, labels: {app: prober}}
spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: a}
spec: {podSelector: {matchLabels: {app: shut}}, policyTypes: [Ingress, Egress]}
`)
	for i := range n {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: s%03d, namespace: a, labels: {app: shut}}
spec: {containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 90, protocol: UDP}]}]}
`, i)
	}
	return b.String()
}

// Pods that appear are tried every millisecond from before they exist: from a
// pod that may send, and, as soon as their namespace is there, from inside.
func TestPodsThatStartAreClosedFromTheirFirstInstant(t *testing.T) {
	needRoot(t)
	full := cluster(t, manyPods(starts))
	l := start(t, cluster(t, manyPods(0)))
	ctx, cancel := context.WithCancel(context.Background())
	var reached, tried atomic.Int64
	var present atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		prober := full.Endpoints[0]
		for ctx.Err() == nil {
			// The pods about to start and the latest that have.
			at := int(present.Load())
			var list []lab.Probe
			for i := max(1, at-12); i < min(len(full.Endpoints), at+14); i++ {
				e := full.Endpoints[i]
				list = append(list,
					lab.Probe{From: prober.Key(), To: e.IPs[0], Protocol: model.TCP, Port: 80},
					lab.Probe{From: prober.Key(), To: e.IPs[0], Protocol: model.UDP, Port: 90},
					lab.Probe{From: e.Key(), To: prober.IPs[0], Protocol: model.TCP, Port: 80})
			}
			for _, o := range l.Probe(context.Background(), list, 4*time.Millisecond) {
				tried.Add(1)
				if o == lab.Connected {
					reached.Add(1)
				}
			}
			time.Sleep(time.Millisecond)
		}
	}()
	for n := 5; n <= starts; n += 5 {
		part := *full
		part.Endpoints = full.Endpoints[:n+1]
		if err := l.Update(context.Background(), &part); err != nil {
			t.Fatal(err)
		}
		present.Store(int64(n))
	}
	cancel()
	<-done
	t.Logf("%d pods started, %d probes, %d got through", starts, tried.Load(), reached.Load())
	if reached.Load() > 0 || tried.Load() < starts {
		t.Errorf("%d of %d probes got through", reached.Load(), tried.Load())
	}
}
