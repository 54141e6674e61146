package lint_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/lint"
)

// BenchmarkRun looks at 10,000 pods and 5,000 policies: NetworkPolicies alone,
// and those of four languages.
func BenchmarkRun(b *testing.B) {
	for name, dialects := range map[string]bool{"kubernetes": false, "four-languages": true} {
		b.Run(name, func(b *testing.B) {
			c := synth.Scale(synth.Ten)
			if dialects {
				c = synth.Dialects(c)
			}
			m := engine.Compile(c)
			b.ReportAllocs()
			findings := 0
			for b.Loop() {
				findings = len(lint.Run(lint.Input{Cluster: c, Matrix: m}))
			}
			b.ReportMetric(float64(findings), "findings")
		})
	}
}
