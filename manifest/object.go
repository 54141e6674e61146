package manifest

import (
	"maps"
	"net/netip"
	"strconv"

	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

type kind struct{ group, name string }

// kinds lists what is read of the objects that are no policies. Everything
// else decides nothing about connections and is passed over.
var kinds = map[kind]func(*loader, model.Source, field.Cursor){
	{"v1", "Namespace"}:                   (*loader).namespace,
	{"v1", "Node"}:                        (*loader).node,
	{"v1", "Pod"}:                         (*loader).pod,
	{"v1", "Service"}:                     (*loader).service,
	{"v1", "ServiceAccount"}:              (*loader).account,
	{"v1", "ReplicationController"}:       (*loader).replicated,
	{"apps", "Deployment"}:                (*loader).replicated,
	{"apps", "ReplicaSet"}:                (*loader).replicated,
	{"apps", "StatefulSet"}:               (*loader).replicated,
	{"apps", "DaemonSet"}:                 (*loader).replicated,
	{"batch", "Job"}:                      (*loader).replicated,
	{"batch", "CronJob"}:                  (*loader).replicated,
	{"discovery.k8s.io", "EndpointSlice"}: (*loader).endpointSlice,
}

func (l *loader) namespace(s model.Source, c field.Cursor) {
	labels, _ := field.Metadata(c)
	if labels == nil {
		labels = map[string]string{}
	}
	if v, ok := labels[model.MetadataName]; ok && v != s.Name {
		c.Field("metadata").Field("labels").Report(model.Warning, "label "+model.MetadataName+" is "+v+"; the API server sets it to "+s.Name, "remove the label")
	}
	labels[model.MetadataName] = s.Name
	l.namespaces[s.Name] = model.Namespace{Name: s.Name, Labels: labels, Source: s}
}

func (l *loader) useNamespace(name string) {
	if _, ok := l.namespaces[name]; !ok {
		if _, ok := l.implied[name]; !ok {
			l.implied[name] = model.Namespace{Name: name, Labels: map[string]string{model.MetadataName: name}}
		}
	}
}

func (l *loader) node(s model.Source, c field.Cursor) {
	labels, _ := field.Metadata(c)
	n := model.Node{Name: s.Name, Labels: labels, Source: s}
	for _, a := range c.Field("status").Field("addresses").Items() {
		if t := a.Field("type").Value(); t != "InternalIP" && t != "ExternalIP" {
			continue
		}
		if ip, ok := address(a.Field("address")); ok {
			n.IPs = append(n.IPs, ip)
		}
	}
	l.nodes = append(l.nodes, n)
}

func (l *loader) account(s model.Source, c field.Cursor) {
	labels, _ := field.Metadata(c)
	l.useNamespace(s.Namespace)
	l.accounts = append(l.accounts, model.ServiceAccount{Namespace: s.Namespace, Name: s.Name, Labels: labels, Source: s})
}

func address(c field.Cursor) (netip.Addr, bool) {
	if c.Value() == "" {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(c.Value())
	if err != nil {
		c.Error("\""+c.Value()+"\" is no IP address", "")
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

func (l *loader) pod(s model.Source, c field.Cursor) {
	labels, _ := field.Metadata(c)
	status, spec := c.Field("status"), c.Field("spec")
	if phase := status.Field("phase").Value(); phase == "Succeeded" || phase == "Failed" {
		l.useNamespace(s.Namespace)
		return
	}
	e := template(s, spec, labels)
	e.Name, e.Node = s.Name, spec.Field("nodeName").Value()
	e.Workload = owner(c.Field("metadata"), s, labels)
	for _, x := range status.Field("conditions").Items() {
		if x.Field("type").Value() == "Ready" {
			e.NotReady = x.Field("status").Value() == "False"
		}
	}
	for _, ip := range podIPs(status) {
		if a, ok := address(ip); ok && !e.HostNetwork {
			e.IPs = append(e.IPs, a)
			l.taken[a] = true
		}
	}
	if e.Workload.Kind != "Pod" {
		l.owned[ownerKey(s.Namespace, e.Workload)] = true
	}
	l.useNamespace(s.Namespace)
	l.pods = append(l.pods, e)
}

func podIPs(status field.Cursor) []field.Cursor {
	var out []field.Cursor
	for _, i := range status.Field("podIPs").Items() {
		out = append(out, i.Field("ip"))
	}
	if len(out) == 0 {
		out = append(out, status.Field("podIP"))
	}
	return out
}

// owner is the workload that a pod belongs to; for a bare pod, the pod.
func owner(meta field.Cursor, s model.Source, labels map[string]string) model.Workload {
	for _, o := range meta.Field("ownerReferences").Items() {
		return model.OwnerOf(o.Field("kind").Value(), o.Field("name").Value(), labels["pod-template-hash"])
	}
	return model.Workload{Kind: "Pod", Name: s.Name}
}

func ownerKey(namespace string, w model.Workload) string {
	return namespace + "/" + w.Kind + "/" + w.Name
}

// template reads what a pod spec says that policies can see.
func template(s model.Source, spec field.Cursor, labels map[string]string) model.Endpoint {
	e := model.Endpoint{Namespace: s.Namespace, Labels: labels, Source: s}
	e.ServiceAccount = spec.Field("serviceAccountName").Value()
	if e.ServiceAccount == "" {
		e.ServiceAccount = "default"
	}
	e.HostNetwork = spec.Field("hostNetwork").Bool()
	e.Hostname, e.Subdomain = spec.Field("hostname").Value(), spec.Field("subdomain").Value()
	for _, list := range []string{"containers", "initContainers"} {
		for _, container := range spec.Field(list).Items() {
			for _, p := range container.Field("ports").Items() {
				if port, ok := containerPort(p); ok {
					e.Ports = append(e.Ports, port)
				}
			}
		}
	}
	return e
}

func containerPort(c field.Cursor) (model.ContainerPort, bool) {
	out := model.ContainerPort{Name: c.Field("name").Value(), Protocol: model.TCP}
	ok := true
	if p := c.Field("protocol"); p.Present() {
		out.Protocol, ok = model.ParseProtocol(p.Value())
		if !ok {
			p.Error("unknown protocol \""+p.Value()+"\"", "one of TCP, UDP, SCTP")
		}
	}
	n, good := c.Field("containerPort").Int(1, 65535)
	out.Number = uint16(n)
	return out, ok && good
}

// replicated reads a controller; its pods are made in finish, if none are
// written themselves.
func (l *loader) replicated(s model.Source, c field.Cursor) {
	spec := c.Field("spec")
	if s.Kind == "CronJob" {
		spec = spec.Field("jobTemplate").Field("spec")
	}
	t := spec.Field("template")
	labels := t.Field("metadata").Field("labels").StringMap()
	w := controller{endpoint: template(s, t.Field("spec"), labels), replicas: 1}
	w.endpoint.Workload = model.Workload{Kind: s.Kind, Name: s.Name}
	if s.Kind == "StatefulSet" {
		w.endpoint.Subdomain = spec.Field("serviceName").Value()
	}
	switch s.Kind {
	case "DaemonSet":
		w.perNode = true
	case "Job", "CronJob":
		if n := spec.Field("parallelism"); n.Present() {
			w.replicas, _ = n.Int(0, 1_000_000)
		}
	default:
		if n := spec.Field("replicas"); n.Present() {
			w.replicas, _ = n.Int(0, 1_000_000)
		}
	}
	for _, o := range c.Field("metadata").Field("ownerReferences").Items() {
		if o.Field("kind").Value() == "Deployment" {
			w.endpoint.Workload = model.Workload{Kind: "Deployment", Name: o.Field("name").Value()}
		}
	}
	l.useNamespace(s.Namespace)
	l.controllers = append(l.controllers, w)
}

// pods makes the controller's pods.
func (w *controller) pods(nodes []model.Node) []model.Endpoint {
	n := w.replicas
	if w.perNode {
		n = len(nodes)
	}
	out := make([]model.Endpoint, n)
	for i := range out {
		e := w.endpoint
		e.Name = w.endpoint.Source.Name + "-" + strconv.Itoa(i)
		if w.perNode {
			e.Node = nodes[i].Name
		}
		if w.endpoint.Source.Kind == "StatefulSet" {
			e.Hostname = e.Name
			e.Labels = maps.Clone(e.Labels)
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels["statefulset.kubernetes.io/pod-name"] = e.Name
			e.Labels["apps.kubernetes.io/pod-index"] = strconv.Itoa(i)
		}
		out[i] = e
	}
	return out
}

func (l *loader) service(s model.Source, c field.Cursor) {
	spec := c.Field("spec")
	out := model.Service{Namespace: s.Namespace, Name: s.Name, Source: s, Selector: spec.Field("selector").StringMap()}
	out.PublishNotReady = spec.Field("publishNotReadyAddresses").Bool()
	if spec.Field("type").Value() == "ExternalName" {
		return
	}
	ips := spec.Field("clusterIPs").Items()
	if len(ips) == 0 {
		ips = []field.Cursor{spec.Field("clusterIP")}
	}
	for _, ip := range ips {
		if ip.Value() == "None" {
			out.Headless = true
		} else if a, ok := address(ip); ok {
			out.ClusterIPs = append(out.ClusterIPs, a)
			l.taken[a] = true
		}
	}
	for _, p := range spec.Field("ports").Items() {
		if port, ok := servicePort(p); ok {
			out.Ports = append(out.Ports, port)
		}
	}
	l.useNamespace(s.Namespace)
	l.services = append(l.services, out)
}

func servicePort(c field.Cursor) (model.ServicePort, bool) {
	out := model.ServicePort{Name: c.Field("name").Value(), Protocol: model.TCP}
	ok := true
	if p := c.Field("protocol"); p.Present() {
		if out.Protocol, ok = model.ParseProtocol(p.Value()); !ok {
			p.Error("unknown protocol \""+p.Value()+"\"", "one of TCP, UDP, SCTP")
		}
	}
	n, good := c.Field("port").Int(1, 65535)
	out.Port, out.TargetPort = uint16(n), uint16(n)
	if node := c.Field("nodePort"); node.Present() {
		np, _ := node.Int(1, 65535)
		out.NodePort = uint16(np)
	}
	target := c.Field("targetPort")
	switch {
	case target.IsInt():
		t, valid := target.Int(0, 65535)
		good = good && valid
		if t != 0 {
			out.TargetPort = uint16(t)
		}
	case target.Present():
		out.TargetPort, out.TargetName = 0, target.Value()
	}
	return out, ok && good
}

// slice is an EndpointSlice: who stands behind a Service without selector.
type slice struct {
	namespace, service string
	addresses          []netip.Addr
	ports              map[string]uint16
}

func (l *loader) endpointSlice(s model.Source, c field.Cursor) {
	out := slice{namespace: s.Namespace, ports: map[string]uint16{}}
	out.service = c.Field("metadata").Field("labels").Field("kubernetes.io/service-name").Value()
	for _, e := range c.Field("endpoints").Items() {
		if r := e.Field("conditions").Field("ready"); r.Present() && !r.Bool() {
			continue
		}
		for _, a := range e.Field("addresses").Items() {
			if ip, ok := address(a); ok {
				out.addresses = append(out.addresses, ip)
			}
		}
	}
	for _, p := range c.Field("ports").Items() {
		if n, ok := p.Field("port").Int(1, 65535); ok {
			out.ports[p.Field("name").Value()] = uint16(n)
		}
	}
	l.slices = append(l.slices, out)
}
