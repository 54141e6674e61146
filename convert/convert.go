// Package convert writes the policies of a cluster in another policy language.
//
// Whatever the input says by order, tiers, denials and exceptions is first
// worked into lists of what may pass, for subjects that are isolated: every
// language can say that. Each language then writes these lists as far as it
// can. What it cannot say is left out on the closed side, never dropped in
// silence: it is an [Omission] with its place and the reason. Whoever calls
// has the result compiled and compared with the input by package diff.
//
// One file per language, beside flatten.go, which knows none. The package is
// pure; its tests send random policies there and back.
package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// Target is a language to write policies in.
type Target string

// The languages.
const (
	NetworkPolicy        Target = "networkpolicy"
	Cilium               Target = "cilium"
	Calico               Target = "calico"
	ClusterNetworkPolicy Target = "clusternetworkpolicy"
)

// Targets lists the languages.
var Targets = []Target{NetworkPolicy, Cilium, Calico, ClusterNetworkPolicy}

// Known says whether the language is one of them.
func (t Target) Known() bool { return slices.Contains(Targets, t) }

// Omission is something that the result does not say, or not for good.
type Omission struct {
	Source model.Source `json:"source"`
	Reason string       `json:"reason"`
}

// Result is the policies in their new language.
type Result struct {
	YAML      []byte
	Objects   int
	Omissions []Omission
}

// converter is a conversion on its way.
type converter struct {
	cluster   *model.Cluster
	facts     facts
	names     named
	units     []*unit
	index     map[string]*unit
	objects   []mapping
	taken     map[string]bool // names of objects
	omissions []Omission
}

// writers write one unit each.
var writers = map[Target]func(*converter, *unit){
	NetworkPolicy: (*converter).networkPolicy, Cilium: (*converter).cilium, Calico: (*converter).calico, ClusterNetworkPolicy: (*converter).clusterPolicy,
}

// To writes the cluster's policies in the language. Staged policies decide
// nothing, and are left out.
func To(t Target, cluster *model.Cluster) (Result, error) {
	write, ok := writers[t]
	if !ok {
		return Result{}, fmt.Errorf("unknown language %q: one of %v", t, Targets)
	}
	c := &converter{cluster: cluster, facts: factsOf(cluster), names: namesOf(cluster), index: map[string]*unit{}, taken: map[string]bool{}}
	for _, p := range cluster.Policies {
		if p.Staged {
			c.omit(p.Source, "it is staged and decides nothing: it is not converted")
		}
	}
	c.flatten(model.Ingress)
	c.flatten(model.Egress)
	for _, u := range c.units {
		write(c, u)
	}
	text, err := encode(c.objects)
	return Result{YAML: text, Objects: len(c.objects), Omissions: c.omissions}, err
}

// omit notes once what is left out.
func (c *converter) omit(s model.Source, reason string) {
	o := Omission{s, reason}
	if !slices.Contains(c.omissions, o) {
		c.omissions = append(c.omissions, o)
	}
}

// isolate is the section of the policy's unit for the subject; the subject is
// isolated from now on.
func (c *converter) isolate(p *model.Policy, subject clause, d model.Direction) *section {
	key := fmt.Sprintf("%s %s %s/%s#%d", p.Source.APIVersion, p.Source.Kind, p.Source.Namespace, p.Source.Name, p.Part)
	for _, s := range subject {
		key = string(s.AppendKey([]byte(key)))
	}
	u := c.index[key]
	if u == nil {
		u = &unit{policy: p, subject: subject}
		c.index[key] = u
		c.units = append(c.units, u)
	}
	if u.sections[d] == nil {
		u.sections[d] = &section{}
	}
	return u.sections[d]
}

// subjects are the pods that the policy governs, or the rule of it.
func (c *converter) subjects(p *model.Policy, r *model.Rule) []clause {
	out, ok := c.clauses(p.Subject)
	if r != nil && r.Subject != nil {
		narrowed, good := c.clauses(*r.Subject)
		out, ok = product(out, narrowed), ok && good
	}
	if ok {
		return out
	}
	c.omit(p.Source, "whom it selects takes too many selectors to say: every pod that it may mean is closed")
	if p.Subject.Namespace != "" {
		return []clause{{oneOf(model.NamespaceName, p.Subject.Namespace)}}
	}
	return []clause{{}}
}

// clauses is the selector as alternatives, without what is the same for all
// pods of the cluster.
func (c *converter) clauses(s model.EndpointSelector) ([]clause, bool) {
	s.Pods = c.constant(s.Pods)
	return podClauses(s)
}

// constant works out the conditions that hold for every pod or for none.
func (c *converter) constant(s model.Selector) model.Selector {
	args := s.Args
	s.Args = nil
	for _, a := range args {
		s.Args = append(s.Args, c.constant(a))
	}
	switch {
	case s.Op == model.SelectAnd:
		return conjunction(s.Args)
	case s.Op == model.SelectOr:
		return model.Or(s.Args...)
	case s.Op == model.SelectNot:
		return model.Not(s.Args[0])
	case s.Key == model.ClusterName:
		name := c.cluster.Name
		if name == "" {
			name = "default"
		}
		return truth(s.Matches(map[string]string{s.Key: name}))
	}
	if text, ok := strings.CutPrefix(s.Key, model.InPrefix); ok {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return truth(s.Op == model.SelectNotExists)
		}
		switch c.facts.pods(model.IPBlock{CIDR: p}) {
		case everything:
			return truth(s.Op == model.SelectExists)
		case nothing:
			return truth(s.Op == model.SelectNotExists)
		}
	}
	return s
}

func conjunction(args []model.Selector) model.Selector {
	if slices.ContainsFunc(args, func(a model.Selector) bool { return a.Op == model.SelectNone }) {
		return model.Selector{Op: model.SelectNone}
	}
	return model.And(args...)
}

func truth(b bool) model.Selector {
	if b {
		return model.Selector{}
	}
	return model.Selector{Op: model.SelectNone}
}

// peers is a peer of the model as alternatives of one kind each. What has no
// such form is nobody where it would allow or pass, and everybody where it
// would deny.
func (c *converter) peers(p *model.Peer, a model.Action, at model.Source) []peer {
	if p.Source != (model.Source{}) {
		at = p.Source
	}
	out, reason := c.peerParts(p)
	for i := range out {
		out[i].source = at
	}
	if reason == "" {
		return out
	}
	if a == model.Deny {
		c.omit(at, reason+": everybody is denied instead")
		return []peer{{source: at}}
	}
	c.omit(at, reason+": it is left out")
	return out
}

// peerParts works everything that the peer asks into one kind; with a reason
// if that cannot be done in full.
func (c *converter) peerParts(p *model.Peer) (out []peer, reason string) {
	out = []peer{{}}
	meet := func(list []peer) {
		var both []peer
		for _, a := range out {
			for _, b := range list {
				more, ok := c.facts.meet(a, b)
				if both = append(both, more...); !ok {
					reason = "it asks of pods or nodes that they have certain addresses"
				}
			}
		}
		out = both
	}
	if p.Pods != nil {
		list, ok := c.podPeers(*p.Pods)
		if meet(list); !ok {
			reason = "its selector takes too many alternatives"
		}
	}
	if p.Nodes != nil {
		meet([]peer{{kind: nodes, nodes: *p.Nodes}})
	}
	if p.Block != nil {
		meet([]peer{{kind: block, block: *p.Block}})
	}
	if p.Sets != nil {
		meet(c.setPeers(p.Sets))
	}
	if p.Outside {
		meet([]peer{{kind: outside, block: model.IPBlock{CIDR: everyIPv4}}, {kind: outside, block: model.IPBlock{CIDR: everyIPv6}}})
	}
	if p.Services != nil {
		return nil, "it is what stands behind a Service"
	}
	if len(p.Names) > 0 {
		return nil, "it is addresses of DNS names"
	}
	return c.exclude(out, p, reason)
}

// exclude takes from the parts what the peer excludes.
func (c *converter) exclude(out []peer, p *model.Peer, reason string) ([]peer, string) {
	for i := range p.Not {
		not, unclear := c.peerParts(&p.Not[i])
		if unclear != "" {
			return nil, "what it excludes cannot be said (" + unclear + ")"
		}
		rest, exact := c.peersMinus(out, not)
		if !exact {
			reason = "it excludes addresses that are not apart from pods and nodes"
		}
		out = rest
	}
	return out, reason
}

func (c *converter) podPeers(s model.EndpointSelector) ([]peer, bool) {
	list, ok := c.clauses(s)
	out := make([]peer, len(list))
	for i := range list {
		out[i] = peer{kind: pods, pods: list[i]}
	}
	return out, ok
}
