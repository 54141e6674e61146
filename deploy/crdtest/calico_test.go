package crdtest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

const served, stored = "projectcalico.org/v3", "crd.projectcalico.org/v1"

// TestCalicosFormsAgree holds that an object may say the same in both forms.
func TestCalicosFormsAgree(t *testing.T) {
	defined := definitions(t)
	n := 0
	for kind, d := range defined {
		if kind[0] != stored {
			continue
		}
		n++
		if diff := cmp.Diff(defined[[2]string{served, kind[1]}].schema, d.schema); diff != "" {
			t.Errorf("%s is another as it is served (-) than as it is stored (+):\n%s", kind[1], diff)
		}
	}
	if n != 9 {
		t.Errorf("%d kinds are stored, want 9", n)
	}
}

// TestCalicosRulesAreTheSame holds that the rules of all kinds have the same
// fields, in both directions.
func TestCalicosRulesAreTheSame(t *testing.T) {
	defined := definitions(t)
	var want map[string]structuralschema.Structural
	for _, kind := range []string{"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy", "Profile"} {
		for _, direction := range []string{"ingress", "egress"} {
			rule := defined[[2]string{served, kind}].schema.Properties["spec"].Properties[direction].Items.Properties
			if want == nil {
				want = rule
			}
			if diff := cmp.Diff(want, rule); len(rule) < 10 || diff != "" {
				t.Errorf("%s %s: %s", kind, direction, diff)
			}
		}
	}
}
