package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// told is what the CNI plugin has said of pods of this node. It knows their
// addresses before the API server does, and knows before it when they are
// somebody else's: while a pod is spoken of here, this is what counts.
type told struct {
	pods    map[string]*claim
	at      map[netip.Addr]string // who has it now, by key
	waiting map[*waiting]struct{}
}

// claim is one start of a pod, from ADD to the end of the pod's object.
type claim struct {
	api.Pod
	ifindex uint32 // of HostInterface; 0: to be found by the addresses
	matched bool   // the API server has told of this pod, too
}

// waiting is a request that is answered when the pod is enforced.
type waiting struct {
	pod  api.Pod
	done chan api.Enforced
}

func newTold() told {
	return told{pods: map[string]*claim{}, at: map[netip.Addr]string{}, waiting: map[*waiting]struct{}{}}
}

func (t *told) add(p api.Pod, ifindex uint32) {
	t.release(p.Key())
	t.pods[p.Key()] = &claim{Pod: p, ifindex: ifindex}
	for _, a := range p.IPs {
		if c := t.pods[t.at[a]]; c != nil {
			c.IPs = slices.DeleteFunc(slices.Clone(c.IPs), func(x netip.Addr) bool { return x == a })
		}
		t.at[a] = p.Key()
	}
}

// release takes its addresses from the pod.
func (t *told) release(key string) {
	c := t.pods[key]
	if c == nil {
		return
	}
	for _, a := range c.IPs {
		if t.at[a] == key {
			delete(t.at, a)
		}
	}
	c.IPs, c.ifindex = nil, 0
}

// ended forgets the pod whose object is gone; a claim of its successor stays.
func (t *told) ended(e *model.Endpoint) {
	if c := t.pods[e.Key()]; c != nil && c.UID == e.UID {
		t.release(e.Key())
		delete(t.pods, e.Key())
	}
}

// correct is the pod of the API server with the addresses that it has by now.
func (t *told) correct(e *model.Endpoint) *model.Endpoint {
	if e.HostNetwork {
		return e
	}
	key, ips := e.Key(), e.IPs
	c := t.pods[key]
	switch {
	case c == nil:
	case c.UID == "" || c.UID == e.UID:
		c.matched, ips = true, c.IPs
	case c.matched: // the API server is ahead: this pod is a later one
		t.release(key)
		delete(t.pods, key)
	}
	ips = slices.DeleteFunc(slices.Clone(ips), func(a netip.Addr) bool { return t.at[a] != "" && t.at[a] != key })
	if slices.Equal(ips, e.IPs) {
		return e
	}
	out := *e
	out.IPs = ips
	return &out
}

// device is the device that the plugin has named for the pod, or 0.
func (t *told) device(e *model.Endpoint) uint32 {
	if len(t.pods) == 0 { // as it is where the plugin is not used, for a key is made for every pod
		return 0
	}
	if c := t.pods[e.Key()]; c != nil && (c.UID == "" || c.UID == e.UID) {
		return c.ifindex
	}
	return 0
}

// patience is how long a CNI request waits here before it is told to try again.
const patience = 5 * time.Second

// AddPod returns when the pod's policies are in force at its addresses.
func (n *Node) AddPod(ctx context.Context, p api.Pod) (api.Enforced, error) {
	if p.Namespace == "" || p.Name == "" || len(p.IPs) == 0 {
		return api.Enforced{}, errors.New("cannot add a pod without namespace, name and addresses")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := &waiting{pod: p, done: make(chan api.Enforced, 1)}
	if err := n.do(ctx, func() { n.addPod(w) }); err != nil {
		return api.Enforced{}, &api.Failure{Message: "the agent is busy", Retry: true}
	}
	select {
	case e := <-w.done:
		return e, nil
	case <-ctx.Done():
	}
	why, out := "the agent ends", api.Enforced{}
	_ = n.do(context.WithoutCancel(ctx), func() {
		delete(n.told.waiting, w)
		if why = n.missing(p); why == "" {
			out.Revision = uint32(n.agent.Revision())
		}
	})
	if why == "" {
		return out, nil
	}
	return out, &api.Failure{Message: why, Retry: true}
}

func (n *Node) addPod(w *waiting) {
	p := w.pod
	n.told.waiting[w] = struct{}{}
	n.told.add(p, n.indexOf(p.HostInterface))
	if n.agent == nil {
		return
	}
	// The pod, and whoever had its addresses.
	ch := engine.Change{}
	keys := []string{p.Key()}
	for _, a := range p.IPs {
		if e := n.matrix.EndpointAt(a); e != nil && !slices.Contains(keys, e.Key()) {
			keys = append(keys, e.Key())
		}
	}
	for _, key := range keys {
		if e := n.matrix.Endpoint(key); e != nil {
			ch.Endpoints = append(ch.Endpoints, e)
		}
	}
	n.publish(n.apply(ch))
	n.answerWaiting()
}

func (n *Node) indexOf(device string) uint32 {
	if device == "" {
		return 0
	}
	l, err := n.places.links.LinkByName(device)
	if err != nil {
		n.log.Warn("the CNI plugin names a device that is not there; its pod is looked for by address", "device", device, "error", err)
		return 0
	}
	return uint32(l.Attrs().Index)
}

// answerWaiting answers the requests whose pods are enforced by now.
func (n *Node) answerWaiting() {
	for w := range n.told.waiting {
		if n.missing(w.pod) == "" {
			delete(n.told.waiting, w)
			w.done <- api.Enforced{Revision: uint32(n.agent.Revision())}
		}
	}
}

// missing says what the pod lacks to be enforced; "" is nothing.
func (n *Node) missing(p api.Pod) string {
	if n.agent == nil || n.matrix == nil {
		return "the agent does not know the cluster yet"
	}
	e := n.matrix.Endpoint(p.Key())
	switch {
	case e == nil || p.UID != "" && e.UID != p.UID:
		return fmt.Sprintf("the API server has not told this node's agent of pod %s (%s) yet", p.Key(), p.UID)
	case e.Node != n.config.Name:
		return fmt.Sprintf("the API server says that pod %s runs on node %q, and this is %q", p.Key(), e.Node, n.config.Name)
	case n.behind != nil:
		return "the last change is not in force: " + n.behind.Error()
	case !sameAddresses(e.IPs, p.IPs):
		return fmt.Sprintf("pod %s has the addresses %v, not %v", p.Key(), e.IPs, p.IPs)
	case n.placement.Local[p.Key()] == 0:
		return fmt.Sprintf("no device of this node leads to pod %s at %v", p.Key(), p.IPs)
	}
	return ""
}

func sameAddresses(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

// CheckPod fails if the pod's policies are not in force.
func (n *Node) CheckPod(ctx context.Context, p api.Pod) (out api.Enforced, err error) {
	why := ""
	if err := n.do(ctx, func() {
		if why = n.missing(p); why == "" {
			out.Revision = uint32(n.agent.Revision())
		}
	}); err != nil {
		return out, err
	}
	if why != "" {
		return out, &api.Failure{Message: why}
	}
	return out, nil
}

// DeletePod closes the pod's addresses. What the plugin has not told this
// agent of (it was started since) follows from the API server and from the
// device that goes.
func (n *Node) DeletePod(ctx context.Context, p api.Pod) error {
	return n.do(ctx, func() {
		c := n.told.pods[p.Key()]
		if c == nil || c.ContainerID != p.ContainerID {
			return
		}
		n.told.release(p.Key())
		if n.matrix == nil {
			return
		}
		if e := n.matrix.Endpoint(p.Key()); e != nil {
			n.publish(n.apply(engine.Change{Endpoints: []*model.Endpoint{e}}))
		}
	})
}
