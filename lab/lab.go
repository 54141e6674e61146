//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/model"
)

// Config says how a lab behaves.
type Config struct {
	// NoServers leaves the pods without servers and DNS.
	NoServers bool
	// NodeUp is called, if set, when a node's namespace is there and before
	// any pod is connected to it; NodeDown before the namespace is removed.
	// They must not call the Lab, but may take NodeNetNS's path.
	NodeUp, NodeDown func(name string) error
}

// Lab is a cluster of network namespaces. Its methods may be called from
// several goroutines.
type Lab struct {
	cfg     Config
	mu      sync.RWMutex
	cluster atomic.Pointer[model.Cluster]
	zone    atomic.Pointer[func() zone] // the cluster's names, made when first asked for

	fabric   *space
	outside  *outside
	nodes    map[string]*node
	pods     map[string]*pod
	lastNode int
	settling []place // new addresses
}

// New returns a lab that is not up yet.
func New(cfg Config) *Lab {
	return &Lab{cfg: cfg, nodes: map[string]*node{}, pods: map[string]*pod{}}
}

// Up makes the namespaces of the cluster. If that fails, nothing is left.
func (l *Lab) Up(ctx context.Context, c *model.Cluster) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fabric != nil {
		return errors.New("cannot bring up the lab: it is up already")
	}
	if err := l.up(ctx, c); err != nil {
		return errors.Join(err, l.down())
	}
	return nil
}

func (l *Lab) up(ctx context.Context, c *model.Cluster) error {
	var err error
	if l.fabric, err = newFabric(); err != nil {
		return err
	}
	if err := l.addOutside(); err != nil {
		return err
	}
	return l.apply(ctx, c)
}

// Update makes the lab follow the cluster: nodes, pods and Services appear and
// vanish; a pod that has other addresses or another node is made anew.
func (l *Lab) Update(ctx context.Context, c *model.Cluster) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fabric == nil {
		return errors.New("cannot update the lab: it is not up")
	}
	return l.apply(ctx, c)
}

// apply makes the namespaces match the cluster.
func (l *Lab) apply(ctx context.Context, c *model.Cluster) error {
	names := sync.OnceValue(func() zone { return newZone(c) })
	l.cluster.Store(c)
	l.zone.Store(&names)
	if err := l.removeStale(c); err != nil {
		return err
	}
	if err := l.addMissing(ctx, c); err != nil {
		return err
	}
	if err := l.syncAllRoutes(); err != nil {
		return err
	}
	if err := l.syncServices(c); err != nil {
		return err
	}
	if err := l.syncServers(c); err != nil {
		return err
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	return l.writeState()
}

// removeStale removes the pods and nodes that are gone or different.
func (l *Lab) removeStale(c *model.Cluster) error {
	nodes := make(map[string]*model.Node, len(c.Nodes))
	for i := range c.Nodes {
		nodes[c.Nodes[i].Name] = &c.Nodes[i]
	}
	stale := func(n *node) bool {
		m := nodes[n.model.Name]
		return m == nil || !slices.Equal(m.IPs, n.model.IPs)
	}
	pods := make(map[string]*model.Endpoint, len(c.Endpoints))
	for i := range c.Endpoints {
		pods[c.Endpoints[i].Key()] = &c.Endpoints[i]
	}
	var gone, goneNodes, names []string
	for key, p := range l.pods {
		m := pods[key]
		if m == nil || !samePod(m, &p.model) || stale(p.node) {
			gone = append(gone, key)
			if !p.model.HostNetwork {
				names = append(names, p.name)
			}
		}
	}
	for name, n := range l.nodes {
		if stale(n) {
			goneNodes, names = append(goneNodes, name), append(names, n.name)
		}
	}
	if err := endProcesses(names); err != nil {
		return err
	}
	for _, key := range gone {
		if err := l.removePod(key); err != nil {
			return err
		}
	}
	for _, name := range goneNodes {
		if err := l.removeNode(name); err != nil {
			return err
		}
	}
	return nil
}

func samePod(a, b *model.Endpoint) bool {
	return a.Node == b.Node && a.HostNetwork == b.HostNetwork && slices.Equal(a.IPs, b.IPs)
}

// addMissing makes the nodes and pods that are not there yet.
func (l *Lab) addMissing(ctx context.Context, c *model.Cluster) error {
	for _, n := range c.Nodes {
		if l.nodes[n.Name] != nil {
			continue
		}
		if err := l.addNode(n); err != nil {
			return err
		}
	}
	for _, e := range c.Endpoints {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p := l.pods[e.Key()]; p != nil {
			p.model = e
			continue
		}
		if err := l.addPod(e); err != nil {
			return err
		}
	}
	return nil
}

// Down ends what runs in the pods and removes the namespaces. A lab that is not up is
// down already.
func (l *Lab) Down() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down()
}

func (l *Lab) down() error {
	errs := []error{endProcesses(l.spaces())}
	for key := range l.pods {
		errs = append(errs, l.removePod(key))
	}
	for name := range l.nodes {
		errs = append(errs, l.removeNode(name))
	}
	if l.outside != nil {
		for _, s := range l.outside.servers {
			s.close()
		}
		errs = append(errs, l.outside.close())
		l.outside = nil
	}
	if l.fabric != nil {
		errs = append(errs, l.fabric.close(), removeState())
		l.fabric = nil
	}
	return errors.Join(errs...)
}

// spaces are the names of the lab's network namespaces.
func (l *Lab) spaces() []string {
	var names []string
	for _, p := range l.pods {
		names = append(names, p.name)
	}
	for _, n := range l.nodes {
		names = append(names, n.name)
	}
	if l.outside != nil {
		names = append(names, outsideNS)
	}
	return names
}

// Nodes are the names of the lab's nodes, sorted.
func (l *Lab) Nodes() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	names := make([]string, 0, len(l.nodes))
	for name := range l.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// NodeNetNS is the path of a node's network namespace.
func (l *Lab) NodeNetNS(name string) string { return nsPath(nodeNSName(name)) }

// HostIfindex is the index, in the node's namespace, of the node's side of a
// pod's interface. A hostNetwork pod has none.
func (l *Lab) HostIfindex(podKey string) (uint32, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.pods[podKey]
	if p == nil || p.model.HostNetwork {
		return 0, false
	}
	return uint32(p.hostLink), true
}

// AddOutside gives the outside an address from which probes can come and on
// which servers can listen.
func (l *Lab) AddOutside(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addOutsideAddr(a)
}

func (l *Lab) addOutsideAddr(a netip.Addr) error {
	if l.outside == nil {
		return fmt.Errorf("cannot add outside address %s: the lab is not up", a)
	}
	if l.outside.addrs[a] || a == outsideAddr4 || a == outsideAddr6 {
		return nil
	}
	if err := l.outside.addAddr("lo", single(a)); err != nil {
		return err
	}
	l.outside.addrs[a] = true
	l.settling = append(l.settling, place{l.outside.space, a})
	return l.settle(context.Background())
}

// ServeOutside serves a port on an address of the outside, which it adds if
// need be: HTTP for TCP, an answer to every datagram for UDP.
func (l *Lab) ServeOutside(proto model.Protocol, at netip.AddrPort) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.addOutsideAddr(at.Addr()); err != nil {
		return err
	}
	if proto != model.TCP && proto != model.UDP {
		return nil // Probe sees to it, or the kernel answers
	}
	svc := service{proto: proto, addr: at.Addr(), port: at.Port()}
	if l.outside.servers[svc] != nil {
		return nil
	}
	s, err := serve(l.outside.ns, svc, "outside/"+at.Addr().String())
	if err != nil {
		return err
	}
	l.outside.servers[svc] = s
	return nil
}
