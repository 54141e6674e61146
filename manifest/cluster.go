package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// loader gathers what the documents say; finish makes the cluster of it.
type loader struct {
	opts        Options
	objects     map[string]model.Source
	namespaces  map[string]model.Namespace
	implied     map[string]model.Namespace // named by objects, declared by nobody
	nodes       []model.Node
	pods        []model.Endpoint
	controllers []controller
	owned       map[string]bool // workloads whose pods are written themselves
	services    []model.Service
	slices      []slice
	accounts    []model.ServiceAccount
	policies    []*model.Policy
	tiers       []model.Tier
	sets        []model.AddressSet
	tests       []field.Object
	problems    []model.Problem
	written     Written
	taken       map[netip.Addr]bool
}

// controller is a workload with its pod template.
type controller struct {
	endpoint model.Endpoint
	replicas int
	perNode  bool
}

func newLoader(opts Options) *loader {
	return &loader{
		opts: opts, objects: map[string]model.Source{}, namespaces: map[string]model.Namespace{},
		implied: map[string]model.Namespace{}, owned: map[string]bool{}, taken: map[netip.Addr]bool{},
	}
}

// The ranges that addresses are made up from.
var (
	podRange4     = netip.MustParsePrefix("10.244.0.0/14")
	podRange6     = netip.MustParsePrefix("fd00:10:244::/48")
	serviceRange4 = netip.MustParsePrefix("10.96.0.0/16")
	serviceRange6 = netip.MustParsePrefix("fd00:10:96::/112")
	nodeRange4    = netip.MustParsePrefix("172.30.0.0/16")
	nodeRange6    = netip.MustParsePrefix("fd00:172:30::/64")
)

func (l *loader) finish() *Result {
	l.placeNodes()
	for i := range l.controllers {
		w := &l.controllers[i]
		if !l.owned[ownerKey(w.endpoint.Namespace, w.endpoint.Workload)] {
			l.pods = append(l.pods, w.pods(l.nodes)...)
		}
	}
	slices.SortStableFunc(l.pods, func(a, b model.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	l.dropTwins()
	ranges := l.placePods()
	l.placeServices()
	maps.Copy(l.implied, l.namespaces)
	c := &model.Cluster{
		Revision: 1, Nodes: l.nodes, Endpoints: l.pods, Accounts: l.accounts, Policies: l.policies, Tiers: l.tiers, Sets: l.sets,
		Services: l.services, PodRanges: ranges,
	}
	l.problems = append(l.problems, dialect.CheckTiers(c.Policies, c.Tiers)...)
	for _, name := range slices.Sorted(maps.Keys(l.implied)) {
		c.Namespaces = append(c.Namespaces, l.implied[name])
	}
	return &Result{Cluster: c, Tests: l.tests, Problems: l.problems, Written: l.written}
}

// dropTwins reports pods of one name, which templates of equal names make.
func (l *loader) dropTwins() {
	l.pods = slices.CompactFunc(l.pods, func(a, b model.Endpoint) bool {
		if a.Namespace != b.Namespace || a.Name != b.Name {
			return false
		}
		l.problem(model.Error, b.Source, "makes a pod "+b.Namespace+"/"+b.Name+" that exists already", "rename one of the workloads")
		return true
	})
}

// supply hands out the free addresses of a range in order.
type supply struct {
	next  netip.Addr
	in    netip.Prefix
	taken map[netip.Addr]bool
}

func newSupply(p netip.Prefix, taken map[netip.Addr]bool, skip int) *supply {
	s := &supply{next: p.Masked().Addr(), in: p, taken: taken}
	for range skip {
		s.next = s.next.Next()
	}
	return s
}

func (s *supply) take() (netip.Addr, bool) {
	for s.taken[s.next] {
		s.next = s.next.Next()
	}
	a := s.next
	s.next = a.Next()
	s.taken[a] = true
	return a, s.in.Contains(a)
}

// placeNodes adds the nodes that pods name and nobody declares, and gives those
// without addresses theirs. Where none is declared it makes up the rest.
func (l *loader) placeNodes() {
	declared := len(l.nodes) > 0
	known := map[string]bool{"": true}
	for _, n := range l.nodes {
		known[n.Name] = true
	}
	for i := range l.pods {
		if name := l.pods[i].Node; !known[name] {
			known[name] = true
			l.nodes = append(l.nodes, model.Node{Name: name, Source: l.pods[i].Source})
		}
	}
	for i := 0; !declared && len(l.nodes) < max(l.opts.Nodes, 1); i++ {
		if name := fmt.Sprintf("node-%d", i); !known[name] {
			l.nodes = append(l.nodes, model.Node{Name: name})
		}
	}
	if !declared {
		slices.SortFunc(l.nodes, func(a, b model.Node) int { return cmp.Compare(a.Name, b.Name) })
	}
	for _, n := range l.nodes {
		for _, a := range n.IPs {
			l.taken[a] = true
		}
	}
	v4, v6 := newSupply(nodeRange4, l.taken, 1), newSupply(nodeRange6, l.taken, 1)
	for i := range l.nodes {
		if len(l.nodes[i].IPs) == 0 {
			l.give(&l.nodes[i].IPs, l.nodes[i].Source, v4, v6)
		}
	}
}

// give appends an address of each family in use.
func (l *loader) give(ips *[]netip.Addr, s model.Source, supplies ...*supply) {
	for _, s6 := range supplies {
		if s6.in.Addr().Is6() && !l.opts.DualStack {
			continue
		}
		a, ok := s6.take()
		if !ok {
			l.problem(model.Error, s, "there is no free address left in "+s6.in.String(), "use a larger range")
			return
		}
		*ips = append(*ips, a)
	}
}

// placePods gives pods without addresses theirs, in order of their names, and
// returns the ranges in which an address that no pod has is nobody's.
func (l *loader) placePods() []netip.Prefix {
	ranges := l.opts.PodRanges
	if ranges == nil {
		ranges = []netip.Prefix{podRange4}
		if l.opts.DualStack {
			ranges = append(ranges, podRange6)
		}
	}
	var supplies []*supply
	for _, r := range ranges {
		supplies = append(supplies, newSupply(r, l.taken, 2))
	}
	byName := map[string]*model.Node{}
	for i := range l.nodes {
		byName[l.nodes[i].Name] = &l.nodes[i]
	}
	for i := range l.pods {
		p := &l.pods[i]
		if p.Node == "" {
			p.Node = l.nodes[i%len(l.nodes)].Name
		}
		switch n := byName[p.Node]; {
		case p.HostNetwork && n != nil:
			p.IPs = n.IPs
		case !p.HostNetwork && len(p.IPs) == 0:
			l.give(&p.IPs, p.Source, supplies...)
		}
	}
	return ranges
}

func (l *loader) placeServices() {
	slices.SortFunc(l.services, func(a, b model.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	v4, v6 := newSupply(serviceRange4, l.taken, 16), newSupply(serviceRange6, l.taken, 16)
	for i := range l.services {
		s := &l.services[i]
		if len(s.ClusterIPs) == 0 && !s.Headless {
			l.give(&s.ClusterIPs, s.Source, v4, v6)
		}
	}
	ResolveServices(l.services, l.pods)
	for _, e := range l.slices {
		l.fromSlice(e)
	}
}

// ResolveServices fills in the Backends of every port whose Service has a
// selector: each ready pod that it selects, with its own target port.
func ResolveServices(services []model.Service, pods []model.Endpoint) {
	byNamespace := map[string][]*model.Endpoint{}
	for i := range pods {
		byNamespace[pods[i].Namespace] = append(byNamespace[pods[i].Namespace], &pods[i])
	}
	for i := range services {
		s := &services[i]
		if len(s.Selector) == 0 {
			continue
		}
		for j := range s.Ports {
			s.Ports[j].Backends = nil
			for _, e := range byNamespace[s.Namespace] {
				if s.Selects(e) {
					s.Ports[j].Backends = append(s.Ports[j].Backends, backends(e, s.Ports[j])...)
				}
			}
		}
	}
}

func backends(e *model.Endpoint, p model.ServicePort) []model.Backend {
	port := p.TargetPort
	if p.TargetName != "" {
		var ok bool
		if port, ok = e.NamedPort(p.TargetName, p.Protocol); !ok {
			return nil
		}
	}
	var out []model.Backend
	for _, ip := range e.IPs {
		out = append(out, model.Backend{IP: ip, Port: port, Pod: e.Key()})
	}
	return out
}

func (l *loader) fromSlice(e slice) {
	for i := range l.services {
		s := &l.services[i]
		if s.Namespace != e.namespace || s.Name != e.service || len(s.Selector) > 0 {
			continue
		}
		for j := range s.Ports {
			port, ok := e.ports[s.Ports[j].Name]
			if !ok {
				continue
			}
			for _, a := range e.addresses {
				s.Ports[j].Backends = append(s.Ports[j].Backends, model.Backend{IP: a, Port: port, Pod: l.podAt(a)})
			}
		}
	}
}

func (l *loader) podAt(a netip.Addr) string {
	for i := range l.pods {
		if slices.Contains(l.pods[i].IPs, a) {
			return l.pods[i].Key()
		}
	}
	return ""
}
