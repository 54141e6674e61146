package lint

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// unlabelled is the name of the imagined pod without labels that every
// namespace has. No pod can be called so.
const unlabelled = "~"

// imagine adds pods to the cluster that its policies speak of and that may
// come any day: one for each selector, with the labels that it asks for and no
// others, and one without labels in each namespace. What is superfluous for
// them, too, is so for more reasons than today's pods.
func imagine(c *model.Cluster) *model.Cluster {
	out := *c
	im := &imaginer{cluster: c, seen: map[string]bool{}, namespaces: map[string]map[string]string{}, taken: map[netip.Addr]bool{}}
	for _, n := range c.Namespaces {
		im.namespaces[n.Name] = n.Labels
	}
	for i := range c.Endpoints {
		for _, a := range c.Endpoints[i].IPs {
			im.taken[a] = true
		}
	}
	im.names(c.Policies)
	im.next = im.free()
	for _, n := range c.Namespaces {
		im.add(n.Name, nil)
	}
	for _, p := range c.Policies {
		im.selector(&p.Subject)
		for _, d := range directions {
			s := p.Section(d)
			for i := 0; s != nil && i < len(s.Rules); i++ {
				for j := range s.Rules[i].Peers {
					if pods := s.Rules[i].Peers[j].Pods; pods != nil {
						im.selector(pods)
					}
				}
			}
		}
	}
	out.Endpoints = append(slices.Clone(c.Endpoints), im.pods...)
	out.Namespaces = append(slices.Clone(c.Namespaces), im.added...)
	return &out
}

type imaginer struct {
	cluster    *model.Cluster
	namespaces map[string]map[string]string // labels
	added      []model.Namespace
	pods       []model.Endpoint
	seen       map[string]bool
	ports      []model.ContainerPort // every name that a rule asks for, with a number of its own
	next       netip.Addr
	taken      map[netip.Addr]bool
}

// names gives every port name that rules use a number that no rule names, so
// that names and numbers are not taken for one another.
func (im *imaginer) names(policies []*model.Policy) {
	for _, p := range policies {
		for _, d := range directions {
			s := p.Section(d)
			for i := 0; s != nil && i < len(s.Rules); i++ {
				for _, port := range s.Rules[i].Ports {
					im.name(port)
				}
			}
		}
	}
}

func (im *imaginer) name(p model.Port) {
	known := func(c model.ContainerPort) bool { return c.Name == p.Name && c.Protocol == p.Protocol }
	if p.Name != "" && !slices.ContainsFunc(im.ports, known) {
		im.ports = append(im.ports, model.ContainerPort{Name: p.Name, Protocol: p.Protocol, Number: uint16(45_001 + len(im.ports)%20_000)})
	}
}

// free is an address from which on downwards no pod has one.
func (im *imaginer) free() netip.Addr {
	a := netip.MustParseAddr("100.127.255.254")
	if len(im.cluster.PodRanges) > 0 {
		a = model.LastAddr(im.cluster.PodRanges[0])
	}
	return a
}

// selector adds pods that the selector selects.
func (im *imaginer) selector(s *model.EndpointSelector) {
	for _, namespace := range im.namespacesOf(s) {
		for _, labels := range satisfying(s.Pods) {
			im.add(namespace, labels)
		}
	}
}

// namespacesOf lists a namespace that the selector matches today, and one that
// has the labels it asks for and no others.
func (im *imaginer) namespacesOf(s *model.EndpointSelector) []string {
	if s.Namespace != "" {
		return []string{s.Namespace}
	}
	var out []string
	for _, n := range im.cluster.Namespaces {
		if s.Namespaces.Matches(n.Labels) {
			out = append(out, n.Name)
			break
		}
	}
	for _, labels := range satisfying(s.Namespaces) {
		out = append(out, im.namespace(labels))
	}
	return out
}

// namespace makes a namespace with the labels, or finds the one that they name.
func (im *imaginer) namespace(labels map[string]string) string {
	name, ok := labels[model.MetadataName]
	if !ok {
		name = unlabelled + describe(labels)
	}
	if im.namespaces[name] == nil {
		labels = maps.Clone(labels)
		labels[model.MetadataName] = name
		im.namespaces[name] = labels
		im.added = append(im.added, model.Namespace{Name: name, Labels: labels})
	}
	return name
}

func describe(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%q=%q", k, labels[k])
	}
	return b.String()
}

// add adds a pod; what a selector asks beside labels is given as labels are.
func (im *imaginer) add(namespace string, asked map[string]string) {
	if v, ok := asked[model.NamespaceName]; ok && v != namespace {
		namespace = v
	}
	name := unlabelled + describe(asked)
	if im.seen[namespace+"/"+name] {
		return
	}
	im.seen[namespace+"/"+name] = true
	e := model.Endpoint{Namespace: namespace, Name: name, Labels: map[string]string{}, ServiceAccount: asked[model.AccountName], Ports: im.ports}
	e.Workload = model.Workload{Kind: "Pod", Name: e.Name}
	for k, v := range asked {
		if k[0] != model.Implied {
			e.Labels[k] = v
		}
	}
	if len(im.cluster.Nodes) > 0 {
		e.Node = im.cluster.Nodes[0].Name
	}
	for im.taken[im.next] {
		im.next = im.next.Prev()
	}
	e.IPs = []netip.Addr{im.next}
	im.next = im.next.Prev()
	im.pods = append(im.pods, e)
}

// mostAlternatives bounds the pods that stand for one selector.
const mostAlternatives = 8

// satisfying lists sets of labels that satisfy the selector, as far as they
// can be told from its parts.
func satisfying(s model.Selector) []map[string]string {
	switch s.Op {
	case model.SelectNone:
		return nil
	case model.SelectIn, model.SelectPrefix, model.SelectSuffix, model.SelectContains:
		var out []map[string]string
		for _, v := range s.Values[:min(len(s.Values), mostAlternatives)] {
			out = append(out, map[string]string{s.Key: v})
		}
		return out
	case model.SelectExists:
		return []map[string]string{{s.Key: ""}}
	case model.SelectOr:
		var out []map[string]string
		for _, a := range s.Args {
			out = append(out, satisfying(a)...)
		}
		return out[:min(len(out), mostAlternatives)]
	case model.SelectAnd:
		out := []map[string]string{{}}
		for _, a := range s.Args {
			out = both(out, satisfying(a))
		}
		return out
	}
	return []map[string]string{{}} // asks for labels that are not there
}

// both joins each set of the one list with each of the other.
func both(a, b []map[string]string) []map[string]string {
	var out []map[string]string
	for _, x := range a {
		for _, y := range b {
			if len(out) == mostAlternatives {
				return out
			}
			z := maps.Clone(x)
			maps.Copy(z, y)
			out = append(out, z)
		}
	}
	return out
}
