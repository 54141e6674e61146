package parity

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy/api"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// worldYAML is the world of the random cases, as we read it. All pods run on
// the node that Cilium's agent would be on.
const worldYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {team: x}}
---
apiVersion: v1
kind: Namespace
metadata: {name: b, labels: {team: z, env: prod}}
---
apiVersion: v1
kind: Node
metadata: {name: node-0, labels: {zone: p}}
status: {addresses: [{type: InternalIP, address: "172.30.0.1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {zone: q}}
status: {addresses: [{type: InternalIP, address: "172.30.0.2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web, tier: front}}
spec:
  nodeName: node-0
  serviceAccountName: robot
  containers: [{name: main, image: i, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: a, labels: {app: api}}
spec:
  nodeName: node-0
  containers: [{name: main, image: i, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: a, labels: {app: db, tier: back}}
spec:
  nodeName: node-0
  containers: [{name: main, image: i, ports: [{name: dns, containerPort: 53}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: b, labels: {app: web}}
spec:
  nodeName: node-0
  serviceAccountName: robot
  containers: [{name: main, image: i, ports: [{name: http, containerPort: 81}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: b, labels: {app: api, tier: front}}
spec:
  nodeName: node-0
  containers: [{name: main, image: i}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: office, labels: {kind: office}}
spec: {externalCIDRs: [198.51.100.0/24, 10.244.0.0/16]}
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: vpn, labels: {kind: vpn}}
spec: {externalCIDRs: [203.0.113.0/28, 198.51.100.128/25]}
`

// outside are the addresses outside the cluster that cases try.
var outside = []netip.Addr{
	netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.200"),
	netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.99"), netip.MustParseAddr("192.0.2.1"),
}

// peer is somebody on both sides.
type peer struct {
	name   string
	party  engine.Party
	vendor *identity.Identity
}

// world is who is there on both sides.
type world struct {
	pods       []peer
	others     []peer // own node, other node, addresses outside
	identities identity.IdentityMap
	ports      map[identity.NumericIdentity][]model.ContainerPort
}

// newWorld is the world of a cluster. With nodes, other nodes carry their
// labels, as they do to an agent that is told to select them.
func newWorld(c *model.Cluster, nodes bool) *world {
	w := &world{identities: identity.IdentityMap{}, ports: map[identity.NumericIdentity][]model.ContainerPort{}}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		p := peer{e.Key(), engine.Party{Endpoint: e, Addr: e.IPs[0]}, identity.NewIdentity(identity.NumericIdentity(1000+i), podLabels(c, e))}
		w.pods = append(w.pods, p)
		w.ports[p.vendor.ID] = e.Ports
	}
	w.others = []peer{
		{"own node", engine.Party{Node: "node-0", Addr: netip.MustParseAddr("172.30.0.1")}, identity.NewIdentity(identity.ReservedIdentityHost, reserved("host"))},
		{"other node", engine.Party{Node: "node-1", Addr: netip.MustParseAddr("172.30.0.2")}, identity.NewIdentity(identity.ReservedIdentityRemoteNode, reserved("remote-node"))},
	}
	if nodes {
		w.others[1].vendor = identity.NewIdentity(identity.IdentityScopeRemoteNode+1, labelledNode())
	}
	for i, a := range outside {
		p := peer{a.String(), engine.Party{Addr: a}, identity.NewIdentity(identity.IdentityScopeLocal+identity.NumericIdentity(i+1), addressLabels(c, a))}
		w.others = append(w.others, p)
	}
	for _, p := range slices.Concat(w.pods, w.others) {
		w.identities[p.vendor.ID] = p.vendor.LabelArray
	}
	return w
}

func reserved(names ...string) labels.Labels {
	out := labels.Labels{}
	for _, n := range names {
		out[n] = labels.NewLabel(n, "", labels.LabelSourceReserved)
	}
	return out
}

func labelledNode() labels.Labels {
	out := reserved("remote-node")
	out["zone"] = labels.NewLabel("zone", "q", labels.LabelSourceNode)
	out["io.cilium.k8s.policy.cluster"] = labels.NewLabel("io.cilium.k8s.policy.cluster", clusterName, labels.LabelSourceK8s)
	return out
}

// podLabels are the labels that Cilium's agent gives a pod's identity.
func podLabels(c *model.Cluster, e *model.Endpoint) labels.Labels {
	all := map[string]string{
		"io.kubernetes.pod.namespace":         e.Namespace,
		"io.cilium.k8s.policy.cluster":        clusterName,
		"io.cilium.k8s.policy.serviceaccount": e.ServiceAccount,
	}
	for k, v := range e.Labels {
		all[k] = v
	}
	for _, n := range c.Namespaces {
		if n.Name == e.Namespace {
			for k, v := range n.Labels {
				all["io.cilium.k8s.namespace.labels."+k] = v
			}
		}
	}
	return labels.Map2Labels(all, labels.LabelSourceK8s)
}

// addressLabels are those of an address outside: its CIDR, and the groups that
// list it, as Cilium's agent labels their prefixes.
func addressLabels(c *model.Cluster, a netip.Addr) labels.Labels {
	out := labels.GetCIDRLabels(netip.PrefixFrom(a, a.BitLen()))
	for _, s := range c.Sets {
		if !slices.ContainsFunc(s.Blocks, func(p netip.Prefix) bool { return p.Contains(a) }) {
			continue
		}
		for k, v := range s.Labels {
			if strings.HasPrefix(k, "io.cilium.") {
				continue
			}
			l := labels.NewLabel(k, v, labels.LabelSourceCIDRGroup)
			out[l.Key] = l
			encoded := labels.EncodedCIDRGroupLabel(k, v, labels.LabelSourceCIDRGroup)
			out[encoded.Key] = encoded
		}
		name := api.LabelForCIDRGroupRef(s.Name)
		out[name.Key] = name
	}
	return out
}

func (p peer) String() string { return fmt.Sprintf("%s (%d)", p.name, p.vendor.ID) }
