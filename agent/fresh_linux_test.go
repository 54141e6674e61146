package agent

import (
	"fmt"
	"testing"

	"github.com/sallyport-dev/sallyport/kube"
)

// What a policy told apart is one again some time after the policy went, and
// nothing that passes or is denied meanwhile notices.
func TestIdentitiesOfPoliciesThatAreGoneGoToo(t *testing.T) {
	plain := village("[]", "[{}]")
	r := newRealm(t, cluster(t, plain))
	r.tell(kube.Update{Cluster: r.cluster})
	identities := func() (n int) {
		for _, node := range r.nodes {
			n = max(n, node.Status().Identities)
		}
		return n
	}
	few := identities()
	open, shut := startStream(t, r.Lab, "a/client", "a/server"), startStream(t, r.Lab, "a/server", "a/client")
	r.tell(kube.Update{Change: r.become(cluster(t, plain+blocks(600)))})
	many := identities()
	r.tell(kube.Update{Change: r.become(cluster(t, plain))})
	if after := identities(); many < 600 || after < 600 {
		t.Errorf("%d identities, %d with 600 blocks, %d at once without them: there is nothing to be tested", few, many, after)
	}
	eventually(t, func() string {
		if now := identities(); now > few {
			return fmt.Sprintf("%d identities, %d with 600 blocks, still %d without them", few, many, now)
		}
		return ""
	})
	compare(t, r.Lab)
	open.wantAll(t)
	shut.wantSilence(t)
	for _, node := range r.nodes {
		if s := node.Status(); !s.Ready || len(s.Degraded) > 0 {
			t.Errorf("%+v", s)
		}
	}
}
