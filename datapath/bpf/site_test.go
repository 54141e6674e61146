package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// size is how much a site's policies and tables hold.
type size struct {
	policies  int // that select one of the two pods
	addresses int // of pods elsewhere
	blocks    int // prefixes that the policies name, each another
}

func (s size) String() string {
	return fmt.Sprintf("%d policies, %d addresses, %d CIDRs", s.policies, s.addresses, s.blocks)
}

// site is a bed whose pods, A the client and B the server, are enforced upon
// as in a cluster: the policies are compiled and published by the planner, and
// the events are read.
type site struct {
	*bed
	matrix    *engine.Matrix
	publisher datapath.Publisher
	placement datapath.Placement
	changes   int
	events    atomic.Int64
}

const (
	siteClient = "bench/client"
	siteServer = "bench/server"
	elsewhere  = "elsewhere"
	groups     = 1000 // the pods elsewhere are in so many groups, by label
)

// Ports of the server that the client may reach.
const (
	portSink   = 9   // UDP, never answers
	portEcho   = 80  // UDP, answers each datagram
	portAnswer = 200 // TCP, and those behind it: answers a byte and closes
	portBulk   = 600 // TCP, and those behind it: reads to the end
)

// newSite makes a site. The process goes before others until the benchmark ends.
func newSite(b *testing.B, n size) *site {
	prioritize(b, -20)
	b.Cleanup(func() { prioritize(b, 0) })
	s := &site{bed: newWires(b), matrix: engine.Compile(clusterOf(n))}
	s.p = loadIn(b, s.node)
	s.publisher = datapath.Publisher{Planner: datapath.NewPlanner(datapath.DefaultLimits(), nil), Kernel: s.p}
	s.placement = datapath.Placement{
		Local: map[string]uint32{siteClient: uint32(s.ifindex[s.a]), siteServer: uint32(s.ifindex[s.b])},
		Node:  []netip.Addr{addr(nodeIP4), addr(nodeIP6)},
	}
	s.publish(b, engine.Delta{Full: true})
	s.read(b)
	return s
}

func (s *site) publish(b *testing.B, d engine.Delta) {
	b.Helper()
	if err := s.publisher.Publish(s.matrix, d, s.placement); err != nil {
		b.Fatal(err)
	}
}

// read consumes the events, as an agent does, until the benchmark ends.
func (s *site) read(b *testing.B) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- s.p.Events(ctx, func(e *Event) {
			_ = e.Flow()
			s.events.Add(1)
		})
	}()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// clusterOf is the two pods and the rest of their cluster. Half of the
// policies select the server, half the client; the first two let the client
// reach the server, the others open other ports to other peers, each with a
// prefix of its own as far as there are blocks.
func clusterOf(n size) *model.Cluster {
	c := &model.Cluster{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, name := range []string{"bench", elsewhere} {
		c.Namespaces = append(c.Namespaces, model.Namespace{Name: name, Labels: map[string]string{model.MetadataName: name}})
	}
	c.Endpoints = []model.Endpoint{pod("bench", "client", "client", addr(ip4A), addr(ip6A)), pod("bench", "server", "server", addr(ip4B), addr(ip6B))}
	for i := range n.addresses {
		c.Endpoints = append(c.Endpoints, *podElsewhere(i, 1))
	}
	for i := range n.policies {
		c.Policies = append(c.Policies, policyOf(i, i < n.blocks))
	}
	return c
}

func pod(namespace, name, group string, ips ...netip.Addr) model.Endpoint {
	return model.Endpoint{
		Namespace: namespace, Name: name, Workload: model.Workload{Kind: "Pod", Name: name},
		Labels: map[string]string{"group": group}, Node: "node", IPs: ips,
	}
}

// podElsewhere is the i'th pod elsewhere, with the address of its n'th life.
func podElsewhere(i, n int) *model.Endpoint {
	e := pod(elsewhere, "p"+strconv.Itoa(i), strconv.Itoa(i%groups), netip.AddrFrom4([4]byte{10, byte(n<<1 | i>>16), byte(i >> 8), byte(i)}))
	return &e
}

func policyOf(i int, block bool) *model.Policy {
	subject, peer := "server", "client"
	if i%2 == 1 {
		subject, peer = peer, subject
	}
	rule := model.Rule{Peers: []model.Peer{{Pods: group("bench", peer)}}, Ports: []model.Port{
		{Protocol: model.TCP, First: portAnswer, Last: portBulk + 399}, {Protocol: model.UDP, First: portSink, Last: portEcho},
	}}
	if i >= 2 {
		port := uint16(1000 + i/2)
		rule = model.Rule{
			Peers: []model.Peer{{Pods: group(elsewhere, strconv.Itoa(i%groups))}},
			Ports: []model.Port{{Protocol: model.TCP, First: port, Last: port}},
		}
	}
	if block {
		a := netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0})
		rule.Peers = append(rule.Peers, model.Peer{Block: &model.IPBlock{CIDR: netip.PrefixFrom(a, 24)}})
	}
	section := &model.Section{DefaultDeny: true, Rules: []model.Rule{rule}}
	p := &model.Policy{
		Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "bench", Name: "p" + strconv.Itoa(i)},
		Tier:   model.TierDefault, Order: model.KubernetesOrder, Subject: *group("bench", subject),
	}
	if subject == "server" {
		p.Ingress = section
	} else {
		p.Egress = section
	}
	return p
}

func group(namespace, name string) *model.EndpointSelector {
	return &model.EndpointSelector{Namespace: namespace, Pods: model.MatchLabels(map[string]string{"group": name})}
}

// changeAddress gives one pod elsewhere, each time another, a new address.
func (s *site) changeAddress(n size) *model.Endpoint {
	s.changes++
	return podElsewhere(s.changes%n.addresses, 2+s.changes/n.addresses%100)
}

// churn changes the given number of addresses per second, until stop is
// called. What falls due during a publication goes into the next.
func (s *site) churn(b *testing.B, n size, perSecond int) (stop func()) {
	end, done := make(chan struct{}), make(chan error)
	go func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		started, made := time.Now(), 0
		for {
			select {
			case <-end:
				done <- nil
				return
			case <-ticker.C:
			}
			var change engine.Change
			for due := int(time.Since(started) * time.Duration(perSecond) / time.Second); made < due; made++ {
				change.Endpoints = append(change.Endpoints, s.changeAddress(n))
			}
			if err := s.publisher.Publish(s.matrix, s.matrix.Apply(change), s.placement); err != nil {
				<-end
				done <- err
				return
			}
		}
	}()
	return func() {
		close(end)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// tune sets a parameter of the kernel in a network namespace.
func tune(b *testing.B, ns, name, value string) {
	b.Helper()
	in(b, ns, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// link links the program of a site that has been taken off.
func (s *site) link(b *testing.B) {
	b.Helper()
	links, err := attach(s.p.pin, s.p.netns, s.p.objects.Sallyport)
	if err != nil {
		b.Fatal(err)
	}
	s.p.links = links
}

// unlink takes the program off; its tables stay.
func (s *site) unlink(b *testing.B) {
	b.Helper()
	err := errors.Join(s.p.links.close(), detachAll(s.p.pin, ""))
	s.p.links = nil
	if err != nil {
		b.Fatal(err)
	}
}

// prioritize puts the process before others or back among them. Threads that
// are made later take after those that make them.
func prioritize(b *testing.B, nice int) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Error(err)
	}
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, nice); err != nil && !errors.Is(err, unix.ESRCH) {
			b.Error(err)
		}
	}
}
