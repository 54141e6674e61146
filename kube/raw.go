package kube

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// ranges is what one IPAM object says of the pods' addresses.
type ranges struct {
	list     []netip.Prefix
	problems []model.Problem
}

// object is the object as package dialect reads it.
func object(p *pool, o *unstructured.Unstructured) field.Object {
	o.SetManagedFields(nil) // it is of no use, and large
	return field.Object{Source: sourceOf(p, p.string(o.GetAPIVersion()), p.string(o.GetKind()), o), Root: node2yaml(o.Object)}
}

// trimIPPool reads a Calico IPPool. Pods may have addresses of a disabled pool.
func trimIPPool(p *pool, o *unstructured.Unstructured) *ranges {
	return readRanges(p, o, []string{"spec", "cidr"})
}

// trimCiliumNode reads the ranges that Cilium's IPAM gave to a node.
func trimCiliumNode(p *pool, o *unstructured.Unstructured) *ranges {
	return readRanges(p, o, []string{"spec", "ipam", "podCIDRs"}, []string{"spec", "ipam", "pools", "allocated", "cidrs"})
}

// readRanges reads the CIDRs at the paths; lists on the way mean each item.
func readRanges(p *pool, o *unstructured.Unstructured, paths ...[]string) *ranges {
	out := &ranges{}
	problems := &field.Problems{}
	root := field.Open(object(p, o), problems)
	for _, path := range paths {
		for _, c := range follow(root, path) {
			prefix, err := netip.ParsePrefix(c.Value())
			if err != nil {
				c.Error(strconv.Quote(c.Value())+" is no CIDR: addresses of pods in it that nobody has any more are not closed", "such as 10.0.0.0/8 or 2001:db8::/32")
				continue
			}
			out.list = append(out.list, prefix.Masked())
		}
	}
	out.problems = problems.List
	return out
}

func follow(c field.Cursor, path []string) []field.Cursor {
	var out []field.Cursor
	switch {
	case c.IsList():
		for _, i := range c.Items() {
			out = append(out, follow(i, path)...)
		}
	case len(path) > 0:
		out = follow(c.Field(path[0]), path[1:])
	case c.Present():
		out = append(out, c)
	}
	return out
}

// node2yaml makes YAML nodes of decoded JSON, without places: the object was
// never a file.
func node2yaml(v any) *yaml.Node {
	scalar := func(tag, value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value} }
	switch v := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, scalar("!!str", k), node2yaml(v[k]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			n.Content = append(n.Content, node2yaml(item))
		}
		return n
	case string:
		return scalar("!!str", v)
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case int64:
		return scalar("!!int", strconv.FormatInt(v, 10))
	case float64:
		return scalar("!!float", strconv.FormatFloat(v, 'g', -1, 64))
	}
	return scalar("!!null", "")
}
