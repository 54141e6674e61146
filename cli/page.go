package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// page is the matrix with all that its page shows. It does not list the edges
// one by one, since cells of pods that no policy tells apart are one.
func (b *edgeBuilder) page(m *engine.Matrix) *report.Page {
	groups := m.Groups()
	b.choose(groups)
	out := &report.Page{Matrix: m, Note: b.note()}
	for i, g := range groups {
		out.Units = append(out.Units, report.Unit{Party: engine.Party{Endpoint: g.Endpoints[0]}, Pods: len(g.Endpoints)})
		for _, name := range b.names[i] {
			n := report.Node{Name: name, Namespace: g.Endpoints[0].Namespace, Source: b.from[i], Destination: b.to[i], Beside: !b.in[i], Unit: i, Pods: len(g.Endpoints)}
			if len(b.names[i]) > 1 {
				n.Pods = 1
			}
			out.Nodes = append(out.Nodes, n)
		}
	}
	outside := b.outsideUnits(m, groups, out)
	out.Nodes = slices.DeleteFunc(out.Nodes, func(n report.Node) bool { return !n.Source && !n.Destination })
	slices.SortStableFunc(out.Nodes, func(x, y report.Node) int {
		if (x.Namespace == "") != (y.Namespace == "") {
			return cmp.Compare(y.Namespace, x.Namespace)
		}
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	connected := make([]bool, len(out.Units))
	add := func(from, to int, ports model.PortSet) {
		if len(ports) > 0 {
			connected[from], connected[to] = true, true
			out.Add(report.Cell{From: from, To: to, Ports: ports})
		}
	}
	sets := map[*model.Interval]model.PortSet{}
	for pair, ports := range m.EachPair() {
		if b.asked(pair[0], pair[1]) {
			add(pair[0], pair[1], b.narrowed(sets, ports))
		}
	}
	b.pageOutside(m, groups, outside, add)
	slices.SortStableFunc(out.Cells, func(x, y report.Cell) int { return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To)) })
	out.Nodes = slices.DeleteFunc(out.Nodes, func(n report.Node) bool { return n.Beside && !connected[n.Unit] })
	return out
}

// note says what the flags leave out.
func (b *edgeBuilder) note() string {
	switch {
	case b.flags.namespace != "" && !b.only.IsAll():
		return fmt.Sprintf("Only what begins or ends in namespace %s, and only %s, is shown.", b.flags.namespace, b.only)
	case b.flags.namespace != "":
		return fmt.Sprintf("Only what begins or ends in namespace %s is shown, with those that it connects with.", b.flags.namespace)
	case !b.only.IsAll():
		return fmt.Sprintf("Only %s is shown; the explanations speak of all ports.", b.only)
	}
	return ""
}

// narrowed is the part of the ports that was asked for; equal sets stay one slice.
func (b *edgeBuilder) narrowed(known map[*model.Interval]model.PortSet, ports model.PortSet) model.PortSet {
	if b.only.IsAll() || len(ports) == 0 {
		return ports
	}
	out, ok := known[&ports[0]]
	if !ok {
		out = ports.Intersect(b.only)
		known[&ports[0]] = out
	}
	return out
}

// outsideFits says whether --from or --to asks for addresses outside.
func outsideFits(text string) bool { return text == "" || text == "external" }

// outsideUnits adds a unit and a node for each prefix that policies tell apart,
// and lists an address of each.
func (b *edgeBuilder) outsideUnits(m *engine.Matrix, groups []engine.Group, out *report.Page) (list []netip.Addr) {
	if !b.flags.external {
		return nil
	}
	for _, a := range m.Outside() {
		if !slices.ContainsFunc(groups, func(g engine.Group) bool { _, ok := model.SameFamily(g.Endpoints[0].IPs, a); return ok }) {
			continue // IPv6 where no pod has any
		}
		list = append(list, a)
		out.Nodes = append(out.Nodes, report.Node{
			Name: m.PrefixOf(a).String(), Source: outsideFits(b.flags.from), Destination: outsideFits(b.flags.to), Beside: b.flags.namespace != "", Unit: len(out.Units),
		})
		out.Units = append(out.Units, report.Unit{Party: engine.Party{Addr: a}})
	}
	return list
}

// pageOutside adds the cells between groups and the addresses, whose units
// follow those of the groups.
func (b *edgeBuilder) pageOutside(m *engine.Matrix, groups []engine.Group, list []netip.Addr, add func(from, to int, ports model.PortSet)) {
	for k, a := range list {
		other, u := engine.Party{Addr: a}, len(groups)+k
		for i, g := range groups {
			own, ok := model.SameFamily(g.Endpoints[0].IPs, a)
			if !ok || !b.in[i] {
				continue
			}
			pod := engine.Party{Endpoint: g.Endpoints[0], Addr: own}
			if b.from[i] && outsideFits(b.flags.to) {
				add(i, u, m.Connections(pod, other).Intersect(b.only))
			}
			if b.to[i] && outsideFits(b.flags.from) {
				add(u, i, m.Connections(other, pod).Intersect(b.only))
			}
		}
	}
}
