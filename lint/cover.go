package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// isolates says whether some policy of the pod's gate shuts it for everybody
// who is not let in by a rule. For ingress every pod is everybody: rules of the
// standard's policies have no other peers there.
func isolates(g *engine.Gate, e *model.Endpoint) bool {
	return g != nil && slices.ContainsFunc(g.Policies, func(p *model.Policy) bool {
		s := p.Section(g.Direction)
		return !p.Staged && (s.DefaultDeny || slices.ContainsFunc(s.Rules, func(r model.Rule) bool {
			return r.Action == model.Deny && (r.AnyPort && (r.AnyPeer || everyAddress(&r, e)) || g.Direction == model.Ingress && ofEveryPod(&r))
		}))
	})
}

// denies says whether a rule of the gate denies, and is one of those.
func denies(g *engine.Gate, one func(*model.Rule) bool) bool {
	return g != nil && slices.ContainsFunc(g.Policies, func(p *model.Policy) bool {
		return !p.Staged && slices.ContainsFunc(p.Section(g.Direction).Rules, func(r model.Rule) bool { return r.Action == model.Deny && one(&r) })
	})
}

// ofEveryPod says whether the rule is about every pod, on every port.
func ofEveryPod(r *model.Rule) bool {
	return r.AnyPort && slices.ContainsFunc(r.Peers, func(p model.Peer) bool { return isEveryPod(&p) })
}

// census is the pods of one namespace.
type census struct {
	namespace model.Namespace
	pods      int
	open      [2][]string // names of workloads whose pods are open, by direction
	count     [2]int      // those pods
	denied    [2]bool     // whether rules deny some of them something
	toPods    bool        // whether egress of some of them is open for pods, too
}

// coverage looks for pods that no policy governs.
func (r *run) coverage() {
	all := r.census()
	for i := range all {
		c := &all[i]
		r.uncovered(c, model.Ingress, "SP1001", "accept connections from everybody")
		whom := "may connect to everybody"
		if !c.toPods {
			whom += " outside the cluster"
		}
		r.uncovered(c, model.Egress, "SP1002", whom)
		r.uncoveredTomorrow(c)
	}
	for _, p := range r.Cluster.Policies {
		r.clusterWide(p, all)
	}
	r.hostNetwork()
}

// census counts the open pods of every namespace that has pods.
func (r *run) census() []census {
	index := map[string]*census{}
	out := make([]census, 0, len(r.Cluster.Namespaces)+1)
	for _, n := range r.Cluster.Namespaces {
		out = append(out, census{namespace: n})
	}
	for i := range out {
		index[out[i].namespace.Name] = &out[i]
	}
	for _, g := range r.Matrix.Groups() {
		e := g.Endpoints[0]
		c := index[e.Namespace]
		if c == nil || e.HostNetwork {
			continue
		}
		c.pods += len(g.Endpoints)
		for d, code := range []string{"SP1001", "SP1002"} {
			if !isolates(r.Matrix.Gate(e.Key(), model.Direction(d)), e) && !r.ignores(e.Source, code) {
				c.count[d] += len(g.Endpoints)
				c.denied[d] = c.denied[d] || denies(r.Matrix.Gate(e.Key(), model.Direction(d)), func(*model.Rule) bool { return true })
				c.toPods = c.toPods || d == int(model.Egress) && !denies(r.Matrix.Gate(e.Key(), model.Egress), ofEveryPod)
				if !slices.Contains(c.open[d], e.Workload.Name) {
					c.open[d] = append(c.open[d], e.Workload.Name)
				}
			}
		}
	}
	return out
}

func (c *census) source() model.Source {
	if c.namespace.Source != (model.Source{}) {
		return c.namespace.Source
	}
	return model.Source{APIVersion: "v1", Kind: "Namespace", Name: c.namespace.Name}
}

func (r *run) uncovered(c *census, d model.Direction, code, what string) {
	if c.count[d] == 0 {
		return
	}
	if c.denied[d] {
		what += ", as far as no rule denies it"
	}
	who := fmt.Sprintf("%d of %d pods", c.count[d], c.pods)
	if c.count[d] == c.pods {
		who = "all pods"
	}
	r.find(code, c.source(), fmt.Sprintf("%s of namespace %s %s, since no policy isolates their %s: %s", who, c.namespace.Name, what, d, few(c.open[d])),
		"add a NetworkPolicy to the namespace with podSelector: {} and policyTypes: ["+typeOf(d)+"], and allow what is needed")
}

func typeOf(d model.Direction) string { return [...]string{"Ingress", "Egress"}[d] }

// uncoveredTomorrow looks for namespaces whose pods are isolated one by one,
// so that the next one will not be.
func (r *run) uncoveredTomorrow(c *census) {
	for _, d := range directions {
		if c.pods == 0 || c.count[d] > 0 || isolates(r.imagined.Gate(c.namespace.Name+"/"+unlabelled, d), nil) {
			continue
		}
		r.find("SP1003", c.source(), fmt.Sprintf("a new pod of namespace %s without labels would not be isolated: no policy governs the %s of all pods", c.namespace.Name, d),
			"add a NetworkPolicy with podSelector: {} and policyTypes: ["+typeOf(d)+"]")
	}
}

// clusterWide looks for a denial of everything in the namespace where policies
// land that name none, or with a name that promises more, while pods of other
// namespaces are open. Who denies everything in another namespace, too, knows.
func (r *run) clusterWide(p *model.Policy, all []census) {
	if p.Family != model.FamilyKubernetes || p.Subject.Pods.Op != model.SelectAll || !promisesMore(p) {
		return
	}
	for _, d := range directions {
		s := p.Section(d)
		if s == nil || len(s.Rules) > 0 || r.deniesElsewhere(p, d) {
			continue
		}
		var open []string
		for i := range all {
			if all[i].count[d] > 0 && all[i].namespace.Name != p.Source.Namespace && !slices.Contains(always[1:], all[i].namespace.Name) {
				open = append(open, all[i].namespace.Name)
			}
		}
		if len(open) > 0 {
			r.find("SP1005", p.Source, fmt.Sprintf("it denies %s in namespace %s and nowhere else: pods of %s are open", d, p.Source.Namespace, few(open)),
				"write one such policy per namespace, or a ClusterNetworkPolicy of tier Baseline that denies everything")
			return
		}
	}
}

// deniesElsewhere says whether another namespace has a denial of everything.
func (r *run) deniesElsewhere(p *model.Policy, d model.Direction) bool {
	return slices.ContainsFunc(r.Cluster.Policies, func(q *model.Policy) bool {
		s := q.Section(d)
		return q.Family == model.FamilyKubernetes && q.Subject.Pods.Op == model.SelectAll && q.Source.Namespace != p.Source.Namespace && s != nil && len(s.Rules) == 0
	})
}

func promisesMore(p *model.Policy) bool {
	name := strings.ToLower(p.Source.Name)
	return p.Source.Namespace == "default" || strings.Contains(name, "cluster") || strings.Contains(name, "global") || strings.Contains(name, "all-namespaces")
}

// hostNetwork looks for pods that a policy's labels fit and that it does not
// govern, since their traffic is their node's.
func (r *run) hostNetwork() {
	var shapes []shape
	for _, s := range r.shapes {
		if s.HostNetwork {
			shapes = append(shapes, s)
		}
	}
	for _, p := range r.Cluster.Policies {
		if !asksLabel(p.Subject.Pods) {
			continue // it means all pods, not this one
		}
		var names []string
		for _, s := range shapes {
			if r.fits(&p.Subject, s) {
				names = append(names, s.Key())
			}
		}
		if len(names) > 0 {
			r.find("SP1004", subjectSource(p), "it selects pods that are on their node's network, which no policy protects: "+few(names),
				"take hostNetwork: true out of the pod, or guard the node itself")
		}
	}
}

// asksLabel says whether the selector asks for a label that pods have of their own.
func asksLabel(s model.Selector) bool {
	switch s.Op {
	case model.SelectAnd, model.SelectOr:
		return slices.ContainsFunc(s.Args, asksLabel)
	case model.SelectIn, model.SelectExists, model.SelectPrefix, model.SelectSuffix, model.SelectContains:
		return s.Key != "" && s.Key[0] != model.Implied
	}
	return false
}

// mostNames are as many names as a message has.
const mostNames = 4

// few lists names, and how many more there are.
func few(names []string) string {
	if len(names) > mostNames+1 {
		return strings.Join(names[:mostNames], ", ") + fmt.Sprintf(" and %d more", len(names)-mostNames)
	}
	return strings.Join(names, ", ")
}
