// Package clusterpolicy decodes policy.networking.k8s.io: ClusterNetworkPolicy
// (v1alpha2), and AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1),
// as strictly as the definitions of these kinds validate them, and label
// selectors and port names as strictly as Kubernetes does elsewhere.
//
// Such a policy isolates nobody: only its rules decide, the first that
// matches. So the closed side is a matter of each rule: one with anything wrong
// in it matches nothing if it would accept, and denies everything to everybody
// if it would deny, pass, or nobody can say what it would. If what is wrong
// concerns the whole policy, all its rules are such. The package is pure; its
// tests are the scenarios cnp-* and invalid-cnp-*, too.
package clusterpolicy

import (
	"cmp"
	"math"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// Group is the API group of all the kinds.
const Group = "policy.networking.k8s.io"

// Decoders lists what the package decodes, by apiVersion and kind.
var Decoders = map[[2]string]func(field.Object) (model.Parts, []model.Problem){
	{Group + "/v1alpha2", "ClusterNetworkPolicy"}: kind{
		accept: "Accept", pass: true, rules: 25, peers: 25, names: true, ports: "protocols", port: protocol,
	}.decode,
	{Group + "/v1alpha1", "AdminNetworkPolicy"}: kind{
		tier: model.TierAdmin, accept: "Allow", pass: true, rules: 100, peers: 100, names: true, ports: "ports", port: port, needNamespaces: true,
	}.decode,
	{Group + "/v1alpha1", "BaselineAdminNetworkPolicy"}: kind{
		tier: model.TierBaseline, singleton: true, accept: "Allow", rules: 100, peers: 100, ports: "ports", port: port, needNamespaces: true,
	}.decode,
}

// kind is what tells the kinds apart.
type kind struct {
	tier           string // that it belongs to; "": spec.tier says it
	singleton      bool   // there is one, named default, without a priority
	accept         string // its word for the action that allows
	pass           bool   // has the action Pass
	rules          int    // how many a direction may have
	peers          int    // how many a rule may have, and how many ports
	names          bool   // has peers by domain name
	ports          string // the field of a rule's ports
	port           func(field.Cursor) []model.Port
	needNamespaces bool // a peer's or subject's pods must have a namespaceSelector
}

// decoder reads one object.
type decoder struct {
	kind
	problems *field.Problems
	broken   bool // where the policy belongs cannot be read, so no rule can be
}

func (k kind) decode(o field.Object) (model.Parts, []model.Problem) {
	d := decoder{kind: k, problems: &field.Problems{}}
	p := &model.Policy{Source: o.Source, Family: model.FamilyCluster, Tier: cmp.Or(k.tier, model.TierAdmin)}
	p.Source.Field = ""
	d.policy(field.Open(o, d.problems), p)
	return model.Parts{Policies: []*model.Policy{p}}, d.problems.List
}

func (d *decoder) policy(root field.Cursor, p *model.Policy) {
	field.CheckMetadata(root, p.Source)
	root.Field("apiVersion")
	root.Field("kind")
	root.Field("status")
	spec := root.Field("spec")
	root.Done()
	readable := false
	d.broken = !d.clean(func() {
		d.name(root, p.Source.Name)
		if readable = object(spec); readable {
			d.head(spec, p)
		}
	})
	ingress, egress := d.section(spec.Field("ingress"), "from"), d.section(spec.Field("egress"), "to")
	if !readable || !spec.Done() {
		// Something is misspelt, or missing; it may have been a section.
		ingress, egress = shut(spec), shut(spec)
	}
	p.Ingress, p.Egress = ingress, egress
}

// clean says whether read finds no error.
func (d *decoder) clean(read func()) bool {
	before := len(d.problems.List)
	read()
	return !model.HasErrors(d.problems.List[before:])
}

func (d *decoder) name(root field.Cursor, name string) {
	if d.singleton && name != "default" {
		root.Field("metadata").Field("name").Error("must be default, not \""+name+"\"", "the cluster has one policy of this kind")
	}
}

// head reads where the policy belongs and whom it selects. What it cannot read
// stays the first place of the first tier, and every pod.
func (d *decoder) head(spec field.Cursor, p *model.Policy) {
	if d.tier == "" {
		p.Tier = tier(spec.Field("tier"))
	}
	if d.singleton {
		p.Order = math.Inf(1) // after any policy of its tier that has a priority
	} else {
		p.Order = priority(spec.Field("priority"))
	}
	subject := spec.Field("subject")
	switch name, at := one(subject, "a subject", "namespaces", "pods"); name {
	case "namespaces":
		p.Subject.Namespaces = selector(at)
	case "pods":
		p.Subject = d.pods(at)
	}
}

func tier(c field.Cursor) string {
	switch word := c.String(); {
	case !required(c):
	case word == "Baseline":
		return model.TierBaseline
	case word != "Admin":
		c.Error("unknown tier \""+c.Value()+"\"", "one of Admin, Baseline")
	}
	return model.TierAdmin
}

func priority(c field.Cursor) float64 {
	if !required(c) {
		return 0
	}
	n, _ := c.Int(0, 1000)
	return float64(n)
}

// pods reads a pair of selectors for namespaces and for pods in them.
func (d *decoder) pods(c field.Cursor) model.EndpointSelector {
	var out model.EndpointSelector
	if !object(c) {
		return out
	}
	namespaces, pods := c.Field("namespaceSelector"), c.Field("podSelector")
	if d.needNamespaces {
		required(namespaces)
	}
	required(pods)
	out.Namespaces, out.Pods = selector(namespaces), selector(pods)
	c.Done()
	return out
}

// selector reads a label selector. One that cannot be read selects everything:
// for a subject that is the closed side, and a rule with such a peer is closed
// as a whole.
func selector(c field.Cursor) model.Selector {
	if s, ok := field.Selector(c); ok {
		return s
	}
	return model.Selector{}
}
