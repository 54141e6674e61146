package agent

import (
	"context"
	"testing"

	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/scenarios"
)

// kernel is the executor that tries every check with real packets.
type kernel struct{}

type kernelWorld struct{ *Lab }

func (kernel) Start(t testing.TB, s *scenarios.Scenario) scenarios.World {
	l, err := StartLab(context.Background(), lab.WithDNS(s.Cluster))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return kernelWorld{l}
}

// Differs probes the samples of the check that are TCP or UDP; a listening
// server is there for what the destination declares, so a refusal passes too.
func (w kernelWorld) Differs(c policytest.Check) (model.PortSet, error) {
	var list []Observation
	for _, key := range scenarios.Samples(c) {
		if p := key.Protocol(); p != model.TCP && p != model.UDP {
			continue
		}
		if c.From.Node == "" && c.From.Endpoint == nil && !c.From.Addr.IsValid() {
			continue
		}
		o, err := w.Observation(c.From, c.To, key)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	w.Observe(context.Background(), list, probePatience)
	var out []model.Interval
	for _, o := range list {
		reached := o.Outcome == lab.Connected || o.Outcome == lab.Refused
		if reached != c.Case.Allow {
			key := model.PortKeyOf(o.Protocol, o.Port)
			out = append(out, model.Interval{First: key, Last: key})
		}
	}
	return model.Union(out...), nil
}

func TestScenariosWithRealPackets(t *testing.T) {
	needRoot(t)
	all, err := scenarios.Load(scenarios.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) { scenarios.Run(t, s, kernel{}) })
	}
}
