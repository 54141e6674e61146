// Package report prints answers: text and pictures for people, CSV, JSON,
// Markdown, DOT and Mermaid for machines and documents. It turns values into bytes on a writer
// and decides nothing.
package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Edge is one line of the connectivity matrix.
type Edge struct {
	Source, Destination string
	Ports               model.PortSet
}

// Formats lists the formats of a matrix: those of Matrix, and html, a Page.
var Formats = []string{"table", "csv", "json", "md", "dot", "mermaid", "html", "svg"}

// names remembers the text of port sets: equal sets of one matrix are one slice.
type names map[*model.Interval]string

func (n names) of(s model.PortSet) string {
	if len(s) == 0 {
		return ""
	}
	text, ok := n[&s[0]]
	if !ok {
		text = s.String()
		n[&s[0]] = text
	}
	return text
}

// Matrix prints the edges, which are sorted, in one of the Formats but html.
func Matrix(w io.Writer, format string, edges []Edge) error {
	out := bufio.NewWriterSize(w, 64<<10)
	known := names{}
	switch format {
	case "table":
		return MatrixTable(w, 0, edges)
	case "csv":
		csv(out, edges, known)
	case "json":
		if err := asJSON(out, edges, known); err != nil {
			return err
		}
	case "md":
		markdown(out, edges, known)
	case "dot":
		dot(out, edges, known)
	case "mermaid":
		mermaid(out, edges, known)
	case "svg":
		return Grid{Edges: edges}.SVG(w)
	default:
		return fmt.Errorf("unknown format %q: one of %s", format, strings.Join(Formats, ", "))
	}
	return out.Flush()
}

// MatrixTable prints the edges as a table that fits the width, if that is not 0.
func MatrixTable(w io.Writer, width int, edges []Edge) error {
	known := names{}
	return Table(w, width, []string{"SOURCE", "DESTINATION", "CONNECTIONS"}, func(yield func([]string) bool) {
		for _, e := range edges {
			if !yield([]string{e.Source, e.Destination, known.of(e.Ports)}) {
				return
			}
		}
	})
}

func csv(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("source,destination,connections\n")
	for _, e := range edges {
		for i, text := range []string{e.Source, e.Destination, known.of(e.Ports)} {
			if i > 0 {
				w.WriteByte(',')
			}
			if strings.ContainsAny(text, ",\"\r\n") {
				text = `"` + strings.ReplaceAll(text, `"`, `""`) + `"`
			}
			w.WriteString(text)
		}
		w.WriteByte('\n')
	}
}

func asJSON(w *bufio.Writer, edges []Edge, known names) error {
	type edge struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
		Connections string `json:"connections"`
	}
	list := make([]edge, len(edges))
	for i, e := range edges {
		list[i] = edge{e.Source, e.Destination, known.of(e.Ports)}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{"connections": list})
}

// inMarkdown keeps what means something in a table's cell from meaning it.
var inMarkdown = strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "<", "&lt;", ">", "&gt;", "&", "&amp;")

func markdown(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("| source | destination | connections |\n|---|---|---|\n")
	for _, e := range edges {
		fmt.Fprintf(w, "| %s | %s | %s |\n", inMarkdown.Replace(e.Source), inMarkdown.Replace(e.Destination), known.of(e.Ports))
	}
}

// cluster is a namespace of a drawn graph.
type cluster struct {
	namespace string
	names     []string
}

// clusters are the names of the edges by namespace, in order of appearance,
// and a number for every name.
func clusters(edges []Edge) (list []cluster, number map[string]int) {
	number = map[string]int{}
	at := map[string]int{}
	for _, e := range edges {
		for _, name := range []string{e.Source, e.Destination} {
			if _, ok := number[name]; ok {
				continue
			}
			number[name] = len(number)
			g := groupOf(name)
			i, ok := at[g]
			if !ok {
				i = len(list)
				at[g] = i
				list = append(list, cluster{namespace: g})
			}
			list[i].names = append(list[i].names, name)
		}
	}
	return list, number
}

// title is the cluster's name, and short what its members are called inside it.
func (c cluster) title() string {
	if c.namespace == "" {
		return "outside"
	}
	return c.namespace
}

func (c cluster) short(name string) string {
	if c.namespace == "" || name == c.namespace {
		return name
	}
	return name[len(c.namespace)+1:]
}

// inDOT is a quoted string of DOT, where only the quote and the backslash mean anything.
func inDOT(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ").Replace(s) + `"`
}

func dot(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("digraph connectivity {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"monospace\", fontsize=11];\n" +
		"  edge [fontname=\"monospace\", fontsize=9, color=\"#5d6678\"];\n")
	list, _ := clusters(edges)
	for i, c := range list {
		fmt.Fprintf(w, "  subgraph cluster_%d {\n    label=%s; style=rounded; color=\"#a8b2c4\"; fontname=\"sans-serif\";\n", i, inDOT(c.title()))
		for _, name := range c.names {
			fmt.Fprintf(w, "    %s [label=%s];\n", inDOT(name), inDOT(c.short(name)))
		}
		w.WriteString("  }\n")
	}
	for _, e := range edges {
		fmt.Fprintf(w, "  %s -> %s [label=%s];\n", inDOT(e.Source), inDOT(e.Destination), inDOT(known.of(e.Ports)))
	}
	w.WriteString("}\n")
}

// inMermaid writes as a code what would end a quoted string or be read as markup.
var inMermaid = strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n", " ", "\r", " ")

func mermaid(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("graph LR\n")
	list, number := clusters(edges)
	for i, c := range list {
		fmt.Fprintf(w, "  subgraph s%d[\"%s\"]\n", i, inMermaid.Replace(c.title()))
		for _, name := range c.names {
			fmt.Fprintf(w, "    n%d[\"%s\"]\n", number[name], inMermaid.Replace(c.short(name)))
		}
		w.WriteString("  end\n")
	}
	for _, e := range edges {
		fmt.Fprintf(w, "  n%d -->|\"%s\"| n%d\n", number[e.Source], known.of(e.Ports), number[e.Destination])
	}
}
