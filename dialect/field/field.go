// Package field decodes one object's fields strictly: a [Cursor] walks the YAML
// nodes (JSON is YAML too), and every unknown, doubled or mistyped field
// becomes a Problem with file, line, column, path and hint. All problems are
// collected, none ends the walk. A Cursor belongs to one goroutine.
package field

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/model"
)

// Object is one decoded document: what it says it is, and its nodes.
type Object struct {
	Source model.Source // APIVersion, Kind, Namespace, Name, File and the line it starts at
	Root   *yaml.Node   // the mapping of the object itself
	Above  int          // lines of the file above the text that the nodes count from
}

// Problems collects what a walk finds.
type Problems struct{ List []model.Problem }

// Cursor stands at one node of an object.
type Cursor struct {
	*place
	node *yaml.Node // nil: the field is absent
}

// place is where a cursor stands. There are many, so that what is written out
// of it is put together only when it is asked for.
type place struct {
	object   *object
	parent   *place
	name     string     // of a field
	index    int        // of a list's item; -1 for a field
	position *yaml.Node // nil: the field is absent
	known    []string   // fields of this mapping that somebody asked for
}

type object struct {
	source   model.Source
	above    int
	problems *Problems
}

// Open returns a cursor at the object's root.
func Open(o Object, p *Problems) Cursor {
	return Cursor{&place{object: &object{o.Source, o.Above, p}, position: o.Root}, o.Root}
}

// Present says whether the field was written and is not null.
func (c Cursor) Present() bool { return c.node != nil && c.node.Tag != "!!null" }

// Source is the place of the node; of one that is absent, of what it is absent in.
func (c Cursor) Source() model.Source {
	s := c.object.source
	s.Field = string(c.appendPath(make([]byte, 0, 64), s.Field))
	for p := c.place; p != nil; p = p.parent {
		if n := p.position; n != nil && n.Line > 0 {
			return s.At(s.Field, c.object.above+n.Line, n.Column)
		}
	}
	return s
}

// appendPath writes the way from the object's root: spec.ingress[0].from.
func (p *place) appendPath(b []byte, root string) []byte {
	if p.parent == nil {
		return append(b, root...)
	}
	b = p.parent.appendPath(b, root)
	if p.index >= 0 {
		return append(strconv.AppendInt(append(b, '['), int64(p.index), 10), ']')
	}
	if len(b) > 0 && !strings.HasPrefix(p.name, "[") {
		b = append(b, '.')
	}
	return append(b, p.name...)
}

// Report adds a problem at this node.
func (c Cursor) Report(severity model.Severity, message, hint string) {
	c.object.problems.List = append(c.object.problems.List, model.Problem{Severity: severity, Source: c.Source(), Message: message, Hint: hint})
}

// Error adds a problem of severity Error at this node.
func (c Cursor) Error(message, hint string) { c.Report(model.Error, message, hint) }

func (c Cursor) child(name string, n *yaml.Node) Cursor { return c.below(name, -1, n) }

func (c Cursor) below(name string, index int, n *yaml.Node) Cursor {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return Cursor{&place{object: c.object, parent: c.place, name: name, index: index, position: n}, n}
}

// Field returns the cursor of a field of this mapping, absent or not.
func (c Cursor) Field(name string) Cursor {
	if c.isMapping() {
		c.known = append(c.known, name)
		for i := 0; i+1 < len(c.node.Content); i += 2 {
			if c.node.Content[i].Value == name {
				return c.child(name, c.node.Content[i+1])
			}
		}
	}
	return c.child(name, nil)
}

func (c Cursor) isMapping() bool { return c.node != nil && c.node.Kind == yaml.MappingNode }

// IsMapping says whether the node is a mapping, and reports nothing.
func (c Cursor) IsMapping() bool { return c.isMapping() }

// Mapping says whether the node is a mapping; if it is something else it reports.
func (c Cursor) Mapping() bool {
	if !c.Present() {
		return false
	}
	if !c.isMapping() {
		c.Error("must be an object, not "+c.describe(), "")
		return false
	}
	return true
}

// Done reports every field of the mapping that nobody asked for, and every
// field written twice. It says whether there was none.
func (c Cursor) Done() bool {
	if !c.isMapping() {
		return true
	}
	clean := true
	seen := map[string]bool{}
	for i := 0; i+1 < len(c.node.Content); i += 2 {
		name := c.node.Content[i].Value
		at := c.child(name, c.node.Content[i])
		switch {
		case seen[name]:
			at.Error("field is written twice", "keep one of them")
			clean = false
		case !slices.Contains(c.known, name):
			at.Error("unknown field "+strconv.Quote(name), suggest(name, c.known))
			clean = false
		}
		seen[name] = true
	}
	return clean
}

func suggest(name string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if d := Distance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	sorted := slices.Sorted(slices.Values(known))
	return "known here: " + strings.Join(slices.Compact(sorted), ", ")
}

// Distance is how many letters must be put in, taken out, changed, or swapped
// with their neighbour to make one word of the other.
func Distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := above[j]
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, row[j]+1, above[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// Items returns the cursors of a list; a node that is no list is reported.
func (c Cursor) Items() []Cursor {
	if !c.Present() {
		return nil
	}
	if c.node.Kind != yaml.SequenceNode {
		c.Error("must be a list, not "+c.describe(), "begin each item with '- '")
		return nil
	}
	out := make([]Cursor, len(c.node.Content))
	for i, n := range c.node.Content {
		out[i] = c.below("", i, n)
	}
	return out
}

// Entries calls f with the key and value cursors of a mapping, in order.
func (c Cursor) Entries(f func(key, value Cursor)) {
	if !c.Mapping() {
		return
	}
	for i := 0; i+1 < len(c.node.Content); i += 2 {
		name := c.node.Content[i].Value
		f(c.child(name, c.node.Content[i]), c.child(name, c.node.Content[i+1]))
	}
}

// String is the text of a string node; numbers and booleans are reported, as
// the API server does.
func (c Cursor) String() string {
	if !c.Present() {
		return ""
	}
	if c.node.Kind != yaml.ScalarNode || c.node.Tag != "!!str" && c.node.Tag != "!!timestamp" {
		c.Error("must be a string, not "+c.describe(), "put it in quotes")
		return ""
	}
	return c.node.Value
}

// IsInt says whether the node is written as a whole number.
func (c Cursor) IsInt() bool { return c.Present() && c.node.Tag == "!!int" }

// Int is the value of a whole-number node within the bounds; ok is false if it
// is absent, or something else, which is reported.
func (c Cursor) Int(low, high int) (v int, ok bool) {
	if !c.Present() {
		return 0, false
	}
	v, err := strconv.Atoi(c.node.Value)
	if c.node.Tag != "!!int" || err != nil {
		c.Error("must be a whole number, not "+c.describe(), "")
		return 0, false
	}
	if v < low || v > high {
		c.Error("must be between "+strconv.Itoa(low)+" and "+strconv.Itoa(high)+", not "+c.node.Value, "")
		return 0, false
	}
	return v, true
}

// Bool is the value of a boolean node; anything else is reported.
func (c Cursor) Bool() bool {
	if !c.Present() {
		return false
	}
	if c.node.Tag != "!!bool" {
		c.Error("must be true or false, not "+c.describe(), "")
		return false
	}
	return strings.EqualFold(c.node.Value, "true")
}

// Value is the scalar's text whatever its type, or "".
func (c Cursor) Value() string {
	if c.node == nil || c.node.Kind != yaml.ScalarNode || c.node.Tag == "!!null" {
		return ""
	}
	return c.node.Value
}

// Strings is the list's texts.
func (c Cursor) Strings() []string {
	items := c.Items()
	out := make([]string, 0, len(items))
	for _, i := range items {
		out = append(out, i.String())
	}
	return out
}

// StringMap is a mapping of strings to strings.
func (c Cursor) StringMap() map[string]string {
	if !c.Present() {
		return nil
	}
	out := map[string]string{}
	c.Entries(func(key, value Cursor) { out[key.node.Value] = value.String() })
	return out
}

func (c Cursor) describe() string {
	switch c.node.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch c.node.Tag {
	case "!!int", "!!float":
		return "the number " + c.node.Value
	case "!!bool":
		return "the boolean " + c.node.Value
	case "!!null":
		return "null"
	}
	return strconv.Quote(c.node.Value)
}

// Metadata reads the object's metadata, of which only what policies can see is
// checked. Names are required; def is the namespace of objects without one.
func Metadata(root Cursor) (labels, annotations map[string]string) {
	meta := root.Field("metadata")
	if !meta.Present() {
		meta.Error("is missing", "every object needs metadata.name")
		return nil, nil
	}
	labels = meta.Field("labels").StringMap()
	annotations = meta.Field("annotations").StringMap()
	return labels, annotations
}

// IsList says whether the node is a list.
func (c Cursor) IsList() bool { return c.node != nil && c.node.Kind == yaml.SequenceNode }

// EachNode calls f with every node of a list.
func (c Cursor) EachNode(f func(*yaml.Node)) {
	if !c.IsList() {
		return
	}
	for _, n := range c.node.Content {
		f(n)
	}
}
