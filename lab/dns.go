//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/sallyport-dev/sallyport/model"
)

const (
	dnsNamespace = "kube-system"
	dnsService   = "kube-dns"
	dnsPod       = "coredns"
	dnsPort      = 53
	domain       = "cluster.local."
)

// dnsFamilies are the ranges in which the DNS gets its addresses where the
// cluster has pods of the family.
var dnsFamilies = []struct {
	service netip.Addr   // the Service's address, or the next free one
	pods    netip.Prefix // where the cluster says nothing
}{
	{netip.MustParseAddr("10.96.0.10"), netip.MustParsePrefix("10.244.0.0/16")},
	{netip.MustParseAddr("fd00:10:96::a"), netip.MustParsePrefix("fd00:10:244::/64")},
}

// WithDNS returns a copy of the cluster that has the Service
// kube-system/kube-dns and a pod behind it; a cluster that declares the
// Service, or has no node to put the pod on, is returned as it is.
func WithDNS(c *model.Cluster) *model.Cluster {
	if findDNS(c) != nil || len(c.Nodes) == 0 {
		return c
	}
	d := *c
	d.Namespaces = slices.Clone(c.Namespaces)
	at, found := slices.BinarySearchFunc(d.Namespaces, dnsNamespace, func(n model.Namespace, s string) int {
		return strings.Compare(n.Name, s)
	})
	if !found {
		d.Namespaces = slices.Insert(d.Namespaces, at, model.Namespace{
			Name: dnsNamespace, Labels: map[string]string{model.MetadataName: dnsNamespace},
		})
	}
	e, svc := newDNS(c)
	d.Endpoints = slices.DeleteFunc(slices.Clone(c.Endpoints), func(o model.Endpoint) bool { return o.Key() == e.Key() })
	at, _ = slices.BinarySearchFunc(d.Endpoints, e, func(a, b model.Endpoint) int {
		if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	d.Endpoints = slices.Insert(d.Endpoints, at, e)
	d.Services = append(slices.Clone(c.Services), svc)
	return &d
}

// newDNS makes the DNS's pod and Service, with an address of every family
// that the cluster's pods have.
func newDNS(c *model.Cluster) (model.Endpoint, model.Service) {
	e := model.Endpoint{
		Namespace: dnsNamespace,
		Name:      dnsPod,
		Workload:  model.Workload{Kind: "Pod", Name: dnsPod},
		Labels:    map[string]string{"k8s-app": dnsService},
		Node:      c.Nodes[0].Name,
		Ports: []model.ContainerPort{
			{Name: "dns", Protocol: model.UDP, Number: dnsPort},
			{Name: "dns-tcp", Protocol: model.TCP, Number: dnsPort},
		},
		ServiceAccount: dnsPod,
	}
	s := model.Service{Namespace: dnsNamespace, Name: dnsService, Selector: e.Labels}
	used := usedAddrs(c)
	var backends []model.Backend
	for _, f := range dnsFamilies {
		pods, ok := podRange(c, f.pods)
		if !ok {
			continue
		}
		service := f.service
		for used[service] {
			service = service.Next()
		}
		pod := freeAddr(pods, used)
		e.IPs, s.ClusterIPs = append(e.IPs, pod), append(s.ClusterIPs, service)
		backends = append(backends, model.Backend{IP: pod, Port: dnsPort, Pod: e.Key()})
	}
	for _, p := range e.Ports {
		s.Ports = append(s.Ports, model.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: dnsPort, TargetPort: dnsPort, Backends: backends})
	}
	return e, s
}

// podRange is the range in which the cluster's pods of the family of standard
// have their addresses; ok says whether there are such pods.
func podRange(c *model.Cluster, standard netip.Prefix) (_ netip.Prefix, ok bool) {
	for _, p := range c.PodRanges {
		if p.Addr().Is4() == standard.Addr().Is4() {
			return p.Masked(), true
		}
	}
	for i := range c.Endpoints {
		if _, ok := model.SameFamily(c.Endpoints[i].IPs, standard.Addr()); ok {
			return standard, true
		}
	}
	return standard, len(c.Endpoints) == 0 && len(c.PodRanges) == 0 && standard.Addr().Is4()
}

// usedAddrs are the addresses of the cluster's pods and Services.
func usedAddrs(c *model.Cluster) map[netip.Addr]bool {
	used := make(map[netip.Addr]bool)
	for i := range c.Endpoints {
		for _, ip := range c.Endpoints[i].IPs {
			used[ip] = true
		}
	}
	for i := range c.Services {
		for _, ip := range c.Services[i].ClusterIPs {
			used[ip] = true
		}
	}
	return used
}

// freeAddr is the address after the largest one used in the range: pods that
// appear later get other ones.
func freeAddr(in netip.Prefix, used map[netip.Addr]bool) netip.Addr {
	last := in.Addr()
	for ip := range used {
		if in.Contains(ip) && last.Less(ip) {
			last = ip
		}
	}
	if next := last.Next(); in.Contains(next) && in.Contains(next.Next()) {
		return next
	}
	first := in.Addr().Next()
	for in.Contains(first) && used[first] {
		first = first.Next()
	}
	return first
}

// findDNS is the cluster's DNS Service, or nil.
func findDNS(c *model.Cluster) *model.Service {
	for i := range c.Services {
		if s := &c.Services[i]; s.Namespace == dnsNamespace && s.Name == dnsService {
			return s
		}
	}
	return nil
}

// dnsBackends are the ports, by pod, on which the DNS Service is served.
func dnsBackends(c *model.Cluster) map[string]map[model.PortKey]bool {
	at := make(map[string]map[model.PortKey]bool)
	s := findDNS(c)
	if s == nil {
		return at
	}
	for _, p := range s.Ports {
		if p.Port != dnsPort {
			continue
		}
		for _, b := range p.Backends {
			if at[b.Pod] == nil {
				at[b.Pod] = make(map[model.PortKey]bool)
			}
			at[b.Pod][model.PortKeyOf(p.Protocol, b.Port)] = true
		}
	}
	return at
}

// dnsAddrs are the addresses that pods ask for names.
func dnsAddrs(c *model.Cluster) []netip.Addr {
	if s := findDNS(c); s != nil && len(s.ClusterIPs) > 0 {
		return s.ClusterIPs
	}
	return []netip.Addr{dnsFamilies[0].service}
}

// answer is the DNS server.
func (l *Lab) answer(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(req)
	m.Authoritative = true
	m.RecursionAvailable = true
	m.Rcode = dns.RcodeNameError
	if len(req.Question) == 1 {
		(*l.zone.Load())().answer(m, req.Question[0])
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := req.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m)
}

// Lookup asks the cluster's DNS for a name, as the pod. A name that ends
// neither in a dot nor in cluster.local is searched for as pods do.
func (l *Lab) Lookup(ctx context.Context, podKey, name string, timeout time.Duration) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var addrs []netip.Addr
	for _, candidate := range searchNames(podKey, name) {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			got, err := l.ask(ctx, podKey, candidate, qtype)
			if err != nil {
				return nil, fmt.Errorf("cannot look up %s from %s: %w", name, podKey, err)
			}
			addrs = append(addrs, got...)
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("cannot look up %s from %s: no such name", name, podKey)
}

// searchDomains are what a namespace's pods try behind a name that is not full.
func searchDomains(namespace string) []string {
	return []string{namespace + ".svc." + domain, "svc." + domain, domain}
}

// searchNames are the full names that a name can stand for.
func searchNames(podKey, name string) []string {
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name+".", "."+domain) {
		return []string{dns.Fqdn(name)}
	}
	ns, _, _ := strings.Cut(podKey, "/")
	var out []string
	for _, d := range searchDomains(ns) {
		out = append(out, name+"."+d)
	}
	return append(out, dns.Fqdn(name))
}

// dnsFor is the address at which the pod asks for names: of a family it has.
func (l *Lab) dnsFor(podKey string) netip.AddrPort {
	addrs := dnsAddrs(l.cluster.Load())
	l.mu.RLock()
	defer l.mu.RUnlock()
	if p := l.pods[podKey]; p != nil {
		for _, a := range addrs {
			if _, ok := model.SameFamily(p.model.IPs, a); ok {
				return netip.AddrPortFrom(a, dnsPort)
			}
		}
	}
	return netip.AddrPortFrom(addrs[0], dnsPort)
}

// ask sends one question over UDP, and again if no answer comes.
func (l *Lab) ask(ctx context.Context, podKey, name string, qtype uint16) ([]netip.Addr, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(4096, false)
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	in, err := l.exchange(ctx, podKey, netip.Addr{}, l.dnsFor(podKey), out)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(in); err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, rr := range m.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}
