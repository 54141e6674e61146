package model

import "math"

// Tier is a group of policies that are evaluated together.
type Tier struct {
	Name   string
	Order  float64 // lower is first; +Inf is last, then by name
	Pass   bool    // whom no rule decides about goes on to the next tier; else they are dropped, if a policy of the tier isolates
	Source Source
}

// Tiers that always are. Kubernetes NetworkPolicies stand as one step at
// KubernetesOrder inside the default tier. TierProfiles comes after all others.
const (
	TierAdmin       = "kube-admin"
	TierDefault     = "default"
	TierBaseline    = "kube-baseline"
	TierProfiles    = "@profiles"
	KubernetesOrder = 1000
)

// ReservedTiers are the tiers that need no object and that none can change,
// but for TierProfiles, which no policy can name.
func ReservedTiers() []Tier {
	return []Tier{
		{Name: TierAdmin, Order: 1_000, Pass: true},
		{Name: TierDefault, Order: 1_000_000},
		{Name: TierBaseline, Order: 10_000_000, Pass: true},
	}
}

// UnknownTier is a tier that policies name and nobody made: the last one, and shut.
func UnknownTier(name string) Tier { return Tier{Name: name, Order: math.Inf(1)} }
