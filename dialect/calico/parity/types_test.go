package parity

import (
	"testing"
	_ "unsafe" // the vendor keeps its defaulting to itself

	api "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	_ "github.com/projectcalico/calico/libcalico-go/lib/clientv3"

	"github.com/sallyport-dev/sallyport/dialect/calico"
)

//go:linkname defaultTypes github.com/projectcalico/calico/libcalico-go/lib/clientv3.defaultPolicyTypesField
func defaultTypes(ingress, egress []api.Rule, types *[]api.PolicyType)

// TestTypes leaves types out, and lists all of them, with rules of either
// direction and without.
func TestTypes(t *testing.T) {
	rules := [][]any{nil, {}, {map[string]any{"action": "Allow"}}}
	types := [][]any{nil, {}, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}
	for _, ingress := range rules {
		for _, egress := range rules {
			for _, list := range types {
				spec := map[string]any{}
				for name, value := range map[string][]any{"ingress": ingress, "egress": egress, "types": list} {
					if value != nil {
						spec[name] = value
					}
				}
				parts, _ := decodeObject(t, map[string]any{
					"apiVersion": calico.Served, "kind": "GlobalNetworkPolicy", "metadata": map[string]any{"name": "p"}, "spec": spec,
				})
				var want []api.PolicyType
				for _, x := range list {
					want = append(want, api.PolicyType(x.(string)))
				}
				defaultTypes(make([]api.Rule, len(ingress)), make([]api.Rule, len(egress)), &want)
				in, out := false, false
				for _, x := range want {
					in, out = in || x == api.PolicyTypeIngress, out || x == api.PolicyTypeEgress
				}
				if p := parts.Policies[0]; (p.Ingress != nil) != in || (p.Egress != nil) != out {
					t.Errorf("%v: we govern ingress %t and egress %t, the vendor %v", spec, p.Ingress != nil, p.Egress != nil, want)
				}
			}
		}
	}
}
