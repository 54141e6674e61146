package synth

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// WriteYAML writes the cluster as a user has it: namespaces, nodes, workloads
// with replicas, and NetworkPolicies. It knows what Scale makes and no more.
func WriteYAML(w io.Writer, c *model.Cluster) error {
	y := &yamlWriter{Writer: bufio.NewWriter(w)}
	for _, ns := range c.Namespaces {
		y.head("v1", "Namespace", "", ns.Name)
		y.labels("  labels:", ns.Labels)
	}
	for _, n := range c.Nodes {
		y.head("v1", "Node", "", n.Name)
		y.line("status:")
		y.line("  addresses:")
		for _, ip := range n.IPs {
			y.line("  - {type: InternalIP, address: %s}", ip)
		}
	}
	for first := 0; first < len(c.Endpoints); {
		e := &c.Endpoints[first]
		last := first
		for last < len(c.Endpoints) && c.Endpoints[last].Workload == e.Workload && c.Endpoints[last].Namespace == e.Namespace {
			last++
		}
		y.workload(e, last-first)
		first = last
	}
	for _, p := range c.Policies {
		y.policy(p)
	}
	return y.Flush()
}

type yamlWriter struct{ *bufio.Writer }

func (y *yamlWriter) line(format string, args ...any) { fmt.Fprintf(y, format+"\n", args...) }

func (y *yamlWriter) head(version, kind, namespace, name string) {
	y.line("---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s", version, kind, name)
	if namespace != "" {
		y.line("  namespace: %s", namespace)
	}
}

func (y *yamlWriter) labels(head string, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	y.line("%s", head)
	indent := strings.Repeat(" ", len(head)-len(strings.TrimLeft(head, " "))+2)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		y.line("%s%s: %q", indent, k, labels[k])
	}
}

// podName is the label that StatefulSets give; no template writes it.
const podName = "statefulset.kubernetes.io/pod-name"

func (y *yamlWriter) workload(e *model.Endpoint, replicas int) {
	labels := maps.Clone(e.Labels)
	delete(labels, podName)
	y.head("apps/v1", e.Workload.Kind, e.Namespace, e.Workload.Name)
	y.line("spec:\n  replicas: %d", replicas)
	y.line("  selector:")
	y.labels("    matchLabels:", labels)
	y.line("  template:\n    metadata:")
	y.labels("      labels:", labels)
	y.line("    spec:\n      containers:\n      - name: main\n        image: example.com/app:1\n        ports:")
	for _, p := range e.Ports {
		y.line("        - {name: %s, protocol: %s, containerPort: %d}", p.Name, p.Protocol, p.Number)
	}
}

func (y *yamlWriter) policy(p *model.Policy) {
	y.head("networking.k8s.io/v1", "NetworkPolicy", p.Source.Namespace, p.Source.Name)
	y.line("spec:\n  podSelector: %s", selector(p.Subject.Pods))
	var types []string
	if p.Ingress != nil {
		types = append(types, "Ingress")
	}
	if p.Egress != nil {
		types = append(types, "Egress")
	}
	y.line("  policyTypes: [%s]", strings.Join(types, ", "))
	y.section("ingress", "from", p.Ingress)
	y.section("egress", "to", p.Egress)
}

func (y *yamlWriter) section(name, peers string, s *model.Section) {
	if s == nil || len(s.Rules) == 0 {
		return
	}
	y.line("  %s:", name)
	for _, r := range s.Rules {
		lead := "  - "
		if !r.AnyPeer {
			y.line("%s%s:", lead, peers)
			lead = "    "
			for _, peer := range r.Peers {
				y.peer(peer)
			}
		}
		if !r.AnyPort {
			y.line("%sports:", lead)
			for _, p := range r.Ports {
				y.line("    - %s", port(p))
			}
		}
	}
}

func (y *yamlWriter) peer(p model.Peer) {
	if p.Block != nil {
		y.line("    - ipBlock:\n        cidr: %s\n        except:", p.Block.CIDR)
		for _, e := range p.Block.Except {
			y.line("        - %s", e)
		}
		return
	}
	y.line("    - podSelector: %s", selector(p.Pods.Pods))
	if p.Pods.Namespace == "" {
		y.line("      namespaceSelector: %s", selector(p.Pods.Namespaces))
	}
}

func port(p model.Port) string {
	if p.Name != "" {
		return fmt.Sprintf("{protocol: %s, port: %s}", p.Protocol, p.Name)
	}
	if p.Last != p.First {
		return fmt.Sprintf("{protocol: %s, port: %d, endPort: %d}", p.Protocol, p.First, p.Last)
	}
	return fmt.Sprintf("{protocol: %s, port: %d}", p.Protocol, p.First)
}

// selector writes all of nothing, one label, or one set of values.
func selector(s model.Selector) string {
	switch {
	case s.Op == model.SelectIn && len(s.Values) == 1:
		return fmt.Sprintf("{matchLabels: {%s: %q}}", s.Key, s.Values[0])
	case s.Op == model.SelectIn:
		return fmt.Sprintf("{matchExpressions: [{key: %s, operator: In, values: [%q, %q]}]}", s.Key, s.Values[0], s.Values[1])
	case s.Op == model.SelectAnd && len(s.Args) == 1:
		return selector(s.Args[0])
	case s.Op == model.SelectAll:
		return "{}"
	}
	panic("synth makes no selector " + s.String())
}
