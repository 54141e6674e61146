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

// Formats lists the formats of Matrix.
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

// Matrix prints the edges, which are sorted, in one of the Formats.
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
	case "html":
		return Grid{Edges: edges}.HTML(w)
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
		text := known.of(e.Ports)
		w.WriteString(e.Source)
		w.WriteByte(',')
		w.WriteString(e.Destination)
		w.WriteByte(',')
		if strings.ContainsRune(text, ',') {
			w.WriteByte('"')
			w.WriteString(text)
			w.WriteByte('"')
		} else {
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

func markdown(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("| source | destination | connections |\n|---|---|---|\n")
	for _, e := range edges {
		fmt.Fprintf(w, "| %s | %s | %s |\n", e.Source, e.Destination, known.of(e.Ports))
	}
}

func dot(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("digraph connectivity {\n  rankdir=LR;\n  node [shape=box];\n")
	for _, e := range edges {
		fmt.Fprintf(w, "  %q -> %q [label=%q];\n", e.Source, e.Destination, known.of(e.Ports))
	}
	w.WriteString("}\n")
}

func mermaid(w *bufio.Writer, edges []Edge, known names) {
	w.WriteString("graph LR\n")
	ids := map[string]string{}
	id := func(name string) string {
		if s, ok := ids[name]; ok {
			return s
		}
		s := fmt.Sprintf("n%d", len(ids))
		ids[name] = s
		fmt.Fprintf(w, "  %s[\"%s\"]\n", s, name)
		return s
	}
	for _, e := range edges {
		a, b := id(e.Source), id(e.Destination)
		fmt.Fprintf(w, "  %s -->|\"%s\"| %s\n", a, known.of(e.Ports), b)
	}
}
