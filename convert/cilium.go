package convert

import (
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Labels that Cilium has of pods beside their own.
const (
	ciliumNamespace       = "io.kubernetes.pod.namespace"
	ciliumNamespaceLabels = "io.cilium.k8s.namespace.labels."
	ciliumAccount         = "io.cilium.k8s.policy.serviceaccount"
)

// mostCiliumPorts is how many ports an entry of toPorts may list.
const mostCiliumPorts = 40

// cilium writes a unit as a CiliumNetworkPolicy, or a clusterwide one where it
// is not about one namespace.
func (c *converter) cilium(u *unit) {
	namespace, rest := u.subject.namespaceOf()
	kind, name := "CiliumNetworkPolicy", u.policy.Source.Name
	if namespace == "" {
		kind, name = "CiliumClusterwideNetworkPolicy", u.global()
	}
	selector, ok := ciliumSelector(rest)
	if !ok {
		c.omit(u.policy.Source, "whom it selects has no selector in Cilium: every pod that it may mean is closed")
		selector = mapping{}
	}
	spec := mapping{{"endpointSelector", selector}}
	for _, d := range directions {
		if u.sections[d] == nil {
			continue
		}
		items := []mapping{}
		if ok {
			items = c.ciliumItems(u.rules(d), d, namespace)
		}
		if len(items) == 0 {
			items = []mapping{{}} // isolates, and matches nothing
		}
		spec = spec.with(d.String(), items)
	}
	c.add("cilium.io/v2", kind, namespace, name, spec)
}

// ciliumSelector writes conditions with Cilium's names for what is implied.
func ciliumSelector(c clause) (mapping, bool) {
	var out clause
	for _, s := range c {
		key := keyOf(s)
		switch {
		case key == model.NamespaceName:
			s = rekeyed(s, ciliumNamespace)
		case key == model.AccountName:
			s = rekeyed(s, ciliumAccount)
		case strings.HasPrefix(key, model.NamespaceLabels):
			s = rekeyed(s, ciliumNamespaceLabels+strings.TrimPrefix(key, model.NamespaceLabels))
		case key[0] == model.Implied:
			return nil, false
		}
		out = append(out, s)
	}
	return labelSelector(out)
}

func (c *converter) ciliumItems(rules []rule, d model.Direction, namespace string) []mapping {
	out := []mapping{}
	for _, r := range rules {
		l4 := c.ciliumPorts(r)
		if !r.ports.any && len(l4) == 0 {
			continue
		}
		for _, l3 := range c.ciliumPeers(r, d, namespace) {
			if len(l4) == 0 {
				out = append(out, l3)
			}
			for _, p := range l4 {
				out = append(out, slices.Concat(l3, p))
			}
		}
	}
	return out
}

// ciliumPeers writes the peers of a rule as beginnings of items, of one kind each.
func (c *converter) ciliumPeers(r rule, d model.Direction, namespace string) []mapping {
	word := map[model.Direction]string{model.Ingress: "from", model.Egress: "to"}[d]
	if slices.ContainsFunc(r.peers, func(p peer) bool { return p.kind == anyone }) {
		if r.ports.any {
			return []mapping{{{word + "Entities", []string{"all"}}}}
		}
		return []mapping{{}}
	}
	var endpoints, blocks, nodeSelectors []mapping
	var entities []string
	addEntities := func(names ...string) {
		for _, n := range names {
			if !slices.Contains(entities, n) {
				entities = append(entities, n)
			}
		}
	}
	for _, p := range r.peers {
		switch p.kind {
		case pods:
			endpoints = append(endpoints, c.ciliumEndpoint(p, namespace)...)
		case nodes:
			names, selector := c.ciliumNodes(p)
			addEntities(names...)
			nodeSelectors = append(nodeSelectors, selector...)
		default:
			parts, ok := c.facts.parts(p)
			if !ok {
				c.omit(p.source, "a CIDR of Cilium matches no pod and no node, and some of them are in "+p.block.String()+": they are left out")
			}
			for _, part := range parts {
				switch part.kind {
				case outside:
					blocks = append(blocks, ciliumBlock(part.block))
				case pods:
					endpoints = append(endpoints, c.ciliumEndpoint(part, namespace)...)
				case nodes:
					addEntities("host", "remote-node")
				}
			}
		}
	}
	var out []mapping
	for _, m := range []struct {
		field string
		list  []mapping
	}{{"Endpoints", endpoints}, {"CIDRSet", blocks}, {"Nodes", nodeSelectors}} {
		if len(m.list) > 0 {
			out = append(out, mapping{{word + m.field, m.list}})
		}
	}
	if len(entities) > 0 {
		out = append(out, mapping{{word + "Entities", entities}})
	}
	return out
}

// ciliumEndpoint writes pods. Without a word about the namespace they would be
// those of the policy's.
func (c *converter) ciliumEndpoint(p peer, own string) []mapping {
	mentions := func(s model.Selector) bool {
		return keyOf(s) == model.NamespaceName || strings.HasPrefix(keyOf(s), model.NamespaceLabels)
	}
	conditions := p.pods
	name, rest := conditions.namespaceOf()
	switch {
	case name != "" && name == own && !slices.ContainsFunc(rest, mentions):
		conditions = rest
	case !slices.ContainsFunc(conditions, mentions):
		conditions = append(slices.Clone(conditions), model.Selector{Op: model.SelectExists, Key: model.NamespaceName})
	}
	m, ok := ciliumSelector(conditions)
	if !ok {
		c.omit(p.source, "the pods that it means have no selector in Cilium: it is left out")
		return nil
	}
	return []mapping{m}
}

func (c *converter) ciliumNodes(p peer) (entities []string, selectors []mapping) {
	names := map[model.Which][]string{model.AnyNode: {"host", "remote-node"}, model.OwnNode: {"host"}, model.OtherNode: {"remote-node"}}
	if p.nodes.Labels.Op == model.SelectAll {
		return names[p.nodes.Which], nil
	}
	list, ok := clausesOf(p.nodes.Labels)
	if p.nodes.Which != model.OtherNode || !ok {
		c.omit(p.source, "Cilium selects other nodes than a pod's own by labels, and those by simple ones: it is left out")
		return nil, nil
	}
	for _, x := range list {
		if m, ok := labelSelector(x); ok {
			selectors = append(selectors, m)
		} else {
			c.omit(p.source, "the nodes that it means have no selector in Cilium: it is left out")
		}
	}
	return nil, selectors
}

func ciliumBlock(b model.IPBlock) mapping {
	m := mapping{{"cidr", b.CIDR.String()}}
	if len(b.Except) > 0 {
		m = m.with("except", texts(b.Except))
	}
	return m
}

// ciliumPorts writes the ports of a rule as ends of items: those with ports,
// and those of ICMP. None is all.
func (c *converter) ciliumPorts(r rule) []mapping {
	var services rule
	services.source = r.source
	var icmp []mapping
	for _, p := range r.ports.list {
		if m, ok := ciliumICMP(p); ok {
			icmp = append(icmp, m)
		} else {
			services.ports.list = append(services.ports.list, p)
		}
	}
	var list []mapping
	for _, p := range c.servicePorts(services) {
		list = append(list, ciliumPort(p))
	}
	var out []mapping
	if len(list) > 0 {
		out = append(out, mapping{{"toPorts", chunks("ports", list)}})
	}
	if len(icmp) > 0 {
		out = append(out, mapping{{"icmps", chunks("fields", icmp)}})
	}
	return out
}

func chunks(field string, list []mapping) []mapping {
	var out []mapping
	for part := range slices.Chunk(list, mostCiliumPorts) {
		out = append(out, mapping{{field, part}})
	}
	return out
}

func ciliumPort(p model.Port) mapping {
	port, protocol := "0", p.Protocol.String()
	switch {
	case p.Name != "":
		port = p.Name
	case !full(p):
		port = strconv.Itoa(int(max(p.First, 1)))
	}
	m := mapping{{"port", port}, {"protocol", protocol}}
	if p.Name == "" && !full(p) && p.Last > max(p.First, 1) {
		m = mapping{{"port", port}, {"endPort", int(p.Last)}, {"protocol", protocol}}
	}
	return m
}

// ciliumICMP writes one type with all of its codes.
func ciliumICMP(p model.Port) (mapping, bool) {
	family := map[model.Protocol]string{model.ICMP: "IPv4", model.ICMPv6: "IPv6"}[p.Protocol]
	if family == "" || p.Through > p.Protocol || p.First&0xff != 0 || p.Last != p.First|0xff {
		return nil, false
	}
	return mapping{{"family", family}, {"type", int(p.First >> 8)}}, true
}
