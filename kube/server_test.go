package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// object is an API object as JSON has it.
type jsonObject = map[string]any

// server is an API server as far as lists and watches go: it speaks HTTP, JSON
// and protobuf, pages, streams lists if told to, and misbehaves on request.
type server struct {
	*httptest.Server
	mu        sync.Mutex
	changed   *sync.Cond
	version   int
	objects   map[string]map[key]jsonObject // by path
	events    map[string][]serverEvent
	compacted int // events up to this version are forgotten
	epoch     int // watches of an earlier epoch are cut off
	pages     map[string][]jsonObject
	streams   bool // understands sendInitialEvents
	hangs     bool // answers nothing
	away      bool // refuses every request
	down      bool // there is no server: the connection is refused
	unready   bool // answers, but says that it is not ready
	held      bool // watches deliver nothing for now
	absent    map[string]bool
	forbidden map[string]bool
	broken    map[string]bool                         // by path: what is behind the API server is away
	prunes    string                                  // by path: objects whose status has no conditions
	notFound  map[string]int                          // by path: how many answers more say that it does not exist
	muddle    func(batch []serverEvent) []serverEvent // what a watch delivers instead
	requests  map[string]int                          // "LIST /api/v1/pods"
	stop      chan struct{}
}

type serverEvent struct {
	kind    string // ADDED, MODIFIED, DELETED, BOOKMARK
	version int
	object  jsonObject
	hidden  bool // by the field selector of finished pods, and was so before
	was     bool // visible before
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{
		version: 1, objects: map[string]map[key]jsonObject{}, events: map[string][]serverEvent{}, pages: map[string][]jsonObject{},
		absent: map[string]bool{}, forbidden: map[string]bool{}, broken: map[string]bool{}, notFound: map[string]int{}, requests: map[string]int{}, stop: make(chan struct{}),
	}
	for _, r := range languages {
		for ; r != nil && r != networkPolicies; r = r.older {
			s.absent[pathOf(r)] = true
		}
	}
	s.changed = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.stop)
		s.cut()
		s.Server.CloseClientConnections()
		s.Server.Close()
	})
	return s
}

func (s *server) config() *rest.Config {
	return &rest.Config{Host: s.URL, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		s.mu.Lock()
		down := s.down
		s.mu.Unlock()
		if down {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
}

func pathOf(r *resource) string {
	if r.gvr.Group == "" {
		return "/api/" + r.gvr.Version + "/" + r.gvr.Resource
	}
	return "/apis/" + r.gvr.Group + "/" + r.gvr.Version + "/" + r.gvr.Resource
}

func resourceNamed(name string) *resource {
	i := slices.IndexFunc(resources, func(r *resource) bool { return r.gvr.Resource == name || r.name() == name })
	return resources[i]
}

func keyIn(o jsonObject) key {
	m := o["metadata"].(jsonObject)
	ns, _ := m["namespace"].(string)
	return key{ns, m["name"].(string)}
}

func finished(o jsonObject) bool {
	if o == nil {
		return true
	}
	status, _ := o["status"].(jsonObject)
	return status["phase"] == "Succeeded" || status["phase"] == "Failed"
}

// put creates or replaces an object.
func (s *server) put(name string, o jsonObject) { s.putAt(pathOf(resourceNamed(name)), o) }

func (s *server) putAt(path string, o jsonObject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o["metadata"].(jsonObject)["resourceVersion"] = strconv.Itoa(s.version)
	if s.objects[path] == nil {
		s.objects[path] = map[key]jsonObject{}
	}
	old := s.objects[path][keyIn(o)]
	kind := "MODIFIED"
	if old == nil {
		kind = "ADDED"
	}
	s.objects[path][keyIn(o)] = o
	s.log(path, serverEvent{kind: kind, version: s.version, object: o, hidden: finished(o), was: !finished(old)})
}

func (s *server) remove(name string, k key) bool { return s.removeAt(pathOf(resourceNamed(name)), k) }

func (s *server) removeAt(path string, k key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delete(path, k)
}

func (s *server) delete(path string, k key) bool {
	old := s.objects[path][k]
	if old == nil {
		return false
	}
	s.version++
	delete(s.objects[path], k)
	last := maps.Clone(old)
	meta := maps.Clone(old["metadata"].(jsonObject))
	meta["resourceVersion"] = strconv.Itoa(s.version)
	last["metadata"] = meta
	s.log(path, serverEvent{kind: "DELETED", version: s.version, object: last, was: !finished(old)})
	return true
}

func (s *server) log(path string, e serverEvent) {
	s.events[path] = append(s.events[path], e)
	s.changed.Broadcast()
}

// bookmark tells every watch the present version and returns it.
func (s *server) bookmark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	for _, r := range resources {
		for ; r != nil; r = r.older {
			s.log(pathOf(r), serverEvent{kind: "BOOKMARK", version: s.version})
		}
	}
	return s.version
}

// cut ends all watches, in the middle of whatever they do.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	s.changed.Broadcast()
}

// forget drops the history: watches that stand before now expire.
func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.compacted = s.version
	clear(s.events)
	s.epoch++
	s.changed.Broadcast()
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changed.Broadcast()
}

func (s *server) count(request string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[request]
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	watching := q.Get("watch") == "true" || q.Get("watch") == "1"
	s.mu.Lock()
	verb := map[bool]string{false: "LIST ", true: "WATCH "}[watching]
	s.requests[verb+r.URL.Path]++
	hangs, away, absent, forbidden, streams, compacted := s.hangs, s.away, s.absent[r.URL.Path], s.forbidden[r.URL.Path], s.streams, s.compacted
	if s.notFound[r.URL.Path] > 0 {
		absent = true
		s.notFound[r.URL.Path]--
	}
	away = away || s.broken[r.URL.Path] || s.unready && r.URL.Path == "/readyz"
	s.mu.Unlock()
	from, _ := strconv.Atoi(q.Get("resourceVersion"))
	if s.one(w, r) || s.discovery(w, r) {
		return
	}
	switch {
	case away:
		status(w, 503, "ServiceUnavailable", "etcd is away")
	case hangs:
		select {
		case <-r.Context().Done():
		case <-s.stop:
		}
	case r.URL.Path == "/readyz":
		fmt.Fprint(w, "ok")
	case forbidden:
		status(w, 403, "Forbidden", "User \"system:serviceaccount:kube-system:sallyport\" cannot list")
	case absent:
		status(w, 404, "NotFound", "the server could not find the requested resource")
	case !watching:
		s.list(w, r)
	case q.Get("sendInitialEvents") == "true" && !streams:
		status(w, 422, "Invalid", "sendInitialEvents is forbidden")
	case q.Get("sendInitialEvents") != "true" && from < compacted:
		status(w, 410, "Expired", "too old resource version")
	default:
		s.watch(w, r, from)
	}
}

// discovery says which resources a group has; everybody may ask.
func (s *server) discovery(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/apis/") || strings.Count(r.URL.Path, "/") != 3 {
		return false
	}
	list := []jsonObject{}
	for _, x := range resources {
		for ; x != nil; x = x.older {
			if path.Dir(pathOf(x)) == r.URL.Path && !s.missing(x) {
				list = append(list, jsonObject{"name": x.gvr.Resource})
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(jsonObject{"kind": "APIResourceList", "apiVersion": "v1", "resources": list})
	return true
}

// one answers what is about a single object: reading it, or patching its status.
func (s *server) one(w http.ResponseWriter, r *http.Request) bool {
	var k key
	collection, name := path.Split(strings.TrimSuffix(r.URL.Path, "/status"))
	collection = strings.TrimSuffix(collection, "/")
	if before, rest, ok := strings.Cut(collection, "/namespaces/"); ok {
		namespace, plural, _ := strings.Cut(rest, "/")
		collection, k.namespace = before+"/"+plural, namespace
	}
	k.name = name
	s.mu.Lock()
	old := s.objects[collection][k]
	s.requests[r.Method+" "+r.URL.Path]++
	s.mu.Unlock()
	switch {
	case old == nil:
		return false
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(old)
		return true
	case r.Method != http.MethodPatch || !strings.HasSuffix(r.URL.Path, "/status"):
		return false
	}
	var patch struct {
		Metadata struct{ ResourceVersion string }
		Status   jsonObject
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		status(w, 400, "BadRequest", err.Error())
		return true
	}
	if patch.Metadata.ResourceVersion != old["metadata"].(jsonObject)["resourceVersion"] {
		status(w, 409, "Conflict", "it has been modified")
		return true
	}
	now := maps.Clone(old)
	now["metadata"], now["status"] = maps.Clone(old["metadata"].(jsonObject)), patch.Status
	if s.prunes == collection {
		now["status"] = jsonObject{}
	}
	s.putAt(collection, now)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(now)
	return true
}

func status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(jsonObject{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

// shown is the object in the form asked for.
func shown(r *http.Request, o jsonObject) jsonObject {
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return jsonObject{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
	}
	return o
}

func (s *server) sorted(r *http.Request) []jsonObject {
	all := s.objects[r.URL.Path]
	var out []jsonObject
	for _, k := range slices.SortedFunc(maps.Keys(all), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	}) {
		if r.URL.Query().Get("fieldSelector") == "" || !finished(all[k]) {
			out = append(out, shown(r, all[k]))
		}
	}
	return out
}

func (s *server) missing(r *resource) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.absent[pathOf(r)]
}

// serve begins to serve the resource, and says so in its definition if that is
// told; define false has it found by looking only.
func (s *server) serve(r *resource, define bool) {
	s.set(func() { delete(s.absent, pathOf(r)) })
	if define {
		s.put("customresourcedefinitions", definitionObject(r))
	}
}

// unserve takes the resource away, with all its objects, before a watch can
// tell of it.
func (s *server) unserve(r *resource) {
	s.mu.Lock()
	for k := range s.objects[pathOf(r)] {
		s.delete(pathOf(r), k)
	}
	s.absent[pathOf(r)] = true
	s.epoch++
	s.changed.Broadcast()
	s.mu.Unlock()
	s.remove("customresourcedefinitions", key{name: r.name()})
}

func definitionObject(r *resource) jsonObject {
	return jsonObject{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": jsonObject{"name": r.name()}}
}

// kindOf is the kind of the resource's objects, for those that are typed; of
// others it does not matter.
func kindOf(r *http.Request) string {
	kind, ok := map[string]string{"pods": "Pod", "nodes": "Node", "services": "Service", "endpointslices": "EndpointSlice"}[path.Base(r.URL.Path)]
	if !ok {
		return "Object"
	}
	return kind
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	var items []jsonObject
	meta := jsonObject{"resourceVersion": strconv.Itoa(s.version)}
	if token := q.Get("continue"); token != "" {
		items = s.pages[token]
		delete(s.pages, token)
		meta["resourceVersion"], _, _ = strings.Cut(token, "/")
	} else {
		items = s.sorted(r)
	}
	if limit > 0 && len(items) > limit {
		token := fmt.Sprintf("%s/%d", meta["resourceVersion"], len(s.pages)+s.requests["LIST "+r.URL.Path]*1000)
		s.pages[token] = items[limit:]
		meta["continue"] = token
		items = items[:limit]
	}
	kind := kindOf(r) + "List"
	version := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path[:strings.LastIndex(r.URL.Path, "/")], "/apis/"), "/api/")
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	if items == nil {
		items = []jsonObject{}
	}
	body := encode(r, jsonObject{"kind": kind, "apiVersion": version, "metadata": meta, "items": items})
	s.mu.Unlock()
	w.Header().Set("Content-Type", mediaType(r))
	w.Write(body)
}

// mediaType is protobuf if the request prefers that, as with a real server.
func mediaType(r *http.Request) string {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	first, _, _ = strings.Cut(first, ";")
	return first
}

var codecs = func() serializer.CodecFactory {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(s)
}()

func encode(r *http.Request, o jsonObject) []byte {
	body, err := json.Marshal(o)
	if err == nil && mediaType(r) == runtime.ContentTypeProtobuf {
		info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		var object runtime.Object
		if object, err = runtime.Decode(codecs.UniversalDeserializer(), body); err == nil {
			body, err = runtime.Encode(info.Serializer, object)
		}
	}
	if err != nil {
		panic(err)
	}
	return body
}

// sender writes watch events.
func sender(w http.ResponseWriter, r *http.Request) func(kind string, o jsonObject) {
	if mediaType(r) == runtime.ContentTypeProtobuf {
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
		info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		frames := info.StreamSerializer.Framer.NewFrameWriter(w)
		return func(kind string, o jsonObject) {
			info.StreamSerializer.Serializer.Encode(&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: encode(r, o)}}, frames)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	return func(kind string, o jsonObject) { out.Encode(jsonObject{"type": kind, "object": o}) }
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, from int) {
	send := sender(w, r)
	w.WriteHeader(200)
	apiVersion := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path[:strings.LastIndex(r.URL.Path, "/")], "/apis/"), "/api/")
	kind := kindOf(r)
	mark := func(version int, initial bool) {
		m := jsonObject{"resourceVersion": strconv.Itoa(version)}
		if initial {
			m["annotations"] = jsonObject{"k8s.io/initial-events-end": "true"}
		}
		send("BOOKMARK", shown(r, jsonObject{"kind": kind, "apiVersion": apiVersion, "metadata": m}))
	}
	s.mu.Lock()
	epoch := s.epoch
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		from = s.version
		for _, o := range s.sorted(r) {
			send("ADDED", o)
		}
		mark(from, true)
	}
	s.mu.Unlock()
	http.NewResponseController(w).Flush()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-r.Context().Done():
			s.set(func() {})
		case <-ended:
		}
	}()
	next := 0
	for {
		s.mu.Lock()
		for s.epoch == epoch && (s.held || next >= len(s.events[r.URL.Path])) && r.Context().Err() == nil {
			s.changed.Wait()
		}
		if s.epoch != epoch || r.Context().Err() != nil {
			s.mu.Unlock()
			panic(http.ErrAbortHandler)
		}
		batch := slices.Clone(s.events[r.URL.Path][next:])
		next = len(s.events[r.URL.Path])
		muddle := s.muddle
		s.mu.Unlock()
		batch = slices.DeleteFunc(batch, func(e serverEvent) bool { return e.version <= from })
		if muddle != nil {
			batch = muddle(batch)
		}
		for _, e := range batch {
			kind := e.kind
			if r.URL.Query().Get("fieldSelector") != "" && kind != "BOOKMARK" {
				switch {
				case kind == "DELETED" && !e.was, e.hidden && !e.was:
					continue
				case e.hidden:
					kind = "DELETED"
				case !e.was:
					kind = "ADDED"
				}
			}
			if kind == "BOOKMARK" {
				mark(e.version, false)
				continue
			}
			send(kind, shown(r, e.object))
		}
		http.NewResponseController(w).Flush()
	}
}

// hurried is a pace for tests.
func hurried() *pace {
	return &pace{silence: 5 * time.Second, backoff: 5 * time.Millisecond, refused: 5 * time.Millisecond, longest: 20 * time.Millisecond, probe: 5 * time.Millisecond, discover: 50 * time.Millisecond, appear: time.Second}
}
