package convert

import (
	"bytes"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// mapping is a YAML mapping whose keys stay in order.
type mapping []entry

type entry struct {
	key   string
	value any
}

// node is the value as YAML has it. Values are mappings, lists of them or of
// strings, strings, and numbers.
func node(v any) *yaml.Node {
	switch v := v.(type) {
	case mapping:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, e := range v {
			n.Content = append(n.Content, node(e.key), node(e.value))
		}
		if len(v) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case []mapping:
		return sequence(v)
	case []string:
		return sequence(v)
	case []any:
		return sequence(v)
	case string:
		return text(v)
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(v)}
}

func sequence[T any](list []T) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, v := range list {
		n.Content = append(n.Content, node(v))
	}
	return n
}

// misread are strings that older readers of YAML take for booleans or for
// numbers to the base of 60.
var misread = regexp.MustCompile(`^(?i:y|yes|n|no|on|off|[-+]?[0-9][0-9_]*(:[0-9]+)+)$`)

func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if misread.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// with is the mapping with one more entry.
func (m mapping) with(key string, value any) mapping { return append(m, entry{key, value}) }

// encode writes the objects as one stream of documents.
func encode(objects []mapping) ([]byte, error) {
	var out bytes.Buffer
	if len(objects) == 0 {
		return nil, nil
	}
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, o := range objects {
		if err := enc.Encode(node(o)); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), enc.Close()
}
