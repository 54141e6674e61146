package agent

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// Comparison is what Compare found.
type Comparison struct {
	Node        string       `json:"node"`
	Revision    uint32       `json:"revision"` // of the kernel's tables
	Pods        int          `json:"pods"`     // of the node
	Decisions   int          `json:"decisions"`
	Allowed     int          `json:"allowed"` // of the decisions
	Differences []Difference `json:"differences"`
}

// Difference is a decision of the kernel that is not the policies', or a pod
// that the kernel does not know.
type Difference struct {
	Pod      string     `json:"pod"`
	From     netip.Addr `json:"from"`
	To       netip.Addr `json:"to"`
	Port     string     `json:"port,omitempty"`
	Problem  string     `json:"problem,omitempty"`  // why nothing could be decided
	Expected string     `json:"expected,omitempty"` // by the policies
	Kernel   string     `json:"kernel,omitempty"`
}

func (d Difference) String() string {
	if d.Problem != "" {
		return d.Pod + ": " + d.Problem
	}
	return fmt.Sprintf("%s: %s to %s %s: the kernel says %s, policies say %s", d.Pod, d.From, d.To, d.Port, d.Kernel, d.Expected)
}

// Compare compiles the cluster from scratch and compares what follows for the
// pods of a node with what the kernel's tables, at the pin, decide: for every
// pod, both directions, with so many peers taken by chance from the cluster,
// and everything outside that policies tell apart, at every port where a range
// of the pod's gates begins. Equal seeds take equal peers. Nothing of what the
// node's agent knows is used.
func Compare(c *model.Cluster, node, pin string, peers int, seed uint64) (*Comparison, error) {
	f, err := bpf.Read(pin)
	if err != nil {
		return nil, err
	}
	x := &comparing{
		Comparison: &Comparison{Node: node, Revision: uint32(f.Revision), Differences: []Difference{}},
		Rand:       rand.New(rand.NewPCG(seed, 0)), kernel: f, matrix: engine.Compile(c), node: node,
	}
	if f.Revision == 0 {
		return nil, errors.New("cannot compare: nothing was published on this node yet")
	}
	x.outside = x.matrix.Outside()
	for _, e := range x.matrix.Endpoints() {
		if !e.HostNetwork && len(e.IPs) > 0 {
			x.pods = append(x.pods, e)
		}
	}
	for _, e := range x.pods {
		if e.Node == node {
			x.Pods++
			x.pod(e, peers)
		}
	}
	x.strangers()
	return x.Comparison, nil
}

type comparing struct {
	*Comparison
	*rand.Rand
	kernel  *datapath.Fake
	matrix  *engine.Matrix
	node    string
	pods    []*model.Endpoint
	outside []netip.Addr
}

func (x *comparing) pod(e *model.Endpoint, peers int) {
	for _, a := range e.IPs {
		if entry, ok := x.kernel.Addresses[a]; !ok || entry.Subject == datapath.SubjectNone || entry.Ifindex == 0 {
			x.Differences = append(x.Differences, Difference{Pod: e.Key(), From: a, Problem: fmt.Sprintf("the kernel does not have %s as a pod's of this node, behind a device", a)})
			return
		}
	}
	var others []netip.Addr
	for range peers {
		others = append(others, x.pods[x.IntN(len(x.pods))].IPs...)
	}
	others = append(others, x.outside...)
	for _, mine := range e.IPs {
		for _, other := range others {
			if mine.Is4() == other.Is4() && mine != other {
				x.pair(e, mine, other)
				x.pair(e, other, mine)
			}
		}
	}
}

// pair compares at the bounds of the ranges of both doors and at one port more.
func (x *comparing) pair(e *model.Endpoint, from, to netip.Addr) {
	keys := []model.PortKey{model.PortKeyOf(model.TCP, uint16(x.IntN(1<<16)))}
	for _, d := range []model.Direction{model.Egress, model.Ingress} {
		if g := x.matrix.Gate(e.Key(), d); g != nil {
			for _, r := range g.Ranges {
				keys = append(keys, r.First)
			}
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		x.decide(e.Key(), from, to, key)
	}
}

func (x *comparing) decide(pod string, from, to netip.Addr, key model.PortKey) {
	want := x.matrix.Verdict(engine.Party{Addr: from}, engine.Party{Addr: to}, key)
	got := x.kernel.Judge(datapath.Packet{
		Tuple: datapath.Tuple{Src: from, Dst: to, Proto: key.Protocol(), SrcPort: 40000, DstPort: key.Port()},
		Hook:  flow.Forward, In: x.kernel.Addresses[from].Ifindex, CTInfo: datapath.CTNew, HasCT: true, HopLimit: 64,
	})
	// The doors of other nodes' pods are theirs to judge.
	expected := (!x.here(from) || want.Egress.Allowed) && (!x.here(to) || want.Ingress.Allowed)
	x.Decisions++
	if got.Accept {
		x.Allowed++
	}
	if got.Accept != expected && got.Reason != flow.Unjudged { // neighbour discovery is no policy's
		x.Differences = append(x.Differences, Difference{Pod: pod, From: from, To: to, Port: key.String(), Kernel: got.Reason.String(),
			Expected: fmt.Sprintf("egress %s, ingress %s", want.Egress.Reason, want.Ingress.Reason)})
	}
}

// here says whether the address is a pod's of the node.
func (x *comparing) here(a netip.Addr) bool {
	e := x.matrix.EndpointAt(a)
	return e != nil && e.Node == x.node
}

// strangers looks for addresses that the kernel takes for a pod's of this node
// and that are none.
func (x *comparing) strangers() {
	for _, a := range slices.SortedFunc(maps.Keys(x.kernel.Addresses), netip.Addr.Compare) {
		entry := x.kernel.Addresses[a]
		if entry.Subject == datapath.SubjectNone || entry.Identity.At(x.kernel.Revision) == datapath.IdentityUnknown {
			continue
		}
		if !x.here(a) {
			x.Differences = append(x.Differences, Difference{Pod: "?", From: a, Problem: fmt.Sprintf("the kernel has %s as a pod's of this node, and the API server does not", a)})
		}
	}
}
