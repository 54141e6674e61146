package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// width looks for rules that allow more than anybody can oversee.
func (r *run) width(x *rule) {
	if !x.allows() || x.L7 != nil || !x.AnyPort && len(x.Ports) == 0 {
		return // it allows nothing, or what is asked of it is more than ports
	}
	every := len(x.Peers) > 0 && slices.ContainsFunc(x.Peers, func(p model.Peer) bool { return isEverybody(&p) })
	switch {
	case (x.AnyPeer || every) && x.AnyPort:
		r.find("SP1201", x.Source, "it allows every protocol and port "+x.word()+" every address, inside the cluster and outside",
			"name the peers and the ports; where everything is meant, ignore this code in the policy's annotation")
		return
	case x.AnyPeer || every:
		r.find("SP1202", x.Source, fmt.Sprintf("it allows %s %s every address, inside the cluster and outside", portsOf(x), x.word()), "name the peers, if not everybody is meant")
	case x.AnyPort && len(x.Peers) > 0:
		r.find("SP1204", x.Source, "it names no ports, and allows all of every protocol", "name the ports that are needed")
	}
	for i := range x.Peers {
		if p := &x.Peers[i]; isEveryPod(p) {
			r.find("SP1208", p.Source, "the peer is every pod of every namespace, those to come included", "select the namespaces by a label, if not all are meant")
		}
	}
}

func portsOf(x *rule) string {
	var names []string
	for _, p := range x.Ports {
		names = append(names, p.String())
	}
	return few(names)
}

// isEverybody says whether the peer asks nothing.
func isEverybody(p *model.Peer) bool {
	return p.Pods == nil && p.Block == nil && p.Nodes == nil && p.Sets == nil && p.Services == nil && p.Names == nil && !p.Outside && len(p.Not) == 0
}

// isEveryPod says whether the peer asks nothing but to be a pod.
func isEveryPod(p *model.Peer) bool {
	return p.Pods != nil && p.Pods.Namespace == "" && p.Pods.Namespaces.Op == model.SelectAll && p.Pods.Pods.Op == model.SelectAll && len(p.Not) == 0 && p.Block == nil
}

// everyAddress says whether the rule is about all addresses of the families
// that the pod has addresses of: of IPv4, if nobody knows.
func everyAddress(x *model.Rule, e *model.Endpoint) bool {
	all := func(v6 bool) bool {
		return slices.ContainsFunc(x.Peers, func(p model.Peer) bool {
			return p.Block != nil && p.Block.CIDR.Bits() == 0 && p.Block.CIDR.Addr().Is6() == v6 && len(p.Block.Except) == 0 && !p.Outside && p.Pods == nil && len(p.Not) == 0
		})
	}
	if e == nil || len(e.IPs) == 0 {
		return all(false)
	}
	return !slices.ContainsFunc(e.IPs, func(a netip.Addr) bool { return !all(a.Is6()) })
}

// metadata is where clouds hand out credentials to whoever asks.
var metadata = netip.MustParseAddr("169.254.169.254")

// blocks looks at whom the rule's ranges of addresses cover.
func (r *run) blocks(x *rule) {
	for i := range x.Peers {
		p := &x.Peers[i]
		if p.Block == nil || p.Pods != nil || len(p.Not) > 0 {
			continue
		}
		if x.policy.Family == model.FamilyCalico && p.Block.CIDR.Bits() == 0 && !strings.Contains(p.Source.Field, "ets[") {
			continue // a version of IP, not a range that somebody wrote
		}
		if p.Outside {
			r.onlyInside(p)
		} else if x.allows() {
			r.covered(x, p)
		}
		if x.allows() && x.direction == model.Egress && p.Block.Contains(metadata) {
			r.metadata(x, p)
		}
		r.serviceAddresses(p)
	}
}

func (r *run) covered(x *rule, p *model.Peer) {
	if p.Block.CIDR.Bits() == 0 {
		if len(p.Block.Except) == 0 && p.Block.CIDR.Addr().Is4() {
			f := Finding{Code: "SP1203", Severity: checks["SP1203"].Severity, Source: p.Source, Message: fmt.Sprintf("%s is every address: those of pods and nodes of the cluster, too", p.Block.CIDR),
				Fix: "leave out what is not meant: " + without(x, "[10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.169.254/32]")}
			if x.direction == model.Ingress && !x.AnyPort {
				f.Severity, f.Fix = model.Info, "leave it, if everybody is meant; what comes through a Service or load balancer may have the address of a node"
			}
			r.report(f)
			return
		}
	}
	if n, names := r.pods.in(p.Block); n > 0 {
		r.find("SP1205", p.Source, fmt.Sprintf("%s covers addresses of %s, whatever their labels: %s", p.Block, pods(n), few(names)),
			"select pods by labels, and leave their range out of the block with "+exceptIn(x)+"; addresses of pods change")
	}
	if n, names := r.nodes.in(p.Block); n > 0 && x.direction == model.Egress && !p.Block.CIDR.IsSingleIP() {
		on := "every pod on a node's network"
		if x.speaksOf(kubelet) {
			on = "the kubelet and " + on
		}
		r.find("SP1206", p.Source, fmt.Sprintf("%s covers addresses of nodes, and so %s: %s", p.Block, on, few(names)),
			"leave the nodes out of the block with "+exceptIn(x)+", if they are not meant")
	}
}

// exceptIn is where the language of the rule leaves addresses out of a block.
func exceptIn(x *rule) string {
	switch x.policy.Family {
	case model.FamilyCalico:
		return "notNets"
	case model.FamilyCluster:
		return "a rule before it that denies them"
	}
	return "except"
}

// without writes what is to be left out of a block, as the rule's language does.
func without(x *rule, blocks string) string {
	if x.policy.Family == model.FamilyCluster {
		return "deny it before, with networks: " + blocks
	}
	return exceptIn(x) + ": " + blocks
}

// kubelet is where nodes take orders.
var kubelet = model.PortKeyOf(model.TCP, 10250)

// speaksOf says whether the service is one of the rule's.
func (x *rule) speaksOf(service model.PortKey) bool {
	return x.AnyPort || slices.ContainsFunc(x.Ports, func(p model.Port) bool {
		i := p.Interval()
		return p.Name == "" && i.First <= service && service <= i.Last
	})
}

func pods(n int) string {
	if n == 1 {
		return "a pod"
	}
	return fmt.Sprintf("%d pods", n)
}

// metadata says that pods reach the metadata service, if the Matrix says that
// some does.
func (r *run) metadata(x *rule, p *model.Peer) {
	if p.Block.CIDR.IsSingleIP() || !x.speaksOf(model.PortKeyOf(model.TCP, 80)) {
		return // it is named, or its port is not
	}
	fix := "add " + metadata.String() + "/32 to " + exceptIn(x)
	switch x.policy.Family {
	case model.FamilyCilium:
		fix = "deny " + metadata.String() + "/32 with egressDeny, or write a toCIDRSet with except"
	case model.FamilyCluster:
		fix = "deny " + metadata.String() + "/32 in a rule before it"
	}
	for _, e := range r.sample(&x.policy.Subject) {
		open := r.Matrix.Connections(party(e), engine.Party{Addr: metadata})
		if open.Contains(model.PortKeyOf(model.TCP, 80)) {
			r.find("SP1207", p.Source, fmt.Sprintf("%s has %s in it: pod %s can fetch the node's credentials from the cloud", p.Block, metadata, e.Key()), fix)
			return
		}
	}
}

// onlyInside looks for blocks that mean addresses outside and have none there.
func (r *run) onlyInside(p *model.Peer) {
	inPods := slices.ContainsFunc(r.Cluster.PodRanges, func(x netip.Prefix) bool { return x.Overlaps(p.Block.CIDR) && x.Bits() <= p.Block.CIDR.Bits() })
	n, _ := r.nodes.in(p.Block)
	if inPods || n > 0 && p.Block.CIDR.IsSingleIP() {
		r.find("SP1602", p.Source, fmt.Sprintf("%s is addresses of pods or nodes, and a CIDR of Cilium is only what is outside: it matches nobody", p.Block),
			"select pods with fromEndpoints and toEndpoints, nodes with entities host and remote-node")
	}
}

// serviceAddresses looks for blocks that are the addresses of Services, which
// no packet has any more when policies judge it.
func (r *run) serviceAddresses(p *model.Peer) {
	if p.Block.CIDR.Bits() < 8 {
		return
	}
	n, names := r.services.in(p.Block)
	if n == 0 {
		return
	}
	if pods, _ := r.pods.in(p.Block); pods > 0 {
		return
	}
	if nodes, _ := r.nodes.in(p.Block); nodes > 0 {
		return
	}
	r.find("SP1506", p.Source, fmt.Sprintf("%s is where Services have their addresses (%s); policies see the pods behind them", p.Block, few(names)),
		"select the pods behind the Service by their labels, on the ports that they listen on")
}
