package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Event is one report of the kernel, decoded. Addresses, ports, subjects and
// identities are those of the connection's original direction; for ICMP
// DestinationPort is type<<8 | code.
type Event struct {
	Time                           time.Duration `json:"time"` // CLOCK_MONOTONIC
	Revision                       uint32        `json:"revision"`
	Hook                           Hook          `json:"hook"`
	Reason                         Reason        `json:"reason"`
	Source                         netip.Addr    `json:"source"`
	Destination                    netip.Addr    `json:"destination"`
	SourcePort                     uint16        `json:"sourcePort"`
	DestinationPort                uint16        `json:"destinationPort"`
	Protocol                       uint8         `json:"protocol"`
	SourceSubject                  uint32        `json:"-"` // slots and columns of the revision
	DestinationSubject             uint32        `json:"-"`
	SourceIdentity                 uint32        `json:"-"`
	DestinationIdentity            uint32        `json:"-"`
	EgressGate                     uint32        `json:"-"`
	IngressGate                    uint32        `json:"-"`
	InIfindex                      uint32        `json:"inIfindex,omitempty"`
	OutIfindex                     uint32        `json:"outIfindex,omitempty"`
	Shadow, Log, Reply, Redirected bool          `json:"-"` // Shadow: the shadow plane decides otherwise
}

// Allowed says whether the packet passed.
func (e Event) Allowed() bool { return e.Reason.Accepts() }

// Key is the event's port key.
func (e Event) Key() model.PortKey {
	return model.PortKeyOf(model.Protocol(e.Protocol), e.DestinationPort)
}

// Attribution explains the slots of past revisions; *datapath.Planner and
// *datapath.History are some.
type Attribution interface {
	Gate(revision, slot uint32) (g *engine.Gate, endpoints []string, ok bool)
	Subject(revision, slot uint32) (endpoint string, ok bool)
}

// Matrix is what an Enricher asks; *engine.Matrix is one.
type Matrix interface {
	EndpointAt(netip.Addr) *model.Endpoint
	Verdict(src, dst engine.Party, key model.PortKey) engine.Verdict
}

// Enricher explains events by the gates of their own revision and, for names
// and rules, by the present Matrix. It belongs to the Matrix's goroutine.
type Enricher struct {
	Matrix      Matrix
	Attribution Attribution
}

// Door is one judged end of a flow. Attributed is false if the revision is too
// old: the policies are unknown then. Rule is known only if the present Matrix
// decides as the kernel did.
type Door struct {
	Attributed bool           `json:"attributed"`
	Policies   []model.Source `json:"policies,omitempty"`
	Rule       *model.Source  `json:"rule,omitempty"`
	Reason     engine.Reason  `json:"reason,omitempty"`
}

// Flow is an event that people can read. Doors that nobody judged are nil.
type Flow struct {
	Event
	SourcePod      string `json:"sourcePod,omitempty"` // "namespace/name"
	DestinationPod string `json:"destinationPod,omitempty"`
	Verdict        string `json:"verdict"`           // allowed or denied
	WouldBe        string `json:"wouldBe,omitempty"` // the shadow plane's verdict, if it differs
	Egress         *Door  `json:"egress,omitempty"`
	Ingress        *Door  `json:"ingress,omitempty"`
}

// Enrich explains the event.
func (r Enricher) Enrich(e Event) Flow {
	f := Flow{
		Event:          e,
		SourcePod:      r.pod(e.Revision, e.SourceSubject, e.Source),
		DestinationPod: r.pod(e.Revision, e.DestinationSubject, e.Destination),
	}
	verdicts := [2]string{"denied", "allowed"}
	allowed := 0
	if e.Allowed() {
		allowed = 1
	}
	f.Verdict = verdicts[allowed]
	if e.Shadow {
		f.WouldBe = verdicts[1-allowed]
	}
	now := r.Matrix.Verdict(r.party(e.Source), r.party(e.Destination), e.Key())
	if e.EgressGate != 0 {
		f.Egress = r.door(e, e.EgressGate, now.Egress, e.Reason != EgressDenied)
	}
	if e.IngressGate != 0 {
		f.Ingress = r.door(e, e.IngressGate, now.Ingress, e.Reason != IngressDenied)
	}
	return f
}

func (r Enricher) pod(revision, subject uint32, a netip.Addr) string {
	if key, ok := r.Attribution.Subject(revision, subject); ok {
		return key
	}
	if e := r.Matrix.EndpointAt(a); e != nil {
		return e.Key()
	}
	return ""
}

func (r Enricher) party(a netip.Addr) engine.Party {
	return engine.Party{Endpoint: r.Matrix.EndpointAt(a), Addr: a}
}

// door names the policies of the gate at the event's revision. The rule comes
// from the present Matrix, so it is told only if that one is governed by the
// same policies and decides alike.
func (r Enricher) door(e Event, slot uint32, now engine.Door, open bool) *Door {
	g, _, ok := r.Attribution.Gate(e.Revision, slot)
	if !ok || g == nil {
		return &Door{}
	}
	d := &Door{Attributed: true}
	for _, p := range g.Policies {
		d.Policies = append(d.Policies, p.Source)
	}
	if now.Allowed != open || !samePolicies(g.Policies, now.Policies) {
		return d
	}
	d.Reason = now.Reason
	if now.Rule != nil {
		d.Rule = &now.Rule.Source
	}
	return d
}

func samePolicies(a, b []*model.Policy) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// JSON is the flow as one line of JSON, without the line's end.
func (f Flow) JSON() ([]byte, error) { return json.Marshal(f) }

// String is the flow as one line for people.
func (f Flow) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s -> %s %s %s", f.Verdict, side(f.SourcePod, f.Source), side(f.DestinationPod, f.Destination), f.service(), f.Reason)
	if f.WouldBe != "" {
		fmt.Fprintf(&b, " (would be %s)", f.WouldBe)
	}
	f.Egress.append(&b, "egress")
	f.Ingress.append(&b, "ingress")
	return b.String()
}

func side(pod string, a netip.Addr) string {
	if pod == "" {
		return a.String()
	}
	return pod + "[" + a.String() + "]"
}

func (f Flow) service() string {
	switch p := model.Protocol(f.Protocol); p {
	case model.ICMP, model.ICMPv6:
		return fmt.Sprintf("%s type %d code %d", p, f.DestinationPort>>8, f.DestinationPort&0xff)
	default:
		return f.Key().String()
	}
}

func (d *Door) append(b *strings.Builder, name string) {
	switch {
	case d == nil:
		return
	case !d.Attributed:
		fmt.Fprintf(b, "; %s: unattributed", name)
		return
	}
	fmt.Fprintf(b, "; %s:", name)
	for _, p := range d.Policies {
		fmt.Fprintf(b, " %s/%s", p.Namespace, p.Name)
	}
	if d.Rule != nil {
		fmt.Fprintf(b, " by %s", d.Rule.Field)
	}
}
