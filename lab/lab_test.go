//go:build linux

package lab

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// wait is for answers, which all that is tried here gets.
const wait = 30 * time.Second

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func testPod(name, node, v4, v6 string, ports ...model.ContainerPort) model.Endpoint {
	return model.Endpoint{
		Namespace: "shop", Name: name, Node: node, Labels: map[string]string{"app": name},
		IPs: []netip.Addr{addr(v4), addr(v6)}, Ports: ports,
	}
}

var testPorts = []model.ContainerPort{{Name: "http", Protocol: model.TCP, Number: 8080}, {Name: "echo", Protocol: model.UDP, Number: 9090}}

// testCluster has two nodes and four pods, of which web and web2 are behind
// Services and agent is on its node's network.
func testCluster() *model.Cluster {
	node := func(name, v4, v6 string) model.Node {
		return model.Node{Name: name, IPs: []netip.Addr{addr(v4), addr(v6)}}
	}
	agent := testPod("agent", "n2", "172.30.0.2", "fd00:172:30::2", model.ContainerPort{Protocol: model.TCP, Number: 7070})
	agent.HostNetwork = true
	backends := func(port uint16, ips ...string) (b []model.Backend) {
		for _, ip := range ips {
			b = append(b, model.Backend{IP: addr(ip), Port: port})
		}
		return b
	}
	return &model.Cluster{
		Namespaces: []model.Namespace{{Name: "shop"}},
		Nodes:      []model.Node{node("n1", "172.30.0.1", "fd00:172:30::1"), node("n2", "172.30.0.2", "fd00:172:30::2")},
		Endpoints: []model.Endpoint{
			agent,
			testPod("client", "n1", "10.244.0.1", "fd00:10:244::1"),
			testPod("web", "n1", "10.244.0.2", "fd00:10:244::2", testPorts...),
			testPod("web2", "n2", "10.244.0.3", "fd00:10:244::3", testPorts...),
		},
		Services: []model.Service{
			{
				Namespace: "shop", Name: "web", ClusterIPs: []netip.Addr{addr("10.96.0.20"), addr("fd00:10:96::20")},
				Ports: []model.ServicePort{
					{Protocol: model.TCP, Port: 80, Backends: backends(8080, "10.244.0.2", "10.244.0.3", "fd00:10:244::2", "fd00:10:244::3")},
					{Protocol: model.UDP, Port: 90, Backends: backends(9090, "10.244.0.3", "fd00:10:244::3")},
				},
			},
			{
				Namespace: "shop", Name: "self", ClusterIPs: []netip.Addr{addr("10.96.0.21"), addr("fd00:10:96::21")},
				Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80, Backends: backends(8080, "10.244.0.2", "fd00:10:244::2")}},
			},
			{
				Namespace: "shop", Name: "headless", Headless: true,
				Ports: []model.ServicePort{{Protocol: model.TCP, Port: 80, Backends: backends(8080, "10.244.0.3", "10.244.0.2")}},
			},
		},
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")},
	}
}

func upLab(t *testing.T, c *model.Cluster) *Lab {
	t.Helper()
	needRoot(t)
	unlock, err := Lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unlock)
	if err := RemoveLeftovers(); err != nil {
		t.Fatal(err)
	}
	l := New(Config{})
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	return l
}

type probeCase struct {
	from, to string
	proto    model.Protocol
	port     uint16
	want     Outcome
}

func check(t *testing.T, l *Lab, cases []probeCase) {
	t.Helper()
	probes := make([]Probe, len(cases))
	for i, c := range cases {
		probes[i] = Probe{From: c.from, To: addr(c.to), Protocol: c.proto, Port: c.port}
	}
	for i, got := range l.Probe(context.Background(), probes, wait) {
		if got != cases[i].want {
			t.Errorf("%+v: got %s", cases[i], got)
		}
	}
}

func TestProbes(t *testing.T) {
	l := upLab(t, WithDNS(testCluster()))
	for _, a := range []string{"203.0.113.9", "2001:db8::9"} {
		for _, p := range []model.Protocol{model.TCP, model.UDP} {
			if err := l.ServeOutside(p, netip.AddrPortFrom(addr(a), 443)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(t, l, []probeCase{
		{"shop/client", "10.244.0.2", model.TCP, 8080, Connected},
		{"shop/client", "10.244.0.3", model.TCP, 8080, Connected},
		{"shop/client", "fd00:10:244::2", model.TCP, 8080, Connected},
		{"shop/client", "fd00:10:244::3", model.TCP, 8080, Connected},
		{"shop/client", "10.244.0.3", model.UDP, 9090, Connected},
		{"shop/client", "fd00:10:244::3", model.UDP, 9090, Connected},
		{"shop/client", "10.244.0.3", model.TCP, 81, Refused},
		{"shop/client", "10.244.0.3", model.UDP, 81, Refused},
		{"shop/client", "172.30.0.2", model.TCP, 7070, Connected},
		{"shop/client", "fd00:172:30::2", model.TCP, 7070, Connected},
		{"shop/agent", "10.244.0.2", model.TCP, 8080, Connected},
		{"shop/agent", "10.244.0.3", model.TCP, 8080, Connected},
		{"shop/agent", "fd00:10:244::2", model.TCP, 8080, Connected},
		{"shop/agent", "fd00:10:244::3", model.TCP, 8080, Connected},
		{"shop/client", "10.96.0.20", model.TCP, 80, Connected},
		{"shop/client", "fd00:10:96::20", model.TCP, 80, Connected},
		{"shop/client", "10.96.0.20", model.UDP, 90, Connected},
		{"shop/client", "fd00:10:96::20", model.UDP, 90, Connected},
		{"shop/agent", "10.96.0.20", model.TCP, 80, Connected},
		{"shop/agent", "fd00:10:96::20", model.TCP, 80, Connected},
		{"shop/web", "10.96.0.21", model.TCP, 80, Connected},
		{"shop/web", "fd00:10:96::21", model.TCP, 80, Connected},
		{"shop/client", "203.0.113.9", model.TCP, 443, Connected},
		{"shop/client", "203.0.113.9", model.UDP, 443, Connected},
		{"shop/client", "2001:db8::9", model.TCP, 443, Connected},
		{"shop/client", "2001:db8::9", model.UDP, 443, Connected},
		{FromOutside, "10.244.0.3", model.TCP, 8080, Connected},
		{FromOutside, "fd00:10:244::2", model.TCP, 8080, Connected},
		{"shop/client", "10.244.9.9", model.TCP, 80, Failed},
		{"shop/nobody", "10.244.0.2", model.TCP, 80, Failed},
		{"shop/client", "10.244.0.4", model.UDP, 53, Connected},
		{"shop/client", "10.96.0.10", model.TCP, 53, Connected},
	})
	got := l.Probe(context.Background(), []Probe{
		{From: FromOutside, To: addr("10.244.0.3"), Protocol: model.UDP, Port: 9090, Source: addr("203.0.113.9")},
		{From: FromOutside, To: addr("fd00:10:244::3"), Protocol: model.TCP, Port: 8080, Source: addr("2001:db8::9")},
	}, wait)
	if !slices.Equal(got, []Outcome{Connected, Connected}) {
		t.Errorf("from an outside address: %v", got)
	}
}

func TestLookupAndExec(t *testing.T) {
	l := upLab(t, WithDNS(testCluster()))
	for name, want := range map[string]string{
		"web":                                    "10.96.0.20 fd00:10:96::20",
		"web.shop.svc.cluster.local":             "10.96.0.20 fd00:10:96::20",
		"headless.shop":                          "10.244.0.2 10.244.0.3",
		"kube-dns.kube-system.svc.cluster.local": "10.96.0.10 fd00:10:96::a",
	} {
		got, err := l.Lookup(context.Background(), "shop/client", name, wait)
		if err != nil {
			t.Error(err)
			continue
		}
		if s := strings.Trim(strings.Join(strings.Fields(joinAddrs(got)), " "), " "); s != want {
			t.Errorf("%s: got %s, want %s", name, s, want)
		}
	}
	if _, err := l.Lookup(context.Background(), "shop/client", "nothing", wait); err == nil {
		t.Error("a name that does not exist was found")
	}
	var out, stderr bytes.Buffer
	argv := []string{"sh", "-c", "cat /etc/resolv.conf /proc/net/fib_trie; cat"}
	if err := l.Exec(context.Background(), "shop/client", argv, strings.NewReader("typed"), &out, &stderr); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	for _, want := range []string{"nameserver 10.96.0.10\nnameserver fd00:10:96::a\n", "search shop.svc.cluster.local svc.cluster.local cluster.local\n", "10.244.0.1", "typed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the command's output lacks %q: %s", want, &out)
		}
	}
	if err := l.Exec(context.Background(), "shop/client", []string{"false"}, nil, nil, nil); err == nil {
		t.Error("a command that fails has no error")
	}
	if data, _ := os.ReadFile("/etc/resolv.conf"); bytes.Contains(data, []byte("svc.cluster.local")) {
		t.Error("the machine's own resolv.conf is the pod's")
	}
}

func joinAddrs(addrs []netip.Addr) string {
	var b strings.Builder
	for _, a := range addrs {
		b.WriteString(a.String() + " ")
	}
	return b.String()
}

func TestUpdate(t *testing.T) {
	c := testCluster()
	l := upLab(t, c)
	before, ok := l.HostIfindex("shop/client")
	if !ok || before == 0 {
		t.Fatal("shop/client has no interface")
	}
	if _, ok := l.HostIfindex("shop/agent"); ok {
		t.Error("a hostNetwork pod has an interface of its own")
	}
	next := testCluster()
	next.Endpoints[3].IPs[0] = addr("10.244.0.33")
	next.Endpoints = slices.Delete(next.Endpoints, 2, 3)
	next.Endpoints = append(next.Endpoints, testPod("web3", "n2", "10.244.0.2", "fd00:10:244::2", testPorts...))
	next.Services[0].Ports[0].Backends = []model.Backend{{IP: addr("10.244.0.33"), Port: 8080}}
	next.Services = slices.Delete(next.Services, 1, 2)
	if err := l.Update(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	if after, _ := l.HostIfindex("shop/client"); after != before {
		t.Error("a pod that did not change was made anew")
	}
	check(t, l, []probeCase{
		{"shop/client", "10.244.0.2", model.TCP, 8080, Connected},
		{"shop/client", "fd00:10:244::2", model.TCP, 8080, Connected},
		{"shop/client", "10.244.0.3", model.TCP, 8080, Failed},
		{"shop/client", "10.244.0.33", model.TCP, 8080, Connected},
		{"shop/client", "fd00:10:244::3", model.UDP, 9090, Connected},
		{"shop/client", "10.96.0.20", model.TCP, 80, Connected},
		{"shop/client", "10.96.0.21", model.TCP, 80, Failed},
		{"shop/web", "10.244.0.33", model.TCP, 8080, Failed},
	})
	less := testCluster()
	less.Nodes = less.Nodes[:1]
	less.Endpoints = slices.DeleteFunc(less.Endpoints, func(e model.Endpoint) bool { return e.Node == "n2" })
	if err := l.Update(context.Background(), less); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	check(t, l, []probeCase{
		{"shop/client", "10.244.0.3", model.TCP, 8080, Connected},
		{"shop/client", "fd00:10:244::3", model.TCP, 8080, Connected},
	})
}

func TestDown(t *testing.T) {
	l := upLab(t, testCluster())
	if _, err := os.Stat(l.NodeNetNS("n1")); err != nil {
		t.Error(err)
	}
	if got := l.Nodes(); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Errorf("nodes: %v", got)
	}
	if err := l.Up(context.Background(), testCluster()); err == nil {
		t.Error("a lab came up twice")
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(netnsDir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), NamePrefix) {
			t.Errorf("%s is left", e.Name())
		}
	}
	if _, err := os.Stat(StateDir); !os.IsNotExist(err) {
		t.Errorf("%s is left", StateDir)
	}
}

func TestWithDNS(t *testing.T) {
	c := testCluster()
	d := WithDNS(c)
	if len(c.Endpoints) != 4 || len(c.Namespaces) != 1 || findDNS(c) != nil {
		t.Error("the cluster was written to")
	}
	if d.Endpoints[0].Key() != "kube-system/coredns" || !slices.Equal(d.Endpoints[0].IPs, []netip.Addr{addr("10.244.0.4"), addr("fd00:10:244::4")}) {
		t.Errorf("got %+v", d.Endpoints[0])
	}
	if d.Namespaces[0].Name != "kube-system" || findDNS(d) == nil {
		t.Error("the namespace or the Service is missing")
	}
	if WithDNS(d) != d {
		t.Error("a declared kube-dns was replaced")
	}
}

func TestNames(t *testing.T) {
	long := podNSName(strings.Repeat("n", 60), strings.Repeat("p", 200))
	if len(long) > maxNSName || long == podNSName(strings.Repeat("n", 60), strings.Repeat("p", 201)) {
		t.Error("long names are not short and different")
	}
	if n := hostLinkName("shop/web"); len(n) > 15 {
		t.Errorf("%s is too long for an interface", n)
	}
}
