package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/datapath"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

func podNamed(name, extra string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: a, labels: {app: %[1]s}}
spec: {containers: [{name: c, ports: [{containerPort: 80}]}]}
%s
`, name, extra)
}

func ingressOf(app, rules string) string {
	return fmt.Sprintf(`
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: a}
spec: {podSelector: {matchLabels: {app: %[1]s}}, policyTypes: [Ingress], ingress: %s}
`, app, rules)
}

// village has pods that reach each other as the rules say, and one that no
// policy selects.
func village(client, server string) string {
	return podNamed("any", "") + podNamed("client", "") + podNamed("server", "") + ingressOf("client", client) + ingressOf("server", server)
}

// many repeats a text with the numbers from 1 to n.
func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i+1)
	}
	return b.String()
}

// blocks names n addresses and tells all of them apart.
func blocks(n int) string {
	rules := ""
	for i := range n {
		rules += fmt.Sprintf("{from: [{ipBlock: {cidr: 192.1.%d.%d/32}}], ports: [{port: %d}]}, ", i>>8, i&255, i+1)
	}
	return ingressOf("zoe", "["+rules+"]")
}

// tight are limits that village fits into, table by table, and what does not.
var tight = []struct {
	table  string
	limits datapath.Limits
	more   string
}{
	{"subjects", datapath.Limits{Subjects: 4}, ""},
	{"devices", datapath.Limits{Devices: 3}, ""},
	{"addresses", datapath.Limits{Addresses: 4}, ""},
	{"prefixes", datapath.Limits{Prefixes: 12}, ingressOf("zoe", "[{from: ["+many(12, "{ipBlock: {cidr: 192.0.2.%d/32}}, ")+"]}]")},
	{"gates", datapath.Limits{Gates: 8}, podNamed("x1", "") + podNamed("x2", "") + podNamed("x3", "") +
		ingressOf("x1", "[{ports: [{port: 1}]}]") + ingressOf("x2", "[{ports: [{port: 2}]}]") + ingressOf("x3", "[{ports: [{port: 3}]}]")},
	{"ranges", datapath.Limits{Ranges: 20}, ingressOf("zoe", "[{ports: ["+many(10, "{port: %d00}, ")+"]}]")},
	{"rows", datapath.Limits{Rows: 8}, ingressOf("zoe", "["+many(8, "{from: [{podSelector: {matchLabels: {app: x%d}}}], ports: [{port: %[1]d}]}, ")+"]")},
	{"columns", datapath.Limits{Columns: 1024}, blocks(1100)},
}

// connects tries once, patiently if a connection is wanted.
func connects(l *Lab, from, to string, want bool) bool {
	p := lab.Probe{From: from, To: l.Matrix.Endpoint(to).IPs[0], Protocol: model.TCP, Port: 80}
	timeout := 100 * time.Millisecond
	if want {
		timeout = soon
	}
	return l.Probe(context.Background(), []lab.Probe{p}, timeout)[0] == lab.Connected
}

// What does not fit into a table is refused as a whole: the last state holds,
// pods that are new are closed, and what fits is enforced again.
func TestWhatDoesNotFitChangesNothing(t *testing.T) {
	needRoot(t)
	for _, x := range tight {
		t.Run(x.table, func(t *testing.T) {
			l := startWith(t, cluster(t, village("[]", "[{}]")), x.limits)
			// Besides being too much the change shuts the one door and opens the other.
			err := l.Update(context.Background(), cluster(t, village("[{}]", "[]")+podNamed("zoe", "")+x.more))
			var full *datapath.FullError
			if !errors.As(err, &full) || full.Table != x.table {
				t.Fatalf("error %v, want one that says that table %s is full", err, x.table)
			}
			for _, want := range []string{"node-0", "table " + x.table + " is full", "larger limit"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			for _, p := range []struct {
				from, to string
				want     bool
			}{
				{"a/client", "a/server", true}, {"a/server", "a/client", false}, {"a/client", "a/any", true},
				{"a/zoe", "a/any", false}, {"a/any", "a/zoe", false},
			} {
				if got := connects(l, p.from, p.to, p.want); got != p.want {
					t.Errorf("while the table is full: %s reaches %s: %v", p.from, p.to, got)
				}
			}
			if t.Failed() {
				return
			}
			must(t, l.Update(context.Background(), cluster(t, village("[{}]", "[]"))))
			compare(t, l)
		})
	}
}

func startWith(t *testing.T, c *model.Cluster, limits datapath.Limits) *Lab {
	t.Helper()
	l, err := startLab(context.Background(), c, limits)
	must(t, err)
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// An address that another pod has got while nothing could be published is
// closed: the newcomer is not taken for the pod that had it before, neither on
// its own node nor by others.
func TestAnAddressIsNotTakenForItsFormerPods(t *testing.T) {
	needRoot(t)
	at := func(name, node, ip string) string {
		return strings.Replace(podNamed(name, ""), "spec: {", "status: {podIP: "+ip+"}\nspec: {nodeName: "+node+", ", 1)
	}
	fixed := `
---
apiVersion: v1
kind: Node
metadata: {name: node-0}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
` + at("client", "node-0", "10.244.9.1") + at("server", "node-0", "10.244.9.2") +
		ingressOf("server", "[{from: [{podSelector: {matchLabels: {app: faraway}}}]}]")
	before := fixed + at("near", "node-0", "10.244.9.3") + at("faraway", "node-1", "10.244.9.4")
	after := fixed + at("zoe", "node-0", "10.244.9.3") + at("zoey", "node-1", "10.244.9.4") + ingressOf("zoe", "[]")
	l := startWith(t, cluster(t, before), datapath.Limits{Ranges: 20})
	for _, p := range [][2]string{{"a/client", "a/near"}, {"a/faraway", "a/server"}, {"a/server", "a/faraway"}} {
		if !connects(l, p[0], p[1], true) {
			t.Errorf("%s does not reach %s", p[0], p[1])
		}
	}
	err := l.Update(context.Background(), cluster(t, after+ingressOf("client", "[{ports: ["+many(10, "{port: %d00}, ")+"]}]")))
	if full := (*datapath.FullError)(nil); !errors.As(err, &full) {
		t.Fatal(err)
	}
	for _, p := range [][2]string{{"a/client", "a/zoe"}, {"a/zoe", "a/client"}, {"a/zoey", "a/server"}} {
		s := startStream(t, l, p[0], p[1])
		time.Sleep(30 * time.Millisecond)
		s.wantSilence(t)
	}
	must(t, l.Update(context.Background(), cluster(t, after)))
	compare(t, l)
}
