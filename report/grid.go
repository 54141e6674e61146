package report

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Grid is the matrix as a picture: a row per source, a column per destination,
// grouped by namespace, and a coloured cell with a tooltip where there is a
// connection. The same grid always gives the same bytes, which need nothing
// from elsewhere.
type Grid struct {
	Sources, Destinations []string // rows and columns also without any edge; those of edges are added
	Edges                 []Edge
}

// The picture's measures in pixels; characters are of one width.
const (
	cellSize  = 16
	groupGap  = 6
	margin    = 12
	charWidth = 7
	legendRow = 20
)

// palette colours the most frequent connections, the first of them "All";
// colour-blind people can tell them apart.
var palette = []string{"#0b4f8a", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800"}

const otherColour = "#8a8a8a"

// axis is the rows or columns of a grid with their places.
type axis struct {
	names  []string
	at     map[string]int // where the name's cell begins
	bands  []band
	length int
	label  int // room for the names
}

// band is a namespace's part of an axis.
type band struct {
	group      string
	at, length int
}

// groupOf is the namespace that a name begins with; prefixes are outside.
func groupOf(name string) string {
	if _, err := netip.ParsePrefix(name); err == nil {
		return ""
	}
	group, _, _ := strings.Cut(name, "/")
	return group
}

func newAxis(names []string) axis {
	slices.SortFunc(names, func(a, b string) int {
		x, y := groupOf(a), groupOf(b)
		if (x == "") != (y == "") { // outside comes last
			return cmp.Compare(y, x)
		}
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a, b))
	})
	a := axis{names: slices.Compact(names), at: map[string]int{}}
	for i, n := range a.names {
		g := groupOf(n)
		if i == 0 || g != a.bands[len(a.bands)-1].group {
			if i > 0 {
				a.length += groupGap
			}
			a.bands = append(a.bands, band{group: g, at: a.length})
		}
		a.at[n] = a.length
		a.length += cellSize
		a.bands[len(a.bands)-1].length += cellSize
		a.label = max(a.label, len([]rune(n))*charWidth)
	}
	return a
}

// drawing is a grid with everything in its place.
type drawing struct {
	rows, columns axis
	edges         []Edge
	known         names
	palette       []string
	legend        []string // connections that have a colour of their own, in order of the palette
	colour        map[string]int
	width, height int
}

func (g Grid) draw() *drawing {
	d := &drawing{palette: palette, edges: g.Edges, known: names{}, colour: map[string]int{}}
	sources, destinations := slices.Clone(g.Sources), slices.Clone(g.Destinations)
	count := map[string]int{}
	for _, e := range g.Edges {
		sources, destinations = append(sources, e.Source), append(destinations, e.Destination)
		count[d.known.of(e.Ports)]++
	}
	d.rows, d.columns = newAxis(sources), newAxis(destinations)
	for text := range count {
		d.legend = append(d.legend, text)
	}
	slices.SortFunc(d.legend, func(a, b string) int {
		if (a == "All") != (b == "All") {
			if a == "All" {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	if count["All"] == 0 { // its colour is nobody else's
		d.palette = palette[1:]
	}
	d.legend = d.legend[:min(len(d.legend), len(d.palette))]
	for i, text := range d.legend {
		d.colour[text] = i
	}
	d.width = 3*margin + d.rows.label + max(d.columns.length, 40*charWidth)
	d.height = 4*margin + d.columns.label + d.rows.length + legendRow*(len(d.legend)+1)
	return d
}

// SVG prints the grid as a picture of its own.
func (g Grid) SVG(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	g.draw().svg(out)
	return out.Flush()
}

const style = `
text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#222}
.n{fill:#777}.b{fill:#f2f2f2}.d{fill:#e4e9ef}.l{stroke:#fff;stroke-width:1}.x:hover{stroke:#000;stroke-width:2}
`

func (d *drawing) svg(w *bufio.Writer) {
	fmt.Fprintf(w, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n",
		d.width, d.height, d.width, d.height)
	fmt.Fprintf(w, "<title>Who reaches whom: %d connections</title>\n<style>%s", len(d.edges), style)
	for i := range d.legend {
		fmt.Fprintf(w, ".c%d{fill:%s}", i, d.palette[i])
	}
	fmt.Fprintf(w, ".co{fill:%s}\n</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", otherColour)
	left, top := 2*margin+d.rows.label, 2*margin+d.columns.label
	fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" class=\"n\">from ↓  to →</text>\n", left-margin/2, top-margin/2)
	d.labels(w, left, top)
	fmt.Fprintf(w, "<g transform=\"translate(%d %d)\">\n", left, top)
	d.blocks(w)
	d.cells(w)
	w.WriteString("</g>\n")
	d.legendAt(w, left, top+d.rows.length+margin)
	w.WriteString("</svg>\n")
}

func (d *drawing) labels(w *bufio.Writer, left, top int) {
	for _, n := range d.rows.names {
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left-margin/2, top+d.rows.at[n]+12, label(n))
	}
	for _, n := range d.columns.names {
		fmt.Fprintf(w, "<text transform=\"translate(%d %d) rotate(-90)\">%s</text>\n", left+d.columns.at[n]+12, top-margin/2, label(n))
	}
}

// label is a name whose namespace stands back.
func label(name string) string {
	group := groupOf(name)
	if group == "" || group == name {
		return html.EscapeString(name)
	}
	return "<tspan class=\"n\">" + html.EscapeString(group) + "/</tspan>" + html.EscapeString(name[len(group)+1:])
}

// blocks draws the ground: one block for each two namespaces, with lines.
func (d *drawing) blocks(w *bufio.Writer) {
	for _, r := range d.rows.bands {
		for _, c := range d.columns.bands {
			class := "b"
			if r.group == c.group {
				class = "d"
			}
			fmt.Fprintf(w, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", class, c.at, r.at, c.length, r.length)
		}
	}
	w.WriteString("<path class=\"l\" d=\"")
	for _, r := range d.rows.bands {
		for y := r.at + cellSize; y < r.at+r.length; y += cellSize {
			fmt.Fprintf(w, "M0 %dH%d", y, d.columns.length)
		}
	}
	for _, c := range d.columns.bands {
		for x := c.at + cellSize; x < c.at+c.length; x += cellSize {
			fmt.Fprintf(w, "M%d 0V%d", x, d.rows.length)
		}
	}
	w.WriteString("\"/>\n")
}

// cells draws the connections.
func (d *drawing) cells(w *bufio.Writer) {
	for _, e := range d.edges {
		text := d.known.of(e.Ports)
		class := "co"
		if i, ok := d.colour[text]; ok {
			class = fmt.Sprintf("c%d", i)
		}
		fmt.Fprintf(w, "<rect class=\"x %s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"><title>%s → %s: %s</title></rect>\n",
			class, d.columns.at[e.Destination]+1, d.rows.at[e.Source]+1, cellSize-2, cellSize-2,
			html.EscapeString(e.Source), html.EscapeString(e.Destination), html.EscapeString(text))
	}
}

func (d *drawing) legendAt(w *bufio.Writer, left, top int) {
	row := func(i int, class, text string) {
		y := top + i*legendRow
		fmt.Fprintf(w, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"14\" height=\"14\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			class, left, y, left+20, y+11, html.EscapeString(cut(text, 60)))
	}
	for i, text := range d.legend {
		row(i, fmt.Sprintf("c%d", i), text)
	}
	if len(d.legend) == len(d.palette) {
		row(len(d.legend), "co", "others: see the cell's tooltip")
	}
}
