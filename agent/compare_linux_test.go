package agent

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/datapath"
)

// Compare finds nothing where the kernel has what the policies say, and a
// policy, a pod, a row and an index that it does not have.
func TestCompareFindsWhatDiffers(t *testing.T) {
	needRoot(t)
	now := cluster(t, village("[]", "[{from: [{podSelector: {matchLabels: {app: client}}}]}]")+podNamed("zoe", "")+blocks(40))
	l := start(t, now)
	pin := LabPins + "/node-0"
	differences := func(text string) []Difference {
		t.Helper()
		c := now
		if text != "" {
			c = cluster(t, text)
		}
		x, err := Compare(c, "node-0", pin, 20, 1)
		must(t, err)
		if x.Decisions < 100 || x.Allowed == 0 || x.Allowed == x.Decisions {
			t.Fatalf("hardly anything was decided: %+v", x)
		}
		return x.Differences
	}
	if d := differences(""); len(d) > 0 {
		t.Errorf("nothing differs, but %v", d)
	}
	if d := differences(village("[]", "[]") + podNamed("zoe", "") + blocks(40)); len(d) == 0 {
		t.Error("a policy is another, and it is not found")
	}
	d := differences(village("[]", "[]") + podNamed("zoe", "") + podNamed("zz", "") + blocks(40))
	if len(d) == 0 || !strings.Contains(d[len(d)-1].String(), "a/zz: the kernel does not have") {
		t.Errorf("a pod is missing, but %v", d)
	}
	p := l.agents["node-0"].program
	s, err := p.Snapshot()
	must(t, err)
	for _, r := range s.Ranges {
		if r.Allow > datapath.RowAll {
			must(t, p.Apply(datapath.Tx{datapath.SetRow{Row: r.Allow}, datapath.Publish{Revision: p.Revision() + 1}}))
			break
		}
	}
	if len(differences("")) == 0 {
		t.Error("a row was emptied, and it is not found")
	}
}
