package conformance

import (
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/suite"
)

const output = `=== RUN   TestConformance
    helper.go:93: FAILED Command was [/agnhost connect]
--- FAIL: TestConformance (88.09s)
    --- PASS: TestConformance/CNPAdminTierGress (45.10s)
        --- PASS: TestConformance/CNPAdminTierGress/Should_support_an_'allow-egress'_policy (1.68s)
        --- PASS: TestConformance/CNPAdminTierGress/Should_support_a_'deny-egress'_policy (9.02s)
    --- FAIL: TestConformance/CNPAdminTierIngressTCP (12.10s)
        --- FAIL: TestConformance/CNPAdminTierIngressTCP/Should_deny (10.02s)
        --- PASS: TestConformance/CNPAdminTierIngressTCP/Should_allow (0.02s)
    --- FAIL: TestConformance/CNPAdminTierEgressTCP (0.10s)
    --- SKIP: TestConformance/CNPAdminTierEgressNodePeers (0.00s)
FAIL
`

func TestRead(t *testing.T) {
	var r suite.Result
	read(&r, []byte(output))
	if r.Passed != 3 || len(r.Failed) != 2 || r.Failed[0].Spec != "CNPAdminTierIngressTCP/Should_deny" || r.Failed[1].Spec != "CNPAdminTierEgressTCP" {
		t.Errorf("got %+v", r)
	}
	if err := r.Check(Subtests); err == nil {
		t.Error("that is no success")
	}
}
