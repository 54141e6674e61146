package clusterpolicy

import (
	"regexp"
	"slices"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// most is how many networks or names one peer may have.
const most = 25

// peer reads one item of from or to; each of its networks is a peer of the model.
func (d *decoder) peer(c field.Cursor, egress bool, action model.Action) []model.Peer {
	names := []string{"namespaces", "pods"}
	switch {
	case !egress && onlyAtEgress(c):
		return nil
	case egress && d.names:
		names = append(names, "nodes", "networks", "domainNames")
	case egress:
		names = append(names, "nodes", "networks")
	}
	out := model.Peer{Source: c.Source()}
	switch name, at := one(c, "a peer", names...); name {
	case "namespaces":
		out.Pods = &model.EndpointSelector{Namespaces: selector(at)}
	case "pods":
		pods := d.pods(at)
		out.Pods = &pods
	case "nodes":
		out.Nodes = &model.NodeSelector{Labels: selector(at)}
	case "networks":
		return networks(at)
	case "domainNames":
		out.Names = domainNames(at, action)
	}
	return []model.Peer{out}
}

// onlyAtEgress reports a peer that no ingress rule can have.
func onlyAtEgress(c field.Cursor) bool {
	for _, name := range []string{"nodes", "networks", "domainNames"} {
		if f := c.Field(name); f.Present() {
			f.Error("may only stand in egress rules", "ingress rules have namespaces and pods")
			return true
		}
	}
	return false
}

func networks(c field.Cursor) []model.Peer {
	var out []model.Peer
	for _, i := range set(c) {
		if prefix, ok := field.Prefix(i); ok {
			out = append(out, model.Peer{Block: &model.IPBlock{CIDR: prefix}, Source: i.Source()})
		}
	}
	return out
}

var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

func domainNames(c field.Cursor, action model.Action) []model.NamePattern {
	if action != model.Allow {
		c.Error("may only stand in a rule that accepts", "deny everything in a later rule, and accept what may pass in earlier ones")
	}
	var out []model.NamePattern
	for _, i := range set(c) {
		name := i.String()
		if !domainName.MatchString(name) {
			i.Error("\""+i.Value()+"\" is no domain name", "two labels or more, such as example.com, or *.example.com for all below it")
		}
		out = append(out, model.NamePattern{Syntax: model.NameCluster, Text: name})
	}
	c.Report(model.Warning, "domain names are not enforced yet: no address matches them, and what only they accept is denied", "")
	return out
}

// set is the items of a list in which none may come twice.
func set(c field.Cursor) []field.Cursor {
	items := filled(c, most)
	var seen []string
	for _, i := range items {
		if slices.Contains(seen, i.Value()) {
			i.Error("is in the list twice", "keep one of them")
		}
		seen = append(seen, i.Value())
	}
	return items
}
