package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

func (s *session) newGetProfiles() *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use: "profiles", Short: "Calico's profiles: what every namespace and service account stands for", Args: cobra.NoArgs, Aliases: aliases["profiles"],
		Long: `Pods have a profile kns.NAMESPACE, which has the labels of the namespace and
lets everything pass that no policy governs, and ksa.NAMESPACE.ACCOUNT, which
has the labels of the service account and no rules. A Profile object of that
name replaces the rules.`,
		Example: "  sallyport get profiles -f manifests/\n  sallyport get profiles -n production -o json",
		RunE:    func(c *cobra.Command, _ []string) error { return s.getProfiles(c.Context(), f) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "table", "table", "json")
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only of this namespace")
	c.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "of all namespaces, as is without -n")
	return c
}

// profile is what a namespace or an account gives its pods.
type profile struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Pods   int               `json:"pods"`
	Rules  string            `json:"rules"`
}

func (s *session) getProfiles(ctx context.Context, f getFlags) error {
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	list := profiles(r.Cluster, f)
	if s.output == "json" {
		return s.asJSON(map[string]any{"profiles": list})
	}
	return report.Table(s.stdout, width(s.stdout), []string{"NAME", "PODS", "RULES", "LABELS"}, func(yield func([]string) bool) {
		for _, p := range list {
			var labels []string
			for _, k := range sortedKeys(p.Labels) {
				labels = append(labels, k+"="+p.Labels[k])
			}
			if !yield([]string{p.Name, fmt.Sprint(p.Pods), p.Rules, strings.Join(labels, ",")}) {
				return
			}
		}
	})
}

func profiles(c *model.Cluster, f getFlags) []profile {
	pods, replaced := map[string]int{}, map[string]bool{}
	list := []profile{}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		pods["kns."+e.Namespace]++
		pods["ksa."+e.Namespace+"."+e.ServiceAccount]++
	}
	for _, p := range c.Policies {
		if p.Tier == model.TierProfiles {
			replaced[p.Source.Name] = true
		}
	}
	add := func(name, rules string, labels map[string]string) {
		if replaced[name] {
			rules = "those of its Profile object"
		}
		list = append(list, profile{Name: name, Labels: labels, Pods: pods[name], Rules: rules})
		delete(pods, name)
	}
	for _, n := range c.Namespaces {
		if f.wants(n.Name) {
			add("kns."+n.Name, "everything passes", n.Labels)
		}
	}
	for i := range c.Accounts {
		if a := &c.Accounts[i]; f.wants(a.Namespace) {
			add("ksa."+a.Namespace+"."+a.Name, "none", a.Labels)
		}
	}
	for i := range c.Endpoints { // of accounts that nobody has labelled
		if e := &c.Endpoints[i]; f.wants(e.Namespace) && pods["ksa."+e.Namespace+"."+e.ServiceAccount] > 0 {
			add("ksa."+e.Namespace+"."+e.ServiceAccount, "none", map[string]string{})
		}
	}
	slices.SortFunc(list, func(a, b profile) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (s *session) newGetTiers() *cobra.Command {
	c := &cobra.Command{
		Use: "tiers", Short: "The tiers in their order, and what stands in each", Args: cobra.NoArgs, Aliases: aliases["tiers"],
		Example: "  sallyport get tiers -f manifests/\n  sallyport get tiers -o json",
		RunE:    func(c *cobra.Command, _ []string) error { return s.getTiers(c.Context()) },
	}
	s.liveFlags(c)
	s.outputFlag(c, "table", "table", "json")
	return c
}

// tierState is one tier with what stands in it.
type tierState struct {
	Name     string   `json:"name"`
	Order    *float64 `json:"order"` // null: after all that have one
	End      string   `json:"defaultAction"`
	Policies []string `json:"policies"` // in order of evaluation
}

func (s *session) getTiers(ctx context.Context) error {
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	list := tierStates(r.Cluster)
	if s.output == "json" {
		return s.asJSON(map[string]any{"tiers": list})
	}
	return report.Table(s.stdout, width(s.stdout), []string{"NAME", "ORDER", "END", "POLICIES"}, func(yield func([]string) bool) {
		for _, t := range list {
			order := "last"
			if t.Order != nil {
				order = strconv.FormatFloat(*t.Order, 'f', -1, 64)
			}
			if !yield([]string{t.Name, order, t.End, strings.Join(t.Policies, ", ")}) {
				return
			}
		}
	})
}

func tierStates(c *model.Cluster) []tierState {
	tiers := slices.Clone(c.Tiers)
	named := func(name string) bool {
		return slices.ContainsFunc(tiers, func(t model.Tier) bool { return t.Name == name })
	}
	for _, t := range model.ReservedTiers() {
		if !named(t.Name) {
			tiers = append(tiers, t)
		}
	}
	policies := map[string][]string{}
	for _, p := range engine.Compile(c).Policies() {
		if !named(p.Tier) && p.Tier != model.TierProfiles {
			tiers = append(tiers, model.UnknownTier(p.Tier))
		}
		policies[p.Tier] = append(policies[p.Tier], p.Source.Object())
	}
	slices.SortFunc(tiers, func(a, b model.Tier) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name)) })
	list := []tierState{}
	for _, t := range tiers {
		x := tierState{Name: t.Name, End: "Deny", Policies: append([]string{}, policies[t.Name]...)}
		if t.Pass {
			x.End = "Pass"
		}
		if !math.IsInf(t.Order, 0) {
			x.Order = &t.Order
		}
		list = append(list, x)
	}
	return list
}
