package convert_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/sallyport-dev/sallyport/convert"
	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// decoded is the cluster with the policies that were written.
func decoded(cl *model.Cluster, text []byte) (*model.Cluster, error) {
	r := manifest.Parse(map[string][]byte{"converted.yaml": text}, []string{"converted.yaml"}, manifest.Options{})
	for _, p := range r.Problems {
		if p.Severity == model.Error {
			return nil, fmt.Errorf("%v in\n%s", p, text)
		}
	}
	out := *cl
	out.Policies = r.Cluster.Policies
	return &out, nil
}

// there converts a cluster and returns it with the policies that came out.
func there(cl *model.Cluster, t convert.Target) (*model.Cluster, convert.Result, error) {
	r, err := convert.To(t, cl)
	if err != nil {
		return nil, r, err
	}
	out, err := decoded(cl, r.YAML)
	return out, r, err
}

// faithful checks that nothing opens, and that nothing changes unless it was said.
func faithful(before, after *model.Cluster, r convert.Result) error {
	d := diff.Compare(engine.Compile(before), engine.Compile(after))
	for _, c := range d.Changes {
		if c.Opens() || len(r.Omissions) == 0 {
			return fmt.Errorf("%s to %s changes from %v to %v on %s; omissions %v\n%s", c.From.Name, c.To.Name, c.Was, c.Is, c.Ports, r.Omissions, r.YAML)
		}
	}
	return nil
}

// cases is how many random cases a test tries: SALLYPORT_CASES, or the standard.
func cases(t *testing.T, standard uint64) uint64 {
	t.Helper()
	text := os.Getenv("SALLYPORT_CASES")
	if text == "" {
		return standard
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNothingOpens converts policies of all kinds, tiers and vendors mixed.
func TestNothingOpens(t *testing.T) {
	equal, total := map[convert.Target]int{}, 0
	for seed := range cases(t, 150) {
		cl := synth.NewChaos(seed).Cluster()
		total++
		for _, target := range convert.Targets {
			out, r, err := there(cl, target)
			if err == nil {
				err = faithful(cl, out, r)
			}
			if err != nil {
				t.Fatalf("seed %d to %s: %v", seed, target, err)
			}
			if len(r.Omissions) == 0 {
				equal[target]++
			}
		}
	}
	t.Logf("of %d clusters nothing was left out: %v", total, equal)
}

// TestKubernetesGoesThereAndBack converts NetworkPolicies to every language
// and what comes out to NetworkPolicies again.
func TestKubernetesGoesThereAndBack(t *testing.T) {
	left := map[convert.Target]int{}
	total := 0
	for seed := range cases(t, 150) {
		cl, _, err := there(synth.NewChaos(3*seed+1).Cluster(), convert.NetworkPolicy)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		total++
		for _, target := range convert.Targets {
			out, r, err := there(cl, target)
			if err == nil {
				err = faithful(cl, out, r)
			}
			if err == nil && len(r.Omissions) > 0 && (target == convert.Calico || target == convert.NetworkPolicy) {
				err = fmt.Errorf("not everything was said: %v", r.Omissions)
			}
			if err != nil {
				t.Fatalf("seed %d to %s: %v", seed, target, err)
			}
			if len(r.Omissions) > 0 {
				left[target]++
			}
			back, again, err := there(out, convert.NetworkPolicy)
			if err == nil {
				err = faithful(out, back, again)
			}
			if err != nil {
				t.Fatalf("seed %d to %s and back: %v", seed, target, err)
			}
		}
	}
	t.Logf("of %d clusters something was left out: %v", total, left)
}
