package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// lister lists and watches one resource for a reflector: it trims what
// arrives, gives up requests that fall silent, and keeps the resource's health.
type lister struct {
	*resource
	client  *client
	pool    *pool
	health  *health
	silence time.Duration // after which a request without a word is dead
	gone    func()        // is called when the cluster does not have an optional resource; nil: that is an error like others
}

// errSilent is why a request ended that was given up.
var errSilent = errors.New("the API server does not answer")

// ListWithContext returns one page of items. Asking for "any version" would
// have the server ignore the page size, and everything come at once.
func (l *lister) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	if opts.ResourceVersion == "0" {
		opts.ResourceVersion = ""
	}
	ctx, cancel := context.WithTimeoutCause(ctx, l.silence, errSilent)
	defer cancel()
	list, err := l.client.list(ctx, l.resource, opts)
	if err != nil {
		return nil, l.failed(ctx, "list", err)
	}
	out, err := l.page(list)
	if err != nil {
		return nil, l.failed(ctx, "list", err)
	}
	l.health.heard()
	return out, nil
}

func (l *lister) page(list runtime.Object) (*internalversion.List, error) {
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	out := &internalversion.List{ListMeta: metav1.ListMeta{ResourceVersion: m.GetResourceVersion(), Continue: m.GetContinue()}}
	err = meta.EachListItem(list, func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		if err == nil {
			out.Items = append(out.Items, l.item(l.pool, o, m))
		}
		return err
	})
	return out, err
}

// WatchWithContext returns the events, with items for objects. It ends when
// nothing is heard for long: servers send bookmarks every minute or so.
func (l *lister) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	opening := time.AfterFunc(l.silence, func() { cancel(errSilent) })
	w, err := l.client.watch(ctx, l.resource, opts)
	opening.Stop()
	if err != nil {
		defer cancel(nil)
		if opts.SendInitialEvents != nil && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) {
			return nil, err // a server that cannot stream lists: the reflector will list
		}
		return nil, l.failed(ctx, "watch", err)
	}
	l.health.heard()
	t := &tap{source: w, events: make(chan watch.Event), done: make(chan struct{}), cancel: func() { cancel(nil) }}
	go t.run(l)
	return t, nil
}

func (l *lister) failed(ctx context.Context, verb string, err error) error {
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		} else {
			return err // we are stopping
		}
	}
	if l.gone != nil && l.optional && apierrors.IsNotFound(err) {
		l.gone()
		return err
	}
	l.health.failed(verb, err)
	return err
}

// tap hands the events of a watch on, trimmed. Stop may be called often.
type tap struct {
	source watch.Interface
	events chan watch.Event
	done   chan struct{}
	once   sync.Once
	cancel func()
}

func (t *tap) ResultChan() <-chan watch.Event { return t.events }

func (t *tap) Stop() {
	t.once.Do(func() {
		close(t.done)
		t.source.Stop()
		t.cancel()
	})
}

func (t *tap) run(l *lister) {
	defer close(t.events)
	defer t.Stop()
	silence := time.NewTimer(l.silence)
	defer silence.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-silence.C:
			return
		case e, open := <-t.source.ResultChan():
			if !open {
				return
			}
			silence.Reset(l.silence)
			select {
			case t.events <- l.event(e):
			case <-t.done:
				return
			}
		}
	}
}

func (l *lister) event(e watch.Event) watch.Event {
	if e.Type == watch.Error {
		if err := apierrors.FromObject(e.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			l.health.failed("watch", err)
		}
		return e
	}
	l.health.heard()
	m, err := meta.Accessor(e.Object)
	if err != nil {
		return watch.Event{Type: watch.Error, Object: &apierrors.NewInternalError(err).ErrStatus}
	}
	if e.Type == watch.Bookmark {
		e.Object = &item{ObjectMeta: metav1.ObjectMeta{ResourceVersion: m.GetResourceVersion(), Annotations: m.GetAnnotations()}}
		return e
	}
	e.Object = l.item(l.pool, e.Object, m)
	return e
}
