package diff_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

// chaos makes small hostile clusters and their neighbours.
type chaos struct{ *synth.Chaos }

func pick[T any](c chaos, list ...T) T { return list[c.IntN(len(list))] }

// cluster has workloads of several pods and pods of two families, too.
func (c chaos) cluster() *model.Cluster {
	out := c.Cluster()
	for i := range out.Endpoints {
		e := &out.Endpoints[i]
		if c.IntN(3) == 0 {
			e.Workload = model.Workload{Kind: "Deployment", Name: "web"}
		}
		if !e.HostNetwork && c.IntN(2) == 0 {
			e.IPs = append(e.IPs, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}))
		}
	}
	return out
}

// flow is one connection between what both clusters have.
type flow struct {
	src, dst [2]reference.Party // by side
	key      model.PortKey
}

// party is a pod or node of both, or an address at the edge of some prefix.
func (c chaos) party(a, b *model.Cluster) (out [2]reference.Party, ok bool) {
	switch c.IntN(6) {
	case 0:
		i := c.IntN(len(a.Nodes))
		return [2]reference.Party{{Addr: a.Nodes[i].IPs[0]}, {Addr: b.Nodes[i].IPs[0]}}, true
	case 1, 2:
		addr := netip.MustParseAddr(pick(c, "203.0.113.0", "203.0.113.127", "203.0.113.128", "203.0.113.200", "203.0.113.207", "203.0.113.208",
			"8.8.8.8", "172.30.9.99", "10.0.0.1", "10.244.200.1", "10.243.255.255", "fd00:0:0:1::1", "2001:db8::1"))
		return [2]reference.Party{{Addr: addr}, {Addr: addr}}, true
	}
	e := &a.Endpoints[c.IntN(len(a.Endpoints))]
	i := slices.IndexFunc(b.Endpoints, func(o model.Endpoint) bool { return o.Key() == e.Key() })
	if i < 0 {
		return out, false
	}
	n := c.IntN(len(e.IPs))
	return [2]reference.Party{{Pod: e, Addr: e.IPs[n]}, {Pod: &b.Endpoints[i], Addr: b.Endpoints[i].IPs[n]}}, true
}

func (c chaos) flow(a, b *model.Cluster) (f flow, ok bool) {
	var both bool
	f.src, ok = c.party(a, b)
	f.dst, both = c.party(a, b)
	f.key = c.Key()
	return f, ok && both && f.src[0].Addr.Is4() == f.dst[0].Addr.Is4()
}

// level is what the reference says of the flow on one side.
func level(cl *model.Cluster, src, dst reference.Party, key model.PortKey) diff.Level {
	v := reference.Judge(cl, src, dst, key)
	return map[reference.Said]diff.Level{reference.Shut: diff.Shut, reference.Conditional: diff.Conditional, reference.Open: diff.Open}[min(v.Egress, v.Ingress)]
}

// nodeOf is the node whose traffic the party's is, or "".
func nodeOf(cl *model.Cluster, p reference.Party) string {
	for _, n := range cl.Nodes {
		if (p.Pod == nil || p.Pod.HostNetwork) && slices.Contains(n.IPs, p.Addr) {
			return n.Name
		}
	}
	return ""
}

// ownNode says whether the flow is from a node to a pod of it.
func ownNode(cl *model.Cluster, f flow) bool {
	d := f.dst[0].Pod
	return d != nil && !d.HostNetwork && nodeOf(cl, f.src[0]) == d.Node
}

// stands says whether the end stands for the party.
func stands(a *model.Cluster, e *diff.End, p reference.Party) bool {
	if p.Pod != nil {
		return slices.ContainsFunc(e.Pods, func(x diff.Pod) bool { return x.Old.Key() == p.Pod.Key() })
	}
	if nodeOf(a, p) != "" {
		return slices.ContainsFunc(e.Nodes, func(x diff.NodeAddress) bool { return x.Old == p.Addr })
	}
	return slices.ContainsFunc(e.Blocks, func(b model.IPBlock) bool { return b.Contains(p.Addr) })
}

// reported is the change that speaks of the flow, or nil.
func reported(a *model.Cluster, d *diff.Diff, f flow) *diff.Change {
	family := diff.IPv6
	if f.src[0].Addr.Is4() {
		family = diff.IPv4
	}
	for i := range d.Changes {
		c := &d.Changes[i]
		if (c.Family == diff.AnyFamily || c.Family == family) && c.Ports.Contains(f.key) && stands(a, c.From, f.src[0]) && stands(a, c.To, f.dst[0]) {
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
	return p.Pod == nil && in(a) && in(b) && nodeOf(a, p) == ""
}

// holds checks one flow.
func holds(a, b *model.Cluster, d *diff.Diff, f flow) error {
	was, is := level(a, f.src[0], f.dst[0], f.key), level(b, f.src[1], f.dst[1], f.key)
	got := reported(a, d, f)
	itself := f.src[0].Pod != nil && f.src[0].Pod == f.dst[0].Pod
	if itself || ownNode(a, f) || nobody(a, b, f.src[0]) || nobody(a, b, f.dst[0]) {
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
func inside(a *model.Cluster, c chaos, ch diff.Change) (f flow, ok bool) {
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
	return f, s != d && ch.Family != diff.IPv6 && !ownNode(a, f)
}

func check(seed uint64) error {
	c := chaos{synth.NewChaos(seed)}
	a := c.cluster()
	b := a
	for range 1 + c.IntN(2) {
		b = c.Mutate(b)
	}
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
		if f, ok := inside(a, c, ch); ok {
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
	cases := uint64(2000)
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
