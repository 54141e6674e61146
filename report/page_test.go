package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/model"
)

const hostile = `</script><script>alert(1)</script><!--"'&`

// hostileCluster has a name that wants to be markup wherever a name can stand.
func hostileCluster() *model.Cluster {
	pod := func(name, ip string, labels map[string]string, host bool) model.Endpoint {
		return model.Endpoint{
			Namespace: "ns" + hostile, Name: name, Labels: labels, Node: "node", HostNetwork: host,
			Workload: model.Workload{Kind: "Pod", Name: name}, IPs: []netip.Addr{netip.MustParseAddr(ip)},
		}
	}
	subject := model.MatchLabels(map[string]string{"app": hostile})
	return &model.Cluster{
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Nodes:     []model.Node{{Name: "node", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}},
		Endpoints: []model.Endpoint{
			pod("a"+hostile, "10.244.0.1", map[string]string{"app": hostile}, false),
			pod("b"+hostile, "10.244.0.2", map[string]string{"app": "b"}, false),
			pod("host", "192.0.2.7", nil, true),
		},
		Policies: []*model.Policy{{
			Source: model.Source{Kind: "NetworkPolicy", Namespace: "ns" + hostile, Name: "p" + hostile, File: "f" + hostile, Line: 3},
			Tier:   model.TierDefault, Order: model.KubernetesOrder,
			Subject: model.EndpointSelector{Namespace: "ns" + hostile, Pods: subject},
			Ingress: &model.Section{DefaultDeny: true, Rules: []model.Rule{{
				Peers:  []model.Peer{{Pods: &model.EndpointSelector{Namespace: "ns" + hostile, Pods: model.MatchLabels(map[string]string{"app": "b"})}}},
				Ports:  []model.Port{{Protocol: model.TCP, First: 80, Last: 81}},
				Source: model.Source{Kind: "NetworkPolicy", Namespace: "ns" + hostile, Name: "p" + hostile, File: "f" + hostile, Line: 9, Field: "spec.ingress[0]"},
			}}},
		}},
	}
}

func pageOf(c *model.Cluster, l *Limits) Page {
	m := engine.Compile(c)
	p := Page{Matrix: m, Limits: l, Note: hostile}
	for i, g := range m.Groups() {
		e := g.Endpoints[0]
		p.Units = append(p.Units, Unit{Party: engine.Party{Endpoint: e}, Pods: len(g.Endpoints)})
		p.Nodes = append(p.Nodes, Node{Name: e.Key(), Namespace: e.Namespace, Source: true, Destination: true, Unit: i, Pods: len(g.Endpoints)})
	}
	for pair, ports := range m.EachPair() {
		p.Add(Cell{pair[0], pair[1], ports})
	}
	return p
}

func pageText(t *testing.T, p Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var (
	scripts = regexp.MustCompile(`(?i)<script|</script|<!--|<style|<img`)
	loads   = regexp.MustCompile(`(?i)(src|href|action|data|srcset|poster)\s*=\s*["']?(https?:|//)|url\(["']?(https?:|//)|@import|fetch\(|XMLHttpRequest|import\(`)
	picture = regexp.MustCompile(`(?s)<svg class="graph.*?</svg>`)
)

func TestPageKeepsHostileNamesData(t *testing.T) {
	for _, l := range []*Limits{nil, {}, {Doors: 1, Cells: 1 << 20}} {
		text := pageText(t, pageOf(hostileCluster(), l))
		if found := scripts.FindAllString(text, -1); !slices.Equal(found, []string{"<style", "<script", "</script", "<script", "</script"}) {
			t.Errorf("the page has %q", found)
		}
		if found := loads.FindAllString(text, -1); found != nil {
			t.Errorf("the page loads %q", found)
		}
		if !strings.Contains(text, "default-src 'none'") || strings.Contains(text, "unsafe") {
			t.Error("the page's security policy is open")
		}
		if text != pageText(t, pageOf(hostileCluster(), l)) {
			t.Error("the same page has other bytes")
		}
		d := xml.NewDecoder(strings.NewReader(picture.FindString(text)))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("the graph is not well formed: %v", err)
			}
		}
	}
}

func dataOf(t *testing.T, text string) (d pageData) {
	t.Helper()
	_, rest, _ := strings.Cut(text, `<script type="application/json" id="data">`)
	rest, _, _ = strings.Cut(rest, "</script>")
	if err := json.Unmarshal([]byte(rest), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPageExplainsEveryDoor(t *testing.T) {
	d := dataOf(t, pageText(t, pageOf(hostileCluster(), nil)))
	if d.Level != "explained" || len(d.Gates) != 1 || d.Units[0].Egress != openDoor || d.Units[0].Ingress != 0 || d.Units[2].Egress != noDoor {
		t.Fatalf("%+v", d)
	}
	says := func(from int) []said {
		g := d.Gates[d.Units[0].Ingress]
		for i := 0; i < len(g.Others); i += 2 {
			if g.Others[i] == d.Units[from].Identity {
				return d.Doors[g.Others[i+1]]
			}
		}
		return d.Doors[g.Rest]
	}
	if s := says(1); len(s) != 2 || s[0].Ports != "TCP 80-81" || !s[0].Allowed || !strings.HasSuffix(d.Texts[s[0].Rule], "spec.ingress[0] (f"+hostile+":9)") ||
		s[1].Ports != "everything else" || s[1].Allowed {
		t.Errorf("from b: %+v", s)
	}
	// The host's pod is on the same node; the matrix has it as another's.
	if s := says(2); len(s) != 1 || s[0].Allowed || s[0].Reason != string(engine.DefaultDeny) {
		t.Errorf("from the node's network: %+v", s)
	}
}

func TestPageSaysWhatItLeavesOut(t *testing.T) {
	for level, l := range map[string]*Limits{"explained": nil, "cells": {Doors: 0, Cells: 100, Edges: 100}, "namespaces": {Doors: 100, Cells: 1, Edges: 100}} {
		d := dataOf(t, pageText(t, pageOf(hostileCluster(), l)))
		if d.Level != level || (len(d.Notes) > 1) != (level != "explained") {
			t.Errorf("%+v make %s: %q", l, d.Level, d.Notes)
		}
		if level == "namespaces" && (len(d.Nodes) != 1 || d.Nodes[0].Pods != 3 || len(d.Cells[0]) != 2) {
			t.Errorf("%+v", d)
		}
		if level == "cells" && (len(d.Gates) != 1 || len(d.Gates[0].Policies) != 1) {
			t.Errorf("the policies that isolate are left out: %+v", d.Gates)
		}
	}
}

func TestGraphsQuoteNames(t *testing.T) {
	edges := []Edge{
		{`shop/we"b|<x>`, `shop/a,b`, model.AllPorts()},
		{`shop/we"b|<x>`, "0.0.0.0/0", tcp(80)},
		{`ops/c\`, `shop/a,b`, tcp(80, 443)},
	}
	for format, want := range map[string][]string{
		"csv": {`"shop/we""b|<x>","shop/a,b",All`, `ops/c\,"shop/a,b","TCP 80,443"`},
		"md":  {`| shop/we"b\|&lt;x&gt; | shop/a,b | All |`},
		"dot": {`"shop/we\"b|<x>" [label="we\"b|<x>"];`, `"ops/c\\" -> "shop/a,b" [label="TCP 80,443"];`, `label="outside"`},
		"mermaid": {"  subgraph s0[\"shop\"]\n    n0[\"we#quot;b|#lt;x#gt;\"]\n    n1[\"a,b\"]\n  end\n", `n3 -->|"TCP 80,443"| n1`,
			"subgraph s1[\"outside\"]\n    n2[\"0.0.0.0/0\"]"},
	} {
		var b bytes.Buffer
		if err := Matrix(&b, format, edges); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("-o %s lacks %s:\n%s", format, w, b.String())
			}
		}
	}
}

// TestPageSaysWhatTheEngineSays: what gates and identities share is what the
// engine says about every pair, on random clusters of all languages.
func TestPageSaysWhatTheEngineSays(t *testing.T) {
	compared := 0
	for seed := range uint64(60) {
		c := synth.NewChaos(seed)
		cluster := c.Cluster()
		if seed%2 == 1 {
			cluster = synth.Dialects(cluster)
		}
		p := pageOf(cluster, &DefaultLimits)
		d := p.data()
		keys := []model.PortKey{model.PortKeyOf(model.TCP, 80), model.PortKeyOf(model.UDP, 53)}
		for range 12 {
			if k := c.Key(); k.Protocol() == model.TCP || k.Protocol() == model.UDP || k.Protocol() == model.SCTP {
				keys = append(keys, k)
			}
		}
		for i, from := range p.Units {
			for j, to := range p.Units {
				for _, key := range keys {
					v := p.Matrix.Verdict(from.Party, to.Party, key)
					if v.Egress.Reason == engine.SamePod || v.Ingress.Reason == engine.OwnNode || key.Port() == 0 {
						continue
					}
					compared++
					compareDoor(t, seed, d, d.Units[i].Egress, d.Units[j].Identity, key, v.Egress)
					compareDoor(t, seed, d, d.Units[j].Ingress, d.Units[i].Identity, key, v.Ingress)
				}
			}
		}
	}
	if compared < 1000 {
		t.Errorf("only %d connections compared", compared)
	}
}

func compareDoor(t *testing.T, seed uint64, d *pageData, gate, identity int, key model.PortKey, want engine.Door) {
	t.Helper()
	if gate < 0 {
		if !want.Allowed && want.Reason != engine.UnknownPeer || want.Rule != nil || (gate == openDoor) != (want.Reason != engine.NoDoor) {
			t.Errorf("seed %d: no gate, and the engine says %+v", seed, want)
		}
		return
	}
	g := d.Gates[gate]
	list := g.Rest
	for i := 0; i < len(g.Others); i += 2 {
		if g.Others[i] == identity {
			list = g.Others[i+1]
		}
	}
	says := d.Doors[list]
	i := slices.IndexFunc(says, func(s said) bool { return speaksOf(s.Ports, key) })
	if i < 0 {
		i = slices.IndexFunc(says, func(s said) bool { return s.Ports == "everything else" })
	}
	if i < 0 {
		t.Fatalf("seed %d: nothing about %s in %+v", seed, key, says)
	}
	rule := ""
	if says[i].Rule >= 0 {
		rule = d.Texts[says[i].Rule]
	}
	wanted := ""
	if want.Rule != nil {
		wanted = ruleOf(want.Rule).String()
	}
	if says[i].Allowed != want.Allowed || says[i].Reason != string(want.Reason) || rule != wanted || len(g.Policies) != len(want.Policies) {
		t.Errorf("seed %d: of %s the page says %+v by %q, the engine %t, %s by %q", seed, key, says[i], rule, want.Allowed, want.Reason, wanted)
	}
}

// speaksOf says whether a text such as "TCP 80,443; UDP 53" has the port.
func speaksOf(text string, key model.PortKey) bool {
	for part := range strings.SplitSeq(text, "; ") {
		protocol, list, _ := strings.Cut(part, " ")
		if protocol != key.Protocol().String() {
			continue
		}
		for r := range strings.SplitSeq(list, ",") {
			first, last, ok := strings.Cut(r, "-")
			if !ok {
				last = first
			}
			a, _ := strconv.Atoi(first)
			b, _ := strconv.Atoi(last)
			if a <= int(key.Port()) && int(key.Port()) <= b {
				return true
			}
		}
	}
	return text == "All"
}
