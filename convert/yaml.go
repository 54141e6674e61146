package convert

import (
	"bytes"

	"go.yaml.in/yaml/v3"
)

// mapping is a YAML mapping whose keys stay in order.
type mapping []entry

type entry struct {
	key   string
	value any
}

// MarshalYAML makes the mapping a node.
func (m mapping) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range m {
		var key, value yaml.Node
		if err := key.Encode(e.key); err != nil {
			return nil, err
		}
		if err := value.Encode(e.value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, &key, &value)
	}
	return n, nil
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
		if err := enc.Encode(o); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), enc.Close()
}
