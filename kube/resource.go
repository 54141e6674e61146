package kube

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// resource is one kind of object that is read from the API.
type resource struct {
	gvr      schema.GroupVersionResource
	via      transport
	optional bool   // it may not exist in the cluster, or not be ours to read
	fields   string // field selector: what the API server need not send
	trim     func(*pool, runtime.Object) any
	shelf    func(*state) shelf

	policy bool      // objects of a policy language: the shelf holds parts
	older  *resource // what to read where this version is not served; nil: nothing
	served *resource // that has the same objects, which count before these; nil: none
	stored *resource // whose served this is; nil: none
}

// transport is the form in which objects come.
type transport uint8

const (
	asTyped    transport = iota // protobuf, decoded into k8s.io/api
	asMetadata                  // protobuf, metadata only
	asWritten                   // JSON with every field, known or not
)

// resources lists what is read of a cluster, in the order of Health.
var resources = []*resource{
	{gvr: core("pods"), via: asTyped, trim: trimmed(func(p *pool, o *slimPod) *pod { return trimPod(p, &o.Pod) }), shelf: func(s *state) shelf { return s.pods },
		fields: "status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)},
	{gvr: core("namespaces"), via: asMetadata, trim: trimmed(trimNamespace), shelf: func(s *state) shelf { return s.namespaces }},
	{gvr: core("nodes"), via: asTyped, trim: trimmed(func(p *pool, o *slimNode) *node { return trimNode(p, &o.Node) }), shelf: func(s *state) shelf { return s.nodes }},
	{gvr: core("services"), via: asTyped, trim: trimmed(trimService), shelf: func(s *state) shelf { return s.services }},
	{gvr: core("serviceaccounts"), via: asMetadata, trim: trimmed(trimAccount), shelf: func(s *state) shelf { return s.accounts }},
	{gvr: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), via: asTyped, trim: trimmed(trimSlice), shelf: func(s *state) shelf { return s.slices }},
	{gvr: schema.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: "ippools"}, via: asWritten, optional: true,
		trim: trimmed(trimIPPool), shelf: func(s *state) shelf { return s.pools }},
	{gvr: schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumnodes"}, via: asWritten, optional: true,
		trim: trimmed(trimCiliumNode), shelf: func(s *state) shelf { return s.ciliumNodes }},
}

// definitions tell when a resource comes or goes; policies do not see them.
var definitions = []*resource{
	definition("apiextensions.k8s.io", "customresourcedefinitions"),
	definition("apiregistration.k8s.io", "apiservices"),
}

func definition(group, name string) *resource {
	return &resource{
		gvr: schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}, via: asMetadata, optional: true,
		trim: trimmed(func(_ *pool, o *metav1.PartialObjectMetadata) *string {
			version := o.ResourceVersion // not the object, which may be large
			return &version
		}),
		shelf: func(s *state) shelf { return s.definitions },
	}
}

func init() { resources = slices.Concat(resources, languages, definitions) }

func core(name string) schema.GroupVersionResource {
	return corev1.SchemeGroupVersion.WithResource(name)
}

// Reads lists the resources that a Watcher lists and watches, as RBAC and
// kubectl write them.
func Reads() []string {
	var out []string
	for _, r := range resources {
		out = append(out, r.name())
		if r.prefixed() && r.gvr.Group == calicoGroup {
			// Calico's API server wants leave for the policies of every tier, too.
			out = append(out, "tier."+r.name())
		}
	}
	return out
}

// Writes lists the resources that a [StatusWriter] patches.
func Writes() []string {
	var out []string
	for _, r := range withStatus {
		out = append(out, r.gvr.Resource+"/status."+r.gvr.Group)
	}
	return out
}

// name is the resource as RBAC and kubectl write it: "networkpolicies.networking.k8s.io".
func (r *resource) name() string { return r.gvr.GroupResource().String() }

// trimmed has f take any object; a nil result is one that policies do not see.
func trimmed[O runtime.Object, V any](f func(*pool, O) *V) func(*pool, runtime.Object) any {
	return func(p *pool, o runtime.Object) any {
		object, ok := o.(O)
		if !ok {
			return nil
		}
		if v := f(p, object); v != nil {
			return v
		}
		return nil
	}
}

// item is one object on its way from the API into a store: a runtime.Object
// with as much metadata as a reflector looks at.
type item struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	value any // a pointer to what the resource's store holds, or nil
}

// DeepCopyObject returns the item itself, which nobody writes.
func (i *item) DeepCopyObject() runtime.Object { return i }

func (i *item) key() key { return key{i.Namespace, i.Name} }

func (i *item) version() uint64 { return versionOf(i.ResourceVersion) }

func (r *resource) item(p *pool, o runtime.Object, m metav1.Object) *item {
	return &item{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.string(m.GetNamespace()), Name: m.GetName(), ResourceVersion: m.GetResourceVersion()},
		value:      r.trim(p, o),
	}
}

// client reads resources, all over one set of connections.
type client struct {
	http     *http.Client
	typed    map[schema.GroupVersion]rest.Interface
	metadata metadata.Interface
	written  dynamic.Interface
}

// newClient makes one whose connections are read at a calm interval, if that is not 0.
func newClient(given *rest.Config, interval time.Duration) (*client, error) {
	cfg := rest.CopyConfig(given)
	cfg.QPS = -1 // lists and watches only, and these back off
	cfg.Timeout = 0
	cfg.WarningHandler = rest.NoWarnings{}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "sallyport"
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext // as client-go does
	}
	cfg.Dial = dialer(cfg.Dial).calm(interval)
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	c := &client{http: h, typed: map[schema.GroupVersion]rest.Interface{}}
	for _, r := range resources {
		if gv := r.gvr.GroupVersion(); r.via == asTyped && c.typed[gv] == nil {
			if c.typed[gv], err = typedClient(cfg, h, gv, slimScheme); err != nil {
				return nil, err
			}
		}
	}
	if c.metadata, err = metadata.NewForConfigAndClient(cfg, h); err != nil {
		return nil, err
	}
	c.written, err = dynamic.NewForConfigAndClient(cfg, h)
	return c, err
}

// ready asks the API server whether it is.
func (c *client) ready(ctx context.Context) error {
	return c.typed[corev1.SchemeGroupVersion].Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error()
}

// refused is the error of a list of the resource. Who may not list a resource
// is told so whether it is there or not; that everybody may ask.
func (c *client) refused(ctx context.Context, r *resource, err error) error {
	if !r.optional || !apierrors.IsForbidden(err) {
		return err
	}
	none := apierrors.NewNotFound(r.gvr.GroupResource(), "")
	text, e := c.typed[corev1.SchemeGroupVersion].Get().AbsPath("/apis", r.gvr.Group, r.gvr.Version).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Raw()
	if apierrors.IsNotFound(e) {
		return none
	}
	var served metav1.APIResourceList
	if e != nil || json.Unmarshal(text, &served) != nil {
		return err
	}
	if slices.ContainsFunc(served.APIResources, func(x metav1.APIResource) bool { return x.Name == r.gvr.Resource }) {
		return err
	}
	return none
}

// close lets go of connections that no request uses.
func (c *client) close() {
	if t := c.http.Transport; t != nil {
		utilnet.CloseIdleConnectionsFor(t)
	}
}

func typedClient(cfg *rest.Config, h *http.Client, gv schema.GroupVersion, scheme *runtime.Scheme) (rest.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion = &gv
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	return rest.RESTClientForConfigAndClient(cfg, h)
}

func (c *client) list(ctx context.Context, r *resource, opts metav1.ListOptions) (runtime.Object, error) {
	opts.FieldSelector = r.fields
	switch r.via {
	case asMetadata:
		return c.metadata.Resource(r.gvr).List(ctx, opts)
	case asWritten:
		return c.written.Resource(r.gvr).List(ctx, opts)
	}
	return c.typed[r.gvr.GroupVersion()].Get().Resource(r.gvr.Resource).VersionedParams(&opts, metav1.ParameterCodec).Do(ctx).Get()
}

func (c *client) watch(ctx context.Context, r *resource, opts metav1.ListOptions) (watch.Interface, error) {
	opts.FieldSelector = r.fields
	opts.Watch = true
	switch r.via {
	case asMetadata:
		return c.metadata.Resource(r.gvr).Watch(ctx, opts)
	case asWritten:
		return c.written.Resource(r.gvr).Watch(ctx, opts)
	}
	return c.typed[r.gvr.GroupVersion()].Get().Resource(r.gvr.Resource).VersionedParams(&opts, metav1.ParameterCodec).Watch(ctx)
}
