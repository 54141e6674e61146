package kube

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Calico serves its objects in one group and stores them in another. Both may
// be there, or either alone.
const (
	calicoGroup  = "projectcalico.org"
	calicoStored = "crd.projectcalico.org"
)

// networkPolicies are in every cluster.
var networkPolicies = func() *resource {
	r := language("networking.k8s.io", "v1", "networkpolicies")
	r.optional = false
	return r
}()

// languages lists the resources whose objects package dialect decodes.
var languages = slices.Concat(
	[]*resource{networkPolicies},
	withStatus,
	[]*resource{cidrGroups()},
	calico("networkpolicies", "globalnetworkpolicies", "stagednetworkpolicies", "stagedglobalnetworkpolicies", "stagedkubernetesnetworkpolicies",
		"tiers", "profiles", "networksets", "globalnetworksets", "hostendpoints"),
)

// withStatus are those with conditions in their status.
var withStatus = []*resource{
	language("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies"),
	language("policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies"),
	language("policy.networking.k8s.io", "v1alpha1", "baselineadminnetworkpolicies"),
	language("cilium.io", "v2", "ciliumnetworkpolicies"),
	language("cilium.io", "v2", "ciliumclusterwidenetworkpolicies"),
}

func language(group, version, name string) *resource {
	r := &resource{gvr: schema.GroupVersionResource{Group: group, Version: version, Resource: name}, via: asWritten, optional: true, policy: true, trim: trimmed(trimParts)}
	r.shelf = func(s *state) shelf { return s.objects[r] }
	return r
}

// cidrGroups are of version v2alpha1 where Cilium is older.
func cidrGroups() *resource {
	r := language("cilium.io", "v2", "ciliumcidrgroups")
	older := *r
	older.gvr.Version = "v2alpha1"
	r.older = &older
	return r
}

func calico(names ...string) []*resource {
	var out []*resource
	for _, name := range names {
		served, stored := language(calicoGroup, "v3", name), language(calicoStored, "v1", name)
		served.stored, stored.served = stored, served
		out = append(out, served, stored)
	}
	return out
}

// prefixed says whether the resource holds Calico's policies, whose names may
// begin with that of their tier.
func (r *resource) prefixed() bool {
	return (r.served != nil || r.stored != nil) && strings.HasSuffix(r.gvr.Resource, "networkpolicies")
}
