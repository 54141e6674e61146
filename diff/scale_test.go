package diff_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
)

// BenchmarkCompare compares clusters of 10,000 pods and 5,000 policies: equal
// ones, one with other policies for a tenth, and one without any policy.
func BenchmarkCompare(b *testing.B) {
	old := synth.Scale(synth.Ten)
	for name, keep := range map[string]func(i int) bool{
		"same":    func(int) bool { return true },
		"tenth":   func(i int) bool { return i%10 != 3 },
		"nothing": func(int) bool { return false },
	} {
		next := *old
		next.Policies = nil
		for i, p := range old.Policies {
			if keep(i) {
				next.Policies = append(next.Policies, p)
			}
		}
		b.Run(name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				x, y := engine.Compile(old), engine.Compile(&next)
				b.StartTimer()
				d := diff.Compare(x, y)
				b.ReportMetric(float64(len(d.Changes)), "changes")
			}
		})
	}
}
