package model

import (
	"net/netip"
	"strings"
)

// MetadataName is the label that every namespace carries with its own name.
const MetadataName = "kubernetes.io/metadata.name"

// Cluster is an immutable snapshot of everything that policies can see.
type Cluster struct {
	Revision   uint64
	Name       string      // of the cluster, where policies name clusters; "" is "default"
	Namespaces []Namespace // every namespace that an endpoint or policy names, sorted by name
	Nodes      []Node
	Endpoints  []Endpoint // pods, sorted by namespace and name; finished pods are left out
	Accounts   []ServiceAccount
	Policies   []*Policy
	Tiers      []Tier // beside the reserved ones
	Sets       []AddressSet
	Services   []Service
	PodRanges  []netip.Prefix // unknown addresses in here are closed
}

// Namespace is a namespace with its labels, MetadataName among them.
type Namespace struct {
	Name   string
	Labels map[string]string
	Source Source
}

// Node is a machine of the cluster. Traffic of hostNetwork pods is its traffic.
type Node struct {
	Name   string
	Labels map[string]string
	IPs    []netip.Addr
	Source Source
}

// Workload is the controller that a pod belongs to; for a bare pod, the pod.
type Workload struct {
	Kind string
	Name string
}

// OwnerOf is the workload behind a pod's first owner: for a Deployment's
// ReplicaSet the Deployment, by the pod-template-hash in the name.
func OwnerOf(kind, name, hash string) Workload {
	if deployment, ok := strings.CutSuffix(name, "-"+hash); ok && kind == "ReplicaSet" && hash != "" {
		return Workload{Kind: "Deployment", Name: deployment}
	}
	return Workload{Kind: kind, Name: name}
}

// Endpoint is one pod.
type Endpoint struct {
	Namespace      string
	Name           string
	UID            string // tells pods of one name apart, one after the other; "" in files
	Workload       Workload
	Labels         map[string]string // shared between the pods of a workload: never written
	ServiceAccount string
	Node           string
	HostNetwork    bool   // its traffic is the node's; no pod selector selects it
	NotReady       bool   // stands behind a Service only if that has PublishNotReady
	Hostname       string // with Subdomain: its name in the DNS below the Service of that name
	Subdomain      string
	IPs            []netip.Addr
	Ports          []ContainerPort
	Source         Source
}

// Key is the endpoint's "namespace/name".
func (e *Endpoint) Key() string { return e.Namespace + "/" + e.Name }

// SameFamily is the first of the addresses that is of the other one's family,
// and whether there is one: no packet goes from IPv4 to IPv6.
func SameFamily(ips []netip.Addr, other netip.Addr) (netip.Addr, bool) {
	for _, ip := range ips {
		if ip.Is4() == other.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// ContainerPort is a declared port of a pod's container.
type ContainerPort struct {
	Name     string // may be empty
	Protocol Protocol
	Number   uint16
}

// NamedPort resolves a port name as Kubernetes does: the first container port
// of that name and protocol.
func (e *Endpoint) NamedPort(name string, p Protocol) (uint16, bool) {
	for _, c := range e.Ports {
		if c.Name == name && c.Protocol == p {
			return c.Number, true
		}
	}
	return 0, false
}

// Service is a Kubernetes Service with its resolved backends.
type Service struct {
	Namespace  string
	Name       string
	ClusterIPs []netip.Addr // none for a headless Service
	Headless   bool
	Labels     map[string]string
	// PublishNotReady puts pods behind the Service that are not ready, too.
	PublishNotReady bool
	Selector        map[string]string // nil: no selector, Backends come from EndpointSlices
	Ports           []ServicePort
	Source          Source
}

// Key is the Service's "namespace/name".
func (s *Service) Key() string { return s.Namespace + "/" + s.Name }

// Selects says whether the pod stands behind the Service by its labels.
func (s *Service) Selects(e *Endpoint) bool {
	if len(s.Selector) == 0 || s.Namespace != e.Namespace || e.NotReady && !s.PublishNotReady {
		return false
	}
	for k, want := range s.Selector {
		if v, ok := e.Labels[k]; !ok || v != want {
			return false
		}
	}
	return true
}

// ServicePort is one port of a Service and what stands behind it.
type ServicePort struct {
	Name       string
	Protocol   Protocol
	Port       uint16
	TargetPort uint16 // 0: by TargetName
	TargetName string
	NodePort   uint16
	Backends   []Backend // resolved: ready pods that the selector selects, each with its own target port
}

// Backend is an address and port that a Service port leads to.
type Backend struct {
	IP   netip.Addr
	Port uint16
	Pod  string // "namespace/name", "" if the address is no pod's
}
