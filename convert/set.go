package convert

import (
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// setPeers is the prefixes of the address sets that the selector selects, as
// they are now.
func (c *converter) setPeers(s *model.SetSelector) []peer {
	var out []peer
	for i := range c.cluster.Sets {
		set := &c.cluster.Sets[i]
		if !c.selectsSet(s, set) {
			continue
		}
		c.omit(set.Source, "its addresses are written into the policies that select it, as they are now")
		for _, b := range set.Blocks {
			out = append(out, peer{kind: block, block: model.IPBlock{CIDR: b}})
		}
	}
	return out
}

func (c *converter) selectsSet(s *model.SetSelector, set *model.AddressSet) bool {
	switch {
	case s.Family != set.Family, s.Name != "" && s.Name != set.Name, s.Namespace != "" && s.Namespace != set.Namespace,
		s.Namespaced && set.Namespace == "", s.Global && set.Namespace != "":
		return false
	case s.Namespaces.Op != model.SelectAll && set.Namespace == "":
		return false
	}
	labels := c.namespaceLabels(set.Namespace)
	return s.Namespaces.Matches(labels) && s.Labels.Match(func(key string) (string, bool) {
		if key == model.NamespaceName {
			return set.Namespace, set.Namespace != ""
		}
		if label, ok := strings.CutPrefix(key, model.NamespaceLabels); ok {
			v, ok := labels[label]
			return v, ok && set.Namespace != ""
		}
		v, ok := set.Labels[key]
		return v, ok
	})
}

func (c *converter) namespaceLabels(name string) map[string]string {
	for i := range c.cluster.Namespaces {
		if c.cluster.Namespaces[i].Name == name {
			return c.cluster.Namespaces[i].Labels
		}
	}
	return map[string]string{model.MetadataName: name}
}
