// Package synth makes the large, seeded clusters that benchmarks measure:
// namespaces with teams and environments, Deployments and StatefulSets, named
// ports that differ, and policies with namespace selectors, ranges, port names
// and overlapping blocks with exceptions. Equal parameters make equal clusters.
package synth

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// Params are the sizes of a cluster. Pods is a multiple of Workloads.
type Params struct {
	Pods, Workloads, Policies int
	Seed                      uint64
}

// Ten is the cluster of 10,000 pods, Hundred that of 100,000.
var (
	Ten     = Params{Pods: 10_000, Workloads: 2_000, Policies: 5_000, Seed: 1}
	Hundred = Params{Pods: 100_000, Workloads: 20_000, Policies: 20_000, Seed: 1}
)

const workloadsPerNamespace = 40

type maker struct {
	*rand.Rand
	Params
	namespaces int
}

// Scale makes the cluster.
func Scale(p Params) *model.Cluster {
	m := &maker{Rand: rand.New(rand.NewPCG(p.Seed, 0)), Params: p, namespaces: p.Workloads / workloadsPerNamespace}
	c := &model.Cluster{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for i := range m.namespaces {
		name := namespace(i)
		c.Namespaces = append(c.Namespaces, model.Namespace{Name: name, Labels: map[string]string{
			model.MetadataName: name, "team": strconv.Itoa(i % 10), "env": strconv.Itoa(i % 3),
		}})
	}
	for i := range 100 {
		ip := netip.AddrFrom4([4]byte{172, 30, byte(i), 1})
		c.Nodes = append(c.Nodes, model.Node{Name: "node-" + strconv.Itoa(i), IPs: []netip.Addr{ip}})
	}
	m.workloads(c)
	for i := range p.Policies {
		c.Policies = append(c.Policies, m.policy(i))
	}
	return c
}

func namespace(i int) string { return "ns-" + strconv.Itoa(i) }

func (m *maker) workloads(c *model.Cluster) {
	ip := netip.MustParseAddr("10.0.0.2")
	for w := range m.Workloads {
		e := m.template(w)
		for i := range m.Pods / m.Workloads {
			pod := e
			pod.Name = e.Workload.Name + "-" + strconv.Itoa(i)
			pod.Node = c.Nodes[len(c.Endpoints)%len(c.Nodes)].Name
			pod.IPs = []netip.Addr{ip}
			if e.Workload.Kind == "StatefulSet" {
				pod.Labels = map[string]string{"statefulset.kubernetes.io/pod-name": pod.Name}
				for k, v := range e.Labels {
					pod.Labels[k] = v
				}
			}
			ip = ip.Next()
			c.Endpoints = append(c.Endpoints, pod)
		}
	}
}

// template is the w'th workload: every tenth is a StatefulSet.
func (m *maker) template(w int) model.Endpoint {
	n := w / m.namespaces
	e := model.Endpoint{
		Namespace: namespace(w % m.namespaces), Workload: model.Workload{Kind: "Deployment", Name: "w" + strconv.Itoa(w)},
		Labels: map[string]string{
			"app": "app-" + strconv.Itoa(n), "tier": strconv.Itoa(w % 4), "role": strconv.Itoa(n % 7), "version": strconv.Itoa(w % 13),
		},
		Ports: []model.ContainerPort{{Name: "http", Protocol: model.TCP, Number: uint16(8000 + w%5)}, {Name: "metrics", Protocol: model.TCP, Number: 9090}},
	}
	if n%10 == 0 {
		e.Workload.Kind = "StatefulSet"
	}
	return e
}

// policy is the i'th: first a default deny for every namespace, then the rest.
func (m *maker) policy(i int) *model.Policy {
	ns := namespace(m.IntN(m.namespaces))
	if i < m.namespaces {
		return &model.Policy{
			Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: namespace(i), Name: "default-deny"},
			Tier:   model.TierDefault, Order: model.KubernetesOrder,
			Subject: model.EndpointSelector{Namespace: namespace(i)}, Ingress: &model.Section{DefaultDeny: true},
		}
	}
	p := &model.Policy{
		Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: ns, Name: "p" + strconv.Itoa(i)},
		Tier:   model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: ns, Pods: m.pods()},
		Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{m.rule(ns), m.rule(ns)}},
	}
	if m.IntN(3) == 0 {
		dns := model.Rule{AnyPeer: true, Ports: []model.Port{{Protocol: model.UDP, First: 53, Last: 53}}}
		p.Egress = &model.Section{DefaultDeny: true, Rules: []model.Rule{m.rule(ns), m.rule(ns), dns}}
	}
	return p
}

// pods selects one app mostly, a tier or roles sometimes, everybody rarely.
func (m *maker) pods() model.Selector {
	switch m.IntN(20) {
	case 0:
		return model.Selector{}
	case 1, 2:
		return model.MatchLabels(map[string]string{"tier": strconv.Itoa(m.IntN(4))})
	case 3, 4:
		return model.Selector{Op: model.SelectIn, Key: "role", Values: []string{strconv.Itoa(m.IntN(3)), strconv.Itoa(3 + m.IntN(4))}}
	}
	return m.app()
}

func (m *maker) app() model.Selector {
	return model.MatchLabels(map[string]string{"app": "app-" + strconv.Itoa(m.IntN(workloadsPerNamespace))})
}

// usual are the ports that most rules name.
var usual = []uint16{80, 443, 8080, 5432, 6379, 9090}

func (m *maker) ports() []model.Port {
	switch m.IntN(10) {
	case 0:
		return []model.Port{{Protocol: model.TCP, Name: "http"}}
	case 1:
		first := uint16(30000 + 100*m.IntN(5))
		return []model.Port{{Protocol: model.TCP, First: first, Last: first + 99}}
	}
	p := usual[m.IntN(len(usual))]
	return []model.Port{{Protocol: model.TCP, First: p, Last: p}}
}

func (m *maker) rule(ns string) model.Rule {
	r := model.Rule{Ports: m.ports(), AnyPort: false}
	if m.IntN(3) == 0 {
		r.Ports, r.AnyPort = nil, true
	}
	for range 1 + m.IntN(2) {
		r.Peers = append(r.Peers, model.Peer{Pods: m.peer(ns)})
	}
	if m.IntN(5) == 0 {
		r.Peers = append(r.Peers, model.Peer{Block: m.block()})
	}
	return r
}

func (m *maker) peer(ns string) *model.EndpointSelector {
	switch m.IntN(4) {
	case 0:
		return &model.EndpointSelector{Namespace: ns, Pods: m.pods()}
	case 1:
		return &model.EndpointSelector{Namespaces: model.MatchLabels(map[string]string{"env": strconv.Itoa(m.IntN(3))}), Pods: m.app()}
	}
	return &model.EndpointSelector{Namespaces: model.MatchLabels(map[string]string{"team": strconv.Itoa(m.IntN(10))}), Pods: m.pods()}
}

func (m *maker) block() *model.IPBlock {
	a := byte(20 + m.IntN(50))
	bits := 8 + 4*m.IntN(3)
	outer := netip.PrefixFrom(netip.AddrFrom4([4]byte{a, byte(16 * m.IntN(4)), 0, 0}), bits).Masked()
	return &model.IPBlock{CIDR: outer, Except: []netip.Prefix{netip.PrefixFrom(outer.Addr(), 24)}}
}

// String names the size: "10000-pods".
func (p Params) String() string { return fmt.Sprintf("%d-pods", p.Pods) }
