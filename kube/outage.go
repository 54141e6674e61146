package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outage has whoever cannot reach the API server wait longer and longer, and
// all of them go on at once when it is back:
//
//	lister ──┐ try, wait, try …                 ┌─ wake
//	lister ──┼─────────── suspected ──▶ run: ask, ask … answered
//	discover ┘
//
// One goroutine asks for all, so that an API server that returns is asked by a
// node once a second or so and not by each of its watches.
type outage struct {
	ask  func(context.Context) error // whether the API server is ready
	pace pace

	suspected chan struct{} // somebody waits
	mu        sync.Mutex
	back      chan struct{} // closed when the API server is back, and replaced
}

func newOutage(p pace, ask func(context.Context) error) *outage {
	return &outage{ask: ask, pace: p, suspected: make(chan struct{}, 1), back: make(chan struct{})}
}

// run wakes those who wait when the API server, after it did not answer, does
// so again. While it answers it is not asked: who is refused then must wait
// for something else.
func (o *outage) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.suspected:
		}
		away := false
		for !o.answers(ctx) {
			away = true
			if !pause(ctx, o.pace.probe+rand.N(o.pace.probe), nil) {
				return
			}
		}
		if away {
			o.wake()
		}
	}
}

func (o *outage) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*o.pace.probe)
	defer cancel()
	return o.ask(ctx) == nil
}

func (o *outage) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.back)
	o.back = make(chan struct{})
}

func (o *outage) returned() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.back
}

// persist tries until the API server answers, be it that it refuses, and
// returns what came of the last try. It ends with the context.
func persist[T any](ctx context.Context, o *outage, try func() (T, error)) (T, error) {
	for wait := o.pace.backoff; ; wait = min(2*wait, o.pace.longest) {
		back := o.returned() // it may return while we try
		out, err := try()
		if err == nil || answered(err) || ctx.Err() != nil {
			return out, err
		}
		select {
		case o.suspected <- struct{}{}:
		default:
		}
		if !pause(ctx, wait+rand.N(wait), back) {
			return out, err
		}
	}
}

// pause waits for the time or the signal, whichever is first; false: the
// context ended.
func pause(ctx context.Context, d time.Duration, signal <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-signal:
	}
	return true
}

// answered says whether an error is about the request, and not that the API
// server or what is before it cannot answer any.
func answered(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	// A version that is too new for the server is one that it will not have
	// again after its database was restored.
	return code < http.StatusInternalServerError && code != http.StatusTooManyRequests ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}
