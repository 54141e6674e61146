package provider

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// scene is traffic that goes on while something happens to the cluster. On
// every node there is a pod inside, isolated but for its allies; an ally; and
// a pod in the wild. Those inside and allies hold streams with each other, in
// both directions, to their own node and to the next; those inside and the
// wild ones try each other every millisecond.
type scene struct {
	lab
	home, away, wild        string
	inside, allies, strange []*pod
	opened                  int // streams
}

var streamProtos = []string{"tcp", "udp", "tcp push", "udp push"}

func (l lab) scene() *scene {
	l.t.Helper()
	s := &scene{lab: l, home: l.namespace("home"), away: l.namespace("away"), wild: l.namespace("wild")}
	for i, n := range l.Nodes {
		s.inside = append(s.inside, &pod{ns: s.home, name: fmt.Sprint("inside-", i), node: n, args: []string{"-listen", "7000"}})
		s.allies = append(s.allies, &pod{ns: s.away, name: fmt.Sprint("ally-", i), node: n, args: []string{"-listen", "7000"}})
		s.strange = append(s.strange, &pod{ns: s.wild, name: fmt.Sprint("strange-", i), node: n, args: []string{"-listen", "7000"}})
	}
	l.policy(s.home, "deny", deny)
	_, version := l.policy(s.home, "peer", peer(s.away))
	all := slices.Concat(s.inside, s.allies, s.strange)
	l.start(all...)
	l.realised(version)
	l.known(all...)
	for i := range l.Nodes {
		for _, j := range []int{i, (i + 1) % len(l.Nodes)} {
			for _, proto := range streamProtos {
				must(l.t, s.inside[i].Stream(l.t.Context(), proto, s.allies[j].at(7000)))
				must(l.t, s.allies[i].Stream(l.t.Context(), proto, s.inside[j].at(7000)))
				s.opened += 2
			}
		}
		next := (i + 1) % len(l.Nodes)
		l.targets(s.inside[i], s.strange[i].at(7000), s.strange[next].at(7000))
		l.targets(s.strange[i], s.inside[i].at(7000), s.inside[next].at(7000))
	}
	must(l.t, s.flowing())
	return s
}

// streams are those of all pods.
func (s *scene) streams() (out []prober.Stream) {
	s.t.Helper()
	for _, p := range append(append([]*pod{}, s.inside...), s.allies...) {
		out = append(out, s.state(p).Streams...)
	}
	return out
}

// flowing returns when numbers arrive on every stream after it was called: on
// a busy machine pods may have to wait for their turn.
func (s *scene) flowing() error {
	s.t.Helper()
	from := time.Now()
	return eventually(func() error {
		var silent []string
		for _, x := range s.streams() {
			if !x.Last.After(from) {
				silent = append(silent, fmt.Sprintf("%s to %s (%d sent, %d back, %d times broken: %s)", x.Proto, x.To, x.Sent, x.Back, x.Broken, x.Error))
			}
		}
		if len(silent) > 0 {
			return fmt.Errorf("%d of %d streams are silent: %s", len(silent), s.opened, strings.Join(silent, ", "))
		}
		return nil
	})
}

// leaks counts what arrived, from inside in the wild and from there inside.
func (s *scene) leaks() (n uint64) {
	s.t.Helper()
	for _, in := range s.inside {
		for _, out := range s.strange {
			n += arrived(s.state(out), in.ip, prober.UDPRequest, prober.TCPRequest)
			n += arrived(s.state(in), out.ip, prober.UDPRequest, prober.TCPRequest)
		}
	}
	return n
}

// check says what went wrong by now: nothing may have leaked, no stream may
// have ended, and all must flow.
func (s *scene) check(after string) {
	s.t.Helper()
	var sent, numbers uint64
	var gap time.Duration
	broken := 0
	for _, x := range s.streams() {
		numbers += x.Back
		gap = max(gap, x.Gap)
		if x.Broken > 0 {
			broken++
			s.t.Errorf("after %s: the stream %s to %s has ended %d times: %s", after, x.Proto, x.To, x.Broken, x.Error)
		}
	}
	for _, p := range append(append([]*pod{}, s.inside...), s.strange...) {
		sent += s.state(p).Sent
	}
	leaks, flow := s.leaks(), s.flowing()
	s.t.Logf("after %s: %d of %d packets leaked; %d of %d streams broken, %d numbers arrived, the longest gap is %v",
		after, leaks, sent, broken, s.opened, numbers, gap.Round(time.Millisecond))
	if leaks > 0 {
		s.t.Errorf("after %s: %d packets leaked", after, leaks)
	}
	if flow != nil {
		s.t.Errorf("after %s: %v", after, flow)
	}
}

// control lifts the policies and sees that the probers get through then, and
// that streams are cut when all but the isolating policy is gone.
func (s *scene) control() {
	s.t.Helper()
	s.deletePolicy(s.home, "peer")
	s.deletePolicy(s.home, "deny")
	must(s.t, eventually(func() error {
		for i := range s.inside {
			if arrived(s.state(s.strange[i]), s.inside[i].ip, prober.UDPRequest) == 0 || arrived(s.state(s.inside[i]), s.strange[i].ip, prober.TCPRequest) == 0 {
				return fmt.Errorf("control: without policies nothing gets through on %s", s.inside[i].node.Name)
			}
		}
		return nil
	}))
}

// agentPods removes the agents' pods at once; the DaemonSet makes new ones.
func (l lab) agentPods(n *cluster.Node) error {
	return l.API(l.t.Context(), "DELETE", "/api/v1/namespaces/sallyport-system/pods?gracePeriodSeconds=0&fieldSelector=spec.nodeName="+n.Name, nil, nil)
}

// rollout returns when the agents are those of the DaemonSet as it is now.
func (l lab) rollout() {
	l.t.Helper()
	_, err := l.Kubectl(l.t.Context(), "-n", "sallyport-system", "rollout", "status", "daemonset/sallyport", "--timeout=5m")
	must(l.t, err)
}
