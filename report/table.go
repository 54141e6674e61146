package report

import (
	"bufio"
	"io"
	"iter"
	"strings"
	"unicode/utf8"
)

const (
	gap       = 2  // columns between two cells
	leastFold = 24 // narrower than this no cell is folded; the others give way
	leastCell = 6  // narrower than this no cell is cut
)

// Table prints rows in columns. With a width, that of a terminal, every line
// fits: the last cell is folded below itself, and if that leaves too little
// the widest other cells are cut in their middle. Cells may be coloured if
// they are not to be cut or folded. The rows are walked twice.
func Table(w io.Writer, width int, header []string, rows iter.Seq[[]string]) error {
	out := bufio.NewWriterSize(w, 64<<10)
	widths := make([]int, len(header))
	measure := func(row []string) {
		for i, c := range row {
			widths[i] = max(widths[i], visible(c))
		}
	}
	measure(header)
	for r := range rows {
		measure(r)
	}
	if width > 0 {
		fit(widths, width)
	} else {
		widths[len(widths)-1] = 0
	}
	writeRow(out, widths, header)
	for r := range rows {
		writeRow(out, widths, r)
	}
	return out.Flush()
}

// fit makes the columns narrow enough for the width.
func fit(widths []int, width int) {
	last := len(widths) - 1
	free := width - gap*last
	for _, w := range widths[:last] {
		free -= w
	}
	for least := min(widths[last], leastFold); free < least; free++ {
		widest := 0
		for i, w := range widths[:last] {
			if w > widths[widest] {
				widest = i
			}
		}
		if widest == last || widths[widest] <= leastCell {
			break
		}
		widths[widest]--
	}
	widths[last] = max(min(widths[last], free), leastCell)
}

// writeRow prints a row; a last column of width 0 is as wide as need be.
func writeRow(w *bufio.Writer, widths []int, row []string) {
	last, indent := len(row)-1, 0
	for i, c := range row[:last] {
		c = cut(c, widths[i])
		w.WriteString(c)
		w.WriteString(strings.Repeat(" ", widths[i]-visible(c)+gap))
		indent += widths[i] + gap
	}
	for i, line := range foldCell(row[last], widths[last]) {
		if i > 0 {
			w.WriteString(strings.Repeat(" ", indent))
		}
		w.WriteString(line)
		w.WriteByte('\n')
	}
}

// cut shortens a text in its middle: names are told by both of their ends.
func cut(s string, width int) string {
	if visible(s) <= width {
		return s
	}
	r := []rune(s)
	tail := (width - 1) / 2
	return string(r[:width-1-tail]) + "…" + string(r[len(r)-tail:])
}

// foldCell breaks a text into lines behind a comma or a space.
func foldCell(s string, width int) []string {
	if width == 0 || visible(s) <= width {
		return []string{s}
	}
	var lines []string
	r := []rune(s)
	for len(r) > width {
		at := width
		for at > 1 && r[at-1] != ',' && r[at-1] != ' ' && r[at] != ' ' {
			at--
		}
		if at == 1 {
			at = width
		}
		lines = append(lines, strings.TrimRight(string(r[:at]), " "))
		r = []rune(strings.TrimLeft(string(r[at:]), " "))
	}
	return append(lines, string(r))
}

// visible is how many columns the text takes, without its colours.
func visible(s string) int {
	n := utf8.RuneCountInString(s)
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return n
		}
		end := strings.IndexByte(s[i:], 'm')
		if end < 0 {
			return n
		}
		n -= end + 1
		s = s[i+end+1:]
	}
}
