package lint

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// shape is pods with the same labels in one namespace: what a selector can see
// of them, seen once. The pod is one of them.
type shape struct {
	*model.Endpoint
	namespace map[string]string // labels
}

// shapesOf lists the shapes, in the order of the pods.
func shapesOf(c *model.Cluster) []shape {
	type key struct {
		namespace string
		labels    uintptr
		host      bool
	}
	labels := map[string]map[string]string{}
	for _, n := range c.Namespaces {
		labels[n.Name] = n.Labels
	}
	seen := map[key]bool{}
	var out []shape
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		k := key{e.Namespace, reflect.ValueOf(e.Labels).Pointer(), e.HostNetwork}
		if seen[k] && len(e.Labels) > 0 {
			continue
		}
		seen[k] = true
		s := shape{Endpoint: e, namespace: labels[e.Namespace]}
		if s.namespace == nil {
			s.namespace = map[string]string{model.MetadataName: e.Namespace}
		}
		out = append(out, s)
	}
	return out
}

// fits says whether the selector would select the pod, were it not on its
// node's network. It knows labels only, and what is implied of namespaces.
func (r *run) fits(s *model.EndpointSelector, p shape) bool {
	return (s.Namespace == "" || s.Namespace == p.Namespace) && s.Namespaces.Matches(p.namespace) && s.Pods.Match(p.label)
}

// label is a label of the pod, or what is implied of it by its namespace.
func (p shape) label(key string) (string, bool) {
	if key[0] != model.Implied {
		v, ok := p.Labels[key]
		return v, ok
	}
	switch {
	case key == model.NamespaceName:
		return p.Namespace, true
	case key == model.AccountName:
		return p.ServiceAccount, true
	case key == model.PodName:
		return p.Name, true
	case len(key) > len(model.NamespaceLabels) && key[:len(model.NamespaceLabels)] == model.NamespaceLabels:
		v, ok := p.namespace[key[len(model.NamespaceLabels):]]
		return v, ok
	}
	return "", false
}

// addressIndex is addresses, sorted, with whose they are.
type addressIndex []addressOf

type addressOf struct {
	netip.Addr
	name string
}

func podAddresses(c *model.Cluster) addressIndex {
	var out addressIndex
	for i := range c.Endpoints {
		if e := &c.Endpoints[i]; !e.HostNetwork {
			for _, a := range e.IPs {
				out = append(out, addressOf{a, e.Key()})
			}
		}
	}
	return out.sorted()
}

func nodeAddresses(c *model.Cluster) addressIndex {
	var out addressIndex
	for _, n := range c.Nodes {
		for _, a := range n.IPs {
			out = append(out, addressOf{a, n.Name})
		}
	}
	return out.sorted()
}

func serviceAddresses(c *model.Cluster) addressIndex {
	var out addressIndex
	for i := range c.Services {
		for _, a := range c.Services[i].ClusterIPs {
			out = append(out, addressOf{a, c.Services[i].Key()})
		}
	}
	return out.sorted()
}

func (x addressIndex) sorted() addressIndex {
	slices.SortFunc(x, func(a, b addressOf) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.name, b.name)) })
	return x
}

// in counts the addresses in the block and names a few of their owners.
func (x addressIndex) in(b *model.IPBlock) (count int, names []string) {
	i, _ := slices.BinarySearchFunc(x, b.CIDR.Addr(), func(a addressOf, t netip.Addr) int { return a.Compare(t) })
	for ; i < len(x) && b.CIDR.Contains(x[i].Addr); i++ {
		if !b.Contains(x[i].Addr) {
			continue
		}
		count++
		if len(names) <= mostNames+1 {
			names = append(names, x[i].name)
		}
	}
	return count, names
}

// party is the pod as one end of a connection.
func party(e *model.Endpoint) engine.Party { return engine.Party{Endpoint: e} }
