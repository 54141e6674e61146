// Package dialect holds the list of policy languages and sends each object to
// the one that decodes it. What looks like a policy and has no decoder is an
// Error, never something else and never nothing.
package dialect

import (
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/dialect/networkpolicy"
	"github.com/sallyport-dev/sallyport/model"
)

// decoders lists the languages by apiVersion and kind.
var decoders = map[[2]string]func(field.Object) ([]*model.Policy, []model.Problem){
	{networkpolicy.APIVersion, networkpolicy.Kind}: networkpolicy.Decode,
}

// policyGroups are API groups whose objects decide about connections.
var policyGroups = []string{
	"networking.k8s.io", "policy.networking.k8s.io", "cilium.io", "projectcalico.org", "crd.projectcalico.org", "spiffe.io",
	"crd.antrea.io", "security.istio.io",
}

// neutral are kinds of those groups that decide nothing about connections.
var neutral = []string{"Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "IPPool", "FelixConfiguration", "BGPConfiguration", "BGPPeer", "CiliumNode", "CiliumIdentity"}

// IsPolicy says whether the object is Decode's business: a policy of a known
// language, or something that may be one of an unknown language.
func IsPolicy(s model.Source) bool {
	if _, ok := decoders[[2]string{s.APIVersion, s.Kind}]; ok {
		return true
	}
	if s.Kind == "PodDisruptionBudget" || s.Kind == "PodSecurityPolicy" || contains(neutral, s.Kind) {
		return false
	}
	group, _, _ := strings.Cut(s.APIVersion, "/")
	return contains(policyGroups, group) || strings.Contains(s.Kind, "NetworkPolicy")
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// Decode decodes a policy object.
func Decode(o field.Object) ([]*model.Policy, []model.Problem) {
	if decode, ok := decoders[[2]string{o.Source.APIVersion, o.Source.Kind}]; ok {
		return decode(o)
	}
	p := model.Problem{
		Severity: model.Error, Source: o.Source,
		Message: o.Source.APIVersion + " " + o.Source.Kind + " is not understood: nothing of it is enforced or taken into account",
		Hint:    "answers would be wrong without it; take it out of the input, or rewrite it as " + networkpolicy.APIVersion + " " + networkpolicy.Kind,
	}
	if o.Source.Kind == networkpolicy.Kind {
		p.Hint = "another kind of the same name is " + networkpolicy.APIVersion + "; they are not read as one another"
	}
	return nil, []model.Problem{p}
}
