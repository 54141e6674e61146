package scenarios_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// updated is the executor of X-after scenarios that begins with X-before and
// gets where it should be by applying what changed, in the engine and in the
// tables of one node's kernel.
type updated struct {
	before map[string]*scenarios.Scenario
	fake   bool
}

func (u updated) Start(t testing.TB, s *scenarios.Scenario) scenarios.World {
	t.Helper()
	before := u.before[s.Name]
	m := engine.Compile(before.Cluster)
	node := newFakeNode(before.Cluster, before.Cluster.Nodes[0])
	node.publish(t, m, engine.Delta{Full: true})
	node.publish(t, m, m.Apply(engine.Between(before.Cluster, s.Cluster)))
	if u.fake {
		return scenarios.Judge(fakeWorld{nodes: map[string]*fakeNode{s.Cluster.Nodes[0].Name: node}}.judge)
	}
	return scenarios.Judge(func(from, to engine.Party, key model.PortKey) (bool, error) {
		return m.Verdict(from, to, key).Allowed, nil
	})
}

func TestUpdates(t *testing.T) {
	all := load(t)
	byName := map[string]*scenarios.Scenario{}
	for _, s := range all {
		byName[s.Name] = s
	}
	pairs := map[string]*scenarios.Scenario{}
	for _, s := range all {
		if stem, ok := strings.CutSuffix(s.Name, "-after"); ok {
			if pairs[s.Name] = byName[stem+"-before"]; pairs[s.Name] == nil {
				t.Fatalf("%s has no %s-before", s.Name, stem)
			}
		}
	}
	if len(pairs) < 9 {
		t.Fatalf("only %d updates", len(pairs))
	}
	for name := range pairs {
		t.Run(name+"/engine", func(t *testing.T) { scenarios.Run(t, byName[name], updated{before: pairs}) })
		t.Run(name+"/fake", func(t *testing.T) { scenarios.Run(t, byName[name], updated{before: pairs, fake: true}) })
	}
}
