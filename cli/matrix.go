package cli

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
)

type matrixFlags struct {
	pods, external bool
	from, to, port string
	namespace      string
}

func newMatrix(s *session) *cobra.Command {
	var f matrixFlags
	c := &cobra.Command{
		Use:   "matrix -f MANIFESTS",
		Short: "Who reaches whom, on what",
		Long: `Prints every pair of workloads that can connect, with protocols and ports. A
connection is listed if it passes both doors: egress of the source and ingress
of the destination. Pairs without any connection are left out. Where the pods
of one workload differ, they are listed one by one.

-o html is one page that needs nothing from elsewhere: the matrix, a graph by
namespace, a search, and for every cell the policies and the rule that decide.`,
		Example: `  sallyport matrix -f manifests/
  sallyport matrix -f manifests/ -o csv > matrix.csv
  sallyport matrix -f manifests/ -o html --external > matrix.html
  sallyport matrix -f manifests/ -n shop
  kustomize build . | sallyport matrix -f - --to shop/db --port 5432
  sallyport matrix -f manifests/ -o mermaid --external`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.matrix(c.Context(), f) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "table", report.Formats...)
	c.Flags().BoolVar(&f.pods, "pods", false, "one row per pod instead of per workload")
	c.Flags().BoolVar(&f.external, "external", false, "include addresses outside the cluster")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only what begins or ends in this namespace")
	c.Flags().StringVar(&f.from, "from", "", "only from this pod or workload")
	c.Flags().StringVar(&f.to, "to", "", "only to this pod or workload")
	c.Flags().StringVar(&f.port, "port", "", "only what includes this port, such as 80 or 53/UDP")
	s.completeFlag(c, false, "from", "to")
	return c
}

func (s *session) matrix(ctx context.Context, f matrixFlags) error {
	if !slices.Contains(report.Formats, s.output) {
		return usage("unknown output format %q: one of %v", s.output, report.Formats)
	}
	only := model.AllPorts()
	if f.port != "" {
		p, err := policytest.ParsePort(f.port, model.TCP)
		if err != nil || p.Name != "" {
			return usage("--port %s: a number, a range or NUMBER/PROTOCOL", f.port)
		}
		only = model.PortSet{p.Interval}
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	b := edgeBuilder{flags: f, only: only}
	p := s.progress("computing all pairs", 0)
	m := engine.Compile(r.Cluster)
	if s.output == "html" {
		page := b.page(m)
		p.end()
		return page.HTML(s.stdout)
	}
	b.compile(m)
	p.end()
	switch s.output {
	case "table":
		return report.MatrixTable(s.stdout, width(s.stdout), b.edges)
	case "svg":
		return b.grid().SVG(s.stdout)
	}
	return report.Matrix(s.stdout, s.output, b.edges)
}

// edgeBuilder makes the rows of the matrix.
type edgeBuilder struct {
	flags matrixFlags
	only  model.PortSet
	names [][]string // per group: its row names
	from  []bool     // per group: whether it was asked for as a source
	to    []bool
	in    []bool // per group: whether it is of the namespace asked for
	edges []report.Edge
}

func (b *edgeBuilder) compile(m *engine.Matrix) {
	groups := m.Groups()
	b.choose(groups)
	for pair, ports := range m.EachPair() {
		if b.asked(pair[0], pair[1]) {
			b.add(pair[0], pair[1], ports)
		}
	}
	if b.flags.external {
		b.outside(m, groups)
	}
	slices.SortStableFunc(b.edges, func(x, y report.Edge) int {
		return cmp.Or(cmp.Compare(x.Source, y.Source), cmp.Compare(x.Destination, y.Destination))
	})
}

// choose names the groups and says which were asked for.
func (b *edgeBuilder) choose(groups []engine.Group) {
	b.names = b.groupNames(groups)
	b.from, b.to = b.chosen(groups, b.flags.from), b.chosen(groups, b.flags.to)
	b.in = make([]bool, len(groups))
	for i, g := range groups {
		b.in[i] = b.flags.namespace == "" || g.Endpoints[0].Namespace == b.flags.namespace
	}
}

// asked says whether the pair of groups was asked for.
func (b *edgeBuilder) asked(src, dst int) bool {
	return b.from[src] && b.to[dst] && (b.in[src] || b.in[dst])
}

// grid is the picture, with the rows and columns of those that reach nobody.
func (b *edgeBuilder) grid() report.Grid {
	g := report.Grid{Edges: b.edges}
	for i, names := range b.names {
		if b.from[i] && b.in[i] {
			g.Sources = append(g.Sources, names...)
		}
		if b.to[i] && b.in[i] {
			g.Destinations = append(g.Destinations, names...)
		}
	}
	return g
}

// groupNames names each group as its workload, or its pods one by one where
// the workload has several groups or pods are asked for.
func (b *edgeBuilder) groupNames(groups []engine.Group) [][]string {
	type workload struct {
		namespace string
		model.Workload
	}
	count := map[workload]int{}
	kinds := map[[2]string]map[string]bool{}
	for _, g := range groups {
		e := g.Endpoints[0]
		count[workload{e.Namespace, e.Workload}]++
		k := [2]string{e.Namespace, e.Workload.Name}
		if kinds[k] == nil {
			kinds[k] = map[string]bool{}
		}
		kinds[k][e.Workload.Kind] = true
	}
	out := make([][]string, len(groups))
	for i, g := range groups {
		e := g.Endpoints[0]
		if b.flags.pods || count[workload{e.Namespace, e.Workload}] > 1 {
			for _, e := range g.Endpoints {
				out[i] = append(out[i], e.Key())
			}
			continue
		}
		name := e.Namespace + "/" + e.Workload.Name
		if len(kinds[[2]string{e.Namespace, e.Workload.Name}]) > 1 {
			name = e.Namespace + "/" + e.Workload.Kind + "/" + e.Workload.Name
		}
		out[i] = []string{name}
	}
	return out
}

func (b *edgeBuilder) chosen(groups []engine.Group, text string) []bool {
	out := make([]bool, len(groups))
	for i, g := range groups {
		out[i] = text == "" || slices.ContainsFunc(g.Endpoints, func(e *model.Endpoint) bool { return policytest.Names(text, e) })
	}
	return out
}

func (b *edgeBuilder) add(src, dst int, ports model.PortSet) {
	if !b.only.IsAll() {
		if ports = ports.Intersect(b.only); len(ports) == 0 {
			return
		}
	}
	for _, s := range b.names[src] {
		for _, d := range b.names[dst] {
			if s != d || len(b.names[src]) == 1 {
				b.edges = append(b.edges, report.Edge{Source: s, Destination: d, Ports: ports})
			}
		}
	}
}

// outside adds the edges to and from addresses outside the cluster, one for
// each prefix that policies tell apart.
func (b *edgeBuilder) outside(m *engine.Matrix, groups []engine.Group) {
	for _, a := range m.Outside() {
		name := m.PrefixOf(a).String()
		for i, g := range groups {
			own, ok := model.SameFamily(g.Endpoints[0].IPs, a)
			if !ok || !b.in[i] {
				continue
			}
			pod, other := engine.Party{Endpoint: g.Endpoints[0], Addr: own}, engine.Party{Addr: a}
			if b.from[i] && (b.flags.to == "" || b.flags.to == "external") {
				b.external(b.names[i], []string{name}, m.Connections(pod, other))
			}
			if b.to[i] && (b.flags.from == "" || b.flags.from == "external") {
				b.external([]string{name}, b.names[i], m.Connections(other, pod))
			}
		}
	}
}

func (b *edgeBuilder) external(src, dst []string, ports model.PortSet) {
	if ports = ports.Intersect(b.only); len(ports) == 0 {
		return
	}
	for _, s := range src {
		for _, d := range dst {
			b.edges = append(b.edges, report.Edge{Source: s, Destination: d, Ports: ports})
		}
	}
}
