package engine

import (
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Apply changes the Matrix and says what the change touched. The result is
// the same as compiling the changed cluster from scratch, but for the
// numbering of identities and for identities that no policy tells apart any
// more: they stay apart.
func (m *Matrix) Apply(ch Change) Delta {
	m.begin()
	for _, n := range ch.Nodes {
		m.setNode(n)
	}
	if ch.PodRanges != nil {
		m.setPodRanges(*ch.PodRanges)
	}
	relabelled := m.relabel(ch.Namespaces)
	for _, key := range ch.DeletedEndpoints {
		m.removeEndpoint(key)
	}
	m.relabelAccounts(ch.Accounts)
	ch.Policies = append(slices.Clip(ch.Policies), m.changeReferences(&ch, relabelled)...)
	m.changePolicies(ch)
	for _, e := range ch.Endpoints {
		m.setEndpoint(e)
	}
	m.sweep()
	return m.finish()
}

func (m *Matrix) begin() {
	m.delta = Delta{}
	m.freeIdentities = append(m.freeIdentities, m.freed...)
	m.freed = nil
	m.sorted = nil
}

// finish lists the endpoints of every class that the change touched.
func (m *Matrix) finish() Delta {
	d := m.delta
	m.delta = Delta{}
	m.freed = d.Freed
	for c := range m.moved {
		for _, e := range c.members {
			d.Endpoints = append(d.Endpoints, e.key)
		}
	}
	clear(m.moved)
	slices.Sort(d.Endpoints)
	d.Endpoints = slices.Compact(d.Endpoints)
	slices.SortFunc(d.Prefixes, model.ComparePrefixes)
	d.Prefixes = slices.Compact(d.Prefixes)
	return d
}

// setPodRanges takes other pod ranges over: any prefix may be closed or opened.
func (m *Matrix) setPodRanges(ranges []netip.Prefix) {
	m.podRanges = slices.Clone(ranges)
	for _, p := range ranges {
		m.addPrefix(p)
	}
	m.delta.Prefixes = append(m.delta.Prefixes, m.Prefixes()...)
}

// relabel takes the namespaces over. What the pods of one whose labels change
// are to every selector may change: they come anew.
func (m *Matrix) relabel(namespaces []model.Namespace) (changed bool) {
	var displaced []*model.Endpoint
	for _, ns := range namespaces {
		if !maps.Equal(m.namespaceLabels(ns.Name), ns.Labels) {
			displaced = append(displaced, m.vacate(ns.Name)...)
			changed = true
		}
		m.namespaces[ns.Name] = ns
	}
	if len(namespaces) > 0 {
		clear(m.namespaceMemo)
	}
	for _, e := range displaced {
		m.setEndpoint(e)
	}
	return changed
}

// vacate takes the namespace's pods out, and their classes with them.
func (m *Matrix) vacate(namespace string) (out []*model.Endpoint) {
	in := m.classesByNamespace[namespace]
	if in == nil {
		return nil
	}
	slices.Clone(*in).each(func(i int) {
		c := m.classes[i]
		for _, e := range slices.Clone(c.members) {
			out = append(out, e.Endpoint)
			m.removeEndpoint(e.key)
		}
		if c.empty {
			m.emptyClasses--
		}
		m.dropClass(c)
	})
	return out
}

// Recompile compiles what the Matrix stands for from scratch. What was told
// apart for the sake of pods and policies that are gone is then one again, and
// no identity is what it was. There are never two Matrices in memory.
func (m *Matrix) Recompile() {
	c, endpoints := m.cluster(), make([]*model.Endpoint, 0, len(m.endpoints))
	for _, key := range slices.Sorted(maps.Keys(m.endpoints)) {
		endpoints = append(endpoints, m.endpoints[key].Endpoint)
	}
	*m = Matrix{}
	debug.FreeOSMemory()
	m.compile(c, endpoints)
}

// cluster is what the Matrix stands for but for the endpoints: all else that a
// compilation from scratch needs. A node without addresses is none.
func (m *Matrix) cluster() *model.Cluster {
	c := &model.Cluster{PodRanges: m.podRanges}
	for _, key := range slices.Sorted(maps.Keys(m.policies)) {
		c.Policies = append(c.Policies, m.policies[key].Policy)
	}
	for _, name := range slices.Sorted(maps.Keys(m.namespaces)) {
		c.Namespaces = append(c.Namespaces, m.namespaces[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		if n := m.nodes[name]; len(n.IPs) > 0 {
			c.Nodes = append(c.Nodes, n)
		}
	}
	c.Name = m.clusterName
	for _, key := range slices.Sorted(maps.Keys(m.accounts)) {
		namespace, name, _ := strings.Cut(key, "/")
		c.Accounts = append(c.Accounts, model.ServiceAccount{Namespace: namespace, Name: name, Labels: m.accounts[key]})
	}
	for _, name := range slices.Sorted(maps.Keys(m.tiers)) {
		c.Tiers = append(c.Tiers, m.tiers[name])
	}
	for _, key := range slices.Sorted(maps.Keys(m.sets)) {
		c.Sets = append(c.Sets, *m.sets[key])
	}
	for _, key := range slices.Sorted(maps.Keys(m.services)) {
		c.Services = append(c.Services, *m.services[key])
	}
	return c
}

// changePolicies adds the new policies before it takes the old ones away, so
// that what both use is kept.
func (m *Matrix) changePolicies(ch Change) {
	var old []*policy
	for _, key := range ch.DeletedPolicies {
		if p := m.policies[key]; p != nil {
			old = append(old, p)
			m.dropPolicy(p)
		}
	}
	widened := map[string]struct{}{}
	newPorts, watched := false, m.watchNodes
	var added []*policy
	for _, p := range ch.Policies {
		compiled, ports := m.newPolicy(p, func(key string) { widened[key] = struct{}{} })
		newPorts = newPorts || ports
		if previous := m.policies[compiled.key]; previous != nil {
			old = append(old, previous)
			m.dropPolicy(previous)
		}
		m.keepPolicy(compiled)
		added = append(added, compiled)
	}
	m.reclassify(widened, newPorts)
	for _, p := range m.prefixesOf(added) {
		m.addPrefix(p)
	}
	if m.watchNodes && !watched {
		for a := range m.nodeOf {
			m.addPrefix(netip.PrefixFrom(a, a.BitLen()))
		}
		m.markNodes()
	}
	for _, p := range added {
		m.internAtoms(p, m.settle)
		m.attach(p)
	}
	for _, p := range old {
		m.detach(p)
	}
}

func (m *Matrix) detach(p *policy) {
	m.selectClasses(&p.Subject).each(func(i int) {
		c := m.classes[i]
		for _, d := range []model.Direction{model.Ingress, model.Egress} {
			if c.removePolicy(d, p) {
				m.setGates(c, d, nil)
				m.touch(c)
			}
		}
	})
	for _, a := range p.atoms {
		m.releaseAtom(a)
	}
}

// reclassify moves the pods that a widened interest tells from the rest of
// their class. A class that comes off another is to every policy in force
// what that one was.
func (m *Matrix) reclassify(widened map[string]struct{}, newPorts bool) {
	if len(widened) == 0 && !newPorts {
		return
	}
	var born []birth
	for _, c := range slices.Clone(m.classes) {
		if c == nil {
			continue
		}
		for _, e := range slices.Clone(c.members) {
			if newPorts || m.hasAny(e.Endpoint, widened) {
				born = m.reenter(e, born)
			}
		}
	}
	for _, a := range m.atoms {
		for _, b := range born {
			a.inherit(b.parent, b.child)
		}
	}
	for _, b := range born {
		m.countPorts(b.child)
	}
}

// birth is a class that came off another.
type birth struct{ parent, child *class }

func (m *Matrix) hasAny(e *model.Endpoint, keys map[string]struct{}) bool {
	for k := range keys {
		if _, ok := m.label(e, k); ok {
			return true
		}
	}
	return false
}

// reenter moves the pod to the class that it is of now, and notes it if it is new.
func (m *Matrix) reenter(e *endpoint, born []birth) []birth {
	m.keyBuf = m.classKey(m.keyBuf[:0], e.Endpoint)
	from := e.class
	if string(m.keyBuf) == from.key {
		return born
	}
	to := m.classByKey[string(m.keyBuf)]
	if to == nil {
		to = m.offspring(string(m.keyBuf), e.Endpoint, from)
		born = append(born, birth{from, to})
	}
	m.exit(e)
	m.enter(e, to)
	for i, a := range e.IPs {
		u := to.unitOf(e.units[i].node)
		if u == nil {
			u = m.newUnit(to, e.units[i].node)
			m.join(u, e.units[i].identity)
		}
		e.units[i] = u
		m.addresses[a] = owner{e, u}
	}
	return born
}

// offspring makes a class that inherits the gates of its parent.
func (m *Matrix) offspring(key string, e *model.Endpoint, parent *class) *class {
	c := m.newClass(key, e)
	for d := range c.policies {
		c.policies[d] = slices.Clone(parent.policies[d])
		if parent.known[d] {
			if g := parent.gates[d]; g != nil {
				g.refs++
			}
			c.gates[d], c.known[d] = parent.gates[d], true
		}
	}
	return c
}

// countPorts notes the class's port numbers; where one is new, the rules that
// resolve the name at their destinations get an atom for it.
func (m *Matrix) countPorts(c *class) {
	for _, p := range c.ports {
		n := named{p.Protocol, p.Name}
		if !m.countNumber(n, p.Number) {
			continue
		}
		for _, user := range slices.SortedFunc(maps.Values(m.policies), comparePolicies) {
			m.restrictPolicy(user, n, p.Number)
		}
	}
}

func (m *Matrix) restrictPolicy(p *policy, n named, number uint16) {
	used := false
	for i := range p.rules[model.Egress] {
		r := &p.rules[model.Egress][i]
		if r.atom != nil && slices.Contains(r.named, n) {
			used = true
			m.restrictRule(p, r, n, number, m.settle)
		}
	}
	if !used {
		return
	}
	m.selectClasses(&p.Subject).each(func(i int) {
		m.setGates(m.classes[i], model.Egress, nil)
		m.touch(m.classes[i])
	})
}

func (m *Matrix) exit(e *endpoint) {
	c := e.class
	last := len(c.members) - 1
	c.members[e.slot] = c.members[last]
	c.members[e.slot].slot = e.slot
	c.members = c.members[:last]
	e.class = nil
	if last == 0 {
		c.empty = true
		m.emptyClasses++
	}
}

// addPrefix makes a prefix a node of the tree; its addresses are still what
// they were in the node that they come from.
func (m *Matrix) addPrefix(p netip.Prefix) {
	n, added := m.insertPrefix(p)
	if !added {
		return
	}
	m.join(m.newUnit(nil, n), n.parent.external.identity)
	m.delta.Prefixes = append(m.delta.Prefixes, p)
	for _, u := range slices.Clone(m.podUnits[n.parent]) {
		for _, e := range u.class.members {
			m.relocate(e, u, n)
		}
	}
}

func (m *Matrix) relocate(e *endpoint, from *unit, n *prefixNode) {
	for i, a := range e.IPs {
		if e.units[i] != from || !n.prefix.Contains(a) {
			continue
		}
		u := from.class.unitOf(n)
		if u == nil {
			u = m.newUnit(from.class, n)
			m.join(u, from.identity)
		}
		e.units[i] = u
		m.addresses[a] = owner{e, u}
	}
}

func (m *Matrix) removeEndpoint(key string) {
	e := m.endpoints[key]
	if e == nil {
		return
	}
	delete(m.endpoints, key)
	for _, a := range e.IPs {
		if m.addresses[a].endpoint == e {
			delete(m.addresses, a)
		}
	}
	if e.class != nil {
		m.exit(e)
	}
	m.delta.Endpoints = append(m.delta.Endpoints, key)
}

func (m *Matrix) setEndpoint(pod *model.Endpoint) {
	key := pod.Key()
	m.removeEndpoint(key)
	e := &endpoint{Endpoint: pod, key: key}
	m.endpoints[key] = e
	m.delta.Endpoints = append(m.delta.Endpoints, key)
	if pod.HostNetwork {
		return
	}
	m.keyBuf = m.classKey(m.keyBuf[:0], pod)
	c := m.classByKey[string(m.keyBuf)]
	if c == nil {
		c = m.foundClass(string(m.keyBuf), pod)
	}
	m.enter(e, c)
	for _, a := range pod.IPs {
		n := m.longest(a, a.BitLen())
		u := c.unitOf(n)
		if u == nil {
			u = m.newUnit(c, n)
			m.identify(u)
		}
		e.units = append(e.units, u)
		m.addresses[a] = owner{e, u}
	}
}

// foundClass makes a class that nothing is known of yet.
func (m *Matrix) foundClass(key string, pod *model.Endpoint) *class {
	c := m.newClass(key, pod)
	for a := range m.askers.of(c) {
		m.selectFor(a, c)
	}
	for p := range m.subjects.of(c) {
		if m.selects(&p.Subject, c) {
			m.attachTo(p, c)
		}
	}
	m.countPorts(c)
	m.viewFrom(c.labels[nodeLabel])
	return c
}

// viewFrom gives the relative rules in force their atoms for a node that may
// have had no pods.
func (m *Matrix) viewFrom(node string) {
	if m.interest[nodeLabel] == nil {
		return
	}
	for _, p := range m.policies {
		for i := range p.rules[model.Egress] {
			if r := &p.rules[model.Egress][i]; r.views != nil {
				m.view(p, r, node, m.settle)
			}
		}
	}
}

// sweep drops classes without pods once they are many; until then a pod that
// comes back finds its class.
func (m *Matrix) sweep() {
	if m.emptyClasses < 64 || m.emptyClasses < len(m.classByKey)/2 {
		return
	}
	for _, c := range slices.Clone(m.classes) {
		if c != nil && len(c.members) == 0 {
			m.dropClass(c)
		}
	}
	m.emptyClasses = 0
}
