package convert

import (
	"slices"

	"github.com/sallyport-dev/sallyport/model"
)

// networkPolicy writes a unit as networking.k8s.io/v1 NetworkPolicies: one for
// each namespace that it selects pods of.
func (c *converter) networkPolicy(u *unit) {
	namespace, account, pod, ok := u.subject.split()
	selector, good := labelSelector(pod)
	rulesToo := true
	if !ok || !good || len(account) > 0 {
		c.omit(u.policy.Source, "whom it selects has no selector in a NetworkPolicy: every pod that it may mean is closed")
		rulesToo, selector = false, mapping{}
	}
	for _, ns := range c.namespaces(u, namespace) {
		spec := mapping{{"podSelector", selector}, {"policyTypes", u.types()}}
		for _, d := range directions {
			if rules := c.networkRules(u.rules(d), d, ns); rulesToo && len(rules) > 0 {
				spec = spec.with(d.String(), rules)
			}
		}
		c.add("networking.k8s.io/v1", "NetworkPolicy", ns, u.policy.Source.Name, spec)
	}
}

// namespaces lists the namespaces that the conditions on them leave.
func (c *converter) namespaces(u *unit, conditions clause) []string {
	if name, rest := u.subject.namespaceOf(); name != "" && len(rest) == len(u.subject)-1 && len(conditions) == 1 {
		return []string{name}
	}
	var out []string
	for _, n := range c.cluster.Namespaces {
		if model.And(conditions...).Matches(n.Labels) {
			out = append(out, n.Name)
		}
	}
	for i := range c.cluster.Endpoints { // of namespaces that nobody declared
		name := c.cluster.Endpoints[i].Namespace
		if !slices.Contains(out, name) && model.And(conditions...).Matches(c.namespaceLabels(name)) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	if name, _ := u.subject.namespaceOf(); name == "" {
		c.omit(u.policy.Source, "a NetworkPolicy is of one namespace: it is written once for each that there is now")
	}
	return slices.Compact(out)
}

func (c *converter) networkRules(rules []rule, d model.Direction, namespace string) []mapping {
	out := []mapping{}
	for _, r := range rules {
		m := mapping{}
		ports := c.networkPorts(r)
		if len(ports) == 0 && !r.ports.any {
			continue
		}
		if !slices.ContainsFunc(r.peers, func(p peer) bool { return p.kind == anyone }) {
			peers := c.networkPeers(r.peers, d, namespace)
			if len(peers) == 0 {
				continue
			}
			m = m.with(map[model.Direction]string{model.Ingress: "from", model.Egress: "to"}[d], peers)
		}
		if !r.ports.any {
			m = m.with("ports", ports)
		}
		out = append(out, m)
	}
	return out
}

func (c *converter) networkPeers(list []peer, d model.Direction, namespace string) []mapping {
	var out []mapping
	for _, p := range list {
		if p.kind == pods {
			if m, ok := podPeer(p.pods, namespace); ok {
				out = append(out, m)
			} else {
				c.omit(p.source, "the pods that it means have no selector in a NetworkPolicy: it is left out")
			}
			continue
		}
		for _, b := range c.plainBlocks(p, d) {
			m := mapping{{"cidr", b.CIDR.String()}}
			if len(b.Except) > 0 {
				m = m.with("except", texts(b.Except))
			}
			out = append(out, mapping{{"ipBlock", m}})
		}
	}
	return out
}

// podPeer writes pods by selectors for their namespace and for themselves;
// those of the own namespace need none for it.
func podPeer(c clause, own string) (out mapping, ok bool) {
	namespace, account, pod, ok := c.split()
	namespaces, good := labelSelector(namespace)
	pods, fine := labelSelector(pod)
	if name, rest := c.namespaceOf(); name == "" || name != own || len(namespace) != 1 || len(rest) == len(c) {
		out = out.with("namespaceSelector", namespaces)
	}
	if len(pods) > 0 || len(out) == 0 {
		out = out.with("podSelector", pods)
	}
	return out, ok && good && fine && len(account) == 0
}

func (c *converter) networkPorts(r rule) []mapping {
	var out []mapping
	for _, p := range c.servicePorts(r) {
		m := mapping{{"protocol", p.Protocol.String()}}
		switch first := max(p.First, 1); {
		case p.Name != "":
			m = m.with("port", p.Name)
		case full(p):
		case p.Last == first:
			m = m.with("port", int(first))
		default:
			m = m.with("port", int(first)).with("endPort", int(p.Last))
		}
		out = append(out, m)
	}
	return out
}
