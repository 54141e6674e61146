package provider

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// outside is this machine's address on the fabric: it is no node's and no
// pod's. The second is that of a dual-stack cluster.
const (
	outside  = "198.18.0.254"
	outside6 = "fd00:198:18::fe"
)

// visit is one attempt to connect and what must come of it.
type visit struct {
	from *pod // nil is outside of the cluster
	to   string
	open bool
	what string
}

// visits makes all attempts at once, by TCP and UDP. Rules of kube-proxy, and
// the news that a policy is gone, may take their time to arrive: what must be
// open is tried until it is. What must be shut is tried once.
func (l lab) visits(phase string, list []visit) {
	l.t.Helper()
	wrong := make([]error, 2*len(list))
	done := make(chan struct{})
	for i, v := range list {
		for j, proto := range []string{"tcp", "udp"} {
			go func() {
				defer func() { done <- struct{}{} }()
				var leak error
				late := eventually(func() error {
					o := v.try(l.t.Context(), proto)
					if connected := o.Result == "connected"; connected == v.open && o.Result != "failed" {
						return nil
					} else if err := fmt.Errorf("%s: %s by %s: %s %s, want open: %v", phase, v.what, proto, o.Result, o.Error, v.open); !connected {
						return err
					} else {
						leak = err
						return nil
					}
				})
				wrong[2*i+j] = cmp.Or(leak, late)
			}()
		}
	}
	bad := 0
	for range wrong {
		<-done
	}
	for _, err := range wrong {
		if err != nil {
			bad++
			l.t.Error(err)
		}
	}
	l.t.Logf("%s: %d of %d attempts as they must be", phase, len(wrong)-bad, len(wrong))
}

// who gets in, by what the visits are called.
type who = map[string]bool

// phase makes the visits; those in open must succeed, besides those that
// always do, and no others.
func (l lab) phase(name string, open who, list []visit) {
	l.t.Helper()
	seen := 0
	for i := range list {
		if open[list[i].what] {
			list[i].open = true
			seen++
		}
	}
	if seen != len(open) {
		l.t.Fatalf("%s: %v names others than %d of the visits", name, open, seen)
	}
	l.visits(name, list)
}

func (v visit) try(ctx context.Context, proto string) prober.Outcome {
	if v.from == nil {
		return prober.Dial(proto, v.to, time.Second)
	}
	o, err := v.from.Connect(ctx, proto, v.to)
	if err != nil {
		o = prober.Outcome{Result: "failed", Error: err.Error()}
	}
	return o
}

// service makes a Service for TCP and UDP and returns its addresses, of the
// families that spec asks for, and its ports on nodes.
func (l lab) service(ns, name string, spec object) (ips []string, node map[string]int) {
	l.t.Helper()
	var out struct {
		Spec struct {
			ClusterIPs []string
			Ports      []struct {
				Name     string
				NodePort int
			}
		}
	}
	spec["selector"] = object{"app": "server"}
	spec["ports"] = []object{{"name": "tcp", "port": 7000}, {"name": "udp", "port": 7000, "protocol": "UDP"}}
	if spec["type"] == "NodePort" {
		base := 31000 + namespaces*10 + len(name)
		spec["ports"] = []object{{"name": "tcp", "port": 7000, "nodePort": base}, {"name": "udp", "port": 7000, "protocol": "UDP", "nodePort": base}}
	}
	must(l.t, l.API(l.t.Context(), "POST", "/api/v1/namespaces/"+ns+"/services", object{"metadata": object{"name": name}, "spec": spec}, &out))
	node = map[string]int{}
	for _, p := range out.Spec.Ports {
		node[p.Name] = p.NodePort
	}
	return out.Spec.ClusterIPs, node
}

func block(addresses ...string) (out []object) {
	for _, a := range addresses {
		ip := netip.MustParseAddr(a)
		out = append(out, object{"ipBlock": object{"cidr": netip.PrefixFrom(ip, ip.BitLen()).String()}})
	}
	return out
}

// ingress lets the peers in to all pods of the namespace.
func ingress(from []object) object {
	return object{"podSelector": object{}, "policyTypes": []string{"Ingress"}, "ingress": []object{{"from": from}}}
}

// egress lets all pods of the namespace out to the peers.
func egress(to []object) object {
	return object{"podSelector": object{}, "policyTypes": []string{"Egress"}, "egress": []object{{"to": to}}}
}

// TestNodesAndServices has pods, nodes and the outside reach isolated pods
// directly and by Services.
func TestNodesAndServices(t *testing.T) {
	l := enforced(t)
	home, away, wild := l.namespace("served"), l.namespace("served-away"), l.namespace("served-wild")
	n := l.Nodes
	_, version := l.policy(home, "deny", deny) // before the pods: the kubelet must get through from the start
	l.realised(version)
	server := &pod{ns: home, name: "server", node: n[0], labels: object{"app": "server"}, args: []string{"-listen", "7000"}, health: true}
	guest := &pod{ns: home, name: "guest", node: n[1], args: []string{"-listen", "7000"}, health: true}
	friend := &pod{ns: away, name: "friend", node: n[1]}
	stranger := &pod{ns: wild, name: "stranger", node: n[0]}
	all := []*pod{server, guest, friend, stranger}
	var hosts []*pod
	for i, node := range n {
		hosts = append(hosts, &pod{ns: wild, name: fmt.Sprint("host-", i), node: node, hostNetwork: true, args: []string{"-listen", "tcp/7999,udp/" + node.IP + ":7999"}})
	}
	l.start(append(all, hosts...)...) // ready: the kubelet's probes of isolated pods pass
	t.Logf("isolated pods passed their kubelets' probes")

	ips, _ := l.service(home, "cluster-ip", object{"type": "ClusterIP"})
	_, any := l.service(home, "any", object{"type": "NodePort", "externalTrafficPolicy": "Cluster"})
	_, local := l.service(home, "local", object{"type": "NodePort", "externalTrafficPolicy": "Local"})
	service := net.JoinHostPort(ips[0], "7000")
	at := func(i int, ports map[string]int) string { return net.JoinHostPort(n[i].IP, strconv.Itoa(ports["tcp"])) }
	host := func(i int) string { return net.JoinHostPort(n[i].IP, "7999") }
	pod := server.at(7000)

	phase := func(name string, open who) {
		t.Helper()
		l.phase(name, open, []visit{
			{hosts[0], pod, true, "own node"}, // always
			{hosts[1], pod, false, "node2"},
			{hosts[2], pod, false, "node3"},
			{hosts[1], service, false, "node2 by ClusterIP"},
			{nil, at(0, local), false, "outside, Local"},
			{nil, at(0, any), false, "outside, Cluster, by node1"},
			{nil, at(1, any), false, "outside, Cluster, by node2"},
			{nil, at(2, any), false, "outside, Cluster, by node3"},
			{hosts[2], at(1, any), false, "node3, Cluster, by node2"},
			{friend, pod, false, "friend"},
			{friend, service, false, "friend by ClusterIP"},
			{stranger, pod, false, "stranger"},
			{stranger, service, false, "stranger by ClusterIP"},
			{guest, host(1), false, "guest to its own node"},
			{guest, host(2), false, "guest to node3"},
			{stranger, host(0), true, "stranger to its own node"}, // no policy there
			{stranger, host(2), true, "stranger to node3"},
		})
	}
	swap := func(name string, spec object) {
		t.Helper()
		_, version := l.policy(home, name, spec)
		l.realised(version)
	}
	phase("deny", who{})
	swap("outside", ingress(block(outside)))
	phase("block of the outside", who{"outside, Local": true, "outside, Cluster, by node1": true})
	l.deletePolicy(home, "outside")
	swap("node2", ingress(block(n[1].IP)))
	phase("block of node2", who{
		"node2": true, "node2 by ClusterIP": true,
		"outside, Cluster, by node2": true, // node2 masquerades
		"node3, Cluster, by node2":   true,
	})
	l.deletePolicy(home, "node2")
	swap("peer", peer(away))
	phase("peer namespace", who{"friend": true, "friend by ClusterIP": true})
	l.deletePolicy(home, "peer")
	swap("nodes", egress(block(n[1].IP)))
	phase("egress to node2", who{"guest to its own node": true})
	l.deletePolicy(home, "nodes")
	l.deletePolicy(home, "deny")
	// The control: without policies everybody gets everywhere.
	everybody := who{}
	for _, what := range []string{"node2", "node3", "node2 by ClusterIP", "outside, Local", "outside, Cluster, by node1", "outside, Cluster, by node2", "outside, Cluster, by node3",
		"node3, Cluster, by node2", "friend", "friend by ClusterIP", "stranger", "stranger by ClusterIP", "guest to its own node", "guest to node3"} {
		everybody[what] = true
	}
	phase("control: no policies", everybody)
}
