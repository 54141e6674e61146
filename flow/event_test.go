package flow

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// attribution knows the gates of revision 7 only.
type attribution map[uint32]*engine.Gate

func (a attribution) Gate(revision, slot uint32) (*engine.Gate, []string, bool) {
	g, ok := a[slot]
	return g, nil, ok && revision == 7
}

func (a attribution) Subject(uint32, uint32) (string, bool) { return "", false }

func deniedWorld() (Enricher, Event) {
	policy := &model.Policy{
		Source: model.Source{Kind: "NetworkPolicy", Namespace: "n", Name: "deny"}, Tier: model.TierDefault, Order: model.KubernetesOrder,
		Subject: model.EndpointSelector{Namespace: "n"}, Ingress: &model.Section{DefaultDeny: true},
	}
	m := engine.Compile(&model.Cluster{
		Namespaces: []model.Namespace{{Name: "n"}}, Policies: []*model.Policy{policy},
		Endpoints: []model.Endpoint{{Namespace: "n", Name: "web", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
	})
	e := Event{
		Revision: 7, Hook: Forward, Reason: IngressDenied, Protocol: 6, DestinationPort: 80, IngressGate: 3,
		Source: netip.MustParseAddr("192.0.2.1"), Destination: netip.MustParseAddr("10.0.0.1"),
	}
	return Enricher{m, attribution{3: m.Gate("n/web", model.Ingress)}}, e
}

func TestEnrichNamesPodsAndPolicies(t *testing.T) {
	r, e := deniedWorld()
	f := r.Enrich(e)
	const want = "denied 192.0.2.1 -> n/web[10.0.0.1] 80/TCP ingress-denied; ingress: n/deny"
	if f.String() != want {
		t.Errorf("got  %s\nwant %s", f, want)
	}
	if f.Ingress.Reason != engine.DefaultDeny {
		t.Errorf("reason %q", f.Ingress.Reason)
	}
	line, err := f.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(line, &back); err != nil {
		t.Fatal(err)
	}
	if back["verdict"] != "denied" || back["reason"] != "ingress-denied" || back["hook"] != "forward" {
		t.Errorf("%s", line)
	}
}

func TestOldRevisionsAreUnattributed(t *testing.T) {
	r, e := deniedWorld()
	e.Revision = 6
	if f := r.Enrich(e); f.Ingress.Attributed || !strings.HasSuffix(f.String(), "ingress: unattributed") {
		t.Errorf("%s", f)
	}
}

func TestShadowSaysWhatWouldBe(t *testing.T) {
	r, e := deniedWorld()
	e.Shadow = true
	if f := r.Enrich(e); f.WouldBe != "allowed" {
		t.Errorf("would be %q", f.WouldBe)
	}
}

func TestReasonsReadBackByName(t *testing.T) {
	for _, r := range Reasons() {
		text, _ := r.MarshalText()
		var back Reason
		if err := back.UnmarshalText(text); err != nil || back != r || len(text) == 0 {
			t.Errorf("%d: %q reads as %v, %v", r, text, back, err)
		}
	}
}
