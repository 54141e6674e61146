package lint

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// doors looks at what gets out of pods that are isolated.
func (r *run) doors() {
	resolvers := r.resolvers()
	type shut struct {
		pods    []string
		udp     bool // only TCP is shut
		related []model.Source
	}
	found := map[*model.Policy]*shut{}
	var order []*model.Policy
	for _, g := range r.Matrix.Groups() {
		in := r.Matrix
		if len(resolvers) == 0 {
			in = r.imagined // whoever is meant to resolve names may not be in the input
		}
		gate := in.Gate(g.Endpoints[0].Key(), model.Egress)
		p := speaksOfEgress(gate, g.Endpoints[0])
		if p == nil || resolverLabel(g.Endpoints[0]) != "" || slices.ContainsFunc(gate.Policies, r.isWrong) {
			continue // those who resolve names ask others, and an error is told elsewhere
		}
		udp, tcp := r.resolves(gate, resolvers, model.UDP), r.resolves(gate, resolvers, model.TCP)
		if udp && tcp {
			continue
		}
		if found[p] == nil {
			found[p] = &shut{udp: true}
			order = append(order, p)
		}
		found[p].udp = found[p].udp && udp
		found[p].pods = append(found[p].pods, g.Endpoints[0].Namespace+"/"+g.Endpoints[0].Workload.Name)
	}
	fix := r.allowDNS()
	for _, p := range order {
		x := found[p]
		if x.udp {
			r.find("SP1502", p.Source, "DNS is open over UDP and shut over TCP, which long answers need: "+few(slices.Compact(x.pods)), fix)
		} else {
			r.find("SP1501", p.Source, "egress is isolated and DNS is not open, so that no name can be resolved: "+few(slices.Compact(x.pods)), fix)
		}
	}
}

// speaksOfEgress is the first policy of the gate that allows some egress; a
// pod that may open nothing at all needs no names.
func speaksOfEgress(g *engine.Gate, e *model.Endpoint) *model.Policy {
	if !isolates(g, e) {
		return nil
	}
	i := slices.IndexFunc(g.Policies, func(p *model.Policy) bool {
		return !p.Staged && slices.ContainsFunc(p.Egress.Rules, func(x model.Rule) bool {
			return x.Action == model.Allow && (x.AnyPeer || len(x.Peers) > 0)
		})
	})
	if i < 0 {
		return nil
	}
	return g.Policies[i]
}

// allowDNS says how to let pods resolve names.
func (r *run) allowDNS() string {
	namespace, label := "kube-system", "k8s-app: kube-dns"
	i := slices.IndexFunc(r.Cluster.Endpoints, func(e model.Endpoint) bool { return resolverLabel(&e) != "" && !e.HostNetwork })
	if i >= 0 {
		namespace, label = r.Cluster.Endpoints[i].Namespace, resolverLabel(&r.Cluster.Endpoints[i])
	}
	return "allow UDP and TCP port 53 to namespaceSelector {" + model.MetadataName + ": " + namespace + "} with podSelector {" + label + "}, in one item"
}

// resolverLabel is the label by which the pod is known to be a DNS server of
// the cluster; "" if it is none.
func resolverLabel(e *model.Endpoint) string {
	for _, l := range [][2]string{{"k8s-app", "kube-dns"}, {"k8s-app", "coredns"}, {"app.kubernetes.io/name", "coredns"}, {"app", "kube-dns"}} {
		if e.Labels[l[0]] == l[1] {
			return l[0] + ": " + l[1]
		}
	}
	return ""
}

// nodeLocalDNS is the address of the cache that many clusters have on every node.
var nodeLocalDNS = netip.MustParseAddr("169.254.20.10")

// resolvers are the addresses of the cluster's DNS servers, if any are known.
func (r *run) resolvers() []netip.Addr {
	var out []netip.Addr
	for i := range r.Cluster.Endpoints {
		e := &r.Cluster.Endpoints[i]
		if resolverLabel(e) != "" {
			out = append(out, e.IPs...)
		}
	}
	if len(out) > 0 && r.Matrix.PrefixOf(nodeLocalDNS).Bits() >= 16 {
		out = append(out, nodeLocalDNS) // a policy speaks of it
	}
	return out
}

// resolves says whether the gate is open for DNS: to one of the resolvers, or
// to anybody where none is known.
func (r *run) resolves(g *engine.Gate, resolvers []netip.Addr, p model.Protocol) bool {
	at := g.At(model.PortKeyOf(p, 53))
	if len(resolvers) == 0 {
		return some(at.Allow) || some(at.Conditional)
	}
	return slices.ContainsFunc(resolvers, func(a netip.Addr) bool {
		id := r.Matrix.AddressIdentity(a)
		return at.Allow.Has(id) || at.Conditional.Has(id)
	})
}

func some(row *engine.Row) bool {
	return row.All || slices.ContainsFunc(row.Bits, func(w uint64) bool { return w != 0 })
}

// mostPairs bounds the pairs of pods that one peer is tried on. What is open
// is mostly found at once.
const mostPairs = 200

// halves looks for peers that a rule lets pass at this door and that are all
// shut at the other end's.
func (r *run) halves(x *rule) {
	if !x.allows() || x.L7 != nil || x.Subject != nil || len(x.Peers) == 0 {
		return
	}
	for i := range x.Peers {
		p := &x.Peers[i]
		if p.Pods == nil || p.Block != nil || len(p.Not) > 0 || p.Services != nil || p.Nodes != nil {
			continue
		}
		pairs := r.pairs(r.buf[:0], x, p)
		r.buf = pairs
		if len(pairs) > mostPairs || slices.ContainsFunc(pairs, func(k pair) bool { return r.passes(x, k) }) {
			continue
		}
		for _, k := range pairs {
			if r.half(x, p, k) {
				break
			}
		}
	}
}

// pair is two pods, of which one opens a connection to the other.
type pair struct{ from, to *model.Endpoint }

// pairs lists those between the rule's subjects and the peer's pods, as far as
// they are not too many.
func (r *run) pairs(out []pair, x *rule, p *model.Peer) []pair {
	for _, subject := range r.sample(&x.policy.Subject) {
		for _, peer := range r.sample(p.Pods) {
			switch {
			case subject == peer:
			case x.direction == model.Ingress:
				out = append(out, pair{peer, subject})
			default:
				out = append(out, pair{subject, peer})
			}
			if len(out) > mostPairs {
				return out
			}
		}
	}
	return out
}

// passes says whether anything that the rule speaks of passes both doors.
func (r *run) passes(x *rule, k pair) bool {
	return r.Matrix.OpenFor(r.end(k.from), r.end(k.to), portsFor(x.Rule, k.to))
}

// end looks the pod up, once.
func (r *run) end(e *model.Endpoint) engine.End {
	out, ok := r.ends[e]
	if !ok {
		out = r.Matrix.End(party(e))
		r.ends[e] = out
	}
	return out
}

// portsFor is the rule's ports as the destination has them.
func portsFor(x *model.Rule, to *model.Endpoint) model.PortSet {
	if x.AnyPort {
		return model.AllPorts()
	}
	var out []model.Interval
	for _, p := range x.Ports {
		if p.Name == "" {
			out = append(out, p.Interval())
		} else if n, ok := to.NamedPort(p.Name, p.Protocol); ok {
			key := model.PortKeyOf(p.Protocol, n)
			out = append(out, model.Interval{First: key, Last: key})
		}
	}
	return model.Union(out...)
}

// half reports the pair if it passes here and not at the other end.
func (r *run) half(x *rule, p *model.Peer, k pair) bool {
	ports := portsFor(x.Rule, k.to)
	if len(ports) == 0 {
		return false
	}
	key := ports[0].First
	if egress, ingress := r.Matrix.Open(r.end(k.from), r.end(k.to), key); egress == ingress || egress != (x.direction == model.Egress) {
		return false
	}
	v := r.Matrix.Verdict(party(k.from), party(k.to), key)
	code, here, there, other := "SP1503", v.Egress, v.Ingress, "ingress of the destination"
	if x.direction == model.Ingress {
		code, here, there, other = "SP1504", v.Ingress, v.Egress, "egress of the source"
	}
	if !here.Allowed || there.Allowed || there.Reason == engine.ByCondition || there.Reason == engine.UnknownPeer || slices.ContainsFunc(there.Policies, r.isWrong) {
		return false
	}
	var by []string
	var related []model.Source
	for _, q := range there.Policies {
		by = append(by, q.Source.Object())
		related = append(related, q.Source)
	}
	question := k.from.Key() + " " + k.to.Key()
	if !x.AnyPort {
		question += fmt.Sprintf(" %d --protocol %s", key.Port(), key.Protocol())
	}
	r.find(code, p.Source, fmt.Sprintf("the door is open here and shut at the other end: %s → %s passes here, and not at the %s, where these policies govern: %s", k.from.Key(), k.to.Key(), other, few(by)),
		"allow it at the "+other+", too; sallyport explain "+question+" shows what is missing", related...)
	return true
}
