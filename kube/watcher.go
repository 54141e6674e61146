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

	pace *pace // tests are in a hurry
}

// pace is how long the Watcher waits.
type pace struct {
	silence  time.Duration // a request without a word for so long is dead
	backoff  time.Duration // before the first retry while the API server is away; doubles
	refused  time.Duration // before the first retry after it answered that it will not; doubles
	longest  time.Duration // between retries, and as much again by chance
	probe    time.Duration // between questions whether an API server that is away is back, and as much again by chance
	discover time.Duration // between looks for optional resources
}

var standardPace = pace{
	silence: 3 * time.Minute, backoff: 500 * time.Millisecond, refused: 500 * time.Millisecond, longest: 15 * time.Second,
	probe: 500 * time.Millisecond, discover: 5 * time.Minute,
}

// Update is everything that changed in the cluster since the Update before.
// If a policy was written that says what it said, there are only Revisions.
type Update struct {
	Cluster   *model.Cluster    // if not nil, all there is: compile it anew. The first Update's is
	Change    engine.Change     // else: apply it. A Node without addresses is gone; so is a Namespace with no label but its name
	Services  bool              // Services or their backends changed: see Watcher.Services
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
	health []*health // as resources
	wake   chan struct{}

	mu        sync.Mutex
	state     *state
	revisions map[string]string
	rewritten bool // a policy since the last Update, be it an annotation
	running   bool
}

// New makes a Watcher; nothing is asked of the API server before Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.REST == nil {
		return nil, errors.New("cannot watch the cluster: no API server given")
	}
	c, err := newClient(cfg.REST)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the API server: %w", err)
	}
	w := &Watcher{
		client: c, pool: newPool(), log: cfg.Log, pace: standardPace, wake: make(chan struct{}, 1),
		state: newState(cfg.PodRanges), revisions: map[string]string{},
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if cfg.pace != nil {
		w.pace = *cfg.pace
	}
	w.outage = newOutage(w.pace, c.ready)
	for _, r := range resources {
		w.health = append(w.health, &health{of: r, log: w.log, now: Health{Resource: r.name(), Optional: r.optional}, stir: w.stir})
	}
	return w, nil
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
		running.Go(func() { w.reflect(ctx, r, w.health[i]) })
	}
	running.Wait()
	w.client.close()
	return nil
}

func (w *Watcher) reflect(ctx context.Context, r *resource, h *health) {
	if r.optional && !w.discover(ctx, r, h) {
		return
	}
	l := &lister{resource: r, client: w.client, pool: w.pool, health: h, silence: w.pace.silence}
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

// discover waits until the cluster has the resource; false: the context ended.
func (w *Watcher) discover(ctx context.Context, r *resource, h *health) bool {
	for {
		_, err := persist(ctx, w.outage, func() (runtime.Object, error) {
			ask, cancel := context.WithTimeout(ctx, w.pace.silence)
			defer cancel()
			list, err := w.client.list(ask, r, metav1.ListOptions{Limit: 1})
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				h.failed("list", err)
			}
			return list, err
		})
		wait := w.pace.longest
		switch {
		case err == nil:
			return true
		case apierrors.IsNotFound(err):
			h.absent()
			wait = w.pace.discover
		}
		if !pause(ctx, wait+rand.N(wait), nil) {
			return false
		}
	}
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
	s.w.rewritten = s.w.rewritten || s.r.name() == policyResource
	s.w.mu.Unlock()
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
func (w *Watcher) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next waits until something changed since it last returned, and returns all
// of it as one Update, which must be applied: nothing is said twice. The first
// waits until every resource is listed; one that the cluster may do without
// does not hold it up if it is absent, refused, or cannot be read for long.
// The only error is the context's.
func (w *Watcher) Next(ctx context.Context) (Update, error) {
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

func (w *Watcher) take() (Update, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.state.started && slices.ContainsFunc(w.health, func(h *health) bool { return h.holdsUp(2 * w.pace.longest) }) {
		return Update{}, false
	}
	u, ok := w.state.take()
	// Who asks whether a policy's last version is in force must hear of one
	// that changes nothing, too.
	ok = ok || w.state.started && w.rewritten
	if ok {
		w.rewritten = false
		u.Revisions = maps.Clone(w.revisions)
	}
	return u, ok
}

// Snapshot is the whole cluster as it is known now, for questions and audits;
// it costs time and memory for every pod.
func (w *Watcher) Snapshot() *model.Cluster {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.snapshot()
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
