package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// metrics are what a Node tells Prometheus. What has a state of its own is
// counted; the rest is read from the Node when asked for.
type metrics struct {
	registry    *prometheus.Registry
	programming prometheus.Histogram
	denied      *prometheus.CounterVec
	drift       prometheus.Counter
}

func newMetrics(n *Node) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sallyport_programming_seconds", Help: "Time from the arrival of the oldest event of a change to its enforcement in the kernel.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_denied_total", Help: "Denied packets that were reported, by direction, reason and the policies that isolate the pod.",
		}, []string{"direction", "reason", "policy"}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_drift_total", Help: "Audits that found the kernel to differ from what it should hold.",
		}),
	}
	m.registry.MustRegister(m.programming, m.denied, m.drift, gauges{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// count counts a denied flow once for every policy of the door that denies.
func (m *metrics) count(f *flow.Flow) {
	if f.Allowed() {
		return
	}
	direction, door := "", (*flow.Door)(nil)
	switch f.Reason {
	case flow.EgressDenied:
		direction, door = "egress", f.Egress
	case flow.IngressDenied:
		direction, door = "ingress", f.Ingress
	}
	if door == nil || len(door.Policies) == 0 {
		m.denied.WithLabelValues(direction, f.Reason.String(), "").Inc()
		return
	}
	for _, p := range door.Policies {
		m.denied.WithLabelValues(direction, f.Reason.String(), policyName(p)).Inc()
	}
}

func policyName(s model.Source) string {
	if s.Namespace == "" {
		return s.Kind + " " + s.Name
	}
	return s.Kind + " " + s.Namespace + "/" + s.Name
}

// gauges reads the Node's state when Prometheus asks.
type gauges struct{ *Node }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sallyport_"+name, help, labels, nil)
}

var (
	readyDesc      = describe("ready", "1 if the kernel enforces what the API server said last.")
	revisionDesc   = describe("revision", "The revision last published to the kernel.")
	identitiesDesc = describe("identities", "Classes of addresses that policies tell apart.")
	rowsDesc       = describe("rows", "Sets of identities that gates use.")
	endpointsDesc  = describe("endpoints", "Pods, by where they are.", "where")
	policiesDesc   = describe("policies", "Policies in force.")
	problemsDesc   = describe("problems", "Problems of policies, by severity.", "severity")
	usedDesc       = describe("table_used", "Entries of a kernel table in use.", "table")
	sizeDesc       = describe("table_size", "Entries that a kernel table has room for.", "table")
	packetsDesc    = describe("packets_total", "Packets judged, by reason.", "reason")
	lostDesc       = describe("events_lost_total", "Reports that the kernel could not deliver.")
	contactDesc    = describe("api_contact_seconds", "Time since the API server was last heard of a resource.", "resource")
)

// Describe sends nothing: what there is depends on the state.
func (gauges) Describe(chan<- *prometheus.Desc) {}

// Collect sends the state.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := g.Status()
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	gauge(readyDesc, ready)
	gauge(revisionDesc, float64(s.Revision))
	gauge(identitiesDesc, float64(s.Identities))
	gauge(endpointsDesc, float64(s.Endpoints), "cluster")
	gauge(endpointsDesc, float64(s.Local), "node")
	gauge(policiesDesc, float64(s.Policies))
	severities := map[model.Severity]int{model.Error: 0, model.Warning: 0, model.Info: 0}
	for _, p := range s.Problems {
		severities[p.Severity]++
	}
	for severity, count := range severities {
		gauge(problemsDesc, float64(count), severity.String())
	}
	for _, t := range s.Tables {
		gauge(usedDesc, float64(t.Used), t.Name)
		gauge(sizeDesc, float64(t.Size), t.Name)
		if t.Name == "rows" {
			gauge(rowsDesc, float64(t.Used))
		}
	}
	for reason, count := range s.Events.Packets {
		out <- prometheus.MustNewConstMetric(packetsDesc, prometheus.CounterValue, float64(count), reason)
	}
	out <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(s.Events.Lost))
	for _, r := range s.Resources {
		if !r.Contact.IsZero() {
			gauge(contactDesc, time.Since(r.Contact).Seconds(), r.Name)
		}
	}
}
