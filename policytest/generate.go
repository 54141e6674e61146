package policytest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// testable are the protocols whose ports a case can name.
var testable = []model.Protocol{model.TCP, model.UDP, model.SCTP}

// Generate writes a PolicyTest that pins what can connect now, for every two
// workloads and for the addresses outside: what is open must be open, and
// what is shut must be shut, on all ports of TCP, UDP and SCTP.
func Generate(m *engine.Matrix) []byte {
	g := generator{m: m, open: map[[2]int]model.PortSet{}}
	g.name()
	for pair, ports := range m.EachPair() {
		g.open[pair] = ports
	}
	g.buf.WriteString("apiVersion: sallyport.dev/v1alpha1\nkind: PolicyTest\nmetadata: {name: present-behaviour}\nspec:\n  cases:\n")
	for d := range g.groups {
		g.pin(d)
	}
	if len(g.groups) == 0 {
		g.buf.WriteString("  []\n")
	}
	return g.buf.Bytes()
}

type generator struct {
	m      *engine.Matrix
	groups []engine.Group
	names  []string // of one pod of each group, or of the workload that it is
	open   map[[2]int]model.PortSet
	buf    bytes.Buffer
}

// name names the groups: as their workload, if it is one group.
func (g *generator) name() {
	g.groups = g.m.Groups()
	type workload struct {
		namespace string
		model.Workload
	}
	count := map[workload]int{}
	for _, x := range g.groups {
		count[workload{x.Endpoints[0].Namespace, x.Endpoints[0].Workload}]++
	}
	for _, x := range g.groups {
		e := x.Endpoints[0]
		name := e.Key()
		if count[workload{e.Namespace, e.Workload}] == 1 && e.Workload.Kind != "Pod" {
			name = e.Namespace + "/" + e.Workload.Kind + "/" + e.Workload.Name
		}
		g.names = append(g.names, name)
	}
}

// pin writes the cases of all who may want to reach the group, those with the
// same openings together, and of the group towards the outside.
func (g *generator) pin(d int) {
	to := g.groups[d].Endpoints[0]
	from := map[string][]string{}
	sets := map[string]model.PortSet{}
	note := func(name string, open model.PortSet) {
		key := open.String()
		from[key], sets[key] = append(from[key], name), open
	}
	for s := range g.groups {
		if s != d && !g.groups[s].Endpoints[0].HostNetwork {
			note(g.names[s], g.open[[2]int{s, d}])
		}
	}
	if to.HostNetwork {
		return // who its node is, a case cannot say
	}
	for _, a := range g.m.Outside() {
		if _, ok := model.SameFamily(to.IPs, a); ok {
			note(a.String(), g.m.Connections(engine.Party{Addr: a}, engine.Party{Endpoint: to}))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(from)) {
		g.write(from[key], []string{g.names[d]}, sets[key])
	}
	g.outward(d, to)
}

func (g *generator) outward(d int, from *model.Endpoint) {
	to := map[string][]string{}
	sets := map[string]model.PortSet{}
	for _, a := range g.m.Outside() {
		if _, ok := model.SameFamily(from.IPs, a); ok {
			open := g.m.Connections(engine.Party{Endpoint: from}, engine.Party{Addr: a})
			to[open.String()], sets[open.String()] = append(to[open.String()], a.String()), open
		}
	}
	for _, key := range slices.Sorted(maps.Keys(to)) {
		g.write([]string{g.names[d]}, to[key], sets[key])
	}
}

// write writes what is open between the sides, and what is shut.
func (g *generator) write(from, to []string, open model.PortSet) {
	if open.IsAll() {
		g.expect(from, to, nil, "allow")
		return
	}
	if len(open) == 0 {
		g.expect(from, to, nil, "deny")
		return
	}
	every := model.PortSet{}
	for _, p := range testable {
		every = append(every, model.Interval{First: model.PortKeyOf(p, 1), Last: model.PortKeyOf(p, 65535)})
	}
	slices.SortFunc(every, func(a, b model.Interval) int { return int(a.First) - int(b.First) })
	g.expect(from, to, portTexts(open.Intersect(every)), "allow")
	g.expect(from, to, portTexts(every.Subtract(open)), "deny")
}

// expect writes one case. An empty list of ports, unlike none, is no case.
func (g *generator) expect(from, to, ports []string, what string) {
	if ports != nil && len(ports) == 0 {
		return
	}
	port := ""
	if len(ports) > 0 {
		port = "port: [" + strings.Join(ports, ", ") + "], "
	}
	fmt.Fprintf(&g.buf, "  - {from: %s, to: %s, %sexpect: %s}\n", sideText(from), sideText(to), port, what)
}

func sideText(names []string) string {
	for i, n := range names {
		if strings.Contains(n, ":") { // an IPv6 address
			names[i] = "\"" + n + "\""
		}
	}
	if len(names) == 1 {
		return names[0]
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func portTexts(set model.PortSet) []string {
	out := []string{}
	for _, iv := range set {
		p := iv.First.Protocol()
		text := fmt.Sprintf("%d/%s", iv.First.Port(), p)
		if iv.First != iv.Last {
			text = fmt.Sprintf("%d-%d/%s", iv.First.Port(), iv.Last.Port(), p)
		}
		out = append(out, text)
	}
	return out
}
