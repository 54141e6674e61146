package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// subjectSource is where a policy says whom it selects.
func subjectSource(p *model.Policy) model.Source {
	if p.Source.Field != "" {
		return p.Source
	}
	return p.Source.At([...]string{"spec.podSelector", "spec.subject", "spec.selector", "spec.endpointSelector"}[p.Family], 0, 0)
}

// subject looks at whom the policy selects.
func (r *run) subject(p *model.Policy) {
	at := subjectSource(p)
	if r.impossible(at, p.Subject.Pods) || len(r.Cluster.Endpoints) == 0 || len(r.sample(&p.Subject)) > 0 {
		return
	}
	switch s := &p.Subject; {
	case s.Namespace != "" && !r.exists(s.Namespace):
		r.find("SP1104", p.Source, fmt.Sprintf("namespace %s does not exist: it has no pods, and nobody declares it", s.Namespace), r.nearestNamespace(s.Namespace, "move the policy to one"))
	case s.Namespace == "" && !r.matchesNamespace(s.Namespaces):
		r.find("SP1103", at, "no namespace has the labels "+s.Namespaces.String()+": the policy governs nobody", r.nearestNamespaceLabel(s.Namespaces))
	case s.Pods.Op == model.SelectAll || neverMatches(s.Pods) || r.fitsHost(s):
		// For pods that may come; said while reading; said by SP1004.
	default:
		r.find("SP1101", at, fmt.Sprintf("no pod of %s has %s: the policy governs nobody", where(s), plain(s.Pods)), r.nearestLabel(s))
	}
}

// where says in which namespaces a selector looks.
func where(s *model.EndpointSelector) string {
	switch {
	case s.Namespace != "":
		return "namespace " + s.Namespace
	case s.Namespaces.Op != model.SelectAll:
		return "the namespaces with " + s.Namespaces.String()
	}
	return "any namespace"
}

// always are the namespaces of every cluster, which manifests seldom declare.
var always = []string{"default", "kube-system", "kube-public", "kube-node-lease"}

// exists says whether the namespace is one of every cluster, or anybody
// declares it or has a pod in it. Where nobody declares any namespace, all
// exist that policies name.
func (r *run) exists(name string) bool {
	declared := false
	for _, n := range r.Cluster.Namespaces {
		declared = declared || n.Source != (model.Source{})
		if n.Name == name && n.Source != (model.Source{}) {
			return true
		}
	}
	return !declared || slices.Contains(always, name) || slices.ContainsFunc(r.shapes, func(s shape) bool { return s.Namespace == name })
}

func (r *run) matchesNamespace(s model.Selector) bool {
	return r.unseen(s) || slices.ContainsFunc(r.Cluster.Namespaces, func(n model.Namespace) bool {
		return s.Matches(n.Labels) && r.exists(n.Name)
	})
}

// unseen says whether the selector matches, by its name alone, a namespace that
// is in every cluster and of which the input has no pods.
func (r *run) unseen(s model.Selector) bool {
	return s.Op != model.SelectAll && slices.ContainsFunc(always, func(name string) bool {
		return s.Matches(map[string]string{model.MetadataName: name}) &&
			!slices.ContainsFunc(r.shapes, func(p shape) bool { return p.Namespace == name })
	})
}

// neverMatches says whether a part of the selector was read as nobody.
func neverMatches(s model.Selector) bool {
	return s.Op == model.SelectNone || s.Op == model.SelectAnd && slices.ContainsFunc(s.Args, neverMatches)
}

func (r *run) fitsHost(s *model.EndpointSelector) bool {
	return slices.ContainsFunc(r.shapes, func(p shape) bool { return p.HostNetwork && r.fits(s, p) })
}

// impossible looks for values that no label can have.
func (r *run) impossible(at model.Source, s model.Selector) (found bool) {
	for _, a := range s.Args {
		found = r.impossible(at, a) || found
	}
	if s.Op != model.SelectIn || s.Key[0] == model.Implied {
		return found
	}
	for _, v := range s.Values {
		if field.ValidLabelValue(v) {
			continue
		}
		fix := "a value is at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit"
		if strings.HasPrefix(v, "spiffe://") {
			fix = "a SPIFFE ID proves who a workload is and is no label; select the pods by the labels that they have, or by their service account in a language that can"
		}
		r.find("SP1107", at, fmt.Sprintf("no pod can have the label %s with the value %q: this matches nobody", s.Key, v), fix)
		found = true
	}
	return found
}

// peers looks at whom the rule's peers select.
func (r *run) peers(x *rule) {
	r.eitherOrBoth(x)
	for i := range x.Peers {
		p := &x.Peers[i]
		if p.Sets != nil || p.Services != nil {
			r.references(p)
		}
		if p.Pods == nil || r.impossible(p.Source, p.Pods.Pods) || r.impossible(p.Source, p.Pods.Namespaces) ||
			len(r.Cluster.Endpoints) == 0 || r.anyOf(x, p.Source) || r.misread(p.Source) {
			continue
		}
		r.nobody(x, p)
	}
}

// anyOf says whether some peer that was written at the place selects somebody:
// what is written once may be several.
func (r *run) anyOf(x *rule, at model.Source) bool {
	return slices.ContainsFunc(x.Peers, func(p model.Peer) bool {
		if p.Source != at {
			return false
		}
		if p.Pods == nil {
			return p.Sets == nil || r.anySet(p.Sets)
		}
		return len(r.sample(p.Pods)) > 0
	})
}

// misread says whether something is wrong with what is written at the place.
func (r *run) misread(at model.Source) bool {
	return r.wrong[at.Object()] && slices.ContainsFunc(r.Problems, func(p model.Problem) bool {
		return p.Severity == model.Error && p.Source.Object() == at.Object() && strings.HasPrefix(p.Source.Field, at.Field)
	})
}

// nobody says why the peer selects no pod.
func (r *run) nobody(x *rule, p *model.Peer) {
	s := p.Pods
	own := x.policy.Source.Namespace
	switch {
	case s.Namespace == "" && !r.matchesNamespace(s.Namespaces):
		r.find("SP1103", p.Source, "no namespace has the labels "+s.Namespaces.String()+": the peer is nobody", r.nearestNamespaceLabel(s.Namespaces))
	case s.Pods.Op == model.SelectAll || neverMatches(s.Pods) || s.Namespace == "" && r.unseen(s.Namespaces):
	case r.fitsHost(s):
		r.find("SP1109", p.Source, "only pods on their node's network have "+plain(s.Pods)+", and no selector selects those",
			nodesInstead(x)+"take hostNetwork: true out of the pods")
	case s.Namespace != "" && s.Namespace == own && r.elsewhere(s) != "":
		r.find("SP1105", p.Source, fmt.Sprintf("no pod of namespace %s has %s, but pods of %s have: without a namespaceSelector a peer is of the policy's own namespace", own, plain(s.Pods), r.elsewhere(s)),
			"add namespaceSelector: {matchLabels: {"+model.MetadataName+": "+r.elsewhere(s)+"}} to the same item")
	default:
		r.find("SP1102", p.Source, fmt.Sprintf("no pod of %s has %s: the peer is nobody", where(s), plain(s.Pods)), r.nearestLabel(s))
	}
}

// nodesInstead says how the rule can name nodes, if it can.
func nodesInstead(x *rule) string {
	verb, by := "allow", "ipBlock"
	if x.Action != model.Allow {
		verb = "name"
	}
	switch x.policy.Family {
	case model.FamilyCalico:
		by = "nets"
	case model.FamilyCilium:
		return "select nodes with entities host and remote-node, or "
	case model.FamilyCluster:
		by = "networks"
		if x.direction == model.Ingress {
			return "" // its peers are pods only
		}
	}
	return verb + " the addresses of the nodes with " + by + ", or "
}

// elsewhere is another namespace that has such pods; "" if there is none.
func (r *run) elsewhere(s *model.EndpointSelector) string {
	for _, p := range r.shapes {
		if !p.HostNetwork && s.Pods.Match(p.label) {
			return p.Namespace
		}
	}
	return ""
}

// eitherOrBoth looks for a namespace selector and a pod selector that are two
// items of a list, one after the other.
func (r *run) eitherOrBoth(x *rule) {
	if x.policy.Family != model.FamilyKubernetes {
		return
	}
	own := x.policy.Source.Namespace
	for i := 0; i+1 < len(x.Peers); i++ {
		a, b := x.Peers[i].Pods, x.Peers[i+1].Pods
		if a == nil || b == nil || a.Namespace != "" || a.Namespaces.Op == model.SelectAll || a.Pods.Op != model.SelectAll || b.Namespace != own || b.Pods.Op == model.SelectAll {
			continue
		}
		f := Finding{
			Code: "SP1106", Source: x.Peers[i+1].Source, Related: []model.Source{x.Peers[i].Source},
			Message: fmt.Sprintf("this item and the one before are either: every pod of the namespaces with %s, or pods of %s with %s", a.Namespaces, own, b.Pods),
			Fix:     "if only such pods of such namespaces are meant, write both selectors in one item: take away the '-' before podSelector",
		}
		if len(r.sample(b)) == 0 && r.elsewhere(b) != "" {
			f.Severity = model.Warning
			f.Message += "; no pod of " + own + " has these labels"
		}
		r.report(f)
	}
}

// references looks for Services and sets that do not exist.
func (r *run) references(p *model.Peer) {
	if s := p.Services; s != nil && s.Name != "" && s.Namespace != "" && !r.service(s.Namespace, s.Name) && s.Namespace+"/"+s.Name != "default/kubernetes" {
		r.find("SP1110", p.Source, fmt.Sprintf("there is no Service %s in namespace %s: the peer is nobody", s.Name, s.Namespace), r.nearestService(s.Namespace, s.Name))
	}
	if s := p.Sets; s != nil && s.Name != "" && !r.anySet(s) {
		r.find("SP1110", p.Source, "there is no set of addresses "+s.Name+": the peer is nobody", "make it, or name one that exists")
	}
}

func (r *run) service(namespace, name string) bool {
	return slices.ContainsFunc(r.Cluster.Services, func(s model.Service) bool { return s.Namespace == namespace && s.Name == name })
}

// anySet says whether the selector may select some set.
func (r *run) anySet(s *model.SetSelector) bool {
	return slices.ContainsFunc(r.Cluster.Sets, func(x model.AddressSet) bool { return r.selectsSet(s, &x) })
}

func (r *run) selectsSet(s *model.SetSelector, x *model.AddressSet) bool {
	return s.Family == x.Family && (s.Name == "" || s.Name == x.Name) && (s.Namespace == "" || s.Namespace == x.Namespace) &&
		s.Labels.Match(func(key string) (string, bool) { return r.labelOfSet(x, key) })
}

// wrongSet says whether the selector selects a set that has an error.
func (r *run) wrongSet(s *model.SetSelector) bool {
	return slices.ContainsFunc(r.Cluster.Sets, func(x model.AddressSet) bool { return r.wrong[x.Source.Object()] && r.selectsSet(s, &x) })
}

// labelOfSet is a label of the set, or what its namespace implies of it.
func (r *run) labelOfSet(x *model.AddressSet, key string) (string, bool) {
	if key[0] != model.Implied {
		v, ok := x.Labels[key]
		return v, ok
	}
	if key == model.NamespaceName {
		return x.Namespace, x.Namespace != ""
	}
	for _, n := range r.Cluster.Namespaces {
		if label, ok := strings.CutPrefix(key, model.NamespaceLabels); ok && n.Name == x.Namespace {
			v, ok := n.Labels[label]
			return v, ok
		}
	}
	return "", false
}
