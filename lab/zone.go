//go:build linux

package lab

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	"github.com/sallyport-dev/sallyport/model"
)

// ttl is how many seconds answers may be remembered, also that there is none.
const ttl = 5

// zone holds every name of a cluster, as Kubernetes' DNS specification says,
// with its records. A name of which others are below exists, too. Nobody
// writes to a zone once it is made.
//
//	SERVICE.NS.svc.cluster.local              A, AAAA: ClusterIPs, or headless: all ready pods
//	HOST.SERVICE.NS.svc.cluster.local         A, AAAA: one pod; HOST is its hostname or 1-2-3-4
//	_PORT._PROTOCOL.SERVICE.NS.svc.cluster.local  SRV: the named port
//	1-2-3-4.NS.pod.cluster.local              A, AAAA: the pod of the namespace that has the address
//	4.3.2.1.in-addr.arpa, ….ip6.arpa          PTR: the names of a Service or pod
type zone map[string][]dns.RR

// newZone makes the names of the cluster.
func newZone(c *model.Cluster) zone {
	z := zone{}
	z.exists("svc." + domain)
	z.exists("pod." + domain)
	for i := range c.Namespaces {
		z.exists(c.Namespaces[i].Name + ".svc." + domain)
		z.exists(c.Namespaces[i].Name + ".pod." + domain)
	}
	pods := make(map[string]*model.Endpoint, len(c.Endpoints))
	for i := range c.Endpoints {
		pods[c.Endpoints[i].Key()] = &c.Endpoints[i]
	}
	for i := range c.Services {
		z.addService(&c.Services[i], c, pods)
	}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		for _, ip := range e.IPs {
			name := dashed(ip) + "." + e.Namespace + ".pod." + domain
			z.addAddr(name, ip)
			if !e.HostNetwork && len(z[reverse(ip)]) == 0 {
				z.addPTR(ip, name)
			}
		}
	}
	return z
}

func (z zone) addService(s *model.Service, c *model.Cluster, pods map[string]*model.Endpoint) {
	name := s.Name + "." + s.Namespace + ".svc." + domain
	z.exists(name)
	for _, ip := range s.ClusterIPs {
		z.addAddr(name, ip)
		z.addPTR(ip, name)
	}
	hosts := make(map[netip.Addr]string)
	for _, b := range behind(s, c) {
		host := dashed(b.IP)
		if e := pods[b.Pod]; e != nil && e.Hostname != "" && e.Subdomain == s.Name && e.Namespace == s.Namespace {
			host = e.Hostname
		}
		hosts[b.IP] = host + "." + name
		z.addAddr(hosts[b.IP], b.IP)
		if s.Headless {
			z.addAddr(name, b.IP)
			z.addPTR(b.IP, hosts[b.IP])
		}
	}
	for _, p := range s.Ports {
		if p.Name == "" {
			continue
		}
		at := "_" + p.Name + "._" + p.Protocol.String() + "." + name
		if !s.Headless {
			z.addSRV(at, name, p.Port)
			continue
		}
		for _, b := range p.Backends {
			z.addSRV(at, hosts[b.IP], b.Port)
		}
	}
}

// behind are the addresses behind a Service, each once, in order. A headless
// Service may have pods without having ports.
func behind(s *model.Service, c *model.Cluster) []model.Backend {
	var out []model.Backend
	for _, p := range s.Ports {
		out = append(out, p.Backends...)
	}
	if len(s.Ports) == 0 && s.Headless {
		for i := range c.Endpoints {
			if e := &c.Endpoints[i]; s.Selects(e) {
				for _, ip := range e.IPs {
					out = append(out, model.Backend{IP: ip, Pod: e.Key()})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b model.Backend) int { return a.IP.Compare(b.IP) })
	return slices.CompactFunc(out, func(a, b model.Backend) bool { return a.IP == b.IP })
}

// dashed is an address as a part of a name: 1-2-3-4, or fd00-10--1.
func dashed(ip netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}

// reverse is the name below in-addr.arpa or ip6.arpa.
func reverse(ip netip.Addr) string {
	name, err := dns.ReverseAddr(ip.String())
	if err != nil {
		panic(err) // every valid address without a zone has one
	}
	return name
}

// exists makes the name exist, and every name that it is below.
func (z zone) exists(name string) string {
	name = strings.ToLower(name)
	for n := name; n != ""; {
		if _, ok := z[n]; ok {
			break
		}
		z[n] = nil
		_, n, _ = strings.Cut(n, ".")
	}
	return name
}

// add adds a record, unless it is there.
func (z zone) add(name string, rr dns.RR) {
	name = z.exists(name)
	rr.Header().Class, rr.Header().Ttl = dns.ClassINET, ttl
	if !slices.ContainsFunc(z[name], func(o dns.RR) bool { return dns.IsDuplicate(o, rr) }) {
		z[name] = append(z[name], rr)
	}
}

func (z zone) addAddr(name string, ip netip.Addr) {
	if ip.Is4() {
		z.add(name, &dns.A{Hdr: dns.RR_Header{Rrtype: dns.TypeA}, A: net.IP(ip.AsSlice())})
	} else {
		z.add(name, &dns.AAAA{Hdr: dns.RR_Header{Rrtype: dns.TypeAAAA}, AAAA: net.IP(ip.AsSlice())})
	}
}

func (z zone) addPTR(ip netip.Addr, name string) {
	z.add(reverse(ip), &dns.PTR{Hdr: dns.RR_Header{Rrtype: dns.TypePTR}, Ptr: name})
}

func (z zone) addSRV(at, target string, port uint16) {
	z.add(at, &dns.SRV{Hdr: dns.RR_Header{Rrtype: dns.TypeSRV}, Weight: 100, Port: port, Target: target})
}

// answer answers a question: with its records and, for SRV, the addresses of
// what they name. A name that exists without such a record has an empty answer.
func (z zone) answer(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(dns.Fqdn(q.Name))
	records, ok := z[name]
	m.Rcode = dns.RcodeNameError
	if ok {
		m.Rcode = dns.RcodeSuccess
	}
	for _, rr := range records {
		if t := rr.Header().Rrtype; t != q.Qtype && q.Qtype != dns.TypeANY {
			continue
		}
		m.Answer = append(m.Answer, named(rr, q.Name))
		if srv, ok := rr.(*dns.SRV); ok {
			for _, a := range z[srv.Target] {
				m.Extra = append(m.Extra, named(a, srv.Target))
			}
		}
	}
	if len(m.Answer) == 0 && dns.IsSubDomain(domain, name) {
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
			Ns:  "ns.dns." + domain, Mbox: "hostmaster." + domain, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
		}}
	}
}

// named is the record under the name that was asked for, which keeps its case.
func named(rr dns.RR, name string) dns.RR {
	out := dns.Copy(rr)
	out.Header().Name = name
	return out
}
