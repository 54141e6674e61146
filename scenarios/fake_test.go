package scenarios_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// Fake is the executor that plans every node's tables and sends the first
// packet of a connection past each of them, as the kernel program would see it.
type Fake struct{}

// uplink is the device by which packets from elsewhere come to a node.
const uplink = 1000

// Start publishes the scenario to one Fake kernel per node.
func (Fake) Start(t testing.TB, s *scenarios.Scenario) scenarios.World {
	t.Helper()
	w := fakeWorld{nodes: map[string]*fakeNode{}}
	m := engine.Compile(s.Cluster)
	for _, n := range s.Cluster.Nodes {
		f := newFakeNode(s.Cluster, n)
		f.publish(t, m, engine.Delta{Full: true})
		w.nodes[n.Name] = f
	}
	return scenarios.Judge(w.judge)
}

func newFakeNode(c *model.Cluster, n model.Node) *fakeNode {
	f := &fakeNode{kernel: &datapath.Fake{}, addresses: n.IPs, devices: map[string]uint32{}}
	f.publisher = &datapath.Publisher{Planner: datapath.NewPlanner(datapath.DefaultLimits(), nil), Kernel: f.kernel}
	for _, other := range c.Nodes {
		if other.Name != n.Name {
			f.others = append(f.others, other.IPs...)
		}
	}
	for i := range c.Endpoints {
		if e := &c.Endpoints[i]; e.Node == n.Name && !e.HostNetwork {
			f.devices[e.Key()] = uint32(10 + len(f.devices))
		}
	}
	return f
}

func (n *fakeNode) publish(t testing.TB, m *engine.Matrix, d engine.Delta) {
	t.Helper()
	if err := n.publisher.Publish(m, d, datapath.Placement{Local: n.devices, Node: n.addresses, Nodes: n.others}); err != nil {
		t.Fatalf("cannot publish to the node with %v: %v", n.addresses, err)
	}
}

type fakeWorld struct{ nodes map[string]*fakeNode }

// fakeNode is one node: its kernel, its own addresses and its pods' devices.
type fakeNode struct {
	kernel            *datapath.Fake
	publisher         *datapath.Publisher
	addresses, others []netip.Addr // its own, and the other nodes'
	devices           map[string]uint32
}

// place is where one end of a connection is.
type place struct {
	node   string // "" outside the cluster
	pod    string // "" for a node and for what is outside
	addrs  []netip.Addr
	device uint32
}

func (w fakeWorld) place(p engine.Party) place {
	var out place
	switch {
	case p.Endpoint != nil && !p.Endpoint.HostNetwork:
		out = place{node: p.Endpoint.Node, pod: p.Endpoint.Key(), addrs: p.Endpoint.IPs}
		out.device = w.nodes[out.node].devices[out.pod]
	case p.Endpoint != nil:
		out = place{node: p.Endpoint.Node, addrs: w.nodes[p.Endpoint.Node].addresses}
	case p.Node != "":
		out = place{node: p.Node, addrs: w.nodes[p.Node].addresses}
	}
	if p.Addr.IsValid() {
		out.addrs = []netip.Addr{p.Addr}
	}
	for name, n := range w.nodes {
		for _, a := range n.addresses {
			if out.node == "" && p.Addr == a {
				out.node = name
			}
		}
	}
	return out
}

// judge sends the connection's first packet past the nodes of both ends.
func (w fakeWorld) judge(from, to engine.Party, key model.PortKey) (bool, error) {
	src, dst := w.place(from), w.place(to)
	if src.pod != "" && src.pod == dst.pod {
		return true, nil // such a packet never leaves the pod
	}
	a, b, ok := commonFamily(src.addrs, dst.addrs)
	if !ok {
		return false, fmt.Errorf("%v and %v have no address family in common", src.addrs, dst.addrs)
	}
	tuple := datapath.Tuple{Src: a, Dst: b, Proto: key.Protocol(), SrcPort: 40000, DstPort: key.Port()}
	if tuple.Proto != model.TCP && tuple.Proto != model.UDP && tuple.Proto != model.SCTP {
		tuple.SrcPort = 0
	}
	allowed := true
	for name, n := range w.nodes {
		if name == src.node || name == dst.node {
			allowed = allowed && n.passes(name, tuple, src, dst)
		}
	}
	return allowed, nil
}

func commonFamily(a, b []netip.Addr) (x, y netip.Addr, ok bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Is4() == y.Is4() {
				return x, y, true
			}
		}
	}
	return x, y, false
}

// passes judges the packet at the hook where this node sees it.
func (n *fakeNode) passes(name string, t datapath.Tuple, src, dst place) bool {
	p := datapath.Packet{Tuple: t, Hook: flow.Forward, In: uplink, Out: uplink, CTInfo: datapath.CTNew, HasCT: true, HopLimit: 64}
	if src.node == name {
		p.In = src.device
	}
	if dst.node == name {
		p.Out = dst.device
	}
	switch {
	case src.node == name && src.pod == "":
		p.Hook, p.In = flow.LocalOut, 0
	case dst.node == name && dst.pod == "":
		p.Hook, p.Out = flow.LocalIn, 0
	}
	return n.kernel.Judge(p).Accept
}
