package kube

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sallyport-dev/sallyport/model"
)

// pod is what is kept of a Pod.
type pod struct {
	endpoint *model.Endpoint // with the addresses that the pod names, whoever has them
	created  int64           // seconds, by the API server's clock
	deleting bool
}

// outranks orders pods that name the same address: one that stays before one
// that is being deleted, then the newer one.
func (p *pod) outranks(q *pod) bool {
	switch {
	case p.deleting != q.deleting:
		return q.deleting
	case p.created != q.created:
		return p.created > q.created
	}
	return p.endpoint.Key() < q.endpoint.Key()
}

// node is what is kept of a Node.
type node struct {
	model.Node
	ranges  []netip.Prefix // of its pods
	created int64
	ready   bool
}

func (n *node) outranks(m *node) bool {
	if n.created != m.created {
		return n.created > m.created
	}
	return n.Name < m.Name
}

// slice is what is kept of an EndpointSlice.
type slice struct {
	service  string
	ports    []slicePort
	backends []model.Backend // ready ones, without their ports
}

type slicePort struct {
	name     string
	protocol model.Protocol
	number   uint16
}

// account is what is kept of a ServiceAccount.
type account struct{ labels map[string]string }

// said is the account as it is handed out; one without labels is like none.
func (a *account) said(k key) model.ServiceAccount {
	out := model.ServiceAccount{Namespace: k.namespace, Name: k.name, Source: model.Source{APIVersion: "v1", Kind: "ServiceAccount", Namespace: k.namespace, Name: k.name}}
	if a != nil {
		out.Labels = a.labels
	}
	return out
}

func sourceOf(p *pool, apiVersion, kind string, o metav1.Object) model.Source {
	return model.Source{APIVersion: apiVersion, Kind: kind, Namespace: p.string(o.GetNamespace()), Name: o.GetName()}
}

// trimPod returns nil for a finished pod: its address may be another's by now.
func trimPod(p *pool, o *corev1.Pod) *pod {
	if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
		return nil
	}
	s := sourceOf(p, "v1", "Pod", o)
	e := &model.Endpoint{
		Namespace: s.Namespace, Name: s.Name, UID: string(o.UID), Source: s,
		Workload: workload(p, o), Labels: p.labelSet(o.Labels),
		ServiceAccount: p.string(o.Spec.ServiceAccountName), Node: p.string(o.Spec.NodeName), HostNetwork: o.Spec.HostNetwork,
		Hostname: o.Spec.Hostname, Subdomain: p.string(o.Spec.Subdomain),
		Ports: p.portList(containerPorts(&o.Spec)),
	}
	if e.ServiceAccount == "" {
		e.ServiceAccount = "default"
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.PodReady {
			e.NotReady = c.Status == corev1.ConditionFalse
		}
	}
	for _, ip := range o.Status.PodIPs {
		e.IPs = appendAddress(e.IPs, ip.IP)
	}
	if len(e.IPs) == 0 {
		e.IPs = appendAddress(nil, o.Status.PodIP)
	}
	return &pod{endpoint: e, created: o.CreationTimestamp.Unix(), deleting: o.DeletionTimestamp != nil}
}

func workload(p *pool, o *corev1.Pod) model.Workload {
	for _, r := range o.OwnerReferences {
		w := model.OwnerOf(r.Kind, r.Name, o.Labels["pod-template-hash"])
		return model.Workload{Kind: p.string(w.Kind), Name: p.string(w.Name)}
	}
	return model.Workload{Kind: "Pod", Name: o.Name}
}

func containerPorts(spec *corev1.PodSpec) []model.ContainerPort {
	var out []model.ContainerPort
	for _, containers := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range containers {
			for _, c := range containers[i].Ports {
				if proto, ok := protocol(c.Protocol); ok {
					out = append(out, model.ContainerPort{Name: c.Name, Protocol: proto, Number: uint16(c.ContainerPort)})
				}
			}
		}
	}
	return out
}

// protocol reads what the API server has checked; "" is TCP.
func protocol(s corev1.Protocol) (model.Protocol, bool) {
	if s == "" {
		return model.TCP, true
	}
	return model.ParseProtocol(string(s))
}

// appendAddress appends an address that is not in the list.
func appendAddress(list []netip.Addr, s string) []netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || slices.Contains(list, a.Unmap()) {
		return list
	}
	return append(slices.Clip(list), a.Unmap())
}

func trimNamespace(p *pool, o *metav1.PartialObjectMetadata) *model.Namespace {
	s := sourceOf(p, "v1", "Namespace", o)
	labels := o.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	labels[model.MetadataName] = s.Name
	return &model.Namespace{Name: s.Name, Labels: p.labelSet(labels), Source: s}
}

func trimAccount(p *pool, o *metav1.PartialObjectMetadata) *account {
	return &account{p.labelSet(o.Labels)}
}

func trimNode(p *pool, o *corev1.Node) *node {
	s := sourceOf(p, "v1", "Node", o)
	n := &node{Node: model.Node{Name: p.string(s.Name), Labels: p.labelSet(o.Labels), Source: s}, created: o.CreationTimestamp.Unix()}
	for _, a := range o.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			n.IPs = appendAddress(n.IPs, a.Address)
		}
	}
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady {
			n.ready = c.Status == corev1.ConditionTrue
		}
	}
	cidrs := o.Spec.PodCIDRs
	if len(cidrs) == 0 && o.Spec.PodCIDR != "" {
		cidrs = []string{o.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if r, err := netip.ParsePrefix(c); err == nil {
			n.ranges = append(n.ranges, r.Masked())
		}
	}
	return n
}

// trimService returns nil for a name without addresses or backends.
func trimService(p *pool, o *corev1.Service) *model.Service {
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	s := sourceOf(p, "v1", "Service", o)
	out := &model.Service{
		Namespace: s.Namespace, Name: s.Name, Source: s, Labels: p.labelSet(o.Labels), Selector: p.labelSet(o.Spec.Selector),
		PublishNotReady: o.Spec.PublishNotReadyAddresses, Headless: o.Spec.ClusterIP == corev1.ClusterIPNone,
	}
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{o.Spec.ClusterIP}
	}
	for _, ip := range ips {
		out.ClusterIPs = appendAddress(out.ClusterIPs, ip)
	}
	for _, sp := range o.Spec.Ports {
		proto, ok := protocol(sp.Protocol)
		if !ok {
			continue
		}
		port := model.ServicePort{Name: p.string(sp.Name), Protocol: proto, Port: uint16(sp.Port), TargetPort: uint16(sp.Port), NodePort: uint16(sp.NodePort)}
		switch {
		case sp.TargetPort.Type == intstr.String:
			port.TargetPort, port.TargetName = 0, p.string(sp.TargetPort.StrVal)
		case sp.TargetPort.IntVal != 0:
			port.TargetPort = uint16(sp.TargetPort.IntVal)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

func trimSlice(p *pool, o *discoveryv1.EndpointSlice) *slice {
	out := &slice{service: p.string(o.Labels[discoveryv1.LabelServiceName])}
	for _, sp := range o.Ports {
		if sp.Port == nil {
			continue
		}
		port := slicePort{protocol: model.TCP, number: uint16(*sp.Port)}
		if sp.Name != nil {
			port.name = p.string(*sp.Name)
		}
		if sp.Protocol != nil {
			port.protocol, _ = protocol(*sp.Protocol)
		}
		out.ports = append(out.ports, port)
	}
	for i := range o.Endpoints {
		e := &o.Endpoints[i]
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		b := model.Backend{}
		if t := e.TargetRef; t != nil && t.Kind == "Pod" {
			b.Pod = o.Namespace + "/" + t.Name
		}
		for _, a := range e.Addresses {
			if ip, err := netip.ParseAddr(a); err == nil {
				b.IP = ip.Unmap()
				out.backends = append(out.backends, b)
			}
		}
	}
	return out
}
