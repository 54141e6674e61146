package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/sallyport-dev/sallyport/flow"
)

// Client asks an agent.
type Client struct {
	place string
	http  http.Client
}

// NewClient makes a client; it connects when asked for something.
func NewClient(path string) *Client {
	return NewClientBy(path, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
}

// NewClientBy makes a client that connects by the function; place says where
// to, for errors.
func NewClientBy(place string, connect func(context.Context) (net.Conn, error)) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) }
	return &Client{place: place, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Unreachable says that no agent answers.
type Unreachable struct {
	Place string // socket or node
	Err   error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("no agent answers at %s: %v; is the agent of this node running?", e.Place, e.Err)
}

func (e *Unreachable) Unwrap() error { return e.Err }

// Status asks for the agent's state.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.call(ctx, "GET", "/v1/status", nil, &out)
}

// Endpoints asks for the pods that the agent knows.
func (c *Client) Endpoints(ctx context.Context) (out []Endpoint, err error) {
	return out, c.call(ctx, "GET", "/v1/endpoints", nil, &out)
}

// Policies asks for the policies that the agent enforces.
func (c *Client) Policies(ctx context.Context) (out []Policy, err error) {
	return out, c.call(ctx, "GET", "/v1/policies", nil, &out)
}

// Identities asks for the identities of the agent's Matrix.
func (c *Client) Identities(ctx context.Context) (out []Identity, err error) {
	return out, c.call(ctx, "GET", "/v1/identities", nil, &out)
}

// AddPod returns when the pod's policies are in force.
func (c *Client) AddPod(ctx context.Context, p Pod) (out Enforced, err error) {
	return out, c.call(ctx, "POST", "/v1/pods/add", p, &out)
}

// CheckPod fails if the pod's policies are not in force.
func (c *Client) CheckPod(ctx context.Context, p Pod) (out Enforced, err error) {
	return out, c.call(ctx, "POST", "/v1/pods/check", p, &out)
}

// DeletePod says that the pod has ended.
func (c *Client) DeletePod(ctx context.Context, p Pod) error {
	return c.call(ctx, "POST", "/v1/pods/delete", p, &struct{}{})
}

// Probe tries a connection from a pod of the agent's node.
func (c *Client) Probe(ctx context.Context, p Probe) (out Outcome, err error) {
	return out, c.call(ctx, "POST", "/v1/probe", p, &out)
}

// Flows hands flows over until the context ends, the agent goes or handle
// fails.
func (c *Client) Flows(ctx context.Context, filter FlowFilter, handle func(*flow.Flow) error) error {
	r, err := c.do(ctx, "POST", "/v1/flows", filter)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	for d := json.NewDecoder(r.Body); ; {
		var f flow.Flow
		if err := d.Decode(&f); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the agent ended the flows: %w", err)
		}
		if err := handle(&f); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, question, answer any) error {
	r, err := c.do(ctx, method, path, question)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(answer); err != nil {
		return fmt.Errorf("cannot read the agent's answer to %s: %w", path, err)
	}
	return nil
}

// do sends the request; an answer that is not fine becomes a Failure.
func (c *Client) do(ctx context.Context, method, path string, question any) (*http.Response, error) {
	var body io.Reader
	if question != nil {
		text, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	r, err := c.http.Do(q)
	if err != nil {
		return nil, &Unreachable{c.place, errors.Unwrap(err)}
	}
	if r.StatusCode == http.StatusOK {
		return r, nil
	}
	defer r.Body.Close()
	f := &Failure{}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(f); err != nil || f.Message == "" {
		f.Message = "the agent answered " + r.Status
	}
	return nil, f
}
