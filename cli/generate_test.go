package cli

import (
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
)

// TestGeneratedTestsPinTheBehaviour makes tests of random clusters. They hold
// for the cluster that they were made of, and fail for one in which two pods
// can connect otherwise.
func TestGeneratedTestsPinTheBehaviour(t *testing.T) {
	changed := 0
	for seed := range uint64(600) {
		c := synth.NewChaos(seed)
		before := c.Cluster()
		for range 3 {
			before.Policies = append(before.Policies, c.Policy())
		}
		m := engine.Compile(before)
		text := policytest.Generate(m)
		if n := failing(t, text, m); n > 0 {
			t.Fatalf("seed %d: %d cases do not hold for what they were made of\n%s", seed, n, text)
		}
		after := *before
		after.Policies = append(append([]*model.Policy{}, before.Policies...), c.Policy())
		other := engine.Compile(&after)
		if !differs(m, other) {
			continue
		}
		changed++
		if failing(t, text, other) == 0 {
			t.Fatalf("seed %d: other connections, and no case fails\n%s", seed, text)
		}
	}
	if changed < 50 {
		t.Errorf("only %d of the changes changed anything", changed)
	}
}

func failing(t *testing.T, text []byte, m *engine.Matrix) int {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"t.yaml": text}, []string{"t.yaml"}, manifest.Options{})
	if len(r.Problems) > 0 || len(r.Tests) != 1 {
		t.Fatalf("%v\n%s", r.Problems, text)
	}
	cases, problems := policytest.Decode(r.Tests[0])
	if len(problems) > 0 {
		t.Fatalf("%v\n%s", problems, text)
	}
	n := 0
	for i := range cases {
		for _, x := range policytest.Run(m, &cases[i]) {
			if !x.Passed() {
				n++
			}
		}
	}
	return n
}

// differs says whether two pods with addresses of their own can connect
// otherwise over TCP, UDP or SCTP.
func differs(a, b *engine.Matrix) bool {
	for _, src := range a.Endpoints() {
		for _, dst := range a.Endpoints() {
			if src == dst || src.HostNetwork || dst.HostNetwork {
				continue
			}
			x, y := engine.Party{Endpoint: src}, engine.Party{Endpoint: dst}
			for _, p := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
				ports := model.PortSet{{First: model.PortKeyOf(p, 1), Last: model.PortKeyOf(p, 65535)}}
				if a.Connections(x, y).Intersect(ports).String() != b.Connections(x, y).Intersect(ports).String() {
					return true
				}
			}
		}
	}
	return false
}
