package model

import "net/netip"

// AddressSet is addresses under a name and labels, for policies to select:
// Calico's NetworkSet and GlobalNetworkSet, Cilium's CiliumCIDRGroup.
type AddressSet struct {
	Family    Family
	Namespace string // "" for one of the whole cluster
	Name      string
	Labels    map[string]string
	Blocks    []netip.Prefix // masked
	// Unreadable is set if there may be more in the set than could be read: a
	// rule that denies takes it for everybody then.
	Unreadable bool
	Source     Source
}

// Key identifies the set: "apiVersion kind namespace/name".
func (s *AddressSet) Key() string {
	return s.Source.APIVersion + " " + s.Source.Kind + " " + s.Namespace + "/" + s.Name
}

// ServiceAccount is an account that pods run as, with its labels.
type ServiceAccount struct {
	Namespace string
	Name      string
	Labels    map[string]string
	Source    Source
}

// Key is the account's "namespace/name".
func (a *ServiceAccount) Key() string { return a.Namespace + "/" + a.Name }

// Parts is what one object of a policy language stands for.
type Parts struct {
	Policies []*Policy
	Tiers    []Tier
	Sets     []AddressSet
}
