package advice

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// compare finds what else opens and closes.
func (a *attempt) compare(before *engine.Matrix) {
	a.out.Opens, a.out.Closes = []Pair{}, []Pair{} // in JSON, nothing is an empty list
	for _, c := range diff.Compare(before, a.matrix).Changes {
		if c.Opens() {
			a.out.Opens = append(a.out.Opens, a.beside(c)...)
		} else {
			a.out.Closes = append(a.out.Closes, a.beside(c)...)
		}
	}
}

// beside is the change without the connection of the question. The other pods
// of the two workloads are meant by it, too, and where an address stands for
// what is outside, all addresses that policies do not tell from it.
func (a *attempt) beside(c diff.Change) (out []Pair) {
	q := a.question
	from, others, fromMeant := a.means(q.From, c.From)
	_, elsewhere, toMeant := a.means(q.To, c.To)
	asked := model.PortSet{{First: q.Key, Last: q.Key}}
	if !fromMeant || !toMeant || !c.Ports.Contains(q.Key) {
		return []Pair{{c.From.Name, c.To.Name, c.Ports.String()}}
	}
	if rest := c.Ports.Subtract(asked); len(rest) > 0 {
		out = append(out, Pair{c.From.Name, c.To.Name, rest.String()})
	}
	if others != "" {
		out = append(out, Pair{others, c.To.Name, asked.String()})
	}
	if elsewhere != "" {
		out = append(out, Pair{from, elsewhere, asked.String()})
	}
	return out
}

// means says whether the party is one that the end stands for, what of the end
// is meant by it, and what else there is, if anything.
func (a *attempt) means(p engine.Party, e *diff.End) (meant, others string, ok bool) {
	node, address := p.Node, p.Addr
	if p.Endpoint == nil && node == "" {
		p.Endpoint, node = a.matrix.EndpointAt(address), a.nodeAt(address)
	}
	switch {
	case p.Endpoint != nil && p.Endpoint.HostNetwork && e.Nodes != nil:
		node = p.Endpoint.Node // its traffic is the node's
	case p.Endpoint != nil:
		return e.Name, "", slices.ContainsFunc(e.Pods, func(o diff.Pod) bool {
			return o.New.Namespace == p.Endpoint.Namespace && o.New.Workload == p.Endpoint.Workload
		})
	}
	if e.Nodes != nil {
		return ofNodes(e, node)
	}
	if node != "" || !slices.ContainsFunc(e.Blocks, func(b model.IPBlock) bool { return b.Contains(address) }) {
		return "", "", false
	}
	if a.question.External {
		return e.Name, "", true
	}
	return address.String(), but(e.Blocks, address), true
}

// nodeAt is the name of the node that has the address, or "".
func (a *attempt) nodeAt(address netip.Addr) string {
	for _, n := range a.cluster.Nodes {
		if slices.Contains(n.IPs, address) {
			return n.Name
		}
	}
	return ""
}

// ofNodes tells the node from the others of the end.
func ofNodes(e *diff.End, node string) (meant, others string, ok bool) {
	var in, out []string
	for _, n := range e.Nodes {
		list := &out
		if n.Name == node {
			list = &in
		}
		if name := "node " + n.Name; !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	return strings.Join(in, ", "), strings.Join(out, ", "), len(in) > 0
}

// but writes the blocks without the address.
func but(blocks []model.IPBlock, a netip.Addr) string {
	var parts []string
	for _, b := range blocks {
		if b.Contains(a) {
			if b.CIDR.IsSingleIP() {
				continue
			}
			b.Except = append(slices.Clone(b.Except), netip.PrefixFrom(a, a.BitLen()))
		}
		parts = append(parts, b.String())
	}
	return strings.Join(parts, ", ")
}
