package kube

import (
	"context"
	"errors"

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
	w, err := New(Config{REST: cfg})
	if err != nil {
		return nil, nil, err
	}
	defer w.client.close()
	var errs []error
	var unread []model.Problem
	for i, r := range resources {
		l := &lister{resource: r, client: w.client, pool: w.pool, health: w.health[i], silence: w.pace.silence}
		switch err := w.state.load(ctx, l); {
		case err == nil, r.optional && apierrors.IsNotFound(err):
		case r.optional && apierrors.IsForbidden(err):
			unread = append(unread, model.Problem{Severity: model.Warning, Source: model.Source{APIVersion: r.gvr.GroupVersion().String(), Kind: r.gvr.Resource},
				Message: explain(r, "list", err).Error(), Hint: "the pod ranges in it are not known: addresses there that no pod has are taken for the world outside"})
		default:
			errs = append(errs, explain(r, "list", err))
		}
	}
	if len(errs) > 0 {
		return nil, nil, errors.Join(errs...)
	}
	u, _ := w.state.take()
	return u.Cluster, append(u.Problems, unread...), nil
}

func (s *state) load(ctx context.Context, l *lister) error {
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
	l.shelf(s).replace(items)
	return nil
}
