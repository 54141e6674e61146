package scenarios

import (
	"fmt"
	"strings"
)

// Block is what stands between two fences of a Markdown document.
type Block struct {
	Text  string // ends in a newline
	Start int    // where the text begins in the document
}

// Fenced lists the document's blocks of the language, such as txtar. Examples
// of documents are run: that is what this is for.
func Fenced(document, language string) ([]Block, error) {
	opening := "\n```" + language + "\n"
	var out []Block
	for at := 0; ; {
		i := strings.Index(document[at:], opening)
		if i < 0 {
			return out, nil
		}
		start := at + i + len(opening)
		text, _, ok := strings.Cut(document[start:], "\n```\n")
		if !ok {
			return nil, fmt.Errorf("block %d of %s has no end", len(out), language)
		}
		out = append(out, Block{Text: text + "\n", Start: start})
		at = start + len(text)
	}
}
