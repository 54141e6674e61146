package recommend

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/model"
)

// workload is a controller with its pods.
type workload struct {
	Namespace string
	model.Workload
}

func (w workload) String() string { return w.Namespace + "/" + w.Kind + "/" + w.Name }

// workloads finds labels that select a workload's pods and nobody else.
type workloads struct {
	pods      map[workload][]*model.Endpoint
	inside    map[string][]*model.Endpoint // by namespace
	selectors map[workload]model.Selector
	shared    map[workload][]string // whom a selector selects besides
}

func newWorkloads(c *model.Cluster) *workloads {
	out := &workloads{
		pods: map[workload][]*model.Endpoint{}, inside: map[string][]*model.Endpoint{},
		selectors: map[workload]model.Selector{}, shared: map[workload][]string{},
	}
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if e.HostNetwork {
			continue
		}
		w := out.of(e)
		out.pods[w] = append(out.pods[w], e)
		out.inside[e.Namespace] = append(out.inside[e.Namespace], e)
	}
	return out
}

func (*workloads) of(e *model.Endpoint) workload { return workload{e.Namespace, e.Workload} }

// usual are the keys that name an application, best first.
var usual = []string{"app.kubernetes.io/name", "app", "k8s-app", "name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "component", "tier", "role"}

// volatile says whether the label is another one with each rollout or pod.
func volatile(key string) bool {
	switch key {
	case "pod-template-hash", "controller-revision-hash", "pod-template-generation", "controller-uid", "job-name", "version", "app.kubernetes.io/version",
		"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "helm.sh/chart", "app.kubernetes.io/managed-by":
		return true
	}
	return strings.HasPrefix(key, "batch.kubernetes.io/")
}

// selector is the shortest choice of labels that selects the workload's pods
// and nobody else in their namespace, or all of their common labels.
func (l *workloads) selector(w workload) model.Selector {
	if s, ok := l.selectors[w]; ok {
		return s
	}
	common := l.common(w)
	keys := slices.SortedFunc(maps.Keys(common), func(a, b string) int {
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	chosen := map[string]string{}
	for _, k := range keys { // one key, or the first ones together
		if len(l.others(w, map[string]string{k: common[k]})) == 0 {
			chosen = map[string]string{k: common[k]}
			break
		}
	}
	for _, k := range keys {
		if len(chosen) > 0 && len(l.others(w, chosen)) == 0 {
			break
		}
		chosen[k] = common[k]
	}
	l.selectors[w], l.shared[w] = model.MatchLabels(chosen), l.others(w, chosen)
	return l.selectors[w]
}

func rank(key string) int {
	if i := slices.Index(usual, key); i >= 0 {
		return i
	}
	return len(usual)
}

// common are the labels that all pods of the workload have, and keep.
func (l *workloads) common(w workload) map[string]string {
	var out map[string]string
	for _, e := range l.pods[w] {
		if out == nil {
			out = maps.Clone(e.Labels)
			maps.DeleteFunc(out, func(k, _ string) bool { return volatile(k) })
			continue
		}
		maps.DeleteFunc(out, func(k, v string) bool { return e.Labels[k] != v })
	}
	return out
}

// others are the other workloads of the namespace that the labels select, too.
func (l *workloads) others(w workload, labels map[string]string) []string {
	var out []string
	s := model.MatchLabels(labels)
	for _, e := range l.inside[w.Namespace] {
		if o := l.of(e); o != w && s.Matches(e.Labels) && !slices.Contains(out, o.String()) {
			out = append(out, o.String())
		}
	}
	return out
}

// notes says which workloads cannot be told apart.
func (l *workloads) notes() []string {
	var out []string
	for w, others := range l.shared {
		if len(others) > 0 {
			out = append(out, fmt.Sprintf("no label tells %s from %s: the policies are about all of them", w, strings.Join(others, ", ")))
		}
	}
	slices.Sort(out)
	return out
}
