package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// written looks at fields of policies that were left to their default, and at
// rules that were written in vain.
func (r *run) written() {
	byObject := map[string]*model.Policy{}
	for _, p := range r.Cluster.Policies {
		byObject[p.Source.Object()] = p
	}
	for _, s := range r.Omitted {
		switch {
		case s.Field == "spec.policyTypes":
			r.policyTypes(s, byObject[s.Object()])
		case s.Field == "metadata.namespace":
			r.find("SP1404", s, "the namespace is missing: the policy lands in the namespace of whoever applies it, and is read here as in "+s.Namespace, "write metadata.namespace")
		case strings.HasSuffix(s.Field, ".protocol"):
			r.find("SP1405", s, "the protocol is missing, which means TCP only", "write protocol: TCP, or UDP and SCTP as items of their own")
		}
	}
	for _, s := range r.Unused {
		r.find("SP1403", s, "policyTypes leaves these rules out: they are not looked at", "add "+typeNamed(s.Field)+" to policyTypes, or take the rules out")
	}
}

func typeNamed(path string) string {
	if strings.HasSuffix(path, "egress") {
		return "Egress"
	}
	return "Ingress"
}

// policyTypes says what a policy without them governs.
func (r *run) policyTypes(at model.Source, p *model.Policy) {
	if p == nil || r.wrong[at.Object()] {
		return // an error shuts what is not written
	}
	message := "policyTypes is missing: ingress is isolated, and egress is left as it is, since there are no egress rules"
	fix := "write policyTypes: [Ingress], or [Ingress, Egress] if egress is to be shut"
	if p.Egress != nil {
		message = "policyTypes is missing: ingress and egress are both isolated, the latter since there are egress rules"
		fix = "write policyTypes: [Ingress, Egress]"
	}
	if p.Egress != nil && len(p.Ingress.Rules) == 0 {
		message += "; there are no ingress rules, so that nobody reaches the pods"
		fix = "write policyTypes: [Egress], if ingress is not to be shut, or [Ingress, Egress]"
	}
	r.find("SP1402", at, message, fix)
}

// names looks for policies of one tier between which only the name decides.
func (r *run) names() {
	type place struct {
		tier  string
		order float64
	}
	first := map[place][]*model.Policy{}
	for _, p := range r.Cluster.Policies {
		if p.Family != model.FamilyCluster {
			continue
		}
		k := place{p.Tier, p.Order}
		for _, q := range first[k] {
			if q.Source.Object() != p.Source.Object() && r.share(p, q) {
				r.find("SP1406", p.Source.At("spec.priority", 0, 0), fmt.Sprintf("%s has the same priority %v and selects some of the same pods: which comes first, the standard leaves open; here the name decides", q.Source.Object(), p.Order),
					"give each its own priority", q.Source)
				break
			}
		}
		first[k] = append(first[k], p)
	}
}

// share says whether both policies govern a pod in the same direction.
func (r *run) share(p, q *model.Policy) bool {
	if (p.Ingress == nil || q.Ingress == nil) && (p.Egress == nil || q.Egress == nil) {
		return false
	}
	pods := r.sample(&q.Subject)
	return slices.ContainsFunc(r.sample(&p.Subject), func(e *model.Endpoint) bool { return slices.Contains(pods, e) })
}

// tier looks for policies in tiers that nobody made.
func (r *run) tier(p *model.Policy) {
	named := func(t model.Tier) bool { return t.Name == p.Tier }
	if p.Part > 0 || p.Tier == model.TierProfiles || slices.ContainsFunc(model.ReservedTiers(), named) || slices.ContainsFunc(r.Cluster.Tiers, named) {
		return
	}
	var names []string
	for _, t := range append(model.ReservedTiers(), r.Cluster.Tiers...) {
		names = append(names, t.Name)
	}
	fix := "make a Tier of this name, or leave tier out for \"default\""
	if near, ok := nearest(p.Tier, names); ok {
		fix = "did you mean " + near + "? Otherwise " + fix
	}
	r.find("SP1407", p.Source.At("spec.tier", 0, 0), "tier "+p.Tier+" does not exist: the policy comes after all others and drops what it does not allow", fix)
}
