package diff_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/model"
)

// chaos makes small hostile clusters and neighbours of them.
type chaos struct {
	*rand.Rand
	next int
}

func pick[T any](c *chaos, list ...T) T { return list[c.IntN(len(list))] }

func (c *chaos) some(of int) bool { return c.IntN(of) == 0 }

func (c *chaos) labels() map[string]string {
	return map[string]string{"a": pick(c, "1", "2", "3"), "b": pick(c, "1", "2")}
}

func (c *chaos) selector() model.EndpointSelector {
	var s model.EndpointSelector
	if c.some(2) {
		s.Namespace = pick(c, "x", "y")
	}
	if !c.some(3) {
		s.Pods = model.Selector{Op: pick(c, model.SelectIn, model.SelectNotIn), Key: pick(c, "a", "b"), Values: []string{pick(c, "1", "2")}}
	}
	return s
}

func (c *chaos) peer() model.Peer {
	switch c.IntN(8) {
	case 0, 1, 2:
		b := &model.IPBlock{CIDR: netip.MustParsePrefix(pick(c, "0.0.0.0/0", "10.244.0.0/16", "10.244.0.0/29", "172.30.0.0/16", "172.30.0.2/32", "203.0.113.0/24", "203.0.113.128/25", "::/0", "fd00::/16"))}
		if e := netip.MustParsePrefix(pick(c, "203.0.113.0/26", "203.0.113.200/29", "10.244.0.5/32", "fd00::/64")); b.CIDR.Contains(e.Addr()) && e.Bits() > b.CIDR.Bits() {
			b.Except = append(b.Except, e)
		}
		return model.Peer{Block: b}
	case 3:
		return model.Peer{Nodes: &model.NodeSelector{Which: pick(c, model.AnyNode, model.OwnNode, model.OtherNode)}}
	case 4:
		return model.Peer{Outside: true}
	}
	s := c.selector()
	return model.Peer{Pods: &s}
}

func (c *chaos) port() model.Port {
	first := pick[uint16](c, 53, 80, 8080)
	p := model.Port{Protocol: pick(c, model.TCP, model.UDP), First: first, Last: first}
	switch c.IntN(4) {
	case 0:
		p.Name = "http"
	case 1:
		p.Last = pick[uint16](c, 8080, 65535)
	}
	return p
}

func (c *chaos) rule(tiers bool) model.Rule {
	r := model.Rule{AnyPeer: c.some(6), AnyPort: c.some(3)}
	if tiers {
		r.Action = pick(c, model.Allow, model.Allow, model.Deny, model.Pass)
		if r.Action == model.Allow && c.some(4) {
			r.L7 = &model.L7{Authentication: model.AuthRequired}
		}
	}
	for range 1 + c.IntN(2) {
		if !r.AnyPeer {
			r.Peers = append(r.Peers, c.peer())
		}
		if !r.AnyPort {
			r.Ports = append(r.Ports, c.port())
		}
	}
	return r
}

func (c *chaos) policy(tiers bool) *model.Policy {
	c.next++
	p := &model.Policy{
		Source: model.Source{Kind: "NetworkPolicy", Namespace: "x", Name: "q" + strconv.Itoa(c.next)},
		Tier:   model.TierDefault, Order: model.KubernetesOrder, Subject: c.selector(),
	}
	if tiers {
		p.Tier, p.Order = pick(c, model.TierAdmin, model.TierDefault, model.TierBaseline), float64(c.IntN(3))
	}
	for _, s := range []**model.Section{&p.Ingress, &p.Egress} {
		if c.some(3) {
			continue
		}
		*s = &model.Section{DefaultDeny: !tiers || c.some(2), Ordered: tiers && c.some(2)}
		for range c.IntN(4) {
			(*s).Rules = append((*s).Rules, c.rule(tiers))
		}
	}
	return p
}

func (c *chaos) pod() model.Endpoint {
	c.next++
	name := "p" + strconv.Itoa(c.next)
	node := pick(c, "n0", "n1")
	e := model.Endpoint{
		Namespace: pick(c, "x", "y"), Name: name, Labels: c.labels(), Node: node, Workload: model.Workload{Kind: "Deployment", Name: pick(c, name, "web")},
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(c.next)})},
	}
	if c.some(2) {
		e.IPs = append(e.IPs, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(c.next)}))
	}
	if c.some(2) {
		e.Ports = []model.ContainerPort{{Name: "http", Protocol: model.TCP, Number: pick[uint16](c, 80, 8080)}}
	}
	if c.some(8) {
		e.HostNetwork, e.IPs = true, []netip.Addr{nodeAddr(node)}
	}
	return e
}

func nodeAddr(name string) netip.Addr { return netip.AddrFrom4([4]byte{172, 30, 0, 1 + name[1] - '0'}) }

func (c *chaos) cluster(tiers bool) *model.Cluster {
	out := &model.Cluster{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/64")}}
	for _, n := range []string{"n0", "n1"} {
		out.Nodes = append(out.Nodes, model.Node{Name: n, IPs: []netip.Addr{nodeAddr(n)}})
	}
	for _, n := range []string{"x", "y"} {
		out.Namespaces = append(out.Namespaces, model.Namespace{Name: n, Labels: map[string]string{model.MetadataName: n}})
	}
	for range 3 + c.IntN(6) {
		out.Endpoints = append(out.Endpoints, c.pod())
	}
	for range c.IntN(5) {
		out.Policies = append(out.Policies, c.policy(tiers))
	}
	return out
}

// neighbour is a cluster with some things changed.
func (c *chaos) neighbour(cl *model.Cluster, tiers bool) *model.Cluster {
	out := *cl
	out.Endpoints, out.Policies = slices.Clone(cl.Endpoints), slices.Clone(cl.Policies)
	for range 1 + c.IntN(3) {
		switch n := c.IntN(9); {
		case n < 3:
			out.Policies = append(out.Policies, c.policy(tiers))
		case n == 3 && len(out.Policies) > 0:
			i := c.IntN(len(out.Policies))
			out.Policies = slices.Delete(out.Policies, i, i+1)
		case n == 4 && len(out.Policies) > 0:
			out.Policies[c.IntN(len(out.Policies))] = c.policy(tiers)
		case n == 5:
			out.Endpoints = append(out.Endpoints, c.pod())
		case n == 6 && len(out.Endpoints) > 1:
			i := c.IntN(len(out.Endpoints))
			out.Endpoints = slices.Delete(out.Endpoints, i, i+1)
		case n == 7:
			out.Endpoints[c.IntN(len(out.Endpoints))].Labels = c.labels()
		case n == 8:
			out.PodRanges = []netip.Prefix{netip.MustParsePrefix(pick(c, "10.244.0.0/24", "10.244.0.0/15", "203.0.113.0/25"))}
		}
	}
	return &out
}

// flow is one connection between what both clusters have.
type flow struct {
	src, dst [2]reference.Party // by side
	key      model.PortKey
}

// party is a pod of both, or an address at the edge of some prefix, or a node's.
func (c *chaos) party(a, b *model.Cluster) (out [2]reference.Party, ok bool) {
	if c.some(3) {
		addr := netip.MustParseAddr(pick(c, "203.0.113.0", "203.0.113.63", "203.0.113.64", "203.0.113.127", "203.0.113.128", "203.0.113.200", "203.0.113.207",
			"203.0.113.208", "8.8.8.8", "172.30.0.1", "172.30.0.2", "172.30.9.9", "10.243.0.1", "10.244.200.1", "10.245.0.1", "fd00::ffff", "fd00:0:0:1::1", "2001:db8::1"))
		return [2]reference.Party{{Addr: addr}, {Addr: addr}}, true
	}
	e := &a.Endpoints[c.IntN(len(a.Endpoints))]
	i := slices.IndexFunc(b.Endpoints, func(o model.Endpoint) bool { return o.Key() == e.Key() })
	if i < 0 {
		return out, false
	}
	addr := e.IPs[c.IntN(len(e.IPs))]
	return [2]reference.Party{{Pod: e, Addr: addr}, {Pod: &b.Endpoints[i], Addr: addr}}, true
}

func (c *chaos) flow(a, b *model.Cluster) (f flow, ok bool) {
	var both bool
	f.src, ok = c.party(a, b)
	f.dst, both = c.party(a, b)
	f.key = model.PortKeyOf(pick(c, model.TCP, model.TCP, model.UDP, model.ICMP), pick[uint16](c, 1, 53, 79, 80, 81, 8080, 8081))
	return f, ok && both && f.src[0].Addr.Is4() == f.dst[0].Addr.Is4()
}

// level is what the reference says of the flow on one side.
func level(cl *model.Cluster, src, dst reference.Party, key model.PortKey) diff.Level {
	v := reference.Judge(cl, src, dst, key)
	return map[reference.Said]diff.Level{reference.Shut: diff.Shut, reference.Conditional: diff.Conditional, reference.Open: diff.Open}[min(v.Egress, v.Ingress)]
}

// ownNode says whether the flow is from a node to a pod of it.
func ownNode(f flow) bool {
	d := f.dst[0].Pod
	return d != nil && !d.HostNetwork && (f.src[0].Pod == nil || f.src[0].Pod.HostNetwork) && f.src[0].Addr == nodeAddr(d.Node)
}

// stands says whether the end stands for the party.
func stands(e *diff.End, p reference.Party) bool {
	if p.Pod != nil {
		return slices.ContainsFunc(e.Pods, func(x diff.Pod) bool { return x.Old.Key() == p.Pod.Key() })
	}
	if p.Addr == nodeAddr("n0") || p.Addr == nodeAddr("n1") {
		return slices.ContainsFunc(e.Nodes, func(x diff.NodeAddress) bool { return x.Old == p.Addr })
	}
	return slices.ContainsFunc(e.Blocks, func(b model.IPBlock) bool { return b.Contains(p.Addr) })
}

// reported is the change that speaks of the flow, or nil.
func reported(d *diff.Diff, f flow) *diff.Change {
	family := diff.IPv6
	if f.src[0].Addr.Is4() {
		family = diff.IPv4
	}
	for i := range d.Changes {
		c := &d.Changes[i]
		if (c.Family == diff.AnyFamily || c.Family == family) && c.Ports.Contains(f.key) && stands(c.From, f.src[0]) && stands(c.To, f.dst[0]) {
			return c
		}
	}
	return nil
}

// nobody says whether the party is an address that both sides close.
func nobody(a, b *model.Cluster, p reference.Party) bool {
	in := func(c *model.Cluster) bool {
		return slices.ContainsFunc(c.PodRanges, func(r netip.Prefix) bool { return r.Contains(p.Addr) })
	}
	return p.Pod == nil && in(a) && in(b)
}

// holds checks one flow.
func holds(a, b *model.Cluster, d *diff.Diff, f flow) error {
	was, is := level(a, f.src[0], f.dst[0], f.key), level(b, f.src[1], f.dst[1], f.key)
	got := reported(d, f)
	itself := f.src[0].Pod != nil && f.src[0].Pod == f.dst[0].Pod
	if itself || ownNode(f) || nobody(a, b, f.src[0]) || nobody(a, b, f.dst[0]) {
		if was != is {
			return fmt.Errorf("%v changes from %v to %v, and nobody reports that", f, was, is)
		}
		return nil
	}
	switch {
	case was == is && got != nil:
		return fmt.Errorf("%v is %v on both sides, and is reported as %+v", f, was, got)
	case was != is && got == nil:
		return fmt.Errorf("%v changes from %v to %v and is not reported", f, was, is)
	case was != is && (got.Was != was || got.Is != is):
		return fmt.Errorf("%v changes from %v to %v and is reported as %+v", f, was, is, got)
	}
	return nil
}

// inside is a flow that the change speaks of, if it is between pods.
func inside(c *chaos, ch diff.Change) (f flow, ok bool) {
	if ch.From.Pods == nil || ch.To.Pods == nil {
		return f, false
	}
	s, d := ch.From.Pods[c.IntN(len(ch.From.Pods))], ch.To.Pods[c.IntN(len(ch.To.Pods))]
	iv := ch.Ports[c.IntN(len(ch.Ports))]
	f.key = pick(c, iv.First, iv.Last)
	for side, e := range []*model.Endpoint{s.Old, s.New} {
		f.src[side] = reference.Party{Pod: e, Addr: e.IPs[0]}
	}
	for side, e := range []*model.Endpoint{d.Old, d.New} {
		f.dst[side] = reference.Party{Pod: e, Addr: e.IPs[0]}
	}
	return f, s != d && ch.Family != diff.IPv6 && !ownNode(f)
}

func check(seed uint64) error {
	c := &chaos{Rand: rand.New(rand.NewPCG(seed, 7))}
	tiers := seed%2 == 0
	a := c.cluster(tiers)
	b := c.neighbour(a, tiers)
	d := diff.Compare(engine.Compile(a), engine.Compile(b))
	for range 80 {
		if f, ok := c.flow(a, b); ok {
			if err := holds(a, b, d, f); err != nil {
				return err
			}
		}
	}
	for _, ch := range d.Changes {
		if ch.From == nil || ch.To == nil || ch.From.Name == "" || ch.To.Name == "" || len(ch.Ports) == 0 || ch.Was == ch.Is {
			return fmt.Errorf("%+v says nothing", ch)
		}
		if f, ok := inside(c, ch); ok {
			if err := holds(a, b, d, f); err != nil {
				return err
			}
		}
	}
	if same := diff.Compare(engine.Compile(a), engine.Compile(a)); same.Relation() != diff.Equivalent || len(same.Added)+len(same.Removed) > 0 {
		return fmt.Errorf("a cluster differs from itself: %+v", same)
	}
	return nil
}

func TestChangesAreThoseOfTheReference(t *testing.T) {
	cases := uint64(3000)
	if text := os.Getenv("SALLYPORT_CASES"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cases = n
	}
	for seed := range cases {
		if err := check(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
