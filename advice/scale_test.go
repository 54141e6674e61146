package advice

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

// TestSuggestionsOnALargeCluster turns verdicts of a cluster of 10,000 pods over.
func TestSuggestionsOnALargeCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("this test takes long")
	}
	c := synth.Scale(synth.Ten)
	m := engine.Compile(c)
	pods := m.Endpoints()
	key := model.PortKeyOf(model.TCP, 8080)
	found := [2]int{}
	began := time.Now()
	const questions = 4
	for i := range questions {
		q := Question{From: engine.Party{Endpoint: pods[i*97]}, To: engine.Party{Endpoint: pods[len(pods)-1-i*131]}, Key: key}
		before := m.Verdict(q.From, q.To, key).Allowed
		s := Suggest(c, m, q)
		if s == nil {
			t.Errorf("%s to %s (allowed: %t): there is no suggestion", q.From.Endpoint.Key(), q.To.Endpoint.Key(), before)
			continue
		}
		if !before {
			found[0]++
			turnsOver(t, s, q, c)
		} else {
			found[1]++
		}
	}
	t.Logf("%d to allow and %d to deny took %s", found[0], found[1], time.Since(began))
}
