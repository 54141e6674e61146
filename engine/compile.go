package engine

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// Matrix is the compiled state of a cluster. Make one with [Compile].
type Matrix struct {
	endpoints  map[string]*endpoint
	addresses  map[netip.Addr]owner  // of pods
	nodeOf     map[netip.Addr]string // nodes' own addresses
	namespaces map[string]model.Namespace
	nodes      map[string]model.Node
	policies   map[string]*policy
	podRanges  []netip.Prefix

	// what policies refer to by name or labels
	clusterName string
	accounts    map[string]map[string]string // labels, by "namespace/name"
	tiers       map[string]model.Tier
	sets        map[string]*model.AddressSet
	services    map[string]*model.Service
	watchNodes  bool // some policy tells nodes' addresses from others

	sorted     []*endpoint // by key; nil when stale
	nextPolicy int

	// what selectors look at, and the classes that follow from it
	interest           map[string]*interest
	labelKeys          []string // keys of interest, sorted
	portNames          []named
	numbers            map[named]map[uint16]int // classes per number
	classes            []*class                 // by id, with holes
	freeClasses        []int
	liveClasses        bitset
	classByKey         map[string]*class
	classMemo          map[memoKey]*class
	classesByNamespace map[string]*bitset
	classesByLabel     map[string]map[string]*bitset
	namespaceMemo      map[string]bitset // classes by namespace selector
	emptyClasses       int

	// addresses divided
	prefixes       []*prefixNode // sorted
	podUnits       map[*prefixNode][]*unit
	units          []*unit
	moved          map[*class]struct{} // with pods whose identity or gates this change touched; nil while compiling from scratch
	sizes          []int               // units per identity
	satisfies      []int               // atoms per identity
	liveIdentities bitset
	freeIdentities []Identity
	freed          []Identity // by the last change; free from the next one on
	touched        []int      // scratch of refine: members per identity, all 0 between calls
	order          []Identity // scratch of refine
	walks          int        // over members that may be listed twice

	// rules and what is made of them
	atoms     []*atom
	atomByKey map[string]*atom
	askers    homes[*atom]   // those that ask for pods by labels
	wide      []*atom        // those that ask for anything else, in no order
	subjects  homes[*policy] // policies
	freeAtoms []int
	nextAtom  int
	rows      []*Row // whose bits depend on the identity, in no order
	rowSets   map[string]*rowSet
	gates     map[string]*Gate

	delta Delta

	// scratch
	keyBuf     []byte
	selected   bitset
	matchBuf   []match
	boundaries []model.PortKey
	expression expression
	evaluation evaluation
	satisfied  []*atom
	likely     bitset // of identify: identities
}

func newMatrix() Matrix {
	return Matrix{
		endpoints: map[string]*endpoint{}, addresses: map[netip.Addr]owner{}, nodeOf: map[netip.Addr]string{},
		namespaces: map[string]model.Namespace{}, nodes: map[string]model.Node{}, policies: map[string]*policy{},
		accounts: map[string]map[string]string{}, tiers: map[string]model.Tier{}, sets: map[string]*model.AddressSet{}, services: map[string]*model.Service{},
		interest: map[string]*interest{}, numbers: map[named]map[uint16]int{},
		classByKey: map[string]*class{}, classMemo: map[memoKey]*class{},
		classesByNamespace: map[string]*bitset{}, classesByLabel: map[string]map[string]*bitset{}, namespaceMemo: map[string]bitset{},
		podUnits: map[*prefixNode][]*unit{}, sizes: []int{0}, satisfies: []int{0},
		atomByKey: map[string]*atom{}, askers: homes[*atom]{}, subjects: homes[*policy]{}, rowSets: map[string]*rowSet{}, gates: map[string]*Gate{},
	}
}

// Compile compiles a cluster from scratch. Gates are compiled when first
// asked for: a node's agent pays for its own pods only.
func Compile(c *model.Cluster) *Matrix {
	endpoints := make([]*model.Endpoint, len(c.Endpoints))
	for i := range c.Endpoints {
		endpoints[i] = &c.Endpoints[i]
	}
	return CompileWith(c, endpoints)
}

// CompileWith compiles a cluster whose endpoints are these. They stay with the
// Matrix, each for itself: one that is replaced leaves the memory.
func CompileWith(c *model.Cluster, endpoints []*model.Endpoint) *Matrix {
	m := &Matrix{}
	m.compile(c, endpoints)
	return m
}

// compile compiles the cluster with those endpoints.
func (m *Matrix) compile(c *model.Cluster, endpoints []*model.Endpoint) {
	*m = newMatrix()
	m.podRanges = slices.Clone(c.PodRanges)
	for _, ns := range c.Namespaces {
		m.namespaces[ns.Name] = ns
	}
	for _, n := range c.Nodes {
		m.nameNode(n)
	}
	m.setReferences(c)
	policies := m.notePolicies(c.Policies)
	m.classify(endpoints)
	prefixes := append(m.prefixesOf(policies), c.PodRanges...)
	if m.watchNodes {
		for a := range m.nodeOf {
			prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	m.setPrefixes(prefixes)
	if m.watchNodes {
		m.markNodes()
	}
	m.placeUnits()
	m.compileAtoms(policies)
	for _, p := range policies {
		m.attach(p)
	}
	m.delta, m.moved = Delta{}, map[*class]struct{}{}
	clear(m.classMemo)
}

// owner is the pod that has an address.
type owner struct {
	endpoint *endpoint
	unit     *unit
}

// setReferences takes over what policies refer to.
func (m *Matrix) setReferences(c *model.Cluster) {
	m.clusterName = cmp.Or(c.Name, "default")
	for _, a := range c.Accounts {
		m.accounts[a.Key()] = a.Labels
	}
	for _, t := range append(slices.Clone(c.Tiers), model.ReservedTiers()...) {
		m.tiers[t.Name] = t
	}
	for i := range c.Sets {
		m.sets[c.Sets[i].Key()] = &c.Sets[i]
	}
	for i := range c.Services {
		m.services[c.Services[i].Key()] = &c.Services[i]
	}
}

func (m *Matrix) nameNode(n model.Node) {
	for _, a := range m.nodes[n.Name].IPs {
		if m.nodeOf[a] == n.Name { // it may have moved to another node
			delete(m.nodeOf, a)
		}
	}
	m.nodes[n.Name] = n
	for _, a := range n.IPs {
		m.nodeOf[a] = n.Name
	}
}

func (m *Matrix) notePolicies(policies []*model.Policy) []*policy {
	out := make([]*policy, 0, len(policies))
	for _, p := range policies {
		compiled, _ := m.newPolicy(p, func(string) {})
		if old := m.policies[compiled.key]; old != nil {
			m.dropPolicy(old)
			out[slices.Index(out, old)] = compiled
		} else {
			out = append(out, compiled)
		}
		m.keepPolicy(compiled)
	}
	return out
}

func (m *Matrix) keepPolicy(p *policy) {
	m.policies[p.key] = p
	m.subjects.add(&p.Subject, p)
}

func (m *Matrix) dropPolicy(p *policy) {
	delete(m.policies, p.key)
	m.subjects.remove(&p.Subject, p)
}

// prefixesOf lists every prefix that the policies name.
func (m *Matrix) prefixesOf(policies []*policy) []netip.Prefix {
	var out []netip.Prefix
	add := func(b *model.IPBlock) { out = append(append(out, b.CIDR), b.Except...) }
	for _, p := range policies {
		for d := range p.rules {
			for i := range p.rules[d] {
				r := &p.rules[d][i]
				for _, peer := range r.direct {
					if peer.Block != nil {
						add(peer.Block)
					}
				}
				for j := range r.peers {
					r.peers[j].eachBlock(add)
				}
				for _, peer := range r.relative {
					for _, x := range m.resolve(peer, "", false) {
						x.eachBlock(add)
					}
				}
			}
		}
	}
	return out
}

func (m *Matrix) classify(endpoints []*model.Endpoint) {
	m.endpoints = make(map[string]*endpoint, len(endpoints))
	m.addresses = make(map[netip.Addr]owner, len(endpoints))
	slab := make([]endpoint, len(endpoints))
	for i, pod := range endpoints {
		e := &slab[i]
		e.Endpoint, e.key = pod, pod.Key()
		m.endpoints[e.key] = e
		if !e.HostNetwork {
			m.enter(e, m.classOf(e.Endpoint))
		}
	}
}

// classOf finds or makes the class of a pod.
func (m *Matrix) classOf(e *model.Endpoint) *class {
	memo := m.memoKeyOf(e)
	if c := m.classMemo[memo]; c != nil {
		return c
	}
	m.keyBuf = m.classKey(m.keyBuf[:0], e)
	c := m.classByKey[string(m.keyBuf)]
	if c == nil {
		c = m.newClass(string(m.keyBuf), e)
		for _, p := range c.ports {
			m.countNumber(named{p.Protocol, p.Name}, p.Number)
		}
	}
	m.classMemo[memo] = c
	return c
}

// countNumber notes that one more class gives the port name this number.
func (m *Matrix) countNumber(n named, number uint16) (first bool) {
	if m.numbers[n] == nil {
		m.numbers[n] = map[uint16]int{}
	}
	m.numbers[n][number]++
	return m.numbers[n][number] == 1
}

func (m *Matrix) enter(e *endpoint, c *class) {
	e.class, e.slot = c, len(c.members)
	c.members = append(c.members, e)
	if c.empty {
		c.empty = false
		m.emptyClasses--
	}
}

// placeUnits makes the units of all addresses, all in identity 1.
func (m *Matrix) placeUnits() {
	first := m.allocIdentity()
	for _, n := range m.prefixes {
		m.join(m.newUnit(nil, n), first)
	}
	room := make([]*unit, 0, len(m.endpoints))
	for _, c := range m.classes {
		for _, e := range c.members {
			n := len(e.IPs)
			if cap(room) < n {
				room = make([]*unit, 0, len(m.endpoints)+n)
			}
			e.units, room = room[:0:n], room[n:n]
			for _, a := range e.IPs {
				n := m.longest(a, a.BitLen())
				u := c.unitOf(n)
				if u == nil {
					u = m.newUnit(c, n)
					m.join(u, first)
				}
				e.units = append(e.units, u)
				m.addresses[a] = owner{e, u}
			}
		}
	}
}

// compileAtoms interns all rules' peers and divides the addresses by them.
func (m *Matrix) compileAtoms(policies []*policy) {
	for _, p := range policies {
		m.internAtoms(p, func(a *atom) { m.selectAtom(a) })
	}
	var members []*unit
	for _, a := range m.atoms {
		if !a.any {
			members = m.members(a, members[:0])
			m.refine(members)
		}
	}
	for _, a := range m.atoms {
		a.ids = make(bitset, (len(m.sizes)+63)/64)
		members = m.members(a, members[:0])
		m.fillAtom(a, members)
	}
}

// internAtoms gives the policy's rules their atoms, and those restricted by
// the numbers of named ports; added is called for each atom that is new.
func (m *Matrix) internAtoms(p *policy, added func(*atom)) {
	for d := range p.rules {
		for i := range p.rules[d] {
			r := &p.rules[d][i]
			if r.relative != nil {
				r.views = map[string]*atom{}
				for node := range m.classesByLabel[nodeLabel] {
					m.view(p, r, node, added)
				}
				continue
			}
			a, isNew := m.internAtom(r, r.peers)
			r.atom = a
			p.atoms = append(p.atoms, a)
			if isNew {
				added(a)
			}
			if model.Direction(d) == model.Egress {
				for _, n := range r.named {
					for _, number := range m.numbersOf(n) {
						m.restrictRule(p, r, n, number, added)
					}
				}
			}
		}
	}
}

// view gives a relative rule its atom for subjects on the node.
func (m *Matrix) view(p *policy, r *rule, node string, added func(*atom)) {
	if r.views[node] != nil {
		return
	}
	var peers []peer
	for _, x := range r.relative {
		peers = append(peers, m.resolve(x, node, r.Action == model.Deny)...)
	}
	a, isNew := m.internAtom(r, peers)
	r.views[node] = a
	p.atoms = append(p.atoms, a)
	if isNew {
		added(a)
	}
}

func (m *Matrix) restrictRule(p *policy, r *rule, n named, number uint16, added func(*atom)) {
	a, isNew := m.restrict(r.atom, n, number)
	p.atoms = append(p.atoms, a)
	if isNew {
		added(a)
	}
}

// attach adds the policy to the classes that it selects.
func (m *Matrix) attach(p *policy) {
	m.selectClasses(&p.Subject).each(func(i int) { m.attachTo(p, m.classes[i]) })
}

func (m *Matrix) attachTo(p *policy, c *class) {
	for _, d := range []model.Direction{model.Ingress, model.Egress} {
		if p.Section(d) == nil {
			continue
		}
		c.insertPolicy(d, p)
		m.setGates(c, d, nil)
		m.touch(c)
	}
}
