package report

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

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
	names     []string
	units     []int
	pods      int
	folded    bool // it is a namespace
	namespace string
	column    int
	x, y      int
	height    int
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
	back     bool // it goes there and back
	free     bool // no policy governs it
}

// network is the graph before and after it is laid out.
type network struct {
	boxes  []*box
	arcs   []arc
	folded bool // a vertex is a namespace
	width  int
	height int
}

// graph prints the graph as a picture, below what is to be said about it.
func (p Page) graph(w *bufio.Writer) {
	note := func(text string) { fmt.Fprintf(w, "<p class=\"note\">%s</p>\n", html.EscapeString(text)) }
	var g *network
	if p.sums == nil {
		g = p.network(false)
	}
	if g == nil || len(g.arcs) > p.Limits.Edges {
		g = p.network(true)
		if len(g.arcs) > mostGraphEdges {
			note("There are too many namespaces for a graph; the matrix shows them.")
			return
		}
		text := "There are more connections than a picture can show, so the graph is of namespaces, and a number counts the pairs that connect. "
		if len(g.arcs) > p.Limits.Edges {
			text += "Point at a namespace to see its lines, or search for one."
		} else {
			text += "Choose a line or a namespace to see them."
		}
		note(text)
	} else if slices.ContainsFunc(g.arcs, func(a arc) bool { return a.free }) {
		w.WriteString("<p class=\"hint\">Dotted: no policy governs it. What connects in the same way is one node.</p>\n")
	}
	g.layOut()
	g.svg(w, len(g.arcs) > p.Limits.Edges)
}

// network makes the vertices: workloads of a namespace that connect alike are one.
func (p Page) network(folded bool) *network {
	type key struct{ namespace, alike string }
	g := &network{folded: folded}
	boxes, vertices := map[string]*box{}, map[key]*vertex{}
	of := make([]*vertex, len(p.Units))
	var alike []string
	if !folded {
		alike = p.alike()
	}
	for _, n := range p.Nodes {
		k := key{namespace: n.Namespace}
		if !folded {
			k.alike = alike[n.Unit]
		}
		b := boxes[n.Namespace]
		if b == nil {
			b = &box{name: n.Namespace}
			boxes[n.Namespace] = b
			g.boxes = append(g.boxes, b)
		}
		v := vertices[k]
		if v == nil {
			v = &vertex{folded: folded, namespace: n.Namespace}
			vertices[k] = v
			b.vertices = append(b.vertices, v)
		}
		v.names, v.pods = append(v.names, n.Name), v.pods+n.Pods
		if of[n.Unit] == nil {
			v.units = append(v.units, n.Unit)
		}
		of[n.Unit] = v
	}
	if p.sums != nil {
		g.joinSums(p.sums)
	} else {
		g.join(p, of)
	}
	return g
}

// joinSums draws the lines between namespaces.
func (g *network) joinSums(s *sums) {
	of := map[string]*vertex{}
	for _, b := range g.boxes {
		of[b.name] = b.vertices[0]
	}
	for i, from := range s.nodes {
		for j, to := range s.nodes {
			if n := s.pairs[i][j]; n > 0 {
				g.arcs = append(g.arcs, arc{from: of[from.Namespace], to: of[to.Namespace], text: fmt.Sprint(n)})
			}
		}
	}
}

// alike is a text per unit, equal where two connect with everybody in the same
// way, and with one another as each would with a second pod of its own.
func (p Page) alike() []string {
	out := make([]strings.Builder, len(p.Units))
	known := names{}
	own := make([]bool, len(p.Units))
	for _, c := range p.Cells {
		text := known.of(c.Ports)
		fmt.Fprintf(&out[c.From], ">%d %s", c.To, text)
		fmt.Fprintf(&out[c.To], "<%d %s", c.From, text)
		own[c.From] = own[c.From] || c.From == c.To
	}
	texts := make([]string, len(out))
	for i := range out {
		if u := p.Units[i]; u.Party.Endpoint != nil && !own[i] {
			if text := p.Matrix.Gate(u.Party.Endpoint.Key(), model.Egress).PortSet(p.Matrix.Identity(u.Party)).
				Intersect(p.Matrix.Gate(u.Party.Endpoint.Key(), model.Ingress).PortSet(p.Matrix.Identity(u.Party))).String(); text != "" {
				fmt.Fprintf(&out[i], ">%d %s<%d %s", i, text, i, text)
			}
		}
		parts := strings.FieldsFunc(strings.NewReplacer(">", "\n>", "<", "\n<").Replace(out[i].String()), func(r rune) bool { return r == '\n' })
		slices.Sort(parts)
		texts[i] = strings.Join(parts, "")
	}
	return texts
}

// join draws the lines between vertices. There and back on the same ports is
// one line with two tips.
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
		if count[k]++; count[k] > 1 {
			continue
		}
		text, free := known.of(c.Ports), p.free(c)
		if i, ok := at[pair{to, from}]; ok && from != to && !g.folded && g.arcs[i].text == text {
			g.arcs[i].back, g.arcs[i].free = true, g.arcs[i].free && free
			continue
		}
		at[k] = len(g.arcs)
		g.arcs = append(g.arcs, arc{from: from, to: to, text: text, free: free})
	}
	if !g.folded {
		return
	}
	for k, i := range at {
		g.arcs[i].text, g.arcs[i].free = fmt.Sprint(count[k]), false
	}
}

// free says whether no policy governs either of the cell's doors.
func (p Page) free(c Cell) bool {
	door := func(unit int, d model.Direction) bool {
		e := p.Units[unit].Party.Endpoint
		return e != nil && p.Matrix.Gate(e.Key(), d) != nil
	}
	return !door(c.From, model.Egress) && !door(c.To, model.Ingress)
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
	line := func(from, to *vertex) {
		i, j := boxOf[from], boxOf[to]
		outer = append(outer, [2]int{i, j})
		if i == j {
			inner[i] = append(inner[i], [2]int{within[from], within[to]})
		}
	}
	for _, a := range g.arcs {
		if a.free { // what nobody asked for says nothing about who serves whom
			continue
		}
		line(a.from, a.to)
		if a.back {
			line(a.to, a.from)
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
		g.width, g.height = max(g.width, x+width+boxGap+20), max(g.height, y)
		for _, v := range b.vertices {
			v.x, v.y = v.x+b.x, v.y+b.y
		}
	}
}

// lines is what a vertex has written on it.
func (v *vertex) lines() []string {
	if v.folded {
		return []string{counted(len(v.names), "workload"), counted(v.pods, "pod")}
	}
	if len(v.names) <= mostLines {
		return v.names
	}
	return append(slices.Clone(v.names[:mostLines-1]), fmt.Sprintf("and %d more", len(v.names)-mostLines+1))
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// svg prints the picture; the page's style and script know its classes.
func (g *network) svg(w *bufio.Writer, quiet bool) {
	class := "graph"
	if quiet {
		class += " quiet"
	}
	fmt.Fprintf(w, "<svg class=%q viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"group\" aria-label=\"Graph of who reaches whom\">\n",
		class, g.width, g.height, g.width, g.height)
	w.WriteString("<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerUnits=\"userSpaceOnUse\" markerWidth=\"9\" markerHeight=\"9\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" class=\"tip\"/></marker></defs>\n")
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
		class, sign, start := "arc", "→", ""
		if a.free {
			class += " free"
		}
		if a.back {
			sign, start = "⇄", " marker-start=\"url(#tip)\""
			class += " back"
		}
		fmt.Fprintf(w, "<g class=\"%s\" data-from=\"%d\" data-to=\"%d\" tabindex=\"0\" role=\"button\"><title>%s %s %s: %s</title><path class=\"hit\" d=\"%s\"/><path class=\"line\" d=\"%s\" marker-end=\"url(#tip)\"%s/>",
			class, number[a.from], number[a.to], html.EscapeString(a.from.title()), sign, html.EscapeString(a.to.title()), html.EscapeString(a.text), path, path, start)
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\">%s</text></g>\n", x, y, html.EscapeString(cut(a.text, 20)))
	}
	w.WriteString("</g>\n")
	for _, b := range g.boxes {
		for _, v := range b.vertices {
			v.svg(w, number[v], b.name)
		}
	}
	w.WriteString("</svg>\n")
}

func (v *vertex) title() string {
	if v.folded {
		return cmp.Or(v.namespace, "outside")
	}
	return strings.Join(v.lines(), ", ")
}

func (v *vertex) svg(w *bufio.Writer, number int, namespace string) {
	units := strings.Trim(fmt.Sprint(v.units), "[]")
	if v.folded {
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
		return fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+30, y1, x1-16, top-30, x1-22, top), x1 + 6, top + 4
	}
	x1, x2, bend := f.x+nodeWidth, t.x, 0
	switch {
	case t.x >= f.x+nodeWidth: // to the right
		bend = max(30, (x2-x1)/2)
		path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
		return path, (3*x1+2*x2)/5 - 20, (3*y1+2*y2)/5 - 4
	case t.x+nodeWidth <= f.x: // back to the left
		x1, x2 = f.x, t.x+nodeWidth
		bend = max(30, (x1-x2)/2)
		path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, x1-bend, y1, x2+bend, y2, x2, y2)
		return path, (3*x1+2*x2)/5 - 20, (3*y1+2*y2)/5 - 4
	}
	x2 = t.x + nodeWidth // above or below: around the right side
	bend = 30 + min(60, max(y1-y2, y2-y1)/6)
	side := max(x1, x2)
	path = fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, side+bend, y1, side+bend, y2, x2, y2)
	return path, side + bend*3/4 - 8, (3*y1+2*y2)/5 + 3
}
