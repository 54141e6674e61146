package advice

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// compare finds what else opens and closes.
func (a *attempt) compare(before *engine.Matrix) {
	a.out.Opens, a.out.Closes = []Pair{}, []Pair{} // in JSON, nothing is an empty list
	for _, c := range diff.Compare(before, a.matrix).Changes {
		for _, p := range a.beside(c) {
			if c.Opens() {
				a.out.Opens = append(a.out.Opens, p)
			} else {
				a.out.Closes = append(a.out.Closes, p)
			}
		}
	}
}

// beside is the change without the connection of the question. The other pods
// of the two workloads are meant by it, too, and where an address stands for
// what is outside, all addresses that policies do not tell from it.
func (a *attempt) beside(c diff.Change) []Pair {
	q := a.question
	if !a.means(q.From, c.From) || !a.means(q.To, c.To) {
		return []Pair{{c.From.Name, c.To.Name, c.Ports.String()}}
	}
	if rest := c.Ports.Subtract(model.PortSet{{First: q.Key, Last: q.Key}}); len(rest) > 0 {
		return []Pair{{c.From.Name, c.To.Name, rest.String()}}
	}
	return nil
}

// means says whether the party is one that the end stands for.
func (a *attempt) means(p engine.Party, e *diff.End) bool {
	node := p.Node
	switch {
	case p.Endpoint != nil && p.Endpoint.HostNetwork && e.Nodes != nil:
		node = p.Endpoint.Node // its traffic is the node's
	case p.Endpoint != nil:
		return slices.ContainsFunc(e.Pods, func(o diff.Pod) bool {
			return o.New.Namespace == p.Endpoint.Namespace && o.New.Workload == p.Endpoint.Workload
		})
	case node == "":
		return contains(e, p.Addr)
	}
	return slices.ContainsFunc(e.Nodes, func(n diff.NodeAddress) bool { return n.Name == node })
}

func contains(e *diff.End, a netip.Addr) bool {
	return slices.ContainsFunc(e.Blocks, func(b model.IPBlock) bool { return b.Contains(a) }) ||
		slices.ContainsFunc(e.Nodes, func(n diff.NodeAddress) bool { return n.New == a })
}
