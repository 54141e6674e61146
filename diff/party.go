package diff

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// party is ends that neither side tells apart. Parties that are pods or
// nodes have identities by family, -1 where a side has no address of it.
type party struct {
	end   End
	ids   [2]int
	doors [2]int      // by direction
	host  [2]bool     // its traffic is that of its node
	nodes [][2]string // where its members are, each once
	cell  int         // addresses outside: index into comparison.cells; -1 for pods and nodes
}

func (p *party) members() int { return len(p.end.Pods) + len(p.end.Nodes) }

// isOwnNode says whether, of every two members, p is the node that the pod q
// runs on, on some side: it always reaches the pod.
func (p *party) isOwnNode(q *party) bool {
	if !p.host[0] && !p.host[1] || len(q.end.Pods) == 0 {
		return false
	}
	for _, a := range p.nodes {
		for _, b := range q.nodes {
			if !(p.host[0] && a[0] == b[0]) && !(p.host[1] && a[1] == b[1]) {
				return false
			}
		}
	}
	return true
}

type workload struct {
	namespace string
	model.Workload
}

func workloadOf(e *model.Endpoint) workload { return workload{e.Namespace, e.Workload} }

// partyKey is what tells parties apart.
type partyKey struct {
	workload
	ids   [2]int
	doors [2]int
	host  [2]bool
}

// pods makes the parties of the pods that both sides have.
func (c *comparison) pods(d *Diff) {
	matched, removed, added := c.match()
	d.Compared = len(matched)
	d.Removed, d.Added = absences(removed, c.sides[0]), absences(added, c.sides[1])
	index := map[partyKey]int{}
	for _, p := range matched {
		k, node := c.keyOf(p)
		i, ok := index[k]
		if !ok {
			i = len(c.parties)
			index[k] = i
			c.parties = append(c.parties, party{ids: k.ids, doors: k.doors, host: k.host, cell: -1})
		}
		q := &c.parties[i]
		q.end.Pods = append(q.end.Pods, p)
		if !slices.Contains(q.nodes, node) {
			q.nodes = append(q.nodes, node)
		}
	}
	c.namePods()
}

func (c *comparison) keyOf(p Pod) (partyKey, [2]string) {
	k := partyKey{workload: workloadOf(p.New), host: [2]bool{p.Old.HostNetwork, p.New.HostNetwork}}
	for f, family := range families {
		a, b := addressOf(p.Old, family), addressOf(p.New, family)
		k.ids[f] = -1
		if a.IsValid() && b.IsValid() {
			k.ids[f] = c.joint.of(c.sides[0].AddressIdentity(a), c.sides[1].AddressIdentity(b))
		}
	}
	for _, dir := range []model.Direction{model.Ingress, model.Egress} {
		x := door{none: k.host}
		for side, e := range [2]*model.Endpoint{p.Old, p.New} {
			x.gates[side] = c.sides[side].Gate(e.Key(), dir)
		}
		k.doors[dir] = c.doors.number(x)
	}
	return k, [2]string{p.Old.Node, p.New.Node}
}

// addressOf is the pod's first address of the family.
func addressOf(e *model.Endpoint, f Family) netip.Addr {
	for _, a := range e.IPs {
		if a.Is4() == (f == IPv4) {
			return a
		}
	}
	return netip.Addr{}
}

// match finds the pods that are one another on the two sides: those of one
// name, and of what is left of a workload the first and the first, and so on.
func (c *comparison) match() (matched []Pod, removed, added []*model.Endpoint) {
	left := map[workload][]*model.Endpoint{}
	for _, e := range c.sides[0].Endpoints() {
		c.take(e.IPs)
		o := c.sides[1].Endpoint(e.Key())
		if o != nil && comparable(e, o) {
			matched = append(matched, Pod{e, o})
			continue
		}
		left[workloadOf(e)] = append(left[workloadOf(e)], e)
	}
	for _, e := range c.sides[1].Endpoints() {
		c.take(e.IPs)
		if o := c.sides[0].Endpoint(e.Key()); o != nil && comparable(o, e) {
			continue
		}
		rest := left[workloadOf(e)]
		if len(rest) == 0 || !comparable(rest[0], e) {
			added = append(added, e)
			continue
		}
		matched = append(matched, Pod{rest[0], e})
		left[workloadOf(e)] = rest[1:]
	}
	for _, e := range c.sides[0].Endpoints() {
		if slices.Contains(left[workloadOf(e)], e) {
			removed = append(removed, e)
		}
	}
	return matched, removed, added
}

func (c *comparison) take(addresses []netip.Addr) {
	for _, a := range addresses {
		c.taken[a] = struct{}{}
	}
}

// comparable says whether the pods have addresses of one family.
func comparable(a, b *model.Endpoint) bool {
	return slices.ContainsFunc(families[:], func(f Family) bool { return addressOf(a, f).IsValid() && addressOf(b, f).IsValid() })
}

// absences names pods that the other side does not have: by their workload
// if that has no other pods.
func absences(list []*model.Endpoint, m *engine.Matrix) []string {
	size, absent := map[workload]int{}, map[workload]int{}
	for _, e := range m.Endpoints() {
		size[workloadOf(e)]++
	}
	for _, e := range list {
		absent[workloadOf(e)]++
	}
	var out []string
	for _, e := range list {
		if w := workloadOf(e); size[w] == absent[w] {
			out = append(out, w.namespace+"/"+w.Name)
		} else {
			out = append(out, e.Key())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// namePods names a party as its workload, if it is all of that, or its pods.
func (c *comparison) namePods() {
	size := map[workload]int{}
	kinds := map[[2]string]string{}
	for i := range c.parties {
		w := workloadOf(c.parties[i].end.Pods[0].New)
		size[w] += len(c.parties[i].end.Pods)
		if k := [2]string{w.namespace, w.Name}; kinds[k] == "" || kinds[k] == w.Kind {
			kinds[k] = w.Kind
		} else {
			kinds[k] = "*"
		}
	}
	for i := range c.parties {
		end := &c.parties[i].end
		e := end.Pods[0].New
		switch w := workloadOf(e); {
		case len(end.Pods) == size[w] && kinds[[2]string{w.namespace, w.Name}] == "*":
			end.Name = w.namespace + "/" + w.Kind + "/" + w.Name
		case len(end.Pods) == size[w]:
			end.Name = w.namespace + "/" + w.Name
		default:
			end.Name = several(e.Key(), len(end.Pods))
		}
	}
}

func several(first string, n int) string {
	if n == 1 {
		return first
	}
	return fmt.Sprintf("%s and %d more", first, n-1)
}

// nodes makes the parties of the addresses of nodes that both sides have.
func (c *comparison) nodes(d *Diff) {
	sides := [2][]model.Node{c.sides[0].Nodes(), c.sides[1].Nodes()}
	others := map[string]model.Node{}
	for _, n := range sides[0] {
		c.take(n.IPs)
		others[n.Name] = n
	}
	index := map[int]int{}
	x := c.doors.number(door{none: [2]bool{true, true}})
	count := 0
	for _, n := range sides[1] {
		c.take(n.IPs)
		old, ok := others[n.Name]
		if !ok {
			d.Added = append(d.Added, "node "+n.Name)
			continue
		}
		delete(others, n.Name)
		for _, a := range pairAddresses(old, n) {
			count++
			id := c.joint.of(c.sides[0].AddressIdentity(a.Old), c.sides[1].AddressIdentity(a.New))
			f := familyIndex(a.New)
			i, ok := index[2*id+f]
			if !ok {
				i = len(c.parties)
				index[2*id+f] = i
				p := party{ids: [2]int{-1, -1}, doors: [2]int{x, x}, host: [2]bool{true, true}, cell: -1}
				p.ids[f] = id
				c.parties = append(c.parties, p)
			}
			p := &c.parties[i]
			p.end.Nodes = append(p.end.Nodes, a)
			p.nodes = append(p.nodes, [2]string{n.Name, n.Name})
		}
	}
	for _, n := range sides[0] {
		if _, ok := others[n.Name]; ok {
			d.Removed = append(d.Removed, "node "+n.Name)
		}
	}
	for _, i := range index {
		c.nameNodes(&c.parties[i], count)
	}
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// pairAddresses pairs the addresses that both have, or else the first of each family.
func pairAddresses(old, new model.Node) []NodeAddress {
	var out []NodeAddress
	for f := range families {
		var first [2]netip.Addr
		both := false
		for _, a := range new.IPs {
			switch {
			case familyIndex(a) != f:
			case slices.Contains(old.IPs, a):
				out, both = append(out, NodeAddress{new.Name, a, a}), true
			case !first[1].IsValid():
				first[1] = a
			}
		}
		for _, a := range old.IPs {
			if familyIndex(a) == f && !first[0].IsValid() {
				first[0] = a
			}
		}
		if !both && first[0].IsValid() && first[1].IsValid() {
			out = append(out, NodeAddress{new.Name, first[0], first[1]})
		}
	}
	return out
}

// nameNodes names a party of node addresses, of which there are count.
func (c *comparison) nameNodes(p *party, count int) {
	list := p.end.Nodes
	slices.SortFunc(list, func(a, b NodeAddress) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.New.Compare(b.New)) })
	if len(list) == count && count > 1 {
		p.end.Name = "nodes"
		return
	}
	p.end.Name = several("node "+list[0].Name, len(list))
}
