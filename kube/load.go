package kube

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/sallyport-dev/sallyport/model"
)

// Load lists everything once. The error names every resource that cannot be
// read; what is wrong in the policies is in the problems.
func Load(ctx context.Context, cfg *rest.Config) (*model.Cluster, []model.Problem, error) {
	s, unread, err := load(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	return s.snapshot(), append(s.problems(), unread...), nil
}

// LoadPolicies lists everything once, too, and returns it with the policies as
// they are written; the problems are those of no single one of them.
func LoadPolicies(ctx context.Context, cfg *rest.Config) (*model.Cluster, []PolicyObject, []model.Problem, error) {
	s, unread, err := load(ctx, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	return s.snapshot(), s.policyObjects(), unread, nil
}

// loadParallel is how many resources are listed at a time.
const loadParallel = 8

func load(ctx context.Context, cfg *rest.Config) (*state, []model.Problem, error) {
	once := standardPace
	once.calm = 0
	w, err := New(Config{REST: cfg, pace: &once})
	if err != nil {
		return nil, nil, err
	}
	defer w.client.close()
	errs := make([]error, len(resources))
	var g errgroup.Group
	g.SetLimit(loadParallel)
	for i, r := range resources {
		if slices.Contains(definitions, r) {
			continue
		}
		g.Go(func() error {
			for ; r != nil; r = r.older {
				errs[i] = w.load(ctx, &lister{resource: r, client: w.client, pool: w.pool, health: w.health[i], silence: w.pace.silence})
				errs[i] = w.client.refused(ctx, r, errs[i])
				if !apierrors.IsNotFound(errs[i]) {
					break
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	var unread []model.Problem
	var fatal []error
	for i, r := range resources {
		switch err := errs[i]; {
		case err == nil, r.optional && apierrors.IsNotFound(err):
		case r.optional && apierrors.IsForbidden(err):
			hint := "the pod ranges in it are not known: addresses there that no pod has are taken for the world outside"
			if r.policy {
				hint = "if there are any, answers are wrong without them"
			}
			unread = append(unread, model.Problem{Severity: model.Warning, Source: model.Source{APIVersion: r.gvr.GroupVersion().String(), Kind: r.gvr.Resource},
				Message: explain(r, "list", err).Error(), Hint: hint})
		default:
			fatal = append(fatal, explain(r, "list", err))
		}
	}
	return w.state, unread, errors.Join(fatal...)
}

func (w *Watcher) load(ctx context.Context, l *lister) error {
	p := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return l.ListWithContext(ctx, opts)
	})
	p.PageSize = pageSize
	var items []*item
	err := p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		items = append(items, o.(*item))
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.shelf(w.state).replace(items)
	return nil
}
