//go:build linux

package lab

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

const namedManifests = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: echo, port: 7, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {tier: any}}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {clusterIP: None, selector: {app: nobody}, ports: [{port: 1}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  replicas: 2
  template:
    metadata: {labels: {app: db, tier: any}}
    spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-slow, namespace: shop, labels: {app: db, tier: any}}
spec: {containers: [{name: c}]}
status: {conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {hostname: front, subdomain: web, containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lonely, namespace: other}
spec: {containers: [{name: c}]}
`

func namedCluster(t *testing.T) *model.Cluster {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"a.yaml": []byte(namedManifests)}, []string{"a.yaml"}, manifest.Options{DualStack: true})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return WithDNS(r.Cluster)
}

// said is an answer in words: the data of its records, sorted, or the error.
func said(m *dns.Msg) string {
	if m.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[m.Rcode]
	}
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, " | ")
}

// The addresses, in order of names: lonely, db-0, db-1, db-slow, web.
var nameCases = []struct {
	qtype      uint16
	name, want string
}{
	{dns.TypeA, "web.shop.svc.cluster.local.", "10.96.0.16"},
	{dns.TypeAAAA, "WEB.shop.svc.Cluster.Local.", "fd00:10:96::10"},
	{dns.TypeA, "kube-dns.kube-system.svc.cluster.local.", "10.96.0.10"},
	{dns.TypeAAAA, "kube-dns.kube-system.svc.cluster.local.", "fd00:10:96::a"},
	{dns.TypeA, "db.shop.svc.cluster.local.", "10.244.0.3 | 10.244.0.4"},
	{dns.TypeAAAA, "db.shop.svc.cluster.local.", "fd00:10:244::3 | fd00:10:244::4"},
	{dns.TypeA, "db-1.db.shop.svc.cluster.local.", "10.244.0.4"},
	{dns.TypeA, "front.web.shop.svc.cluster.local.", "10.244.0.6"},
	{dns.TypeA, "10-244-0-3.peers.shop.svc.cluster.local.", "10.244.0.3"},
	{dns.TypeA, "peers.shop.svc.cluster.local.", "10.244.0.3 | 10.244.0.4 | 10.244.0.5"},
	{dns.TypeA, "nobody.shop.svc.cluster.local.", ""},
	{dns.TypeA, "10-244-0-2.other.pod.cluster.local.", "10.244.0.2"},
	{dns.TypeAAAA, "fd00-10-244--2.other.pod.cluster.local.", "fd00:10:244::2"},
	{dns.TypeA, "10-244-0-2.shop.pod.cluster.local.", "NXDOMAIN"},
	{dns.TypeSRV, "_http._tcp.web.shop.svc.cluster.local.", "0 100 80 web.shop.svc.cluster.local."},
	{dns.TypeSRV, "_echo._udp.web.shop.svc.cluster.local.", "0 100 7 web.shop.svc.cluster.local."},
	{dns.TypeSRV, "_sql._tcp.db.shop.svc.cluster.local.", "0 100 5432 db-0.db.shop.svc.cluster.local. | 0 100 5432 db-1.db.shop.svc.cluster.local."},
	{dns.TypeSRV, "_http._udp.web.shop.svc.cluster.local.", "NXDOMAIN"},
	{dns.TypePTR, "16.0.96.10.in-addr.arpa.", "web.shop.svc.cluster.local."},
	{dns.TypePTR, "3.0.244.10.in-addr.arpa.", "10-244-0-3.peers.shop.svc.cluster.local. | db-0.db.shop.svc.cluster.local."},
	{dns.TypePTR, "2.0.244.10.in-addr.arpa.", "10-244-0-2.other.pod.cluster.local."},
	{dns.TypePTR, "9.9.244.10.in-addr.arpa.", "NXDOMAIN"},
	{dns.TypeTXT, "web.shop.svc.cluster.local.", ""},
	{dns.TypeA, "shop.svc.cluster.local.", ""},
	{dns.TypeA, "_tcp.web.shop.svc.cluster.local.", ""},
	{dns.TypeA, "web.other.svc.cluster.local.", "NXDOMAIN"},
	{dns.TypeA, "web.shop.", "NXDOMAIN"},
	{dns.TypeA, "example.com.", "NXDOMAIN"},
}

func TestZoneNamesServicesAndPods(t *testing.T) {
	z := newZone(namedCluster(t))
	for _, c := range nameCases {
		q := new(dns.Msg).SetQuestion(c.name, c.qtype)
		m := new(dns.Msg).SetReply(q)
		z.answer(m, q.Question[0])
		if got := said(m); got != c.want {
			t.Errorf("%s %s: got %q, want %q", dns.TypeToString[c.qtype], c.name, got, c.want)
		}
		for _, rr := range m.Answer {
			if rr.Header().Name != c.name {
				t.Errorf("%s is answered as %s", c.name, rr.Header().Name)
			}
		}
		if soa := len(m.Ns) == 1; soa != (len(m.Answer) == 0 && dns.IsSubDomain(domain, c.name)) {
			t.Errorf("%s: SOA is there: %t", c.name, soa)
		}
	}
	q := new(dns.Msg).SetQuestion("_sql._tcp.db.shop.svc.cluster.local.", dns.TypeSRV)
	m := new(dns.Msg).SetReply(q)
	if z.answer(m, q.Question[0]); len(m.Extra) != 4 {
		t.Errorf("SRV brings %d addresses along, want 4", len(m.Extra))
	}
}

// TestDNSOverEveryTransport asks the same over UDP and TCP, IPv4 and IPv6.
func TestDNSOverEveryTransport(t *testing.T) {
	l := upLab(t, namedCluster(t))
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{"10.96.0.10", "fd00:10:96::a"} {
			for _, c := range nameCases {
				m, err := ask(l, network, netip.AddrPortFrom(addr(server), 53), c.name, c.qtype)
				if err != nil {
					t.Fatalf("%s at %s over %s: %v", c.name, server, network, err)
				}
				if got := said(m); got != c.want {
					t.Errorf("%s at %s over %s: got %q, want %q", c.name, server, network, got, c.want)
				}
			}
		}
	}
	for name, want := range map[string]string{
		"db-0.db":              "10.244.0.3 fd00:10:244::3 ",
		"web.shop":             "10.96.0.16 fd00:10:96::10 ",
		"web.shop.svc":         "10.96.0.16 fd00:10:96::10 ",
		"10-244-0-2.other.pod": "10.244.0.2 ",
	} {
		got, err := l.Lookup(context.Background(), "shop/db-1", name, wait)
		if err != nil || joinAddrs(got) != want {
			t.Errorf("%s: got %s, want %s (%v)", name, joinAddrs(got), want, err)
		}
	}
}

func ask(l *Lab, network string, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	ns, err := l.netNS("shop/db-1")
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	conn, err := dialIn(ctx, ns, network, netip.Addr{}, server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	m, _, err := (&dns.Client{Net: network}).ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: conn})
	return m, err
}
