package synth

import (
	"net/netip"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// Dialects has three of four policies of a cluster be those of the other
// languages, with the same selectors and ports as before: tiers of the
// administrator, Calico's (network sets among the peers, and a tier of their
// own), and Cilium's (deny rules, and blocks that are outside only).
func Dialects(c *model.Cluster) *model.Cluster {
	out := *c
	out.Policies = nil
	out.Tiers = append(out.Tiers, model.Tier{Name: "platform", Order: 500, Pass: true})
	for i := range 20 {
		out.Sets = append(out.Sets, model.AddressSet{
			Family: model.FamilyCalico, Name: "set-" + strconv.Itoa(i), Labels: map[string]string{"app": "app-" + strconv.Itoa(i), "tier": strconv.Itoa(i % 4)},
			Blocks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i), 0}), 24)},
			Source: model.Source{Kind: "GlobalNetworkSet", Name: "set-" + strconv.Itoa(i)},
		})
	}
	for i, p := range c.Policies {
		translated := *p
		switch i % 4 {
		case 1:
			clusterPolicy(&translated, i)
		case 2:
			calicoPolicy(&translated, i)
		case 3:
			ciliumPolicy(&translated, i)
		}
		out.Policies = append(out.Policies, &translated)
	}
	return &out
}

// sections replaces the policy's sections by others with rules of their own.
func sections(p *model.Policy, of model.Section, change func(n int, r *model.Rule)) {
	for _, s := range []**model.Section{&p.Ingress, &p.Egress} {
		if *s == nil {
			continue
		}
		next := of
		for n, r := range (*s).Rules {
			r.Peers = append([]model.Peer(nil), r.Peers...)
			change(n, &r)
			next.Rules = append(next.Rules, r)
		}
		*s = &next
	}
}

func clusterPolicy(p *model.Policy, i int) {
	p.Family, p.Tier, p.Order = model.FamilyCluster, model.TierAdmin, float64(i%1000)
	p.Source.Kind = "ClusterNetworkPolicy"
	if i%8 == 1 {
		p.Tier = model.TierBaseline
	}
	sections(p, model.Section{Ordered: true}, func(n int, r *model.Rule) {
		r.Action = []model.Action{model.Allow, model.Pass, model.Deny}[(i+n)%3]
	})
}

func calicoPolicy(p *model.Policy, i int) {
	p.Family, p.Tier, p.Order = model.FamilyCalico, model.TierDefault, float64(i%2000)
	p.Source.Kind = "CalicoNetworkPolicy"
	if i%12 == 2 {
		p.Tier = "platform"
	}
	sections(p, model.Section{Ordered: true, DefaultDeny: true}, func(n int, r *model.Rule) {
		if n == 1 && i%3 == 0 {
			r.Action = model.Deny
		}
		for _, peer := range r.Peers {
			if peer.Pods != nil {
				r.Peers = append(r.Peers, model.Peer{Sets: &model.SetSelector{
					Family: model.FamilyCalico, Namespace: peer.Pods.Namespace, Namespaces: peer.Pods.Namespaces, Labels: peer.Pods.Pods,
				}})
			}
		}
	})
}

func ciliumPolicy(p *model.Policy, i int) {
	p.Family = model.FamilyCilium
	p.Source.Kind = "CiliumNetworkPolicy"
	sections(p, model.Section{DefaultDeny: true}, func(n int, r *model.Rule) {
		if n == 1 && i%3 == 0 {
			r.Action = model.Deny
		}
		for j := range r.Peers {
			r.Peers[j].Outside = r.Peers[j].Block != nil
		}
	})
}
