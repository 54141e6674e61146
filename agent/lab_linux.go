package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// LabPins is the folder of bpffs below which each node of a lab has its own.
const LabPins = "/sys/fs/bpf/sallyport-lab"

// Lab is a lab whose every node has an agent, all fed from one Matrix.
type Lab struct {
	*lab.Lab
	Matrix  *engine.Matrix
	cluster *model.Cluster
	agents  map[string]*Agent
	behind  map[string]bool // nodes that have not published the last change
	limits  datapath.Limits // sizes of every node's tables
	unlock  func()          // lets the next lab of this machine begin
}

// StartLab removes what an earlier lab left, makes the cluster's namespaces
// and enforces its policies. A node's program is in place before its first
// pod is connected, and forwards nothing until the policies are published. If
// StartLab fails nothing is left. There is one lab on a machine: StartLab
// waits for the one that is up to end.
func StartLab(ctx context.Context, c *model.Cluster) (*Lab, error) {
	return startLab(ctx, c, datapath.Limits{})
}

func startLab(ctx context.Context, c *model.Cluster, limits datapath.Limits) (_ *Lab, err error) {
	unlock, err := lab.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := RemoveLab(); err != nil {
		return nil, err
	}
	l := &Lab{Matrix: engine.Compile(c), cluster: c, agents: map[string]*Agent{}, behind: map[string]bool{}, limits: limits, unlock: unlock}
	l.Lab = lab.New(lab.Config{NodeUp: l.nodeUp, NodeDown: l.nodeDown})
	if err := l.Lab.Up(ctx, c); err != nil {
		return nil, errors.Join(err, removePins())
	}
	if err := l.enforce(engine.Delta{Full: true}); err != nil {
		return nil, errors.Join(err, l.Lab.Down(), removePins())
	}
	return l, nil
}

func (l *Lab) nodeUp(name string) error {
	a, err := New(Config{Pin: filepath.Join(LabPins, name), NetNS: l.NodeNetNS(name), Limits: l.limits})
	if err != nil {
		return fmt.Errorf("cannot enforce on %s: %w", name, err)
	}
	l.agents[name], l.behind[name] = a, true
	return nil
}

// nodeDown ends the enforcement with the node: a pinned link would keep its
// namespace alive.
func (l *Lab) nodeDown(name string) error {
	a := l.agents[name]
	if a == nil {
		return nil
	}
	delete(l.agents, name)
	return a.Remove()
}

// Update makes lab and kernel follow the cluster. A pod that appears is closed
// until its policies are in force.
func (l *Lab) Update(ctx context.Context, c *model.Cluster) error {
	d := l.Matrix.Apply(engine.Between(l.cluster, c))
	l.cluster = c
	err := l.Lab.Update(ctx, c)
	return errors.Join(err, fit(l.Matrix, d, l.enforce))
}

// Cluster is what the lab shows at present.
func (l *Lab) Cluster() *model.Cluster { return l.cluster }

// Agent is the agent of a node, or nil.
func (l *Lab) Agent(node string) *Agent { return l.agents[node] }

// enforce publishes on every node, also if one of them fails: that one
// compares everything the next time.
func (l *Lab) enforce(d engine.Delta) error {
	var errs []error
	for _, n := range l.cluster.Nodes {
		a := l.agents[n.Name]
		if a == nil {
			continue // the node could not be made; Lab.Update has said why
		}
		delta := d
		if l.behind[n.Name] {
			delta = engine.Delta{Full: true}
		}
		err := a.Publish(l.Matrix, delta, l.placement(n))
		l.behind[n.Name] = err != nil
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot enforce on %s: %w", n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// placement says which pods are on the node, by which device.
func (l *Lab) placement(n model.Node) datapath.Placement {
	p := datapath.Placement{Local: map[string]uint32{}, Node: slices.Clone(n.IPs)}
	for i := range l.cluster.Endpoints {
		e := &l.cluster.Endpoints[i]
		if e.Node != n.Name || e.HostNetwork {
			continue
		}
		if ifindex, ok := l.HostIfindex(e.Key()); ok {
			p.Local[e.Key()] = ifindex
		}
	}
	for _, other := range l.cluster.Nodes {
		if other.Name != n.Name {
			p.Nodes = append(p.Nodes, other.IPs...)
		}
	}
	return p
}

// Stop ends the enforcement and removes the lab.
func (l *Lab) Stop() error {
	defer l.unlock()
	return errors.Join(l.Lab.Down(), removePins())
}

// RemoveLab removes what a lab of any process left on this machine: links
// first, since a pinned link keeps a network namespace alive.
func RemoveLab() error {
	entries, err := os.ReadDir(LabPins)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot list %s: %w", LabPins, err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, bpf.Remove(filepath.Join(LabPins, e.Name())))
	}
	errs = append(errs, removePins(), lab.RemoveLeftovers())
	return errors.Join(errs...)
}

func removePins() error {
	if err := os.RemoveAll(LabPins); err != nil {
		return fmt.Errorf("cannot remove %s: %w", LabPins, err)
	}
	return nil
}

// Observation is one probe with what was computed for it.
type Observation struct {
	lab.Probe
	To       string // who has the address: pod, or the address itself
	Computed engine.Verdict
	Outcome  lab.Outcome
}

// Agrees says whether the kernel did what was computed.
func (o Observation) Agrees() bool {
	reached := o.Outcome == lab.Connected || o.Outcome == lab.Refused
	return o.Outcome != lab.Failed && reached == o.Computed.Allowed
}

// Pairs lists the probes of every pod to every declared port of every other
// pod, to all its addresses of a family that both have.
func (l *Lab) Pairs() []Observation {
	var out []Observation
	for _, src := range l.Matrix.Endpoints() {
		for _, dst := range l.Matrix.Endpoints() {
			if src.Key() != dst.Key() {
				out = append(out, l.pair(src, dst)...)
			}
		}
	}
	return out
}

func (l *Lab) pair(src, dst *model.Endpoint) []Observation {
	var out []Observation
	for _, p := range dst.Ports {
		for _, to := range dst.IPs {
			from, ok := model.SameFamily(src.IPs, to)
			if !ok {
				continue
			}
			o := Observation{Probe: lab.Probe{From: src.Key(), To: to, Protocol: p.Protocol, Port: p.Number}, To: dst.Key()}
			o.Computed = l.Matrix.Verdict(engine.Party{Endpoint: src, Addr: from}, engine.Party{Endpoint: dst, Addr: to}, model.PortKeyOf(p.Protocol, p.Number))
			out = append(out, o)
		}
	}
	return out
}

// What was computed to be allowed is given this much when it has timed out: on
// a busy machine both ends may have to wait for a processor.
const (
	retries = 3

	// Patience is for one connection that is to come about: enough for a lost
	// packet to be sent again twice.
	Patience = 3500 * time.Millisecond
)

// Observe runs the probes and fills in their outcomes. A probe that times out
// is tried again if it was computed to be allowed: what is denied stays denied
// then too, and what should be denied gets no second chance to look so.
func (l *Lab) Observe(ctx context.Context, list []Observation, timeout time.Duration) {
	l.ObserveEach(ctx, list, timeout, func() {})
}

// ObserveEach is Observe that calls done once for each probe, from any
// goroutine.
func (l *Lab) ObserveEach(ctx context.Context, list []Observation, timeout time.Duration, done func()) {
	open := make([]*Observation, len(list))
	for i := range list {
		open[i] = &list[i]
	}
	for range 1 + retries {
		probes := make([]lab.Probe, len(open))
		for i, o := range open {
			probes[i] = o.Probe
		}
		for i, outcome := range l.ProbeEach(ctx, probes, timeout, done) {
			open[i].Outcome = outcome
		}
		open = slices.DeleteFunc(open, func(o *Observation) bool { return !o.Computed.Allowed || o.Outcome != lab.TimedOut })
		timeout, done = Patience, func() {}
	}
}

// Observation makes the probe for one connection. An end outside the cluster
// gets its address in the lab's outside, and as a destination a server there.
func (l *Lab) Observation(src, dst engine.Party, key model.PortKey) (Observation, error) {
	o := Observation{Probe: lab.Probe{Protocol: key.Protocol(), Port: key.Port()}, Computed: l.Matrix.Verdict(src, dst, key)}
	to, err := l.addressOf(dst, src.Addr)
	if err != nil {
		return o, err
	}
	o.Probe.To, o.To = to, to.String()
	if dst.Endpoint == nil && dst.Node == "" {
		if err := l.AddOutside(to); err != nil {
			return o, err
		}
		if err := l.ServeOutside(key.Protocol(), netip.AddrPortFrom(to, key.Port())); err != nil {
			return o, err
		}
	}
	switch {
	case src.Endpoint != nil:
		o.From = src.Endpoint.Key()
		if src.Addr.IsValid() && !src.Endpoint.HostNetwork {
			o.Source = src.Addr
		}
	case src.Node != "":
		o.From = lab.NodeOrigin(src.Node)
	default:
		if o.Source, err = l.addressOf(src, to); err != nil {
			return o, err
		}
		o.From = lab.FromOutside
		if err := l.AddOutside(o.Source); err != nil {
			return o, err
		}
	}
	return o, nil
}

// addressOf is the party's address, of the family of the other end's if that
// one is given.
func (l *Lab) addressOf(p engine.Party, other netip.Addr) (netip.Addr, error) {
	if p.Addr.IsValid() {
		return p.Addr, nil
	}
	var ips []netip.Addr
	if p.Endpoint != nil {
		ips = p.Endpoint.IPs
	}
	for _, n := range l.cluster.Nodes {
		if p.Node != "" && n.Name == p.Node {
			ips = n.IPs
		}
	}
	if !other.IsValid() && len(ips) > 0 {
		return ips[0], nil
	}
	if ip, ok := model.SameFamily(ips, other); ok {
		return ip, nil
	}
	return netip.Addr{}, fmt.Errorf("cannot probe: no address of the other end's family is known of %s%s", p.Node, keyOf(p.Endpoint))
}

func keyOf(e *model.Endpoint) string {
	if e == nil {
		return ""
	}
	return e.Key()
}
