package provider

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
)

// TestDualStack has pods, nodes and the outside reach isolated pods by IPv6,
// directly and by Services. It needs a cluster of both families.
func TestDualStack(t *testing.T) {
	l := enforced(t)
	n := l.Nodes
	if n[0].IP6 == "" {
		if os.Getenv("SALLYPORT_E2E_DUAL") != "" {
			t.Fatal("the cluster was to be a dual-stack one")
		}
		t.Skip("NOT TESTED: this cluster has IPv4 only; SALLYPORT_E2E_DUAL=1 makes one that has both")
	}
	home, away, wild := l.namespace("dual"), l.namespace("dual-away"), l.namespace("dual-wild")
	_, version := l.policy(home, "deny", deny)
	l.realised(version)
	server := &pod{ns: home, name: "server", node: n[0], labels: object{"app": "server"}, args: []string{"-listen", "7000"}}
	guest := &pod{ns: home, name: "guest", node: n[1]}
	near, far := &pod{ns: away, name: "near", node: n[0]}, &pod{ns: away, name: "far", node: n[1]}
	stranger := &pod{ns: wild, name: "stranger", node: n[0]}
	var hosts []*pod
	for i, node := range n {
		hosts = append(hosts, &pod{ns: wild, name: fmt.Sprint("host-", i), node: node, hostNetwork: true,
			args: []string{"-listen", "tcp/7999,udp/[" + node.IP6 + "]:7999"}})
	}
	l.start(append([]*pod{server, guest, near, far, stranger}, hosts...)...)
	if server.ip6 == "" {
		t.Fatal("a pod has no IPv6 address")
	}
	ips, ports := l.service(home, "both", object{"type": "NodePort", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack"})
	service := net.JoinHostPort(ips[1], "7000")
	door := net.JoinHostPort(n[0].IP6, strconv.Itoa(ports["tcp"]))
	host := func(i int) string { return net.JoinHostPort(n[i].IP6, "7999") }

	phase := func(name string, open who) {
		t.Helper()
		l.phase(name, open, []visit{
			{hosts[0], server.at6(7000), true, "own node"},
			{hosts[1], server.at6(7000), false, "node2"},
			{nil, door, false, "outside"},
			{near, server.at6(7000), false, "near"},
			{far, server.at6(7000), false, "far"},
			{far, service, false, "far by ClusterIP"},
			{stranger, server.at6(7000), false, "stranger"},
			{guest, host(1), false, "guest to its own node"},
			{guest, host(2), false, "guest to node3"},
			{stranger, host(2), true, "stranger to node3"},
		})
	}
	try := func(name string, spec object, open who) {
		t.Helper()
		_, version := l.policy(home, "more", spec)
		l.realised(version)
		phase(name, open)
		l.deletePolicy(home, "more")
	}
	phase("deny", who{})
	try("IPv4 block of the outside", ingress(block(outside)), who{})
	try("IPv6 block of the outside", ingress(block(outside6)), who{"outside": true})
	try("IPv6 block of node2", ingress(block(n[1].IP6)), who{"node2": true})
	try("peer namespace", peer(away), who{"near": true, "far": true, "far by ClusterIP": true})
	try("egress to node2", egress(block(n[1].IP6)), who{"guest to its own node": true})
	l.deletePolicy(home, "deny")
	everybody := who{}
	for _, what := range []string{"node2", "outside", "near", "far", "far by ClusterIP", "stranger", "guest to its own node", "guest to node3"} {
		everybody[what] = true
	}
	phase("control: no policies", everybody)
}
