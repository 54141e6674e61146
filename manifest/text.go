package manifest

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"go.yaml.in/yaml/v3"
)

// text is one document of a stream, from its "---" on, and how many lines
// stand above it.
type text struct {
	body  []byte
	above int
}

// odd is what makes a stream more than documents with "---" between them and
// lines that end in "\n", or may do so.
var odd = [][]byte{[]byte("\n%"), []byte("\n..."), []byte("\u0085"), []byte("\u2028"), []byte("\u2029"), []byte("\ufeff"), {0}}

// divide divides a stream into its documents. No text in a document can have a
// line that begins with the mark. It is nil where a parser has to find them.
func divide(stream []byte) []text {
	if bytes.HasPrefix(stream, []byte("%")) || bytes.HasPrefix(stream, []byte("...")) || bytes.Count(stream, []byte("\r")) != bytes.Count(stream, []byte("\r\n")) {
		return nil
	}
	for _, mark := range odd {
		if bytes.Contains(stream, mark) {
			return nil
		}
	}
	var out []text
	mark := []byte("\n---")
	for above := 0; ; {
		n, after := 0, bytes.Index(stream, mark)
		for after >= 0 && !blank(stream[after+len(mark):]) {
			next := bytes.Index(stream[after+1:], mark)
			if next >= 0 {
				next += after + 1
			}
			after = next
		}
		if n = after + 1; after < 0 {
			n = len(stream)
		}
		out = append(out, text{stream[:n:n], above})
		if after < 0 {
			return out
		}
		above += bytes.Count(stream[:n], mark[:1])
		stream = stream[n:]
	}
}

func blank(b []byte) bool {
	return len(b) == 0 || b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n'
}

// Common is for inputs that are read at the same time and have documents in
// common: what is written in both is parsed once. Its methods may be called
// from several goroutines.
type Common struct {
	inputs int
	mu     sync.Mutex
	parsed map[string]*parsed
	order  []string // of parsed, oldest first
}

// NewCommon is for so many inputs.
func NewCommon(inputs int) *Common { return &Common{inputs: inputs, parsed: map[string]*parsed{}} }

// mostCommon bounds the documents that wait for another input to come to them.
const mostCommon = 4096

// parsed is a document that somebody parses, or has parsed. The node is nobody's
// to change.
type parsed struct {
	text
	claimed atomic.Bool
	done    chan struct{}
	taken   int
	node    *yaml.Node
	err     error
}

// of finds or makes the place of the document.
func (c *Common) of(t text) *parsed {
	if c == nil {
		return &parsed{text: t, done: make(chan struct{})}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parsed[string(t.body)]
	if p == nil {
		p = &parsed{text: t, done: make(chan struct{})}
		key := string(t.body)
		c.parsed[key] = p
		c.order = append(c.order, key)
		if len(c.order) > mostCommon {
			delete(c.parsed, c.order[0])
			c.order = c.order[1:]
		}
	}
	if p.taken++; p.taken == c.inputs {
		delete(c.parsed, string(t.body))
	}
	return p
}

// parseAll parses those of the batch that nobody has begun with.
func parseAll(batch []*parsed) {
	for _, p := range batch {
		if p.claimed.CompareAndSwap(false, true) {
			p.node, p.err = one(p.body)
			close(p.done)
		}
	}
}

var errSeveral = errors.New("more than one document")

// one parses the only document of the text; a text without any has no node.
func one(b []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var n, rest yaml.Node
	if err := d.Decode(&n); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(&rest); err == nil {
		return nil, errSeveral
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &n, nil
}

// batchSize is how many documents are parsed, on two cores, before they are
// decoded, while the next ones are parsed.
const batchSize = 64

// batches calls f with the documents in order, until it says that it is enough.
func batches(c *Common, texts []text, f func(above int, n *yaml.Node, err error) bool) {
	begin := func() (batch []*parsed, helper chan struct{}) {
		n := min(len(texts), batchSize)
		for _, t := range texts[:n] {
			batch = append(batch, c.of(t))
		}
		texts = texts[n:]
		helper = make(chan struct{})
		go func() { parseAll(batch); close(helper) }()
		return batch, helper
	}
	at := 0
	all := texts
	batch, helper := begin()
	for len(batch) > 0 {
		parseAll(batch)
		<-helper
		next, nextHelper := begin()
		for _, p := range batch {
			<-p.done
			if !f(all[at].above, p.node, p.err) {
				<-nextHelper
				return
			}
			at++
		}
		batch, helper = next, nextHelper
	}
	<-helper
}
