package provider

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/cluster"
)

// localDNS is the address that NodeLocal DNSCache takes besides the Service's.
const localDNS = "169.254.20.10"

// cacheRules are those of NodeLocal DNSCache: what goes to its addresses and
// comes from there is neither translated nor tracked.
const cacheRules = `
table ip e2e-dns-cache {
	set own { type ipv4_addr; elements = { %s, %s }; }
	chain prerouting { type filter hook prerouting priority raw; ip daddr @own notrack; }
	chain output { type filter hook output priority raw; ip daddr @own notrack; ip saddr @own notrack; }
}`

// cacheDNS gives the node the Service's address, as NodeLocal DNSCache does.
func cacheDNS(n *cluster.Node, service string) (undo func(), err error) {
	run := func(args ...string) error {
		if out, err := n.Command(context.Background(), args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	}
	undo = func() {
		_ = run("nft", "delete", "table", "ip", "e2e-dns-cache")
		for _, a := range []string{service, localDNS} {
			_ = run("ip", "addr", "del", a+"/32", "dev", "lo")
		}
	}
	for _, a := range []string{service, localDNS} {
		if err := run("ip", "addr", "add", a+"/32", "dev", "lo"); err != nil {
			undo()
			return nil, err
		}
	}
	if err := run("nft", fmt.Sprintf(cacheRules, service, localDNS)); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// TestNodeLocalDNSCache has a node answer for a Service by itself, outside of
// connection tracking, as NodeLocal DNSCache does: who may ask the pods behind
// the Service may ask the node, and nobody else.
func TestNodeLocalDNSCache(t *testing.T) {
	l := enforced(t)
	home, system, wild := l.namespace("dns-home"), l.namespace("dns-system"), l.namespace("dns-wild")
	l.policy(home, "deny", deny)
	server := &pod{ns: system, name: "server", node: l.Nodes[1], labels: object{"app": "server"}, args: []string{"-listen", "7000"}}
	client := &pod{ns: home, name: "client", node: l.Nodes[0]}
	stranger := &pod{ns: wild, name: "stranger", node: l.Nodes[0]}
	l.start(server, client, stranger)
	ips, _ := l.service(system, "dns", object{})
	service, local := net.JoinHostPort(ips[0], "7000"), net.JoinHostPort(localDNS, "7000")
	try := func(phase, name string, spec object, byService, byLocal bool) {
		t.Helper()
		_, version := l.policy(home, name, spec)
		l.realised(version)
		l.visits(phase, []visit{
			{client, service, byService, "client by the Service's address"},
			{client, local, byLocal, "client by the cache's own address"},
			{stranger, service, true, "a pod without policies by the Service's address"},
			{stranger, local, true, "a pod without policies by the cache's own address"},
		})
		l.deletePolicy(home, name)
	}
	pods := egress([]object{{"namespaceSelector": object{"matchLabels": object{"name": system}}}})

	undo, err := cacheDNS(l.Nodes[0], ips[0])
	must(t, err)
	t.Cleanup(undo)
	cache := &pod{ns: wild, name: "cache", node: l.Nodes[0], hostNetwork: true,
		args: []string{"-listen", fmt.Sprintf("tcp/%[1]s,udp/%[1]s,tcp/%[2]s,udp/%[2]s", service, local)}}
	l.start(cache)
	must(t, eventually(func() error {
		o, err := stranger.Connect(t.Context(), "udp", service)
		if err == nil && o.Server != cache.id() {
			err = fmt.Errorf("%s answers for the Service, and not the node's cache; %s", o.Server, o.Error)
		}
		return err
	}))
	try("nobody may ask", "nothing", deny, false, false)
	try("the Service's pods may be asked", "pods", pods, true, false)
	try("the cache's own address may be asked", "block", egress(block(localDNS)), false, true)
	l.deletePolicy(home, "deny")
	l.visits("control: no policies", []visit{{client, service, true, "client"}, {client, local, true, "client by the cache's own address"}})
}
