package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Health is how the reading of one resource goes. While Err is set the state
// last known is kept.
type Health struct {
	Resource string    // "networkpolicies.networking.k8s.io"
	Optional bool      // the cluster may do without it
	Policies bool      // it holds policies, or what they refer to
	Absent   bool      // optional, and the cluster does not have it
	Synced   bool      // it was listed whole at least once
	Contact  time.Time // when the API server was last heard of it; zero: never, or it is absent
	Err      error     // why it cannot be read now; nil: it can
	Since    time.Time // since when it cannot
}

// String says it in one line.
func (h Health) String() string {
	switch {
	case h.Err != nil:
		return fmt.Sprintf("%s: since %s: %v", h.Resource, h.Since.Format(time.RFC3339), h.Err)
	case h.Absent:
		return h.Resource + ": not in this cluster"
	case !h.Synced:
		return h.Resource + ": not listed yet"
	}
	return h.Resource + ": up to date"
}

// Outages says what of the cluster cannot be read, each reason once; what the
// cluster may do without is left out.
func Outages(list []Health) []string {
	needed, first := 0, []Health{} // of each reason
	names := map[string][]string{} // of the resources, by reason
	for _, h := range list {
		if h.Optional {
			continue
		}
		needed++
		if h.Err == nil {
			continue
		}
		why := reason(h.Err)
		if i := slices.IndexFunc(first, func(f Health) bool { return reason(f.Err) == why }); i < 0 {
			first = append(first, h)
		} else if h.Since.Before(first[i].Since) {
			first[i].Since = h.Since
		}
		names[why] = append(names[why], h.Resource)
	}
	var out []string
	for _, h := range first {
		why := reason(h.Err)
		switch who := names[why]; {
		case len(who) == 1:
			out = append(out, h.String())
		case len(who) == needed:
			out = append(out, fmt.Sprintf("the API server is away since %s: %s", h.Since.Format(time.RFC3339), why))
		default:
			out = append(out, fmt.Sprintf("%s: since %s: %s", strings.Join(who, ", "), h.Since.Format(time.RFC3339), why))
		}
	}
	return out
}

// Unread says which policies the cluster may have and cannot be read.
func Unread(list []Health) []string {
	var out []string
	for _, h := range list {
		if h.Optional && h.Policies && h.Err != nil {
			out = append(out, h.String())
		}
	}
	return out
}

// reason is what an error says beside the question that was asked: the question
// differs from resource to resource.
func reason(err error) string {
	var at *url.Error
	var status *apierrors.StatusError
	switch {
	case errors.As(err, &at):
		return at.Err.Error()
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, errSilent):
		return errSilent.Error()
	}
	return err.Error()
}

// health keeps the Health of a resource; any goroutine may use it.
type health struct {
	mu   sync.Mutex
	now  Health
	of   *resource
	log  *slog.Logger
	stir func() // has Next look again
}

func (h *health) heard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now.Err != nil {
		h.log.Info("reads again", "resource", h.now.Resource, "away", time.Since(h.now.Since).Round(time.Millisecond))
	}
	h.now.Err, h.now.Since, h.now.Contact, h.now.Absent = nil, time.Time{}, time.Now(), false
}

func (h *health) failed(verb string, err error) {
	err = explain(h.of, verb, err)
	h.mu.Lock()
	said := h.now.Err != nil && apierrors.ReasonForError(h.now.Err) == apierrors.ReasonForError(err)
	if h.now.Err == nil {
		h.now.Since = time.Now()
	}
	h.now.Err = err
	h.mu.Unlock()
	if !said {
		h.log.Error(err.Error(), "resource", h.now.Resource)
	}
	h.stir()
}

func (h *health) synced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.Synced = true
}

func (h *health) absent() {
	h.mu.Lock()
	h.now.Absent, h.now.Synced, h.now.Err, h.now.Since, h.now.Contact = true, false, nil, time.Time{}, time.Time{}
	h.mu.Unlock()
	h.stir()
}

// holdsUp says whether the first Update must wait for the resource. One that
// the cluster may do without is not waited for if it is refused, or, unless it
// holds policies, fails for long.
func (h *health) holdsUp(patience time.Duration) bool {
	now := h.state()
	switch {
	case now.Synced || now.Absent:
		return false
	case now.Optional && now.Err != nil:
		return !apierrors.IsForbidden(now.Err) && (now.Policies || time.Since(now.Since) < patience)
	}
	return true
}

func (h *health) state() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// explain says what to do about an error of the API server.
func explain(r *resource, verb string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("cannot %s %s: %w; the ClusterRole needs the rule {apiGroups: [%q], resources: [%q], verbs: [list, watch]}",
			verb, r.name(), err, r.gvr.Group, r.gvr.Resource)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("cannot %s %s: %w; the credentials are not accepted: is the token or certificate expired?", verb, r.name(), err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("cannot %s %s: the API server has no %s of %s; it is too old, or the API is turned off", verb, r.name(), r.gvr.Resource, strings.TrimPrefix(r.gvr.GroupVersion().String(), "/"))
	}
	return fmt.Errorf("cannot %s %s: %w", verb, r.name(), err)
}
