// Package cilium decodes cilium.io's CiliumNetworkPolicy and
// CiliumClusterwideNetworkPolicy, and the CiliumCIDRGroups that they refer to,
// as strictly as the vendor's agent reads them.
//
// One wrong rule makes the whole object invalid: no agent of the vendor takes
// up any part of it. Here such an object is closed: its pods are isolated in
// every direction that it names, nothing that it allows is allowed, what it
// denies stays denied, and a denial that cannot be read denies everybody.
//
// The package is pure. Its tests are the table beside it and the scenarios
// cilium-* and invalid-cilium-*; the module in parity holds it against the
// vendor's own code.
package cilium

import (
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// The API groups and kinds that the package decodes.
const (
	V2       = "cilium.io/v2"
	V2Alpha1 = "cilium.io/v2alpha1"

	NetworkPolicy            = "CiliumNetworkPolicy"
	ClusterwideNetworkPolicy = "CiliumClusterwideNetworkPolicy"
	CIDRGroup                = "CiliumCIDRGroup"
)

// Decoders lists what the package decodes, by apiVersion and kind.
var Decoders = map[[2]string]func(field.Object) (model.Parts, []model.Problem){
	{V2, NetworkPolicy}:            decodePolicy,
	{V2, ClusterwideNetworkPolicy}: decodePolicy,
	{V2, CIDRGroup}:                decodeCIDRGroup,
	{V2Alpha1, CIDRGroup}:          decodeCIDRGroup,
}

// decoder is what the parts of one policy object share.
type decoder struct {
	source    model.Source
	namespace string // of the policy; "" for a clusterwide one
	unscoped  bool   // the rule's subject names the label of pods that are starting, which have no namespace yet
	problems  *field.Problems
	policies  []*model.Policy
}

func decodePolicy(o field.Object) (model.Parts, []model.Problem) {
	problems := &field.Problems{}
	root := field.Open(o, problems)
	d := &decoder{source: o.Source, namespace: o.Source.Namespace, problems: problems}
	d.source.Field = ""
	if o.Source.Kind == ClusterwideNetworkPolicy {
		d.namespace = ""
	}
	d.object(root)
	if d.errors() > 0 {
		d.close(root)
	}
	return model.Parts{Policies: d.policies}, problems.List
}

// object decodes spec and every item of specs to a policy of its own.
func (d *decoder) object(root field.Cursor) {
	field.CheckMetadata(root, d.source)
	root.Field("apiVersion")
	root.Field("kind")
	root.Field("status")
	spec, specs := root.Field("spec"), root.Field("specs")
	clean := root.Done()
	if spec.Present() {
		d.rule(spec)
	}
	for _, c := range specs.Items() {
		d.rule(c)
	}
	switch {
	case !spec.Present() && !specs.Present():
		spec.Error("neither spec nor specs is there", "write one rule as spec, or several as the list specs")
		d.add(d.everybody())
	case specs.Present() && !specs.IsList() || !clean && len(d.policies) == 0:
		d.add(d.everybody())
	case len(d.policies) == 0:
		specs.Report(model.Warning, "the policy has no rule", "it selects no pod and changes nothing")
	}
}

// everybody is the policy of a rule whose subject cannot be read: every pod
// that it may have meant, in both directions.
func (d *decoder) everybody() *model.Policy {
	return &model.Policy{
		Source: d.source, Family: model.FamilyCilium, Tier: model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: d.namespace},
		Ingress: &model.Section{DefaultDeny: true}, Egress: &model.Section{DefaultDeny: true},
	}
}

func (d *decoder) add(p *model.Policy) {
	p.Part = len(d.policies)
	d.policies = append(d.policies, p)
}

// close takes from an invalid object everything that it allows.
func (d *decoder) close(root field.Cursor) {
	for _, p := range d.policies {
		for _, s := range []*model.Section{p.Ingress, p.Egress} {
			if s == nil {
				continue
			}
			s.DefaultDeny = true
			for i, r := range s.Rules {
				if r.Action == model.Allow {
					s.Rules[i] = unreadable(model.Allow, r.Source)
				}
			}
		}
	}
	root.Error("one error makes the whole object invalid: its pods are closed in every direction that it names, and only its denials hold",
		"mend the errors before this one; an agent of Cilium ignores the object until then")
}

// unreadable is what stands for a rule with an error: one that allows allows
// nothing, one that denies denies everybody.
func unreadable(a model.Action, s model.Source) model.Rule {
	deny := a != model.Allow
	return model.Rule{Action: a, Source: s, AnyPeer: deny, AnyPort: deny}
}

// errors counts the errors so far: whoever reads a part compares before and after.
func (d *decoder) errors() int {
	n := 0
	for _, p := range d.problems.List {
		if p.Severity == model.Error {
			n++
		}
	}
	return n
}

// checkStrings reports what is no text among fields that decide nothing.
func checkStrings(fields ...field.Cursor) {
	for _, f := range fields {
		_ = f.String()
	}
}

// notEnforced says of a condition that it is understood and what becomes of it.
func notEnforced(c field.Cursor, what string) {
	c.Report(model.Warning, what+" decoded, but not enforced yet: what only this rule allows is denied", "")
}
