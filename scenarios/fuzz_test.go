package scenarios_test

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// fuzzPods keeps one input's pairs few enough to ask the slow oracle about.
const fuzzPods = 12

// manyPods are inputs that would only measure how fast pods are made.
var manyPods = regexp.MustCompile(`(replicas|parallelism|completions)\W*\d{3,}`)

// FuzzFileToVerdict takes mutated scenarios the whole way, from bytes to
// verdicts and policy tests. Nothing may crash, and the engine must say what
// the reference says of whatever was understood.
func FuzzFileToVerdict(f *testing.F) {
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range all {
		var text bytes.Buffer
		for _, name := range s.Order {
			text.WriteString("---\n")
			text.Write(s.Files[name])
		}
		f.Add(text.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<14 || manyPods.Match(text) {
			return
		}
		r := manifest.Parse(map[string][]byte{"f": text}, []string{"f"}, manifest.Options{})
		for _, p := range r.Problems {
			if p.Error() == "" {
				t.Error("a problem without a text")
			}
		}
		if len(r.Cluster.Endpoints) > fuzzPods {
			return
		}
		m := engine.Compile(r.Cluster)
		comparePairs(t, r.Cluster, m)
		for _, o := range r.Tests {
			cases, _ := policytest.Decode(o)
			for i := range cases {
				policytest.Run(m, &cases[i])
			}
		}
	})
}

func comparePairs(t *testing.T, c *model.Cluster, m *engine.Matrix) {
	t.Helper()
	keys := []model.PortKey{model.PortKeyOf(model.TCP, 80), model.PortKeyOf(model.UDP, 53), model.PortKeyOf(model.SCTP, 9), model.PortKeyOf(model.ICMP, 8<<8)}
	for _, src := range m.Endpoints() {
		for _, dst := range m.Endpoints() {
			if len(src.IPs) == 0 || len(dst.IPs) == 0 {
				continue // somebody without an address has no connections
			}
			for _, key := range keys {
				from, to := engine.Party{Endpoint: src}, engine.Party{Endpoint: dst}
				got := m.Verdict(from, to, key).Allowed
				want := reference.Judge(c, referenceParty(from), referenceParty(to), key).Allowed
				if got != want {
					t.Errorf("%s to %s on %s: the engine says %t, the reference %t", src.Key(), dst.Key(), key, got, want)
				}
			}
		}
	}
}

func referenceParty(p engine.Party) reference.Party {
	return reference.Party{Pod: p.Endpoint, Addr: p.Endpoint.IPs[0]}
}
