package convert

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// mostOfEach is how many rules, peers, networks and ports a list of a
// ClusterNetworkPolicy may have; what is longer is divided.
const mostOfEach = 25

// clusterPolicy writes a unit as ClusterNetworkPolicies of the tier Admin that
// accept what may pass. They isolate nobody, and cannot deny what comes from
// outside the cluster: a NetworkPolicy beside them does, and allows nothing.
func (c *converter) clusterPolicy(u *unit) {
	wall := &unit{policy: u.policy, subject: u.subject}
	for _, d := range directions {
		if u.sections[d] != nil {
			wall.sections[d] = &section{}
		}
	}
	c.omit(model.Source{}, "a ClusterNetworkPolicy isolates nobody: NetworkPolicies beside them do, and allow nothing")
	c.networkPolicy(wall)
	namespace, account, pod, ok := u.subject.split()
	namespaces, good := labelSelector(namespace)
	pods, fine := labelSelector(pod)
	if !ok || !good || !fine || len(account) > 0 {
		return // said of the NetworkPolicy
	}
	subject := mapping{{"namespaces", namespaces}}
	if len(pods) > 0 {
		subject = mapping{{"pods", mapping{{"namespaceSelector", namespaces}, {"podSelector", pods}}}}
	}
	lists := [2][]mapping{c.acceptRules(u.rules(model.Ingress), model.Ingress), c.acceptRules(u.rules(model.Egress), model.Egress)}
	for len(lists[0])+len(lists[1]) > 0 {
		spec := mapping{{"tier", "Admin"}, {"priority", 100}, {"subject", subject}}
		for _, d := range directions {
			n := min(len(lists[d]), mostOfEach)
			if n > 0 {
				spec = spec.with(d.String(), lists[d][:n])
			}
			lists[d] = lists[d][n:]
		}
		c.add("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "", u.global(), spec)
	}
}

// acceptRules writes rules, the named ports of each apart: only pods have them.
func (c *converter) acceptRules(rules []rule, d model.Direction) []mapping {
	var out []mapping
	for _, r := range rules {
		word := map[model.Direction]string{model.Ingress: "from", model.Egress: "to"}[d]
		byNumber, byName := c.acceptPorts(r)
		add := func(peers, ports []mapping) {
			for some := range slices.Chunk(peers, mostOfEach) {
				if ports == nil {
					out = append(out, mapping{{"action", "Accept"}, {word, some}})
				}
				for p := range slices.Chunk(ports, mostOfEach) {
					out = append(out, mapping{{"action", "Accept"}, {word, some}, {"protocols", p}})
				}
			}
		}
		if r.ports.any || len(byNumber) > 0 {
			add(c.acceptPeers(r, d), byNumber)
		}
		if len(byName) > 0 {
			add(c.podsOnly(r), byName)
		}
	}
	return out
}

// acceptPorts writes ports; a name is one of every protocol here.
func (c *converter) acceptPorts(r rule) (byNumber, byName []mapping) {
	seen := map[string]bool{}
	for _, p := range c.servicePorts(r) {
		if p.Name != "" {
			if !seen[p.Name] && c.namedAlone(p, r) {
				byName = append(byName, mapping{{"destinationNamedPort", p.Name}})
			}
			seen[p.Name] = true
			continue
		}
		first := int(max(p.First, 1))
		at := mapping{{"number", first}}
		if first < int(p.Last) {
			at = mapping{{"range", mapping{{"start", first}, {"end", int(p.Last)}}}}
		}
		word := map[model.Protocol]string{model.TCP: "tcp", model.UDP: "udp", model.SCTP: "sctp"}[p.Protocol]
		byNumber = append(byNumber, mapping{{word, mapping{{"destinationPort", at}}}})
	}
	return byNumber, byName
}

// namedAlone says whether no pod gives the name to a port of a protocol that
// the rule does not name.
func (c *converter) namedAlone(p model.Port, r rule) bool {
	for _, other := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		x := model.Port{Protocol: other, Name: p.Name}
		if len(c.names[x]) > 0 && !slices.ContainsFunc(r.ports.list, func(y model.Port) bool { return nameKey(y) == x }) {
			c.omit(r.source, "port "+p.Name+" is one of "+other.String()+", too, and a ClusterNetworkPolicy cannot tell: it is left out")
			return false
		}
	}
	return true
}

func (c *converter) acceptPeers(r rule, d model.Direction) []mapping {
	var out []mapping
	for _, p := range r.peers {
		switch {
		case p.kind == pods:
			out = append(out, c.acceptPods(p)...)
		case d == model.Ingress:
			parts, _ := c.facts.parts(p)
			c.omit(p.source, "what comes from outside the cluster or from nodes cannot be accepted by a ClusterNetworkPolicy: it is left out")
			for _, part := range parts {
				if part.kind == pods {
					out = append(out, c.acceptPods(part)...)
				}
			}
		case p.kind == nodes && p.nodes.Which == model.AnyNode:
			out = append(out, c.acceptNodes(p)...)
		case p.kind == anyone:
			return []mapping{{{"networks", []string{everyIPv4.String(), everyIPv6.String()}}}}
		default:
			out = append(out, c.networks(p, d)...)
		}
	}
	return out
}

func (c *converter) networks(p peer, d model.Direction) []mapping {
	var list []string
	for _, b := range c.plainBlocks(p, d) {
		list = append(list, texts(prefixes(b))...)
	}
	var out []mapping
	for part := range slices.Chunk(list, mostOfEach) {
		out = append(out, mapping{{"networks", part}})
	}
	return out
}

func (c *converter) acceptNodes(p peer) []mapping {
	list, ok := clausesOf(p.nodes.Labels)
	var out []mapping
	for _, x := range list {
		m, good := labelSelector(x)
		if ok = ok && good; good {
			out = append(out, mapping{{"nodes", m}})
		}
	}
	if !ok {
		c.omit(p.source, "the nodes that it means have no selector in a ClusterNetworkPolicy: it is left out")
	}
	return out
}

func (c *converter) acceptPods(p peer) []mapping {
	namespace, account, pod, ok := p.pods.split()
	namespaces, good := labelSelector(namespace)
	pods, fine := labelSelector(pod)
	if !ok || !good || !fine || len(account) > 0 {
		c.omit(p.source, "the pods that it means have no selector in a ClusterNetworkPolicy: it is left out")
		return nil
	}
	if len(pods) == 0 {
		return []mapping{{{"namespaces", namespaces}}}
	}
	return []mapping{{{"pods", mapping{{"namespaceSelector", namespaces}, {"podSelector", pods}}}}}
}

// podsOnly is the pods among the peers: nothing else has names for its ports.
func (c *converter) podsOnly(r rule) []mapping {
	var out []mapping
	for _, p := range r.peers {
		parts, ok := c.facts.parts(p)
		if !ok {
			c.omit(p.source, "a port by name is one of pods, and only some are in "+p.block.String()+": it is left out")
		}
		for _, part := range parts {
			if part.kind == pods {
				out = append(out, c.acceptPods(part)...)
			}
		}
	}
	return out
}
