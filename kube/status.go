package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/model"
)

// The conditions that are written into the status of policies.
const (
	Accepted = "sallyport.dev/Accepted" // False: something in it is wrong, and that part allows nothing
	Enforced = "sallyport.dev/Enforced" // True: on every node
)

// StatusWriter writes what became of a policy into its status, where its kind
// has a place for conditions. Every node has one, and one at a time writes: that
// of the first node, by name, which is ready and whose agent reports. For a
// moment none or two may think that it is them; what they write is the same.
//
//	Watcher ── objects, problems ──┐
//	NodeStates ── n of m nodes ────┼─▶ conditions that differ ─▶ a few patches a second
//	policies ── their conditions ──┘
type StatusWriter struct {
	client  dynamic.Interface
	watcher *Watcher
	node    string
	log     *slog.Logger
	pace    statusPace

	said    uint64        // hash of what was there to be said when it was last written
	next    time.Time     // when to look again though nothing changed here
	quiet   time.Duration // how long that is; grows while there is nothing to write
	behind  bool          // something was written while we looked
	without map[*resource]bool
}

// statusPace is how long a StatusWriter waits.
type statusPace struct {
	turn  time.Duration // between two looks of the first node whether it is its turn; the n-th looks n times as rarely
	quiet time.Duration // at most, between two looks at what nodes enforce
	stale time.Duration // a report that is older is one of an agent that is gone
	patch time.Duration // between patches
}

var standardStatusPace = statusPace{turn: 10 * time.Second, quiet: 5 * time.Minute, stale: 15 * time.Minute, patch: 200 * time.Millisecond}

// NewStatusWriter makes the node's StatusWriter; nothing is asked of the API
// server before Run.
func NewStatusWriter(cfg *rest.Config, w *Watcher, node string, log *slog.Logger) (*StatusWriter, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	return &StatusWriter{client: c, watcher: w, node: node, log: log, pace: standardStatusPace, without: map[*resource]bool{}}, nil
}

// Run writes until the context ends.
func (w *StatusWriter) Run(ctx context.Context) error {
	failed := false
	for {
		earlier, nodes := w.earlier()
		wait := w.pace.turn * time.Duration(min(len(earlier)+1, 60))
		wait = max(wait, time.Duration(nodes)*w.pace.turn/500) // nodes report the more rarely the more there are
		if !pause(ctx, wait/2+rand.N(wait), nil) {
			return nil
		}
		if nodes == 0 {
			continue // not listed yet: everybody would think that it is them
		}
		mine, err := w.isMine(ctx, earlier)
		if err == nil && mine {
			err = w.write(ctx, nodes)
		}
		if err != nil && !failed && ctx.Err() == nil {
			w.log.Warn("cannot write the status of policies; they are enforced all the same", "error", err)
		}
		failed = err != nil
	}
}

// earlier lists the ready nodes before this one; nodes is how many there are.
func (w *StatusWriter) earlier() (names []string, nodes int) {
	names, nodes = w.watcher.readyNodes()
	i, _ := slices.BinarySearch(names, w.node)
	return names[:i], nodes
}

// isMine says whether no earlier node's agent is there to write.
func (w *StatusWriter) isMine(ctx context.Context, earlier []string) (bool, error) {
	for _, name := range earlier {
		o, err := w.client.Resource(stateResource).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("cannot read NodeState %s: %w", name, err)
		}
		if s, err := readState(o); err == nil && time.Since(s.Updated) < w.pace.stale {
			return false, nil
		}
	}
	return true, nil
}

// write brings the status of all policies up to date, if there may be something new.
func (w *StatusWriter) write(ctx context.Context, nodes int) error {
	objects := map[string]map[key]PolicyObject{} // by resource
	hash := maphash.Hash{}
	hash.SetSeed(poolSeed)
	maphash.WriteComparable(&hash, nodes)
	for _, o := range w.watcher.PolicyObjects() {
		if !slices.ContainsFunc(withStatus, func(r *resource) bool { return r.name() == o.Resource && !w.without[r] }) {
			continue
		}
		if objects[o.Resource] == nil {
			objects[o.Resource] = map[key]PolicyObject{}
		}
		objects[o.Resource][o.key] = o
		maphash.WriteComparable(&hash, struct {
			source  model.Source
			version string
		}{o.Source, o.Version})
		for _, p := range o.Problems {
			maphash.WriteComparable(&hash, p)
		}
	}
	said := hash.Sum64()
	if said == w.said && time.Now().Before(w.next) || len(objects) == 0 {
		return nil
	}
	states, err := nodeStates(ctx, w.client)
	if err != nil {
		return err
	}
	wrote := 0
	w.behind = false
	for _, r := range withStatus {
		if len(objects[r.name()]) == 0 {
			continue
		}
		n, err := w.writeAll(ctx, r, objects[r.name()], states, nodes)
		if wrote += n; err != nil {
			return err
		}
	}
	if w.quiet = min(max(2*w.quiet, w.pace.turn), w.pace.quiet); wrote > 0 || w.behind || said != w.said {
		w.quiet = 0
	}
	w.said, w.next = said, time.Now().Add(w.quiet)
	return nil
}

// writeAll writes the status of the resource's objects that is another one, and
// says of how many.
func (w *StatusWriter) writeAll(ctx context.Context, r *resource, objects map[key]PolicyObject, states []NodeState, nodes int) (wrote int, err error) {
	err = eachWritten(ctx, w.client, r.gvr, func(o *unstructured.Unstructured) error {
		at, ok := objects[key{o.GetNamespace(), o.GetName()}]
		if !ok || at.seen != versionOf(o.GetResourceVersion()) {
			w.behind = true
			return nil
		}
		changed, conditions := amend(conditionsOf(o), verdicts(r, o, &at, states, nodes))
		if w.without[r] || !changed {
			return nil
		}
		wrote++
		if !pause(ctx, w.pace.patch, nil) {
			return ctx.Err()
		}
		return w.patch(ctx, r, o, conditions)
	})
	if apierrors.IsNotFound(err) {
		err = nil // the kind has gone
	}
	return wrote, err
}

// condition is one as it is written.
type condition = map[string]any

// verdicts are the conditions that the object should have.
func verdicts(r *resource, o *unstructured.Unstructured, at *PolicyObject, states []NodeState, nodes int) []condition {
	enforcing := 0
	for i := range states {
		if states[i].Enforces(at.Resource, at.Version) {
			enforcing++
		}
	}
	accepted := condition{"type": Accepted, "status": "True", "reason": "Accepted", "message": "every part of it is understood"}
	if len(at.Problems) > 0 {
		accepted["reason"], accepted["message"] = "Reservations", inBrief(at.Problems)
	}
	if model.HasErrors(at.Problems) {
		accepted["status"], accepted["reason"] = "False", "Invalid"
	}
	enforced := condition{"type": Enforced, "status": "True", "reason": "Everywhere", "message": fmt.Sprintf("enforced on %d of %d nodes", enforcing, nodes)}
	if enforcing < nodes {
		enforced["status"], enforced["reason"] = "False", "Pending"
	}
	if r.gvr.Group == "policy.networking.k8s.io" { // Cilium's conditions have no such field
		accepted["observedGeneration"], enforced["observedGeneration"] = o.GetGeneration(), o.GetGeneration()
	}
	return []condition{accepted, enforced}
}

// inBrief is the problems as a message of bounded size, the worst first.
func inBrief(problems []model.Problem) string {
	const most, longest = 5, 1024
	sorted := slices.Clone(problems)
	slices.SortStableFunc(sorted, func(a, b model.Problem) int { return int(b.Severity) - int(a.Severity) })
	var out []string
	for i, p := range sorted {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(sorted)-most))
			break
		}
		text := p.Message
		if p.Source.Field != "" {
			text = p.Source.Field + ": " + text
		}
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
		out = append(out, text)
	}
	text := strings.Join(out, "; ")
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + " …"
	}
	return text
}

// conditionsOf are the object's conditions as they are written: those of others
// must stay as they are.
func conditionsOf(o *unstructured.Unstructured) []any {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return list
}

func indexOf(conditions []any, kind string) int {
	return slices.IndexFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == kind
	})
}

// amend puts conditions in their place among those of others, and says whether
// that changes anything.
func amend(conditions []any, ours []condition) (changed bool, out []any) {
	out = slices.Clone(conditions)
	for _, c := range ours {
		i := indexOf(out, c["type"].(string))
		if i < 0 {
			i, out = len(out), append(out, condition{})
		}
		old := out[i].(condition)
		if c["lastTransitionTime"] = old["lastTransitionTime"]; old["status"] != c["status"] || c["lastTransitionTime"] == nil {
			c["lastTransitionTime"] = time.Now().UTC().Format(time.RFC3339)
		}
		changed = changed || !reflect.DeepEqual(old, c)
		out[i] = c
	}
	return changed, out
}

// patch writes the object's conditions, unless it was written since it was read.
func (w *StatusWriter) patch(ctx context.Context, r *resource, o *unstructured.Unstructured, conditions []any) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": o.GetResourceVersion()},
		"status":   map[string]any{"conditions": conditions},
	})
	if err != nil {
		return err
	}
	now, err := w.client.Resource(r.gvr).Namespace(o.GetNamespace()).Patch(ctx, o.GetName(), types.MergePatchType, body, metav1.PatchOptions{FieldManager: "sallyport"}, "status")
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // the next time
	case err != nil:
		return fmt.Errorf("cannot write the status of %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	if indexOf(conditionsOf(now), Accepted) < 0 {
		w.without[r] = true // an older definition, which drops what it does not know
		w.log.Info("the status of these policies has no place for conditions in this cluster", "resource", r.name())
	}
	return nil
}
