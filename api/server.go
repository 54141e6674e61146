package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sallyport-dev/sallyport/flow"
)

// Backend is what a server asks. Its methods may be called from any goroutine.
type Backend interface {
	Status() Status
	Endpoints() []Endpoint
	Policies() []Policy
	Identities() []Identity
	// AddPod returns when the pod's policies are in force for these addresses.
	AddPod(context.Context, Pod) (Enforced, error)
	DeletePod(context.Context, Pod) error
	CheckPod(context.Context, Pod) (Enforced, error)
	// Flows hands flows over until the context ends or handle fails.
	Flows(context.Context, FlowFilter, func(*flow.Flow) error) error
	Probe(context.Context, Probe) Outcome
}

// maxRequest bounds what a request may send, in bytes.
const maxRequest = 1 << 20

// Handler serves the backend.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", answer(func(*http.Request) (any, error) { return b.Status(), nil }))
	mux.Handle("GET /v1/endpoints", answer(func(*http.Request) (any, error) { return b.Endpoints(), nil }))
	mux.Handle("GET /v1/policies", answer(func(*http.Request) (any, error) { return b.Policies(), nil }))
	mux.Handle("GET /v1/identities", answer(func(*http.Request) (any, error) { return b.Identities(), nil }))
	mux.Handle("POST /v1/pods/add", ask(b.AddPod))
	mux.Handle("POST /v1/pods/check", ask(b.CheckPod))
	mux.Handle("POST /v1/pods/delete", ask(func(ctx context.Context, p Pod) (struct{}, error) {
		return struct{}{}, b.DeletePod(ctx, p)
	}))
	mux.Handle("POST /v1/probe", ask(func(ctx context.Context, p Probe) (Outcome, error) { return b.Probe(ctx, p), nil }))
	mux.Handle("POST /v1/flows", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { streamFlows(b, w, r) }))
	return mux
}

// answer writes what a function returns.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		write(w, v, err)
	})
}

// ask reads the question from the body.
func ask[Q, A any](f func(context.Context, Q) (A, error)) http.Handler {
	return answer(func(r *http.Request) (any, error) {
		q, err := read[Q](r)
		if err != nil {
			return nil, err
		}
		return f(r.Context(), q)
	})
}

type badRequest struct{ error }

func read[Q any](r *http.Request) (q Q, err error) {
	d := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, badRequest{fmt.Errorf("cannot read the request: %w", err)}
	}
	return q, nil
}

func write(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := &Failure{}
		if !errors.As(err, &f) {
			f = &Failure{Message: err.Error()}
		}
		code := http.StatusInternalServerError
		switch {
		case errors.As(err, &badRequest{}):
			code = http.StatusBadRequest
		case f.Retry:
			code = http.StatusServiceUnavailable
		}
		w.WriteHeader(code)
		v = f
	}
	_ = json.NewEncoder(w).Encode(v) // a client that has gone away is no error of ours
}

// streamFlows writes one flow a line until the client goes.
func streamFlows(b Backend, w http.ResponseWriter, r *http.Request) {
	filter, err := read[FlowFilter](r)
	if err != nil {
		write(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	out := http.NewResponseController(w)
	_ = out.Flush()
	e := json.NewEncoder(w)
	_ = b.Flows(r.Context(), filter, func(f *flow.Flow) error {
		if err := e.Encode(f); err != nil {
			return err
		}
		return out.Flush()
	})
}
