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

var (
	dnsClusterIP    = netip.MustParseAddr("10.96.0.10")
	defaultPodRange = netip.MustParsePrefix("10.244.0.0/16")
)

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
	e := dnsEndpoint(c)
	d.Endpoints = slices.DeleteFunc(slices.Clone(c.Endpoints), func(o model.Endpoint) bool { return o.Key() == e.Key() })
	at, _ = slices.BinarySearchFunc(d.Endpoints, e, func(a, b model.Endpoint) int {
		if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	d.Endpoints = slices.Insert(d.Endpoints, at, e)
	d.Services = append(slices.Clone(c.Services), dnsServiceFor(&e))
	return &d
}

func dnsEndpoint(c *model.Cluster) model.Endpoint {
	return model.Endpoint{
		Namespace: dnsNamespace,
		Name:      dnsPod,
		Workload:  model.Workload{Kind: "Pod", Name: dnsPod},
		Labels:    map[string]string{"k8s-app": dnsService},
		Node:      c.Nodes[0].Name,
		IPs:       []netip.Addr{freeAddr(c)},
		Ports: []model.ContainerPort{
			{Name: "dns", Protocol: model.UDP, Number: dnsPort},
			{Name: "dns-tcp", Protocol: model.TCP, Number: dnsPort},
		},
		ServiceAccount: dnsPod,
	}
}

func dnsServiceFor(e *model.Endpoint) model.Service {
	backends := []model.Backend{{IP: e.IPs[0], Port: dnsPort, Pod: e.Key()}}
	return model.Service{
		Namespace:  dnsNamespace,
		Name:       dnsService,
		ClusterIPs: []netip.Addr{dnsClusterIP},
		Selector:   map[string]string{"k8s-app": dnsService},
		Ports: []model.ServicePort{
			{Name: "dns", Protocol: model.UDP, Port: dnsPort, TargetPort: dnsPort, Backends: backends},
			{Name: "dns-tcp", Protocol: model.TCP, Port: dnsPort, TargetPort: dnsPort, Backends: backends},
		},
	}
}

// freeAddr is the IPv4 address after the largest one in the pod range.
func freeAddr(c *model.Cluster) netip.Addr {
	podRange := defaultPodRange
	for _, p := range c.PodRanges {
		if p.Addr().Is4() {
			podRange = p.Masked()
			break
		}
	}
	used := make(map[netip.Addr]bool)
	last := podRange.Addr()
	for i := range c.Endpoints {
		for _, ip := range c.Endpoints[i].IPs {
			used[ip] = true
			if podRange.Contains(ip) && last.Less(ip) {
				last = ip
			}
		}
	}
	if next := last.Next(); podRange.Contains(next) && podRange.Contains(next.Next()) {
		return next
	}
	first := podRange.Addr().Next()
	for podRange.Contains(first) && used[first] {
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

// dnsAddr is the address that pods ask for names.
func dnsAddr(c *model.Cluster) netip.Addr {
	if c != nil {
		if s := findDNS(c); s != nil && len(s.ClusterIPs) > 0 {
			return s.ClusterIPs[0]
		}
	}
	return dnsClusterIP
}

// answer is the DNS server: it knows NAME.NAMESPACE.svc.cluster.local.
func (l *Lab) answer(w dns.ResponseWriter, req *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(req)
	m.Authoritative = true
	m.RecursionAvailable = true
	m.Rcode = dns.RcodeNameError
	if len(req.Question) == 1 {
		q := req.Question[0]
		if addrs, ok := resolve(l.cluster.Load(), q.Name); ok {
			m.Rcode = dns.RcodeSuccess
			m.Answer = records(q, addrs)
		}
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

// resolve finds the addresses of a name; ok says that the name exists.
func resolve(c *model.Cluster, name string) (addrs []netip.Addr, ok bool) {
	rest, found := strings.CutSuffix(strings.ToLower(dns.Fqdn(name)), ".svc."+domain)
	labels := strings.Split(rest, ".")
	if !found || c == nil || len(labels) != 2 {
		return nil, false
	}
	for i := range c.Services {
		if s := &c.Services[i]; s.Name == labels[0] && s.Namespace == labels[1] {
			return serviceAddrs(s), true
		}
	}
	return nil, false
}

// serviceAddrs are the ClusterIPs, or the backends of a headless Service.
func serviceAddrs(s *model.Service) []netip.Addr {
	if !s.Headless {
		return s.ClusterIPs
	}
	var addrs []netip.Addr
	for _, p := range s.Ports {
		for _, b := range p.Backends {
			addrs = append(addrs, b.IP)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// records are the addresses of the family that was asked for.
func records(q dns.Question, addrs []netip.Addr) []dns.RR {
	var rrs []dns.RR
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 5}
	for _, a := range addrs {
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			rrs = append(rrs, &dns.A{Hdr: hdr, A: net.IP(a.AsSlice())})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			rrs = append(rrs, &dns.AAAA{Hdr: hdr, AAAA: net.IP(a.AsSlice())})
		}
	}
	return rrs
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

// searchNames are the full names that a name can stand for.
func searchNames(podKey, name string) []string {
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, ".cluster.local") {
		return []string{dns.Fqdn(name)}
	}
	ns, _, _ := strings.Cut(podKey, "/")
	return []string{name + "." + ns + ".svc." + domain, name + ".svc." + domain, dns.Fqdn(name)}
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
	to := netip.AddrPortFrom(dnsAddr(l.cluster.Load()), dnsPort)
	in, err := l.exchange(ctx, podKey, netip.Addr{}, to, out)
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
