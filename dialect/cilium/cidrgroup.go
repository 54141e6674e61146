package cilium

import (
	"net/netip"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// groupNameLabel and the group's name are a label of every group.
const groupNameLabel = "io.cilium.policy.cidrgroupname/"

func decodeCIDRGroup(o field.Object) (model.Parts, []model.Problem) {
	problems := &field.Problems{}
	root := field.Open(o, problems)
	written := field.CheckMetadata(root, o.Source)
	root.Field("apiVersion")
	root.Field("kind")
	root.Field("status")
	spec := root.Field("spec")
	root.Done()
	set := model.AddressSet{Family: model.FamilyCilium, Name: o.Source.Name, Labels: map[string]string{groupNameLabel + o.Source.Name: ""}, Source: o.Source}
	set.Source.Field = ""
	for k, v := range written {
		set.Labels[k] = v
	}
	set.Blocks = externalCIDRs(spec)
	return model.Parts{Sets: []model.AddressSet{set}}, problems.List
}

func externalCIDRs(spec field.Cursor) []netip.Prefix {
	if !spec.Present() {
		spec.Error("is missing", "spec.externalCIDRs lists the group's addresses")
	}
	if !spec.Mapping() {
		return nil
	}
	cidrs := spec.Field("externalCIDRs")
	spec.Done()
	if !cidrs.Present() {
		cidrs.Error("is missing", "an empty list is a group without addresses")
	}
	var out []netip.Prefix
	for _, c := range cidrs.Items() {
		if p, ok := field.Prefix(c); ok {
			out = append(out, p)
		}
	}
	return out
}
