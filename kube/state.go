package kube

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// state is the cluster as the API server has it, and what of it changed since
// take was last called. Work is in proportion to what changes. It has no lock.
type state struct {
	pods        *store[pod]
	namespaces  *store[model.Namespace]
	nodes       *store[node]
	services    *store[model.Service]
	slices      *store[slice]
	accounts    *store[account]
	objects     map[*resource]*store[parts] // of languages
	pools       *store[ranges]
	ciliumNodes *store[ranges]
	definitions *store[string]
	fixed       []netip.Prefix    // pod ranges that the user gave
	name        string            // of the cluster
	defined     func(name string) // is called when a definition has changed

	podAt   claims[*pod]
	nodeAt  claims[*node]
	hostOn  map[string]map[key]struct{} // hostNetwork pods by node
	in      map[string]int              // how many pods and address sets are in a namespace
	behind  map[key]map[key]struct{}    // EndpointSlices by Service
	asked   map[key]int                 // how many objects speak of a Service; the zero key: of any
	ghosts  map[string]struct{}         // namespaces deleted without anything in them: nobody was told
	started bool                        // a whole cluster was handed out
	ranges  []netip.Prefix              // as handed out

	// before is what was handed out of all that changed since; nil for nothing.
	before   changes
	revision uint64
	since    time.Time // of the oldest change; zero: there is none
}

type changes struct {
	endpoints  map[key]*model.Endpoint
	namespaces map[key]*model.Namespace
	nodes      map[key]*model.Node
	accounts   map[key]*account
	objects    map[objectKey]*parts
	services   map[key]*model.Service
	served     bool // something about Services, whether asked for or not
	problems   bool
	ranges     bool
}

func newChanges() changes {
	return changes{
		endpoints: map[key]*model.Endpoint{}, namespaces: map[key]*model.Namespace{},
		nodes: map[key]*model.Node{}, accounts: map[key]*account{}, objects: map[objectKey]*parts{}, services: map[key]*model.Service{},
	}
}

func newState(fixed []netip.Prefix) *state {
	s := &state{
		fixed: fixed, defined: func(string) {}, hostOn: map[string]map[key]struct{}{}, in: map[string]int{}, behind: map[key]map[key]struct{}{},
		asked: map[key]int{}, ghosts: map[string]struct{}{}, before: newChanges(),
	}
	s.before.problems = true // said once even if there is none
	s.podAt = newClaims((*pod).outranks, func(a, b *pod) {
		s.touchPod(keyOf(a.endpoint))
		s.touchPod(keyOf(b.endpoint))
	})
	s.nodeAt = newClaims((*node).outranks, func(a, b *node) {
		s.touchNode(key{name: a.Name})
		s.touchNode(key{name: b.Name})
	})
	s.pods = newStore(s.changePod)
	s.nodes = newStore(s.changeNode)
	s.namespaces = newStore(func(k key, old, _ *model.Namespace) { s.touchNamespace(k, old) })
	s.services = newStore(func(k key, _, _ *model.Service) { s.touchService(k) })
	s.slices = newStore(s.changeSlice)
	s.accounts = newStore(func(k key, old, _ *account) { note(s, s.before.accounts, k, func() *account { return old }) })
	s.objects = map[*resource]*store[parts]{}
	for _, r := range languages {
		s.objects[r] = newStore(func(k key, old, now *parts) { s.changeObject(objectKey{r, k}, old, now) })
	}
	s.pools, s.ciliumNodes = newStore(s.changeRanges), newStore(s.changeRanges)
	s.definitions = newStore(func(k key, _, _ *string) { s.defined(k.name) })
	return s
}

func keyOf(e *model.Endpoint) key { return key{e.Namespace, e.Name} }

func (s *state) touch() {
	if s.since.IsZero() {
		s.since = time.Now()
	}
}

// note keeps what was handed out under k, unless that is kept already.
func note[K comparable, V any](s *state, before map[K]*V, k K, was func() *V) {
	s.touch()
	if _, ok := before[k]; !ok {
		before[k] = was()
	}
}

func (s *state) touchPod(k key) {
	note(s, s.before.endpoints, k, func() *model.Endpoint { return s.endpoint(k) })
}

// touchNode concerns the hostNetwork pods too, which have the node's addresses.
func (s *state) touchNode(k key) {
	note(s, s.before.nodes, k, func() *model.Node { return s.node(k) })
	for pod := range s.hostOn[k.name] {
		s.touchPod(pod)
	}
}

func (s *state) touchNamespace(k key, was *model.Namespace) {
	note(s, s.before.namespaces, k, func() *model.Namespace { return was })
}

func (s *state) changePod(k key, old, now *pod) {
	s.touchPod(k)
	if old != nil {
		s.leave(k, old)
	}
	if now != nil {
		s.enter(k, now)
	}
}

func (s *state) leave(k key, p *pod) {
	s.moveOut(k.namespace)
	if p.endpoint.HostNetwork {
		delete(s.hostOn[p.endpoint.Node], k)
		if len(s.hostOn[p.endpoint.Node]) == 0 {
			delete(s.hostOn, p.endpoint.Node)
		}
		return
	}
	for _, a := range p.endpoint.IPs {
		s.podAt.remove(a, p)
	}
}

func (s *state) enter(k key, p *pod) {
	s.moveIn(k.namespace)
	if p.endpoint.HostNetwork {
		if s.hostOn[p.endpoint.Node] == nil {
			s.hostOn[p.endpoint.Node] = map[key]struct{}{}
		}
		s.hostOn[p.endpoint.Node][k] = struct{}{}
		return
	}
	for _, a := range p.endpoint.IPs {
		s.podAt.add(a, p)
	}
}

func (s *state) moveOut(namespace string) {
	if s.in[namespace]--; s.in[namespace] == 0 {
		delete(s.in, namespace)
	}
}

func (s *state) moveIn(namespace string) {
	if _, ghost := s.ghosts[namespace]; ghost {
		s.touchNamespace(key{name: namespace}, nil)
	}
	s.in[namespace]++
}

func (s *state) changeNode(k key, old, now *node) {
	s.touchNode(k)
	var was, is []netip.Prefix
	if old != nil {
		was = old.ranges
		for _, a := range old.IPs {
			s.nodeAt.remove(a, old)
		}
	}
	if now != nil {
		is = now.ranges
		for _, a := range now.IPs {
			s.nodeAt.add(a, now)
		}
	}
	s.before.ranges = s.before.ranges || !slices.Equal(was, is)
}

func (s *state) changeRanges(_ key, _, _ *ranges) {
	s.touch()
	s.before.ranges, s.before.problems = true, true
}

// endpoint is the pod as policies see it, nil if there is none: with the
// addresses that it alone has, or its node's.
func (s *state) endpoint(k key) *model.Endpoint {
	p := s.pods.rows[k].value
	if p == nil {
		return nil
	}
	ips := p.endpoint.IPs
	if !p.endpoint.HostNetwork {
		ips = s.podAt.won(ips, p)
	} else if n := s.node(key{name: p.endpoint.Node}); n != nil {
		ips = n.IPs
	}
	if slices.Equal(ips, p.endpoint.IPs) {
		return p.endpoint
	}
	e := *p.endpoint
	e.IPs = ips
	return &e
}

func (s *state) node(k key) *model.Node {
	n := s.nodes.rows[k].value
	if n == nil {
		return nil
	}
	out := n.Node
	out.IPs = s.nodeAt.won(n.IPs, n)
	return &out
}

// take hands out everything that changed since it was last called; ok is false
// if nothing did.
func (s *state) take() (u Update, ok bool) {
	if s.since.IsZero() && s.started {
		return u, false
	}
	before := s.before
	u.Since, u.Services = s.since, before.served
	s.before, s.since = newChanges(), time.Time{}
	whole, moved := !s.started, false
	if before.ranges || whole {
		now := s.podRanges()
		moved = !slices.Equal(now, s.ranges)
		s.ranges = now
	}
	if whole {
		s.started = true
		clear(s.ghosts)
		u.Services = true
	} else {
		u.Change = s.change(before)
		if moved {
			ranges := slices.Clone(s.ranges)
			u.Change.PodRanges = &ranges
		}
	}
	if before.problems {
		u.Problems = s.problems()
	}
	if !whole && !u.Services && u.Problems == nil && reflect.ValueOf(u.Change).IsZero() {
		return Update{}, false
	}
	s.revision++
	if whole {
		u.Cluster, u.Endpoints = s.cluster()
		u.Cluster.Services = s.servicesAskedFor()
	}
	return u, true
}

func (s *state) change(before changes) engine.Change {
	var ch engine.Change
	for _, k := range sortedKeys(before.endpoints) {
		switch was, now := before.endpoints[k], s.endpoint(k); {
		case now == nil && was != nil:
			ch.DeletedEndpoints = append(ch.DeletedEndpoints, was.Key())
		case now != nil && !reflect.DeepEqual(was, now):
			ch.Endpoints = append(ch.Endpoints, now)
		}
	}
	for _, k := range sortedKeys(before.namespaces) {
		ch.Namespaces = append(ch.Namespaces, s.namespaceChange(k, before.namespaces[k])...)
	}
	ch.Nodes = s.nodeChange(before.nodes)
	for _, k := range sortedKeys(before.accounts) {
		was, now := before.accounts[k].said(k), s.accounts.rows[k].value.said(k)
		if !maps.Equal(was.Labels, now.Labels) {
			ch.Accounts = append(ch.Accounts, now)
		}
	}
	s.objectChange(&ch, before.objects)
	s.serviceChange(&ch, before.services)
	return ch
}

// namespaceChange tells of a deleted namespace only where it matters: while
// something is in it, or when that comes before a new namespace of the name does.
func (s *state) namespaceChange(k key, was *model.Namespace) []model.Namespace {
	now := s.namespaces.rows[k].value
	if now == nil && s.in[k.name] == 0 {
		s.ghosts[k.name] = struct{}{}
		return nil
	}
	delete(s.ghosts, k.name)
	if now == nil {
		now = implied(k.name)
	}
	if reflect.DeepEqual(was, now) {
		return nil
	}
	return []model.Namespace{*now}
}

// implied is a namespace that objects name and that is not there.
func implied(name string) *model.Namespace {
	return &model.Namespace{Name: name, Labels: map[string]string{model.MetadataName: name}}
}

// nodeChange takes the addresses from all that changed before it gives them
// out again, so that two nodes may swap theirs; a node without any is gone.
func (s *state) nodeChange(before map[key]*model.Node) []model.Node {
	var cleared, set []model.Node
	for _, k := range sortedKeys(before) {
		was, now := before[k], s.node(k)
		if reflect.DeepEqual(was, now) {
			continue
		}
		if was != nil {
			cleared = append(cleared, model.Node{Name: k.name})
		}
		if now != nil {
			set = append(set, *now)
		}
	}
	return append(cleared, set...)
}

// problems is never nil: none is an answer.
func (s *state) problems() []model.Problem {
	out := []model.Problem{}
	var policies []*model.Policy
	for _, p := range s.all() {
		out = append(out, p.problems...)
		policies = append(policies, p.Policies...)
	}
	out = append(out, dialect.CheckTiers(policies, s.tiers())...)
	for _, from := range []*store[ranges]{s.pools, s.ciliumNodes} {
		for _, k := range sortedKeys(from.rows) {
			out = append(out, from.rows[k].value.problems...)
		}
	}
	return out
}

func sortedKeys[V any](m map[key]V) []key {
	return slices.SortedFunc(maps.Keys(m), compareKeys)
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// snapshot is the cluster as it is known now, whether handed out or not.
func (s *state) snapshot() *model.Cluster {
	c, endpoints := s.cluster()
	c.Endpoints = make([]model.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		c.Endpoints = append(c.Endpoints, *e)
	}
	c.PodRanges, c.Services = s.podRanges(), s.resolved()
	return c
}

// cluster is everything but the Services, in order.
func (s *state) cluster() (c *model.Cluster, endpoints []*model.Endpoint) {
	c = &model.Cluster{Name: s.name, Revision: s.revision, PodRanges: slices.Clone(s.ranges)}
	named := map[string]struct{}{}
	endpoints = make([]*model.Endpoint, 0, len(s.pods.rows))
	for _, k := range sortedKeys(s.pods.rows) {
		endpoints = append(endpoints, s.endpoint(k))
		named[k.namespace] = struct{}{}
	}
	for o, p := range s.all() {
		c.Policies = append(c.Policies, p.Policies...)
		c.Tiers = append(c.Tiers, p.Tiers...)
		c.Sets = append(c.Sets, p.Sets...)
		named[o.namespace] = struct{}{}
	}
	for _, k := range sortedKeys(s.accounts.rows) {
		if a := s.accounts.rows[k].value.said(k); len(a.Labels) > 0 {
			c.Accounts = append(c.Accounts, a)
		}
	}
	for k := range s.services.rows {
		named[k.namespace] = struct{}{}
	}
	for k := range s.namespaces.rows {
		named[k.name] = struct{}{}
	}
	delete(named, "")
	for _, name := range slices.Sorted(maps.Keys(named)) {
		ns := s.namespaces.rows[key{name: name}].value
		if ns == nil {
			ns = implied(name)
		}
		c.Namespaces = append(c.Namespaces, *ns)
	}
	for _, k := range sortedKeys(s.nodes.rows) {
		c.Nodes = append(c.Nodes, *s.node(k))
	}
	return c, endpoints
}

// podRanges is what nodes, IPAM objects and the user say, as few prefixes as
// cover just that.
func (s *state) podRanges() []netip.Prefix {
	all := slices.Clone(s.fixed)
	for _, r := range s.nodes.rows {
		all = append(all, r.value.ranges...)
	}
	for _, from := range []*store[ranges]{s.pools, s.ciliumNodes} {
		for _, r := range from.rows {
			all = append(all, r.value.list...)
		}
	}
	return merge(all)
}

// merge drops prefixes inside of others and joins neighbours that are the two
// halves of one; it sorts in place.
func merge(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			whole := netip.PrefixFrom(out[n-1].Addr(), out[n-1].Bits()-1).Masked()
			if out[n-1].Bits() == 0 || out[n-2] != netip.PrefixFrom(whole.Addr(), out[n-1].Bits()) {
				break
			}
			out = append(out[:n-2], whole)
		}
	}
	return out
}
