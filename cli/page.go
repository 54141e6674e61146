package cli

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// page is the matrix with all that its page shows. It does not list the edges
// one by one, since cells of pods that no policy tells apart are one.
func (b *edgeBuilder) page(m *engine.Matrix) report.Page {
	groups := m.Groups()
	b.choose(groups)
	out := report.Page{Matrix: m, Note: b.note()}
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
	sets := map[*model.Interval]model.PortSet{}
	for pair, ports := range m.EachPair() {
		if !b.asked(pair[0], pair[1]) {
			continue
		}
		if ports = b.narrowed(sets, ports); len(ports) > 0 {
			out.Cells = append(out.Cells, report.Cell{From: pair[0], To: pair[1], Ports: ports})
		}
	}
	if b.flags.external {
		b.pageOutside(m, groups, &out)
	}
	slices.SortStableFunc(out.Cells, func(x, y report.Cell) int { return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To)) })
	out.Nodes = slices.DeleteFunc(out.Nodes, func(n report.Node) bool { return !n.Source && !n.Destination })
	if b.flags.namespace != "" {
		dropUnconnected(&out)
	}
	slices.SortStableFunc(out.Nodes, func(x, y report.Node) int {
		if (x.Namespace == "") != (y.Namespace == "") {
			return cmp.Compare(y.Namespace, x.Namespace)
		}
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
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

// pageOutside adds a unit for each prefix that policies tell apart.
func (b *edgeBuilder) pageOutside(m *engine.Matrix, groups []engine.Group, out *report.Page) {
	fits := func(text string) bool { return text == "" || text == "external" }
	for _, a := range m.Outside() {
		if !slices.ContainsFunc(groups, func(g engine.Group) bool { _, ok := model.SameFamily(g.Endpoints[0].IPs, a); return ok }) {
			continue // IPv6 where no pod has any
		}
		u := len(out.Units)
		other := engine.Party{Addr: a}
		out.Units = append(out.Units, report.Unit{Party: other})
		out.Nodes = append(out.Nodes, report.Node{
			Name: m.PrefixOf(a).String(), Source: fits(b.flags.from), Destination: fits(b.flags.to), Beside: b.flags.namespace != "", Unit: u,
		})
		for i, g := range groups {
			own, ok := model.SameFamily(g.Endpoints[0].IPs, a)
			if !ok || !b.in[i] {
				continue
			}
			pod := engine.Party{Endpoint: g.Endpoints[0], Addr: own}
			if ports := m.Connections(pod, other).Intersect(b.only); b.from[i] && fits(b.flags.to) && len(ports) > 0 {
				out.Cells = append(out.Cells, report.Cell{From: i, To: u, Ports: ports})
			}
			if ports := m.Connections(other, pod).Intersect(b.only); b.to[i] && fits(b.flags.from) && len(ports) > 0 {
				out.Cells = append(out.Cells, report.Cell{From: u, To: i, Ports: ports})
			}
		}
	}
}

// dropUnconnected leaves out those beside the namespace that it does not connect with.
func dropUnconnected(p *report.Page) {
	connected := make([]bool, len(p.Units))
	for _, c := range p.Cells {
		connected[c.From], connected[c.To] = true, true
	}
	p.Nodes = slices.DeleteFunc(p.Nodes, func(n report.Node) bool { return n.Beside && !connected[n.Unit] })
}
