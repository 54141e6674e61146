package advice

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// networkPolicy is a NetworkPolicy as it is written.
type networkPolicy struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       spec     `yaml:"spec"`
}

type metadata struct {
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
}

type spec struct {
	PodSelector selector `yaml:"podSelector"`
	PolicyTypes []string `yaml:"policyTypes"`
	Ingress     []rule   `yaml:"ingress,omitempty"`
	Egress      []rule   `yaml:"egress,omitempty"`
}

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels,omitempty"`
}

type rule struct {
	From  []peer `yaml:"from,omitempty"`
	To    []peer `yaml:"to,omitempty"`
	Ports []port `yaml:"ports,omitempty"`
}

type peer struct {
	NamespaceSelector *selector `yaml:"namespaceSelector,omitempty"`
	PodSelector       *selector `yaml:"podSelector,omitempty"`
	IPBlock           *ipBlock  `yaml:"ipBlock,omitempty"`
}

type ipBlock struct {
	CIDR string `yaml:"cidr"`
}

type port struct {
	Protocol string `yaml:"protocol"`
	Port     uint16 `yaml:"port"`
}

// write is a policy for the pod of the door: one that allows the connection,
// or one that isolates and allows nothing.
func (a *attempt) write(d model.Direction, allow bool) string {
	q := a.question
	subject, other := q.To, q.From
	if d == model.Egress {
		subject, other = q.From, q.To
	}
	e := subject.Endpoint
	p := networkPolicy{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
	p.Metadata = metadata{Name: a.name(d, allow), Namespace: e.Namespace}
	p.Spec.PodSelector.MatchLabels = a.labelsOf(e)
	var rules []rule
	if allow {
		peers := []peer{a.peer(e, other)}
		rules = []rule{{From: peers, Ports: portsOf(q.Key)}}
		if d == model.Egress {
			rules = []rule{{To: peers, Ports: portsOf(q.Key)}}
		}
	}
	if d == model.Egress {
		p.Spec.PolicyTypes, p.Spec.Egress = []string{"Egress"}, rules
	} else {
		p.Spec.PolicyTypes, p.Spec.Ingress = []string{"Ingress"}, rules
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(p); err != nil {
		panic(err) // strings and numbers can be written
	}
	return out.String()
}

// portsOf is empty for protocols that a NetworkPolicy cannot name: it then
// allows them with all others.
func portsOf(key model.PortKey) []port {
	switch key.Protocol() {
	case model.TCP, model.UDP, model.SCTP:
		return []port{{key.Protocol().String(), key.Port()}}
	}
	return nil
}

// peer names the other end as seen from the pod e.
func (a *attempt) peer(e *model.Endpoint, other engine.Party) peer {
	if o := other.Endpoint; o != nil && !o.HostNetwork {
		p := peer{PodSelector: &selector{a.labelsOf(o)}}
		if o.Namespace != e.Namespace {
			p.NamespaceSelector = &selector{map[string]string{model.MetadataName: o.Namespace}}
		}
		return p
	}
	addr := a.addrOf(other)
	if a.question.External && other.Endpoint == nil && other.Node == "" {
		return peer{IPBlock: &ipBlock{a.matrix.PrefixOf(addr).String()}}
	}
	return peer{IPBlock: &ipBlock{netip.PrefixFrom(addr, addr.BitLen()).String()}}
}

func (a *attempt) addrOf(p engine.Party) netip.Addr {
	switch {
	case p.Addr.IsValid():
		return p.Addr
	case p.Endpoint != nil && len(p.Endpoint.IPs) > 0:
		return p.Endpoint.IPs[0]
	}
	for _, n := range a.cluster.Nodes {
		if n.Name == p.Node && len(n.IPs) > 0 {
			return n.IPs[0]
		}
	}
	return netip.Addr{}
}

// passing are labels that a pod's replacement does not have.
var passing = []string{
	"pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index", "controller-uid",
}

// usual are the labels that people select pods by, the most usual first.
var usual = []string{"app", "app.kubernetes.io/name", "k8s-app", "app.kubernetes.io/instance", "app.kubernetes.io/component", "tier", "role"}

// labelsOf are the fewest labels that select the pod's workload and nobody
// else of its namespace: a single one, or all of them if none does.
func (a *attempt) labelsOf(e *model.Endpoint) map[string]string {
	all := maps.Clone(e.Labels)
	maps.DeleteFunc(all, func(k, _ string) bool { return slices.Contains(passing, k) })
	keys := slices.DeleteFunc(slices.Clone(usual), func(k string) bool { _, ok := all[k]; return !ok })
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	least := a.others(e, all)
	for _, k := range keys {
		if one := map[string]string{k: all[k]}; a.others(e, one) == least {
			return one
		}
	}
	return all
}

// others counts the pods of other workloads that have the labels, too.
func (a *attempt) others(e *model.Endpoint, labels map[string]string) int {
	n := 0
	for _, o := range a.matrix.Selected(model.EndpointSelector{Namespace: e.Namespace, Pods: model.MatchLabels(labels)}) {
		if o.Workload != e.Workload {
			n++
		}
	}
	return n
}

// name is a name for the policy that nothing in its namespace has yet.
func (a *attempt) name(d model.Direction, allow bool) string {
	q := a.question
	subject, name := q.To.Endpoint, "isolate-"
	if d == model.Egress {
		subject = q.From.Endpoint
	}
	switch {
	case !allow:
		name += subject.Workload.Name + "-" + d.String()
	case d == model.Egress:
		name = "allow-" + a.short(q.From) + "-egress-to-" + a.short(q.To)
	default:
		name = "allow-" + a.short(q.To) + "-ingress-from-" + a.short(q.From)
	}
	name = strings.Trim(name[:min(len(name), 240)], "-.")
	for i, unique := 2, name; ; i++ {
		if !slices.ContainsFunc(a.cluster.Policies, func(p *model.Policy) bool {
			return p.Source.Namespace == subject.Namespace && p.Source.Name == unique
		}) {
			return unique
		}
		unique = fmt.Sprintf("%s-%d", name, i)
	}
}

// short names a party as a part of a name.
func (a *attempt) short(p engine.Party) string {
	switch {
	case p.Endpoint != nil:
		return p.Endpoint.Workload.Name
	case p.Node != "":
		return p.Node
	case a.question.External:
		return "outside"
	}
	return strings.Trim(strings.NewReplacer(".", "-", ":", "-").Replace(p.Addr.String()), "-")
}
