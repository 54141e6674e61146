package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
)

// World is where a Node learns of the cluster; *kube.Watcher is one.
type World interface {
	Run(context.Context) error
	Next(context.Context) (kube.Update, error)
	Services() []model.Service
	Health() []kube.Health
}

// NodeConfig is what a Node needs.
type NodeConfig struct {
	Name    string // of the node, as the API server has it
	World   World
	Enforce Config
	Version string
	Log     *slog.Logger

	Socket string // where to be asked; "" is nowhere
	HTTP   string // address for health and metrics; "" is nowhere
	PProf  bool   // profiles at the HTTP address too
	Spaces string // folder with the pods' network namespaces, for probes; "" is /run/netns

	// Report publishes the node's state where the cluster's users see it, from
	// time to time; nil: nowhere.
	Report func(context.Context, kube.NodeState) error
	// ReportEvery is the shortest time between two reports for a cluster of
	// that many nodes; nil is reportEvery.
	ReportEvery func(nodes int) time.Duration
	// Status writes what became of policies into their status, where it is this
	// node's turn, until the context ends; nil: nobody does.
	Status func(context.Context) error
	// Audit is how often the kernel is compared with what it should hold; 0 is
	// a minute.
	Audit time.Duration
}

// Node is the agent of a node of a real cluster: it follows the API server and
// the node's devices, answers the CNI plugin, and keeps the kernel up to date.
//
//	API server ─ World ── Update ─┐
//	netlink ── places ── change ──┼─▶ loop: Matrix.Apply ─ placement ─ Publish ─▶ kernel
//	CNI plugin ─ api ── request ──┘                                                │
//	monitor, metrics ◀── api ◀──────────── flows ◀── Enrich ◀── events ◀───────────┘
//
// One goroutine, in loop, changes things; mu lets the others ask in between.
type Node struct {
	config NodeConfig
	log    *slog.Logger
	flows  flows
	counts *metrics

	requests chan func() // run by loop
	devices  chan struct{}
	report   chan struct{}
	ended    chan struct{} // closed when loop has
	beat     atomic.Int64  // when loop was last seen alive, Unix nanoseconds

	mu         sync.Mutex // guards what follows
	agent      *Agent     // nil before the first Update
	stopEvents func()     // ends the reading of agent's events; mu is held
	matrix     *engine.Matrix
	fresh      int // identities after the last compilation from scratch; one that a full table asked for does not count
	places     *places
	placement  datapath.Placement
	stale      bool                // what the placement follows from has changed since
	ports      map[uint32]port     // the bridges' ports as they are pinned; nil: not yet
	local      map[string]struct{} // keys of the pods of this node
	nodes      map[string]model.Node
	others     []netip.Addr // addresses of the other nodes, sorted; nil: to be gathered
	told       told
	services   []model.Service
	behind     error    // why the kernel does not hold what the Matrix says; nil: it does
	drift      error    // what the last audit found wrong and could not put right
	detours    []string // what goes around the program on this node, or judges beside it
	retry      backoff
	search     backoff // for devices of pods that have none yet
	problems   []model.Problem
	revisions  map[string]string
	published  time.Time
	started    time.Time
}

// NewNode prepares a Node; Run starts it.
func NewNode(c NodeConfig) (*Node, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Audit == 0 {
		c.Audit = time.Minute
	}
	if c.Spaces == "" {
		c.Spaces = "/run/netns"
	}
	if c.ReportEvery == nil {
		c.ReportEvery = reportEvery
	}
	places, err := newPlaces(c.Enforce.NetNS)
	if err != nil {
		return nil, err
	}
	n := &Node{
		config: c, log: c.Log, places: places,
		requests: make(chan func()), devices: make(chan struct{}, 1), report: make(chan struct{}, 1),
		local: map[string]struct{}{}, nodes: map[string]model.Node{}, told: newTold(),
		revisions: map[string]string{}, started: time.Now(), ended: make(chan struct{}),
	}
	n.beat.Store(time.Now().UnixNano())
	n.counts = newMetrics(n)
	return n, nil
}

// Run enforces until the context ends, and leaves what it enforced in force.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	g, ctx := errgroup.WithContext(ctx)
	if err := n.places.subscribe(ctx.Done(), n.devices); err != nil {
		return err
	}
	if err := n.serve(ctx, g); err != nil {
		return err
	}
	updates := make(chan kube.Update)
	g.Go(func() error { return n.config.World.Run(ctx) })
	g.Go(func() error {
		for {
			u, err := n.config.World.Next(ctx)
			if err != nil {
				return nil // the context's
			}
			select {
			case updates <- u:
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go(func() error { return n.loop(ctx, updates) })
	g.Go(func() error { n.lookRound(ctx); return nil })
	if n.config.Report != nil {
		g.Go(func() error { return n.reportLoop(ctx) })
	}
	if n.config.Status != nil {
		g.Go(func() error { return n.config.Status(ctx) })
	}
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (n *Node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent != nil {
		n.stopEvents()
		_ = n.agent.Close()
	}
	_ = n.places.close()
}

// settleEvery is how often loop looks for what is still to be done: pods whose
// device has not been found, and a publication that failed.
const settleEvery = 100 * time.Millisecond

// loop does one thing after the other. The context's end is its only end, but
// for a kernel that cannot be enforced on at all.
func (n *Node) loop(ctx context.Context, updates <-chan kube.Update) error {
	audit, settle := time.NewTicker(n.config.Audit), time.NewTicker(settleEvery)
	defer audit.Stop()
	defer settle.Stop()
	defer close(n.ended)
	for {
		var do func()
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			if err := n.begin(); err != nil {
				return err
			}
			do = func() { n.follow(u) }
		case do = <-n.requests:
		case <-n.devices:
			do = n.locate
		case <-settle.C:
			do = n.settle
		case <-audit.C:
			do = n.audit
		}
		n.mu.Lock()
		do()
		n.mu.Unlock()
		n.beat.Store(time.Now().UnixNano())
	}
}

// begin loads the program when the cluster is first known, so that a node
// where nothing was enforced yet goes on as before until its policies can be.
// On a node where an agent was before, its policies are in force all along.
func (n *Node) begin() error {
	if n.agent != nil {
		return nil
	}
	a, err := New(n.config.Enforce)
	if err != nil {
		return fmt.Errorf("cannot enforce on this node: %w; sallyport doctor says what is missing", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agent = a
	n.startEvents()
	return nil
}

// startEvents reads the events of the agent as it is now, until stopEvents.
func (n *Node) startEvents() {
	ctx, cancel := context.WithCancel(context.Background())
	done, a := make(chan struct{}), n.agent
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := a.Events(ctx, n.handle); err != nil {
				n.log.Error("cannot read the kernel's reports; enforcement goes on", "error", err)
				sleep(ctx, time.Second)
			}
		}
	}()
	n.stopEvents = func() {
		cancel()
		n.mu.Unlock() // handle may be waiting for it
		<-done
		n.mu.Lock()
	}
}

// follow brings an Update into force.
func (n *Node) follow(u kube.Update) {
	if u.Problems != nil {
		n.tellProblems(u.Problems)
	}
	n.revisions = u.Revisions
	if u.Services {
		n.services = nil
	}
	answers := u.Cluster == nil && u.Services && len(n.answering()) > 0
	if u.Cluster == nil && !answers && reflect.ValueOf(u.Change).IsZero() {
		n.reportSoon() // the kernel has it all
		return
	}
	var delta engine.Delta
	if u.Cluster != nil {
		delta = n.anew(u.Cluster, u.Endpoints)
	} else {
		delta = n.apply(u.Change)
	}
	n.stale = n.stale || answers
	first := n.published.IsZero()
	if n.publish(delta) && !u.Since.IsZero() {
		n.counts.programming.Observe(time.Since(u.Since).Seconds())
		if first {
			n.log.Info("the cluster's policies are in force", "since_start", time.Since(n.started), "since_list", time.Since(u.Since))
		}
	}
	n.answerWaiting()
}

// anew begins with a whole cluster.
func (n *Node) anew(c *model.Cluster, endpoints []*model.Endpoint) engine.Delta {
	ch := engine.Change{Nodes: c.Nodes}
	for _, e := range endpoints {
		ch.Endpoints = append(ch.Endpoints, n.told.correct(e))
	}
	n.matrix = nil // the one before is of no use while the next one is made
	n.matrix = engine.CompileWith(c, ch.Endpoints)
	n.fresh = n.matrix.Identities()
	clear(n.local)
	clear(n.nodes)
	n.others = nil
	n.know(ch)
	return engine.Delta{Full: true}
}

// podRanges adds the networks of this node's pods, as their devices show them,
// to the ranges that are known: not every CNI keeps to those that the API
// server tells of. Other containers of the node are none of ours.
func (n *Node) podRanges(known []netip.Prefix) []netip.Prefix {
	out := slices.Clone(known)
	for key := range n.local {
		e := n.matrix.Endpoint(key)
		if e == nil {
			continue
		}
		for _, a := range e.IPs {
			r, ok := n.places.network[a]
			if ok && !slices.ContainsFunc(out, func(p netip.Prefix) bool { return p.Bits() <= r.Bits() && p.Contains(r.Addr()) }) {
				out = append(out, r)
			}
		}
	}
	return out
}

// widen closes a range of pods' addresses that the devices show and that was
// not known, and says whether there is one.
func (n *Node) widen() bool {
	known := n.matrix.PodRanges()
	ranges := n.podRanges(known)
	if len(ranges) == len(known) {
		return false
	}
	n.matrix.Apply(engine.Change{PodRanges: &ranges})
	return true
}

// apply changes the Matrix, with the addresses of pods as the CNI plugin has
// told them.
func (n *Node) apply(ch engine.Change) engine.Delta {
	for _, key := range ch.DeletedEndpoints {
		if e := n.matrix.Endpoint(key); e != nil {
			n.told.ended(e)
		}
	}
	if ch.PodRanges != nil {
		ranges := n.podRanges(*ch.PodRanges)
		ch.PodRanges = &ranges
	}
	list := ch.Endpoints
	ch.Endpoints = make([]*model.Endpoint, len(list))
	for i, e := range list {
		ch.Endpoints[i] = n.told.correct(e)
	}
	n.know(ch)
	return n.matrix.Apply(ch)
}

// know keeps what the placement needs of a change.
func (n *Node) know(ch engine.Change) {
	forget := func(key string) {
		if _, here := n.local[key]; here {
			delete(n.local, key)
			n.stale = true
		}
	}
	for _, key := range ch.DeletedEndpoints {
		forget(key)
	}
	for _, e := range ch.Endpoints {
		if e.Node == n.config.Name && !e.HostNetwork {
			n.local[e.Key()] = struct{}{}
			n.stale = true
		} else {
			forget(e.Key())
		}
	}
	if len(ch.Nodes) > 0 {
		n.others = nil
	}
	for _, x := range ch.Nodes {
		n.stale = true
		if len(x.IPs) == 0 {
			delete(n.nodes, x.Name)
			continue
		}
		n.nodes[x.Name] = x
	}
}

// locate looks at the devices again and publishes if a pod's has changed.
func (n *Node) locate() {
	if !n.look() {
		return
	}
	if n.agent != nil && n.matrix != nil {
		if n.widen() {
			n.publish(engine.Delta{Full: true})
		} else if !samePlacement(n.placement, n.place()) {
			n.publish(engine.Delta{})
		}
	}
	n.answerWaiting()
}

// look looks at the node's devices again.
func (n *Node) look() bool {
	n.stale = true
	if err := n.places.refresh(); err != nil {
		n.log.Warn("cannot look at the node's devices", "error", err)
		return false
	}
	return true
}

// settle does what could not be done before.
func (n *Node) settle() {
	if n.agent == nil || n.matrix == nil {
		return
	}
	if n.behind != nil && n.retry.due() {
		n.publish(engine.Delta{Full: true})
	}
	switch {
	case !n.unplaced():
		n.search = backoff{}
	case n.search.due():
		n.search.fail()
		n.locate()
	}
	n.prune()
	n.answerWaiting()
}

func (n *Node) unplaced() bool {
	for key := range n.local {
		if e := n.matrix.Endpoint(key); e != nil && len(e.IPs) > 0 && n.placement.Local[key] == 0 {
			return true
		}
	}
	return false
}

// placePods has the placement follow the pods and devices, and says whether
// these changed.
func (n *Node) placePods() bool {
	if !n.stale {
		return false
	}
	n.placement = n.place()
	if n.unplaced() && n.look() {
		n.placement = n.place()
	}
	n.stale = false
	return true
}

// place says by which devices the node's pods are reached, and whose addresses
// are nodes'.
func (n *Node) place() datapath.Placement {
	p := datapath.Placement{Local: make(map[string]uint32, len(n.local)), Node: slices.Clone(n.places.own)}
	for key := range n.local {
		p.Local[key] = n.deviceOf(key)
	}
	p.Node, p.Nodes = sortedAddrs(append(p.Node, n.nodes[n.config.Name].IPs...)), n.otherNodes()
	p.As = n.answered()
	return p
}

// otherNodes are the addresses of the other nodes; they are gathered once for
// all publications until a node changes.
func (n *Node) otherNodes() []netip.Addr {
	if n.others == nil {
		n.others = []netip.Addr{}
		for name, x := range n.nodes {
			if name != n.config.Name {
				n.others = append(n.others, x.IPs...)
			}
		}
		n.others = sortedAddrs(n.others)
	}
	return n.others
}

func sortedAddrs(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// answering are the addresses by which the node may answer for a Service: those
// that are neither what the API server says it has nor in the pods' ranges.
func (n *Node) answering() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(n.places.own), func(a netip.Addr) bool {
		return slices.Contains(n.nodes[n.config.Name].IPs, a) ||
			slices.ContainsFunc(n.matrix.PodRanges(), func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// answered finds the Services that the node answers by itself, having their
// address, as NodeLocal DNSCache does. Where policies tell the pods behind one
// apart, it stays the node's.
func (n *Node) answered() map[netip.Addr]netip.Addr {
	own := n.answering()
	if len(own) == 0 {
		return nil
	}
	if n.services == nil {
		n.services = n.config.World.Services()
	}
	out := map[netip.Addr]netip.Addr{}
	for i := range n.services {
		for _, a := range n.services[i].ClusterIPs {
			if !slices.Contains(own, a) {
				continue
			}
			if pod, ok := n.behindAll(&n.services[i]); ok {
				out[a] = pod
			}
		}
	}
	return out
}

// behindAll is the address of a pod behind the Service, if all are of one
// identity.
func (n *Node) behindAll(s *model.Service) (pod netip.Addr, ok bool) {
	for _, port := range s.Ports {
		for _, b := range port.Backends {
			if pod.IsValid() && n.matrix.AddressIdentity(b.IP) != n.matrix.AddressIdentity(pod) {
				return pod, false
			}
			pod = b.IP
		}
	}
	return pod, pod.IsValid()
}

// deviceOf is the pod's device: as the CNI plugin says, or where its addresses
// are found.
func (n *Node) deviceOf(key string) uint32 {
	e := n.matrix.Endpoint(key)
	if e == nil {
		return 0
	}
	if index := n.told.device(e); index != 0 {
		return index
	}
	for _, a := range e.IPs {
		if index := n.places.deviceOf(a); index != 0 {
			return index
		}
	}
	return 0
}

func samePlacement(a, b datapath.Placement) bool {
	return maps.Equal(a.Local, b.Local) && slices.Equal(a.Node, b.Node) && slices.Equal(a.Nodes, b.Nodes) && maps.Equal(a.As, b.As)
}

// publish brings the Matrix into force and says whether it is. What fails is
// tried again, whole; until then the last state holds, with the addresses of
// pods that are gone closed.
func (n *Node) publish(d engine.Delta) bool {
	if d.Full {
		n.look()
	}
	if n.placePods() && n.widen() {
		d = engine.Delta{Full: true}
	}
	if n.behind != nil {
		d = engine.Delta{Full: true}
	}
	err := n.pinned()
	if err == nil {
		err = fit(n.matrix, d, func(d engine.Delta) error { return n.agent.Publish(n.matrix, d, n.placement) })
	}
	if n.behind = err; err != nil {
		n.retry.fail()
		n.log.Error("cannot enforce the last change; the state before it holds", "error", err, "retry", n.retry.wait)
		n.reportSoon()
		return false
	}
	n.retry = backoff{}
	n.published = time.Now()
	n.reportSoon()
	return true
}

// tellProblems logs what is new. What is merely worth knowing is said once of
// all objects of a kind: it may be true of each of them.
func (n *Node) tellProblems(list []model.Problem) {
	known := map[model.Problem]struct{}{}
	for _, p := range n.problems {
		known[kindly(p)] = struct{}{}
	}
	for _, p := range list {
		if _, ok := known[kindly(p)]; ok {
			continue
		}
		known[kindly(p)] = struct{}{}
		level, what := slog.LevelInfo, "of this policy is to be known"
		switch p.Severity {
		case model.Warning:
			level, what = slog.LevelWarn, "a policy is not enforced as its author may think"
		case model.Error:
			level, what = slog.LevelError, "a policy is wrong; its wrong part allows nothing"
		}
		n.log.Log(context.Background(), level, what, "problem", p.Error())
	}
	n.problems = list
}

// kindly is what is logged once.
func kindly(p model.Problem) model.Problem {
	if p.Severity == model.Info {
		p.Source = model.Source{APIVersion: p.Source.APIVersion, Kind: p.Source.Kind}
	}
	return p
}

// do has loop run f, and waits.
func (n *Node) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case n.requests <- func() { f(); close(done) }:
		<-done
		return nil
	case <-n.ended:
		return errors.New("the agent ends")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff waits longer after each failure, up to ten seconds.
type backoff struct {
	wait time.Duration
	next time.Time
}

func (b *backoff) fail() {
	b.wait = min(max(2*b.wait, 100*time.Millisecond), 10*time.Second)
	b.next = time.Now().Add(b.wait)
}

func (b *backoff) due() bool { return !time.Now().Before(b.next) }
