package report

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// The graph's measures in pixels.
const (
	nodeWidth   = 172
	nodeGap     = 16
	columnGap   = 92
	boxPadding  = 14
	boxHead     = 24
	boxGap      = 70
	lineHeight  = 16
	nodePadding = 7
	mostLines   = 5 // names that a node lists
)

// mostGraphEdges is how many lines between namespaces a graph may have; they
// are shown one namespace at a time where there are many.
const mostGraphEdges = 6000

// vertex is a node of the graph: workloads of one namespace that no policy
// tells apart, or a whole namespace.
type vertex struct {
	names  []string
	units  []int
	pods   int
	column int
	x, y   int
	height int
}

// box is a namespace.
type box struct {
	name       string
	vertices   []*vertex
	column     int
	x, y, w, h int
}

// arc is a line of the graph.
type arc struct {
	from, to *vertex
	text     string
}

// network is the graph before and after it is laid out.
type network struct {
	boxes  []*box
	arcs   []arc
	folded bool // a vertex is a namespace
	width  int
	height int
}

// graph prints the graph as a picture, and returns what is to be said about it.
func (p Page) graph(w *bufio.Writer) (note string) {
	g := p.network(false)
	if len(g.arcs) > p.Limits.Edges || len(p.Cells) > p.Limits.Cells {
		g = p.network(true)
		note = "There are more connections than a picture can show: the graph is of namespaces. Search, or choose one, to see its connections."
	}
	if len(g.arcs) > mostGraphEdges {
		return "There are too many namespaces for a graph; the matrix shows them."
	}
	g.layOut()
	g.svg(w, len(g.arcs) > p.Limits.Edges)
	return note
}

// network makes the vertices: what no policy tells apart is one.
func (p Page) network(folded bool) *network {
	type alike struct {
		namespace       string
		egress, ingress *engine.Gate
		identity        engine.Identity
		host            bool
		outside         string
	}
	g := &network{folded: folded}
	boxes, vertices := map[string]*box{}, map[alike]*vertex{}
	of := make([]*vertex, len(p.Units))
	for _, n := range p.Nodes {
		k := alike{namespace: n.Namespace}
		if e := p.Units[n.Unit].Party.Endpoint; !folded && e != nil {
			k.egress, k.ingress = p.Matrix.Gate(e.Key(), model.Egress), p.Matrix.Gate(e.Key(), model.Ingress)
			k.identity, k.host = p.Matrix.Identity(p.Units[n.Unit].Party), e.HostNetwork
		} else if !folded {
			k.outside = n.Name
		}
		b := boxes[n.Namespace]
		if b == nil {
			b = &box{name: n.Namespace}
			boxes[n.Namespace] = b
			g.boxes = append(g.boxes, b)
		}
		v := vertices[k]
		if v == nil {
			v = &vertex{}
			vertices[k] = v
			b.vertices = append(b.vertices, v)
		}
		v.names, v.pods = append(v.names, n.Name), v.pods+n.Pods
		if of[n.Unit] == nil {
			v.units = append(v.units, n.Unit)
		}
		of[n.Unit] = v
	}
	g.join(p, of)
	return g
}

// join draws the lines between vertices.
func (g *network) join(p Page, of []*vertex) {
	type pair [2]*vertex
	known, at := names{}, map[pair]int{}
	count := map[pair]int{}
	for _, c := range p.Cells {
		from, to := of[c.From], of[c.To]
		if from == nil || to == nil {
			continue
		}
		k := pair{from, to}
		if count[k]++; count[k] == 1 {
			at[k] = len(g.arcs)
			g.arcs = append(g.arcs, arc{from, to, known.of(c.Ports)})
		}
	}
	if !g.folded {
		return
	}
	for k, i := range at {
		g.arcs[i].text = fmt.Sprintf("%d connections", count[k])
	}
}

// ranks puts every vertex into a column, to the right of those that connect to
// it: the longest way from a vertex that nobody connects to. Vertices that
// reach one another in a circle share a column.
func ranks(n int, edges [][2]int, most int) []int {
	next := make([][]int, n)
	for _, e := range edges {
		if e[0] != e[1] {
			next[e[0]] = append(next[e[0]], e[1])
		}
	}
	circle, circles := circlesOf(next)
	out, rank := make([]int, n), make([]int, circles)
	for c := circles - 1; c >= 0; c-- { // the first circles are those that nothing leads on from
		for v := range n {
			if circle[v] != c {
				continue
			}
			for _, t := range next[v] {
				if circle[t] != c {
					rank[circle[t]] = max(rank[circle[t]], rank[c]+1)
				}
			}
		}
	}
	for v := range n {
		out[v] = min(rank[circle[v]], most-1)
	}
	return out
}

// circlesOf is Tarjan's algorithm: vertices that reach one another have one
// number, and what is reached from others has the lower one.
func circlesOf(next [][]int) (circle []int, count int) {
	circle = make([]int, len(next))
	index, low := make([]int, len(next)), make([]int, len(next))
	var stack []int
	seen := 0
	var visit func(v int)
	visit = func(v int) {
		seen++
		index[v], low[v], circle[v] = seen, seen, -1
		stack = append(stack, v)
		for _, t := range next[v] {
			if index[t] == 0 {
				visit(t)
				low[v] = min(low[v], low[t])
			} else if circle[t] < 0 {
				low[v] = min(low[v], index[t])
			}
		}
		if low[v] != index[v] {
			return
		}
		for {
			t := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			circle[t] = count
			if t == v {
				break
			}
		}
		count++
	}
	for v := range next {
		if index[v] == 0 {
			visit(v)
		}
	}
	return circle, count
}

const (
	mostColumnsInBox = 4
	mostColumns      = 6
)

// layOut gives every vertex and box its place.
func (g *network) layOut() {
	boxOf, within := map[*vertex]int{}, map[*vertex]int{}
	for i, b := range g.boxes {
		for j, v := range b.vertices {
			boxOf[v], within[v] = i, j
		}
	}
	inner := make([][][2]int, len(g.boxes))
	var outer [][2]int
	for _, a := range g.arcs {
		i, j := boxOf[a.from], boxOf[a.to]
		outer = append(outer, [2]int{i, j})
		if i == j {
			inner[i] = append(inner[i], [2]int{within[a.from], within[a.to]})
		}
	}
	for i, b := range g.boxes {
		for j, c := range ranks(len(b.vertices), inner[i], mostColumnsInBox) {
			b.vertices[j].column = c
		}
		b.layOut()
	}
	for i, c := range ranks(len(g.boxes), outer, mostColumns) {
		g.boxes[i].column = c
	}
	g.place()
}

// layOut places the vertices inside the box, column by column.
func (b *box) layOut() {
	var columns [mostColumnsInBox][]*vertex
	for _, v := range b.vertices {
		v.height = 2*nodePadding + lineHeight*len(v.lines())
		columns[v.column] = append(columns[v.column], v)
	}
	heights, x := [mostColumnsInBox]int{}, boxPadding
	for c, list := range columns {
		for _, v := range list {
			heights[c] += v.height + nodeGap
		}
		b.h = max(b.h, heights[c])
	}
	for c, list := range columns {
		if len(list) == 0 {
			continue
		}
		y := boxHead + (b.h-heights[c])/2
		for _, v := range list {
			v.x, v.y = x, y
			y += v.height + nodeGap
		}
		x += nodeWidth + columnGap
	}
	b.w, b.h = x-columnGap+boxPadding, boxHead+b.h-nodeGap+boxPadding
}

// place puts the boxes next to each other. A column that is much higher than
// the others is broken into several.
func (g *network) place() {
	slices.SortStableFunc(g.boxes, func(a, b *box) int { return cmp.Compare(a.column, b.column) })
	area := 0
	for _, b := range g.boxes {
		area += (b.w + boxGap) * (b.h + boxGap)
	}
	limit := max(420, int(math.Sqrt(float64(area)/1.6)))
	x, y, width := boxGap/2, boxGap/2, 0
	for i, b := range g.boxes {
		if i > 0 && (b.column != g.boxes[i-1].column || y+b.h > limit) {
			x, y, width = x+width+boxGap+20, boxGap/2, 0
		}
		b.x, b.y = x, y
		y += b.h + boxGap/2
		width = max(width, b.w)
		g.width, g.height = max(g.width, x+width+boxGap/2), max(g.height, y)
		for _, v := range b.vertices {
			v.x, v.y = v.x+b.x, v.y+b.y
		}
	}
}

// lines is what a vertex has written on it.
func (v *vertex) lines() []string {
	if len(v.names) <= mostLines {
		return v.names
	}
	return append(slices.Clone(v.names[:mostLines-1]), fmt.Sprintf("and %d more", len(v.names)-mostLines+1))
}

// svg prints the picture; the page's style and script know its classes.
func (g *network) svg(w *bufio.Writer, quiet bool) {
	class := "graph"
	if quiet {
		class += " quiet"
	}
	fmt.Fprintf(w, "<svg class=%q viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"group\" aria-label=\"Graph of who reaches whom\">\n",
		class, g.width, g.height, g.width, g.height)
	w.WriteString("<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" class=\"tip\"/></marker></defs>\n")
	for _, b := range g.boxes {
		name := b.name
		if name == "" {
			name = "outside"
		}
		fmt.Fprintf(w, "<g class=\"box\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"8\"/><text x=\"%d\" y=\"%d\">%s</text></g>\n",
			b.x, b.y, b.w, b.h, b.x+boxPadding, b.y+16, html.EscapeString(cut(name, b.w/8)))
	}
	number := map[*vertex]int{}
	for _, b := range g.boxes {
		for _, v := range b.vertices {
			number[v] = len(number)
		}
	}
	w.WriteString("<g class=\"arcs\">\n")
	for _, a := range g.arcs {
		path, x, y := a.path()
		fmt.Fprintf(w, "<g class=\"arc\" data-from=\"%d\" data-to=\"%d\" tabindex=\"0\" role=\"button\"><title>%s → %s: %s</title><path class=\"hit\" d=\"%s\"/><path class=\"line\" d=\"%s\" marker-end=\"url(#tip)\"/>",
			number[a.from], number[a.to], html.EscapeString(a.from.title()), html.EscapeString(a.to.title()), html.EscapeString(a.text), path, path)
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\">%s</text></g>\n", x, y, html.EscapeString(cut(a.text, 20)))
	}
	w.WriteString("</g>\n")
	for _, b := range g.boxes {
		for _, v := range b.vertices {
			v.svg(w, number[v], b.name, g.folded)
		}
	}
	w.WriteString("</svg>\n")
}

func (v *vertex) title() string { return strings.Join(v.lines(), ", ") }

func (v *vertex) svg(w *bufio.Writer, number int, namespace string, folded bool) {
	units := strings.Trim(fmt.Sprint(v.units), "[]")
	if folded {
		units = ""
	}
	fmt.Fprintf(w, "<g class=\"node\" data-v=\"%d\" data-units=\"%s\" data-ns=\"%s\" tabindex=\"0\" role=\"button\"><title>%s</title><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"5\"/>",
		number, units, html.EscapeString(namespace), html.EscapeString(v.title()), v.x, v.y, nodeWidth, v.height)
	for i, line := range v.lines() {
		line = strings.TrimPrefix(line, namespace+"/")
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\">%s</text>", v.x+nodePadding+3, v.y+nodePadding+12+i*lineHeight, html.EscapeString(cut(line, 23)))
	}
	w.WriteString("</g>\n")
}

// path is the line's curve, and where its text stands. Lines leave at the
// upper part of a side and arrive at the lower one, so that there and back are two.
func (a arc) path() (path string, x, y int) {
	f, t := a.from, a.to
	y1, y2 := f.y+f.height*2/5, t.y+t.height*3/5
	if f == t {
		x1, top := f.x+nodeWidth, f.y
		return fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+34, y1, x1-26, top-30, x1-30, top), x1 + 4, top - 6
	}
	x1, x2, bend := f.x+nodeWidth, t.x, 0
	switch {
	case t.x >= f.x+nodeWidth: // to the right
		bend = max(30, (x2-x1)/2)
		path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
		return path, (x1+x2)/2 - 20, (y1+y2)/2 - 4
	case t.x+nodeWidth <= f.x: // back to the left
		x1, x2 = f.x, t.x+nodeWidth
		bend = max(30, (x1-x2)/2)
		path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1-bend, y1, x2+bend, y2, x2, y2)
		return path, (x1+x2)/2 - 20, (y1+y2)/2 - 4
	}
	x2 = t.x + nodeWidth // above or below: around the right side
	bend = 30 + min(60, max(y1-y2, y2-y1)/6)
	side := max(x1, x2)
	path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, side+bend, y1, side+bend, y2, x2, y2)
	return path, side + bend*3/4 - 10, (y1+y2)/2 + 3
}
