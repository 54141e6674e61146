package provider

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/prober"
)

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// leases is where the address plugin writes down an address before the pod
// that gets it has a device: nobody can know it earlier.
const leases = "/var/lib/cni/networks/e2e"

// hunters send to every address that a node gives to a pod, from the moment
// the node decides on it.
func (l lab) hunt(hunters []*pod) (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	known := map[string]bool{}
	look := func() (found []string) {
		for _, n := range l.Nodes {
			names, _ := os.ReadDir(n.Root(leases))
			for _, name := range names {
				ip := name.Name()
				if _, err := netip.ParseAddr(ip); err == nil && !known[ip] {
					known[ip] = true
					found = append(found, net.JoinHostPort(ip, "7000"))
				}
			}
		}
		return found
	}
	look() // those of before are no prey
	var done sync.WaitGroup
	done.Go(func() {
		var list []string
		for ; ctx.Err() == nil; time.Sleep(3 * time.Millisecond) {
			if found := look(); found != nil {
				list = append(list, found...)
				list = list[max(0, len(list)-50):] // those of before are gone, or have been tried long enough
				for _, h := range hunters {
					_ = h.Targets(ctx, list)
				}
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// TestPodStart starts pods under policies that isolate them but for one peer.
// Inside, a prober sends to the peer and to a victim that takes everything,
// from its first instruction; from outside, hunters on every node send to the
// pods' addresses before the pods are there.
func TestPodStart(t *testing.T) {
	pods, closed := 200, 30
	if testing.Short() {
		pods, closed = 60, 15
	}
	t.Run("control: nothing is enforced", func(t *testing.T) {
		r := enforced(t).podStarts(12, 12, false)
		if r.out == 0 || r.in == 0 || r.answered == 0 {
			t.Errorf("without policies the probers must get through: %+v", r)
		}
	})
	t.Run("with the CNI plugin", func(t *testing.T) { enforced(t).podStarts(pods, 40, true).check(t) })
	t.Run("without the CNI plugin", func(t *testing.T) {
		l := enforced(t)
		must(t, l.Each(unchain))
		defer l.Each(rechain)
		l.podStarts(closed, closed, true).check(t)
	})
}

// starts is what came of pods that started.
type starts struct {
	pods     int
	out      uint64        // packets of the pods that arrived at the victim
	in       uint64        // packets of hunters that arrived at pods
	answered uint64        // packets of hunters that were answered
	hunted   uint64        // packets that hunters sent
	sent     uint64        // packets that pods sent
	reached  int           // pods whose packets arrived at their peer, by every family
	first    time.Duration // the longest time from a pod's first instruction until its peer heard of it
	ready    time.Duration // the batches were not ready
}

func (r starts) check(t *testing.T) {
	t.Helper()
	if r.out != 0 || r.in != 0 || r.answered != 0 {
		t.Errorf("%d packets of pods leaked, and %d to pods, %d of them answered", r.out, r.in, r.answered)
	}
	if r.reached != r.pods {
		t.Errorf("only %d of %d pods reached their peer", r.reached, r.pods)
	}
}

func (l lab) podStarts(total, batch int, isolated bool) (r starts) {
	l.t.Helper()
	home, away := l.namespace("start"), l.namespace("start-peer")
	wild := l.namespace("start-wild")
	victim := &pod{ns: wild, name: "victim", node: l.Nodes[0], args: []string{"-listen", "7000"}}
	ally := &pod{ns: away, name: "ally", node: l.Nodes[1], args: []string{"-listen", "7000"}}
	standing := []*pod{victim, ally}
	var hunters []*pod
	for i, n := range l.Nodes {
		hunters = append(hunters, &pod{ns: wild, name: fmt.Sprint("hunter-", i), node: n, args: []string{"-every", "4ms"}})
	}
	l.start(append(standing, hunters...)...)
	if isolated {
		l.policy(home, "deny", deny)
		_, version := l.policy(home, "peer", peer(away))
		l.realised(version)
	}
	stop := l.hunt(hunters)
	defer stop()
	var prey []*pod
	states := map[*pod]prober.State{}
	for len(prey) < total {
		var some []*pod
		for range min(batch, total-len(prey)) {
			i := len(prey) + len(some)
			some = append(some, &pod{
				ns: home, name: fmt.Sprint("prey-", i), node: l.Nodes[i%len(l.Nodes)],
				args: []string{"-listen", "7000", "-to", victim.everywhere(7000) + "," + ally.everywhere(7000), "-burst", "500ms", "-then", "1s"},
			})
		}
		clock := time.Now()
		l.start(some...)
		r.ready += time.Since(clock)
		prey = append(prey, some...)
		// Each gets its time to reach the peer, of which other nodes must hear.
		deadline := time.Now().Add(patience / 2)
		for _, p := range some {
			for states[p] = l.state(p); !answered(states[p], ally) && time.Now().Before(deadline); states[p] = l.state(p) {
				time.Sleep(100 * time.Millisecond)
			}
		}
		for _, p := range some {
			l.delete(p) // the machine is small
		}
	}
	r.pods = len(prey)
	stop()
	for _, h := range hunters {
		s := l.state(h)
		r.hunted += s.Sent
		for _, p := range prey {
			r.answered += from(s, p, prober.UDPAnswer, prober.TCPAnswer, prober.Unreachable)
		}
	}
	atVictim, atAlly := l.state(victim), l.state(ally)
	for _, p := range prey {
		s := states[p]
		r.sent += s.Sent
		for _, h := range hunters {
			r.in += from(s, h)
		}
		r.out += from(atVictim, p)
		if !slices.ContainsFunc(p.ips(), func(ip string) bool { return arrived(atAlly, ip, prober.UDPRequest) == 0 }) && answered(s, ally) {
			r.reached++
		}
		for _, a := range atAlly.Arrivals {
			if slices.Contains(p.ips(), a.From) {
				r.first = max(r.first, a.First.Sub(s.Began))
				break
			}
		}
	}
	l.t.Logf("%d pods of %d families in %.0f s; they sent %d packets, hunters %d; leaked %d out, %d in, %d answered; %d reached their peer, the slowest %v after its first instruction",
		r.pods, len(victim.ips()), r.ready.Seconds(), r.sent, r.hunted, r.out, r.in, r.answered, r.reached, r.first.Round(time.Millisecond))
	return r
}

// from counts what came from any of the pod's addresses.
func from(s prober.State, p *pod, kinds ...string) (n uint64) {
	for _, ip := range p.ips() {
		n += arrived(s, ip, kinds...)
	}
	return n
}

// answered says whether every address of the pod has answered a SYN.
func answered(s prober.State, p *pod) bool {
	return !slices.ContainsFunc(p.ips(), func(ip string) bool { return arrived(s, ip, prober.TCPAnswer) == 0 })
}

const conflist = "/etc/cni/net.d/10-e2e.conflist"

// unchain takes the plugin out of a node's list, and keeps the agent from
// putting it back: the list is replaced by a link that leads to nothing the
// agent can see.
func unchain(n *cluster.Node) error {
	if err := n.Command(context.Background(), "cp", conflist, "/var/lib/kubelet/list").Run(); err != nil {
		return err
	}
	text, err := os.ReadFile(n.Root(conflist))
	if err != nil {
		return err
	}
	if !bytes.Contains(text, []byte("sallyport-cni")) {
		return fmt.Errorf("%s: the plugin is not in the list", n.Name)
	}
	text = []byte(strings.ReplaceAll(string(text), "sallyport-cni", "not-"+"there"))
	cut := bytes.LastIndex(text, []byte(`{"type": "not-there"`))
	end := cut + bytes.IndexByte(text[cut:], '}') + 1
	text = append(bytes.TrimRight(bytes.TrimRight(text[:cut], " \t\r\n"), ","), text[end:]...)
	if err := os.WriteFile(n.Root("/var/lib/kubelet/bare"), text, 0o644); err != nil {
		return err
	}
	return n.Command(context.Background(), "ln", "-sf", "/var/lib/kubelet/bare", conflist).Run()
}

func rechain(n *cluster.Node) error {
	return n.Command(context.Background(), "mv", "-f", "/var/lib/kubelet/list", conflist).Run()
}
