package report

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	_ "embed" // the page's style and script
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Page is the matrix as one self-contained page: a graph by namespace, the
// matrix, a search, and why each cell is as it is. The explanations are the
// engine's, worked out when the page is made and shared by all cells that no
// policy tells apart. The same Page always gives the same bytes, which load
// nothing from elsewhere; every name in it is data to the script, never markup.
type Page struct {
	Matrix *engine.Matrix
	Nodes  []Node // rows and columns, sorted by namespace and name, outside last
	Units  []Unit
	Cells  []Cell  // between units, sorted, as Add left them; what is missing is denied
	Note   string  // what was left out on purpose, such as by a filter
	Limits *Limits // nil: those of DefaultLimits

	count int // of cells added
	sums  *sums
}

// Node is a row, a column, or both: a workload, a pod, or addresses outside.
type Node struct {
	Name, Namespace     string // Namespace is "" outside
	Source, Destination bool
	Beside              bool // there for the cells with those that are not Beside
	Pods                int
	Unit                int // index of Page.Units
}

// Unit is pods that no policy tells apart, or a prefix outside, and one of
// them that speaks for all.
type Unit struct {
	Party engine.Party
	Pods  int
}

// Cell is what a unit may open towards another, or towards itself where it has
// several pods. Equal Ports of one Page are one slice.
type Cell struct {
	From, To int // indices of Page.Units
	Ports    model.PortSet
}

// Limits bound what a page holds. Beyond Doors the cells are not explained one
// by one, beyond Cells there is one per pair of namespaces, and beyond Edges
// the graph is of namespaces.
type Limits struct{ Doors, Cells, Edges int }

// DefaultLimits make a page of at most about 10 MB in a few seconds.
var DefaultLimits = Limits{Doors: 200_000, Cells: 1_000_000, Edges: 160}

//go:embed page/page.css
var pageStyle string

//go:embed page/page.js
var pageScript string

//go:embed page/page.html
var pageBody string

// HTML prints the page.
func (p Page) HTML(w io.Writer) error {
	if p.Limits == nil {
		p.Limits = &DefaultLimits
	}
	data, err := json.Marshal(p.data()) // escapes <, > and &, so nothing in it ends its element
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(out, `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src '%s'; script-src '%s'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Who reaches whom</title>
<style>%s</style>
</head>
<body>
`, digest(pageStyle), digest(pageScript), pageStyle)
	out.WriteString(pageBody)
	out.WriteString("<section id=\"graph\" aria-label=\"graph\">\n")
	p.graph(out)
	out.WriteString("</section>\n</main>\n<script type=\"application/json\" id=\"data\">")
	out.Write(data)
	fmt.Fprintf(out, "</script>\n<script>%s</script>\n</body>\n</html>\n", pageScript)
	return out.Flush()
}

// digest names a text as a content security policy does.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// pageData is what the script is given; its names are short since there are many.
type pageData struct {
	Level    string     `json:"level"` // explained, cells or namespaces
	Notes    []string   `json:"notes"`
	Pods     int        `json:"pods"`
	Policies int        `json:"policies"`
	Nodes    []nodeData `json:"nodes"`
	Units    []unitData `json:"units"`
	Ports    []string   `json:"ports"`
	Cells    [][]int    `json:"cells"` // per unit: the other unit, what is in Ports, and so on
	Gates    []gateData `json:"gates"`
	Doors    [][]said   `json:"doors"`
	Texts    []string   `json:"texts"` // policies and rules with their places

	Reasons map[string]string `json:"reasons"`
}

type nodeData struct {
	Name      string `json:"n"`
	Namespace string `json:"g"`
	Unit      int    `json:"u"`
	Pods      int    `json:"p,omitempty"`
	Axes      int    `json:"a"`           // 1: row, 2: column, 4: beside
	Address   string `json:"x,omitempty"` // outside: one that stands for all
}

type unitData struct {
	Egress   int `json:"e"` // index of Gates; -1: no door, -2: an open one
	Ingress  int `json:"i"`
	Identity int `json:"id"`
	Many     int `json:"m,omitempty"` // 1: several pods
	Families int `json:"f"`           // 1: IPv4, 2: IPv6
}

type gateData struct {
	Policies []int `json:"p"`
	Rest     int   `json:"d"` // index of Doors, for identities that Others does not list; -1: not worked out
	Others   []int `json:"x"` // identity, index of Doors, and so on
}

// said is what a door says to some ports, and who says it.
type said struct {
	Ports   string   `json:"p"`
	Allowed bool     `json:"a,omitempty"`
	Reason  string   `json:"r"`
	Rule    int      `json:"u"` // index of Texts; -1: none
	Tiers   []string `json:"t,omitempty"`
}

const (
	noDoor   = -1
	openDoor = -2
)

func (p Page) data() *pageData {
	_, policies := p.Matrix.Count()
	d := &pageData{Level: "explained", Notes: []string{}, Policies: policies, Reasons: reasons,
		Ports: []string{}, Gates: []gateData{}, Doors: [][]said{}, Texts: []string{}}
	if p.Note != "" {
		d.Notes = append(d.Notes, p.Note)
	}
	for _, u := range p.Units {
		d.Pods += u.Pods
	}
	if p.sums != nil {
		d.Notes = append(d.Notes, fmt.Sprintf("These are %d connections between workloads, more than a page holds (%d): it shows those between namespaces. "+
			"For the workloads of one namespace, run sallyport matrix -o html -n NAMESPACE.", p.count, p.Limits.Cells))
		p = p.byNamespace()
		d.Level = "namespaces"
	}
	for _, n := range p.Nodes {
		x := nodeData{Name: n.Name, Namespace: n.Namespace, Unit: n.Unit, Pods: n.Pods}
		if a := p.Units[n.Unit].Party.Addr; a.IsValid() && n.Namespace == "" {
			x.Address = a.String()
		}
		for bit, on := range []bool{n.Source, n.Destination, n.Beside} {
			if on {
				x.Axes |= 1 << bit
			}
		}
		d.Nodes = append(d.Nodes, x)
	}
	d.cells(p)
	if d.Level == "explained" {
		k := newClerk(p, d)
		if !k.explain() {
			d.Level = "cells"
			d.Notes = append(d.Notes, fmt.Sprintf("This cluster is too large to explain every cell in one page (more than %d doors to judge): a cell names the policies that isolate, "+
				"and the command that tells the deciding rule. For all rules of one namespace, run sallyport matrix -o html -n NAMESPACE.", p.Limits.Doors))
		}
	}
	return d
}

func (d *pageData) cells(p Page) {
	d.Cells = make([][]int, len(p.Units))
	index, known := map[string]int{}, names{}
	for _, c := range p.Cells {
		text := known.of(c.Ports)
		n, ok := index[text]
		if !ok {
			n = len(d.Ports)
			index[text] = n
			d.Ports = append(d.Ports, text)
		}
		d.Cells[c.From] = append(d.Cells[c.From], c.To, n)
	}
	d.Units = make([]unitData, len(p.Units))
	for i, u := range p.Units {
		d.Units[i] = unitData{Egress: noDoor, Ingress: noDoor}
		if u.Pods > 1 {
			d.Units[i].Many = 1
		}
		d.Units[i].Families = u.families()
	}
}

// families are those that the unit has addresses of; a namespace may have both.
func (u Unit) families() (out int) {
	addresses := []netip.Addr{u.Party.Addr}
	if e := u.Party.Endpoint; e != nil {
		addresses = e.IPs
	}
	for _, a := range addresses {
		switch {
		case a.Is4():
			out |= 1
		case a.Is6():
			out |= 2
		}
	}
	if out == 0 {
		out = 3
	}
	return out
}

// sums are the cells between namespaces, of a page that has too many others.
type sums struct {
	nodes []Node
	of    []int                   // per unit: its namespace's index in nodes
	cells []map[int]model.PortSet // per namespace
	pairs []map[int]int           // how many cells these are the sum of
}

// Add adds a cell. Once there are more than the limits allow, only their sums
// by namespace are kept; nodes and units are complete before.
func (p *Page) Add(c Cell) {
	if p.Limits == nil {
		p.Limits = &DefaultLimits
	}
	p.count++
	if p.sums == nil {
		if p.Cells = append(p.Cells, c); p.count > p.Limits.Cells {
			p.sums = newSums(p)
			for _, c := range p.Cells {
				p.sums.add(c)
			}
			p.Cells = nil
		}
		return
	}
	p.sums.add(c)
}

func newSums(p *Page) *sums {
	s := &sums{of: make([]int, len(p.Units))}
	at := map[string]int{}
	for _, n := range p.Nodes {
		i, ok := at[n.Namespace]
		if !ok {
			i = len(s.nodes)
			at[n.Namespace] = i
			s.nodes = append(s.nodes, Node{Name: cmp.Or(n.Namespace, "outside"), Namespace: n.Namespace, Beside: true, Unit: i})
		}
		m := &s.nodes[i]
		m.Source, m.Destination, m.Beside, m.Pods = m.Source || n.Source, m.Destination || n.Destination, m.Beside && n.Beside, m.Pods+n.Pods
		s.of[n.Unit] = i
	}
	s.cells, s.pairs = make([]map[int]model.PortSet, len(s.nodes)), make([]map[int]int, len(s.nodes))
	for i := range s.nodes {
		s.cells[i], s.pairs[i] = map[int]model.PortSet{}, map[int]int{}
	}
	return s
}

func (s *sums) add(c Cell) {
	from, to := s.of[c.From], s.of[c.To]
	s.pairs[from][to]++
	if was := s.cells[from][to]; !was.IsAll() {
		s.cells[from][to] = was.Union(c.Ports)
	}
}

// byNamespace is the page with one node per namespace. A cell then holds what
// any of its pods may open.
func (p Page) byNamespace() Page {
	out := Page{Matrix: p.Matrix, Nodes: p.sums.nodes, Note: p.Note, Limits: p.Limits}
	for range out.Nodes {
		out.Units = append(out.Units, Unit{Pods: 2})
	}
	for from := range out.Nodes {
		for to := range out.Nodes {
			if s := p.sums.cells[from][to]; len(s) > 0 {
				out.Cells = append(out.Cells, Cell{from, to, s})
			}
		}
	}
	return out
}
