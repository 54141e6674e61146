package calico

import (
	"math"

	"github.com/sallyport-dev/sallyport/model"
)

// tier reads a Tier. The reserved ones need no object, and none changes them.
func tier(o *object) model.Parts {
	t := model.Tier{Name: o.source.Name, Order: math.Inf(1), Source: o.source}
	if !tierName.MatchString(t.Name) {
		o.root.Field("metadata").Field("name").Error("\""+t.Name+"\" cannot be the name of a tier", "lower-case letters, digits and '-', at most 63")
	}
	order, action := o.spec.Field("order"), o.spec.Field("defaultAction")
	if mapping(o.spec) {
		if v, ok := order.Number(); ok {
			t.Order = v
		}
		switch action.String() {
		case "", "Deny":
		case "Pass":
			t.Pass = true
		default:
			action.Error("unknown action \""+action.Value()+"\"", "one of Deny, Pass (capitalised)")
		}
		o.spec.Done()
	}
	for _, r := range model.ReservedTiers() {
		if r.Name != t.Name {
			continue
		}
		if order.Present() && t.Order != r.Order || action.Present() && t.Pass != r.Pass {
			o.spec.Error("tier "+t.Name+" cannot be changed; it stays as it is", "leave its order and defaultAction alone")
		}
		return model.Parts{}
	}
	return model.Parts{Tiers: []model.Tier{t}}
}
