package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/model"
)

// DiffFormats lists the formats of Diff.
var DiffFormats = []string{"table", "json", "md"}

// Diff prints what differs in one of the DiffFormats; a table fits the width,
// if that is not 0.
func Diff(w io.Writer, width int, format string, d *diff.Diff) error {
	switch format {
	case "table":
		return diffTable(w, width, d)
	case "json":
		return diffJSON(w, d)
	case "md":
		return diffMarkdown(w, d)
	}
	return fmt.Errorf("unknown format %q: one of %s", format, strings.Join(DiffFormats, ", "))
}

// portTexts remembers the text of port sets: many changes share one.
type portTexts map[*model.Interval]string

func (t portTexts) of(c diff.Change) string {
	text, ok := t[&c.Ports[0]]
	if !ok {
		text = c.Ports.String()
		if but := "All but " + model.AllPorts().Subtract(c.Ports).String(); len(but) < len(text) && text != "All" {
			text = but
		}
		t[&c.Ports[0]] = text
	}
	if c.Family != diff.AnyFamily {
		return fmt.Sprintf("%s (IPv%d only)", text, c.Family)
	}
	return text
}

// changeWords names the steps between two levels.
var changeWords = map[[2]diff.Level]string{
	{diff.Shut, diff.Open}:        "opens",
	{diff.Shut, diff.Conditional}: "opens to the proxy",
	{diff.Conditional, diff.Open}: "opens beyond the proxy",
	{diff.Open, diff.Shut}:        "closes",
	{diff.Open, diff.Conditional}: "closes but to the proxy",
	{diff.Conditional, diff.Shut}: "closes to the proxy",
}

func diffRows(d *diff.Diff) func(yield func([]string) bool) {
	texts := portTexts{}
	return func(yield func([]string) bool) {
		for _, c := range d.Changes {
			if !yield([]string{changeWords[[2]diff.Level{c.Was, c.Is}], c.From.Name, c.To.Name, texts.of(c)}) {
				return
			}
		}
	}
}

func diffTable(w io.Writer, width int, d *diff.Diff) error {
	if len(d.Changes) > 0 {
		if err := Table(w, width, []string{"CHANGE", "SOURCE", "DESTINATION", "CONNECTIONS"}, diffRows(d)); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		words string
		names []string
	}{{"only on the old side, not compared", d.Removed}, {"only on the new side, not compared", d.Added}} {
		if len(list.names) > 0 {
			fmt.Fprintf(w, "%s: %s\n", list.words, shortList(list.names))
		}
	}
	_, err := fmt.Fprintln(w, conclusion(d))
	return err
}

// mostNames is how many names a line lists.
const mostNames = 8

func shortList(names []string) string {
	if n := len(names) - mostNames; n > 0 {
		return strings.Join(names[:mostNames], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ")
}

func conclusion(d *diff.Diff) string {
	pods := fmt.Sprintf("%d pods compared", d.Compared)
	return map[diff.Relation]string{
		diff.Equivalent: "equivalent: no connection differs",
		diff.Wider:      "the new side lets everything pass that the old one does, and more",
		diff.Narrower:   "the new side lets nothing pass that the old one does not, and less",
		diff.Different:  "each side lets something pass that the other one does not",
	}[d.Relation()] + "; " + pods
}

// Difference is a comparison in the form of `diff -o json`.
type Difference struct {
	Relation     diff.Relation  `json:"relation"`
	Opens        []ChangedFlows `json:"opens"`
	Closes       []ChangedFlows `json:"closes"`
	Removed      []string       `json:"removed"`
	Added        []string       `json:"added"`
	ComparedPods int            `json:"comparedPods"`
}

// ChangedFlows is connections of a Difference.
type ChangedFlows struct {
	Source      string      `json:"source"`
	Destination string      `json:"destination"`
	Connections string      `json:"connections"`
	Was         diff.Level  `json:"was"`
	Is          diff.Level  `json:"is"`
	Family      diff.Family `json:"family,omitempty"` // 4 or 6; left out: all
}

// NewDifference puts a comparison into words. Nothing is an empty list.
func NewDifference(d *diff.Diff) Difference {
	out := Difference{
		Relation: d.Relation(), Opens: []ChangedFlows{}, Closes: []ChangedFlows{},
		Removed: append([]string{}, d.Removed...), Added: append([]string{}, d.Added...), ComparedPods: d.Compared,
	}
	for _, c := range d.Changes {
		x := ChangedFlows{c.From.Name, c.To.Name, c.Ports.String(), c.Was, c.Is, c.Family}
		if c.Opens() {
			out.Opens = append(out.Opens, x)
		} else {
			out.Closes = append(out.Closes, x)
		}
	}
	return out
}

func diffJSON(w io.Writer, d *diff.Diff) error {
	buffered := bufio.NewWriter(w)
	enc := json.NewEncoder(buffered)
	enc.SetIndent("", "  ")
	if err := enc.Encode(NewDifference(d)); err != nil {
		return err
	}
	return buffered.Flush()
}

func diffMarkdown(w io.Writer, d *diff.Diff) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s.\n", conclusion(d))
	if len(d.Changes) > 0 {
		out.WriteString("\n| change | source | destination | connections |\n|---|---|---|---|\n")
		diffRows(d)(func(row []string) bool {
			fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
			return true
		})
	}
	for _, list := range []struct {
		words string
		names []string
	}{{"Only on the old side", d.Removed}, {"Only on the new side", d.Added}} {
		if len(list.names) > 0 {
			fmt.Fprintf(out, "\n%s: %s.\n", list.words, strings.Join(list.names, ", "))
		}
	}
	return out.Flush()
}
