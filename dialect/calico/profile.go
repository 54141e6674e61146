package calico

import (
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// profileName tells the profiles that pods have: kns. and the namespace, ksa.
// with the namespace and the account.
var profileName = regexp.MustCompile(`^(?:kns\.([^.]+)|ksa\.([^.]+)\.(.+))$`)

// profile reads a Profile: what holds for pods that no tier decides about.
func profile(o *object) model.Parts {
	name := profileName.FindStringSubmatch(o.source.Name)
	p := &model.Policy{Source: o.source, Family: model.FamilyCalico, Tier: model.TierProfiles}
	if name != nil {
		p.Subject.Namespace = name[1] + name[2]
		if name[3] != "" {
			p.Order = 1 // after the namespace's, as a pod lists them
			p.Subject.Pods = model.Selector{Op: model.SelectIn, Key: model.AccountName, Values: []string{name[3]}}
		}
	}
	d := &decoder{object: o}
	readable := mapping(o.spec) && o.clean(func() {
		inherited(o.spec.Field("labelsToApply"))
		o.spec.Field("ingress")
		o.spec.Field("egress")
		o.spec.Done()
	})
	if readable {
		d.sections(p, types{ingress: true, egress: true})
	} else {
		shut(p, types{})
	}
	account := name != nil && name[3] != ""
	switch {
	case name == nil:
		o.root.Report(model.Info, "no pod has this profile, so its rules decide about none", "pods have kns.<namespace> and ksa.<namespace>.<account>")
		return model.Parts{}
	case account && len(p.Ingress.Rules)+len(p.Egress.Rules) == 0:
		return model.Parts{}
	}
	for _, s := range []*model.Section{p.Ingress, p.Egress} {
		passIsDeny(s)
		s.DefaultDeny = !account // what an account's profile leaves open, the namespace's decides
	}
	return model.Parts{Policies: []*model.Policy{p}}
}

// passIsDeny has rules deny that pass: there is nothing behind a profile.
func passIsDeny(s *model.Section) {
	for i := range s.Rules {
		if s.Rules[i].Action == model.Pass {
			s.Rules[i].Action = model.Deny
		}
	}
}

// inherited reads the labels that a profile gives to its endpoints. Those of
// pods are read from their Namespace and ServiceAccount.
func inherited(c field.Cursor) {
	for key := range c.StringMap() {
		if !strings.HasPrefix(key, prefixNamespace) && !strings.HasPrefix(key, prefixAccount) {
			c.Report(model.Warning, "label "+key+" is given to nobody: pods inherit the labels of their namespace and account only", "")
		}
	}
}
