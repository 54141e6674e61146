package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Config is what a Watcher needs.
type Config struct {
	REST      *rest.Config   // see Connect
	Log       *slog.Logger   // nil: none
	PodRanges []netip.Prefix // beside those that nodes and IPAM objects name

	ClusterName string // where policies name clusters; "" is model.Cluster's

	pace *pace // who reads once, and tests, are in a hurry
}

// pace is how long the Watcher waits.
type pace struct {
	silence  time.Duration // a request without a word for so long is dead
	backoff  time.Duration // before the first retry while the API server is away; doubles
	refused  time.Duration // before the first retry after it answered that it will not; doubles
	longest  time.Duration // between retries, and as much again by chance
	probe    time.Duration // between questions whether an API server that is away is back, and as much again by chance
	discover time.Duration // between looks for optional resources that nothing tells of
	appear   time.Duration // for which a resource that was told of is looked for at once
	calm     time.Duration // between two reads of a connection that has one word after the other; 0: nothing waits
	gather   time.Duration // between two Updates at least, a policy in the second
	gathered time.Duration // between two Updates without one
}

var standardPace = pace{
	silence: 3 * time.Minute, backoff: 500 * time.Millisecond, refused: 500 * time.Millisecond, longest: 15 * time.Second,
	probe: 500 * time.Millisecond, discover: 5 * time.Minute, appear: 10 * time.Second,
	calm: 20 * time.Millisecond, gather: 20 * time.Millisecond, gathered: 50 * time.Millisecond,
}

// Update is everything that changed in the cluster since the Update before.
// If a policy was written that says what it said, there are only Revisions.
type Update struct {
	Cluster   *model.Cluster    // if not nil, all there is: compile it anew, with the Endpoints. The first Update's is
	Endpoints []*model.Endpoint // the Cluster's, which has none itself: the Watcher has the same
	Change    engine.Change     // else: apply it. A Node without addresses is gone; so is a Namespace with no label but its name
	Services  bool              // Services or their backends changed: see Watcher.Services. In Cluster and Change are those that policies speak of
	Problems  []model.Problem   // if not nil, all that is wrong with all policies now; it may be empty
	Since     time.Time         // when the oldest event in it arrived
	Revisions map[string]string // newest resourceVersion seen, by resource
}

// Watcher keeps the cluster as the API server tells it. One goroutine calls
// Run, one calls Next; any may call the rest.
type Watcher struct {
	client *client
	pool   *pool
	log    *slog.Logger
	pace   pace
	outage *outage
	health []*health       // as resources
	told   []chan struct{} // as resources: its definition changed
	wake   chan struct{}
	hurry  chan struct{} // a policy is waiting

	mu        sync.Mutex
	state     *state
	revisions map[string]string
	rewritten bool      // a policy since the last Update, be it an annotation
	taken     time.Time // when the last Update was
	running   bool
}

// New makes a Watcher; nothing is asked of the API server before Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.REST == nil {
		return nil, errors.New("cannot watch the cluster: no API server given")
	}
	p := standardPace
	if cfg.pace != nil {
		p = *cfg.pace
	}
	c, err := newClient(cfg.REST, p.calm)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the API server: %w", err)
	}
	w := &Watcher{
		client: c, pool: newPool(), log: cfg.Log, pace: p, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		state: newState(cfg.PodRanges), revisions: map[string]string{},
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.outage = newOutage(w.pace, c.ready)
	for _, r := range resources {
		w.health = append(w.health, &health{of: r, log: w.log, now: Health{Resource: r.name(), Optional: r.optional, Policies: r.policy}, stir: w.stir})
		w.told = append(w.told, make(chan struct{}, 1))
	}
	w.state.defined, w.state.name = w.tell, cfg.ClusterName
	return w, nil
}

// tell has the resources of that definition be looked for: it is named
// "networksets.projectcalico.org" or "v3.projectcalico.org".
func (w *Watcher) tell(definition string) {
	for i, r := range resources {
		if definition == r.name() || definition == r.gvr.Version+"."+r.gvr.Group {
			signal(w.told[i])
		}
	}
}

// Run lists and watches until the context ends. An API server that is away,
// forgets or refuses is no error: what is known stays, Health says what is
// wrong, and Run goes on trying.
func (w *Watcher) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.running {
		w.mu.Unlock()
		return errors.New("cannot run the Watcher: it was run before")
	}
	w.running = true
	w.mu.Unlock()
	ctx = klog.NewContext(ctx, logr.Discard()) // Health and its log say it once, and with what to do
	var running sync.WaitGroup
	running.Go(func() { w.outage.run(ctx) })
	for i, r := range resources {
		running.Go(func() { w.follow(ctx, r, w.health[i], w.told[i]) })
	}
	running.Wait()
	w.client.close()
	return nil
}

// follow reads the resource until the context ends; one that the cluster may
// do without whenever it is there.
func (w *Watcher) follow(ctx context.Context, r *resource, h *health, told <-chan struct{}) {
	for ctx.Err() == nil {
		version := r
		if r.optional {
			if version = w.discover(ctx, r, h, told); version == nil {
				return
			}
		}
		w.reflect(ctx, version, h)
	}
}

// reflect reads the resource until the context ends, or an optional one is not
// found any more.
func (w *Watcher) reflect(ctx context.Context, r *resource, h *health) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &lister{resource: r, client: w.client, pool: w.pool, health: h, silence: w.pace.silence, gone: cancel}
	logger := klog.FromContext(ctx)
	patient := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return persist(ctx, w.outage, func() (runtime.Object, error) { return l.ListWithContext(ctx, opts) })
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return persist(ctx, w.outage, func() (watch.Interface, error) { return l.WatchWithContext(ctx, opts) })
		},
	}
	reflector := cache.NewReflectorWithOptions(patient,
		nil, &sink{w, r, h}, cache.ReflectorOptions{
			Name: r.name(), TypeDescription: r.name(), Logger: &logger,
			Backoff: &wait.Backoff{Duration: w.pace.refused, Cap: w.pace.longest, Steps: 30, Factor: 2, Jitter: 1},
		})
	reflector.WatchListPageSize = pageSize
	reflector.RunWithContext(ctx)
}

// pageSize bounds how many whole objects are in memory at a time.
const pageSize = 500

// discover waits until the cluster has the resource, and returns it in the
// version that is served; nil: the context ended. What was read of one that is
// not there, and is not there a moment later either, is dropped.
func (w *Watcher) discover(ctx context.Context, r *resource, h *health, told <-chan struct{}) *resource {
	var eager time.Time // until when it is expected to come
	gone := !h.state().Synced
	for {
		found, err := w.find(ctx, r, h)
		wait := w.pace.longest
		switch {
		case err == nil:
			return found
		case apierrors.IsNotFound(err) && gone:
			w.drop(r, h)
			if wait = w.pace.refused; time.Now().After(eager) {
				wait = w.looks()
			}
		case apierrors.IsNotFound(err):
			gone, wait = true, w.pace.refused
		}
		select {
		case <-ctx.Done():
			return nil
		case <-told:
			eager = time.Now().Add(w.pace.appear)
		case <-time.After(wait + rand.N(wait)):
		}
	}
}

// find asks for the resource in each of its versions.
func (w *Watcher) find(ctx context.Context, r *resource, h *health) (*resource, error) {
	_, err := persist(ctx, w.outage, func() (runtime.Object, error) {
		ask, cancel := context.WithTimeout(ctx, w.pace.silence)
		defer cancel()
		list, err := w.client.list(ask, r, metav1.ListOptions{Limit: 1})
		err = w.client.refused(ask, r, err)
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			h.failed("list", err)
		}
		return list, err
	})
	if apierrors.IsNotFound(err) && r.older != nil {
		return w.find(ctx, r.older, h)
	}
	return r, err
}

// drop takes away all that is known of a resource that the cluster does not have.
func (w *Watcher) drop(r *resource, h *health) {
	w.mu.Lock()
	r.shelf(w.state).replace(nil)
	delete(w.revisions, r.name())
	w.mu.Unlock()
	h.absent()
}

// looks is how long to wait between looks for a resource: where definitions
// can be read these say when there is reason to look.
func (w *Watcher) looks() time.Duration {
	for i, r := range resources {
		if slices.Contains(definitions, r) && (!w.health[i].state().Synced || w.health[i].state().Err != nil) {
			return w.pace.discover
		}
	}
	return 12 * w.pace.discover
}

// sink is what a reflector writes to.
type sink struct {
	w      *Watcher
	r      *resource
	health *health
}

func (s *sink) Add(o any) error    { return s.take(o, false) }
func (s *sink) Update(o any) error { return s.take(o, false) }
func (s *sink) Delete(o any) error { return s.take(o, true) }
func (s *sink) Resync() error      { return nil }

func (s *sink) take(o any, deleted bool) error {
	i, ok := o.(*item)
	if !ok {
		return fmt.Errorf("not an item: %T", o)
	}
	if deleted {
		i.value = nil
	}
	s.w.mu.Lock()
	s.r.shelf(s.w.state).event(i.key(), i.version(), i.value)
	// UpdateResourceVersion comes later: an Update may be taken before it.
	s.w.revisions[s.r.name()] = i.ResourceVersion
	s.w.rewritten = s.w.rewritten || s.r.policy
	s.w.mu.Unlock()
	if s.r.policy {
		signal(s.w.hurry)
	}
	s.w.stir()
	return nil
}

// Replace takes over a whole list; only what differs becomes a change.
func (s *sink) Replace(objects []any, version string) error {
	items := make([]*item, 0, len(objects))
	for _, o := range objects {
		i, ok := o.(*item)
		if !ok {
			return fmt.Errorf("not an item: %T", o)
		}
		items = append(items, i)
	}
	s.w.mu.Lock()
	s.r.shelf(s.w.state).replace(items)
	s.w.revisions[s.r.name()] = version
	s.w.mu.Unlock()
	s.health.synced()
	s.w.stir()
	return nil
}

// UpdateResourceVersion is called with the version of every event and bookmark.
func (s *sink) UpdateResourceVersion(version string) {
	s.w.mu.Lock()
	s.w.revisions[s.r.name()] = version
	s.w.mu.Unlock()
}

// stir has Next look again.
func (w *Watcher) stir() { signal(w.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Next waits until something changed since it last returned, and returns all
// of it as one Update, which must be applied: nothing is said twice. While
// much changes it is gathered: to bring it into force costs as much for one
// change as for a few. What comes alone does not wait, and a policy hardly. The first
// waits until every resource is listed; one that the cluster may do without
// does not hold it up if it is absent or refused, or, if it holds no policies,
// cannot be read for long.
// The only error is the context's.
func (w *Watcher) Next(ctx context.Context) (Update, error) {
	w.rest(ctx)
	for {
		if u, ok := w.take(); ok {
			return u, nil
		}
		select {
		case <-ctx.Done():
			return Update{}, ctx.Err()
		case <-w.wake:
		}
	}
}

// rest waits until the next Update may be taken.
func (w *Watcher) rest(ctx context.Context) {
	w.mu.Lock()
	since := time.Since(w.taken)
	w.mu.Unlock()
	if since >= w.pace.gathered {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(w.pace.gather - since):
	}
	select {
	case <-ctx.Done():
	case <-w.hurry:
	case <-time.After(w.pace.gathered - max(since, w.pace.gather)):
	}
}

func (w *Watcher) take() (Update, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.state.started && !w.complete() {
		return Update{}, false
	}
	u, ok := w.state.take()
	// Who asks whether a policy's last version is in force must hear of one
	// that changes nothing, too.
	ok = ok || w.state.started && w.rewritten
	if ok {
		w.rewritten, w.taken = false, time.Now()
		select {
		case <-w.hurry:
		default:
		}
		u.Revisions = maps.Clone(w.revisions)
		for _, r := range definitions {
			delete(u.Revisions, r.name())
		}
	}
	return u, ok
}

// complete says whether enough was read for the first Update. Policies that are
// there and cannot be read are waited for: without them doors would be open.
func (w *Watcher) complete() bool {
	synced := map[*resource]bool{}
	for i, r := range resources {
		synced[r] = w.health[i].state().Synced
	}
	for i, r := range resources {
		otherwise := w.health[i].state().Err != nil && (synced[r.served] || synced[r.stored]) // in its other form
		if w.health[i].holdsUp(2*w.pace.longest) && !otherwise {
			return false
		}
	}
	return true
}

// Snapshot is the whole cluster as it is known now, for questions and audits;
// it costs time and memory for every pod.
func (w *Watcher) Snapshot() *model.Cluster {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.snapshot()
}

// PolicyObjects is every one that counts, in a fixed order.
func (w *Watcher) PolicyObjects() []PolicyObject {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.policyObjects()
}

// readyNodes are the names of the nodes that are ready, sorted, and the number of all.
func (w *Watcher) readyNodes() (names []string, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, n := range w.state.nodes.rows {
		if n.value.ready {
			names = append(names, k.name)
		}
	}
	slices.Sort(names)
	return names, len(w.state.nodes.rows)
}

// Services is all Services with their ready backends, sorted.
func (w *Watcher) Services() []model.Service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.resolved()
}

// Health is how the reading of each resource goes, always in the same order.
func (w *Watcher) Health() []Health {
	out := make([]Health, len(w.health))
	for i, h := range w.health {
		out[i] = h.state()
	}
	return out
}
