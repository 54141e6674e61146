// Package dialect holds the list of policy languages and sends each object to
// the one that decodes it. What looks like a policy and has no decoder is an
// Error, never something else and never nothing.
package dialect

import (
	"maps"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/calico"
	"github.com/sallyport-dev/sallyport/dialect/cilium"
	"github.com/sallyport-dev/sallyport/dialect/clusterpolicy"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/dialect/networkpolicy"
	"github.com/sallyport-dev/sallyport/model"
)

// Decoder turns one object into what it stands for.
type Decoder = func(field.Object) (model.Parts, []model.Problem)

// decoders lists the languages by apiVersion and kind.
var decoders = map[[2]string]Decoder{}

func init() {
	for _, language := range []map[[2]string]Decoder{networkpolicy.Decoders, clusterpolicy.Decoders, calico.Decoders, cilium.Decoders} {
		maps.Copy(decoders, language)
	}
	decoders[[2]string{"spiffe.io/v1beta1", "SPIREIdentity"}] = noSuchIdentity
}

// noSuchIdentity reads the kind of an article that no vendor ever had.
func noSuchIdentity(o field.Object) (model.Parts, []model.Problem) {
	return model.Parts{}, []model.Problem{{
		Severity: model.Warning, Source: o.Source,
		Message: "no vendor has a kind SPIREIdentity: it gives nobody an identity, and opens and shuts nothing",
		Hint:    "SPIRE's is ClusterSPIFFEID of spire.spiffe.io/v1alpha1, with spec.podSelector and spec.dnsNameTemplates",
	}}
}

// policyGroups are API groups whose objects decide about connections.
var policyGroups = []string{
	"networking.k8s.io", "policy.networking.k8s.io", "cilium.io", "projectcalico.org", "spiffe.io",
	"spire.spiffe.io", "crd.antrea.io", "security.istio.io",
}

// neutral are kinds of those groups that decide nothing about connections.
var neutral = []string{"Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "IPPool", "FelixConfiguration", "BGPConfiguration", "BGPPeer", "CiliumNode", "CiliumIdentity", "ClusterSPIFFEID", "ClusterStaticEntry", "ClusterFederatedTrustDomain"}

// IsPolicy says whether the object is Decode's business: a policy of a known
// language, or something that may be one of an unknown language.
func IsPolicy(s model.Source) bool {
	if _, ok := decoders[[2]string{s.APIVersion, s.Kind}]; ok {
		return true
	}
	if s.Kind == "PodDisruptionBudget" || s.Kind == "PodSecurityPolicy" || contains(neutral, s.Kind) {
		return false
	}
	return contains(policyGroups, Group(s.APIVersion)) || strings.Contains(s.Kind, "NetworkPolicy")
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// ClusterScoped says whether objects of a policy language's kind live in no namespace.
func ClusterScoped(kind string) bool {
	switch kind {
	case "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy",
		"GlobalNetworkPolicy", "StagedGlobalNetworkPolicy", "Tier", "Profile", "GlobalNetworkSet", "HostEndpoint",
		"CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup":
		return true
	}
	return false
}

// Group is the API group of an apiVersion. Calico stores its objects under
// another group than it serves them: both are one object.
func Group(apiVersion string) string {
	group, _, _ := strings.Cut(apiVersion, "/")
	if group == "crd.projectcalico.org" {
		return "projectcalico.org"
	}
	return group
}

// CheckTiers reports policies in tiers that do not exist.
func CheckTiers(policies []*model.Policy, tiers []model.Tier) []model.Problem {
	known := map[string]bool{model.TierProfiles: true}
	for _, t := range append(model.ReservedTiers(), tiers...) {
		known[t.Name] = true
	}
	var out []model.Problem
	for _, p := range policies {
		if !known[p.Tier] && p.Part == 0 {
			out = append(out, model.Problem{
				Severity: model.Error, Source: p.Source.At("spec.tier", 0, 0), Message: "tier \"" + p.Tier + "\" does not exist",
				Hint: "it is evaluated after all others and drops what no rule allows; make a Tier of this name, or leave tier out for \"default\"",
			})
		}
	}
	return out
}

// Decode decodes an object of a policy language.
func Decode(o field.Object) (model.Parts, []model.Problem) {
	if decode, ok := decoders[[2]string{o.Source.APIVersion, o.Source.Kind}]; ok {
		parts, problems := decode(o)
		for i := range parts.Sets {
			parts.Sets[i].Unreadable = model.HasErrors(problems)
		}
		return parts, problems
	}
	p := model.Problem{
		Severity: model.Error, Source: o.Source,
		Message: o.Source.APIVersion + " " + o.Source.Kind + " is not understood: nothing of it is enforced or taken into account",
		Hint:    "answers would be wrong without it; take it out of the input, or rewrite it as " + networkpolicy.APIVersion + " " + networkpolicy.Kind,
	}
	if o.Source.Kind == networkpolicy.Kind {
		p.Hint = "another kind of the same name is " + networkpolicy.APIVersion + "; they are not read as one another"
	}
	return model.Parts{}, []model.Problem{p}
}
