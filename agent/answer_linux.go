package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netns"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/model"
)

// Status is the state of the node.
func (n *Node) Status() api.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := api.Status{
		Node: n.config.Name, Version: n.config.Version, Started: n.started, Published: n.published,
		Realised: map[string]string{}, Local: len(n.local), Problems: slices.Clone(n.problems),
		Degraded: n.degraded(), Events: api.Events{Packets: map[string]uint64{}},
	}
	for _, h := range n.config.World.Health() {
		r := api.Resource{Name: h.Resource, Synced: h.Synced || h.Absent, Contact: h.Contact}
		if h.Err != nil {
			r.Error = h.String()
		}
		s.Resources = append(s.Resources, r)
	}
	if n.matrix != nil {
		s.Endpoints, s.Policies = n.matrix.Count()
		s.Identities = n.matrix.Identities()
	}
	if n.agent == nil {
		return s
	}
	s.Ready = n.ready()
	s.Revision = uint32(n.agent.Revision())
	if n.behind == nil {
		for k, v := range n.revisions {
			s.Realised[k] = v
		}
	}
	for _, u := range n.agent.publisher.Planner.Usage() {
		s.Tables = append(s.Tables, api.Table{Name: u.Table, Used: u.Used, Size: u.Size})
	}
	stats, err := n.agent.program.Stats()
	if err != nil {
		s.Degraded = append(s.Degraded, err.Error())
	}
	for _, r := range flow.Reasons() {
		if r == flow.LostEvents {
			s.Events.Lost = stats[r]
		} else {
			s.Events.Packets[r.String()] = stats[r]
		}
	}
	return s
}

// ready says whether the kernel enforces what the API server said last.
func (n *Node) ready() bool {
	return n.agent != nil && n.agent.Revision() != 0 && n.behind == nil && n.drift == nil
}

// degraded says why the node is not as it should be; empty is fine.
func (n *Node) degraded() []string {
	out := []string{}
	if n.agent == nil {
		out = append(out, "the cluster is not known yet: nothing new is enforced")
	}
	for _, err := range []error{n.behind, n.drift} {
		if err != nil {
			out = append(out, err.Error())
		}
	}
	out = append(out, n.detours...)
	for _, unread := range kube.Unread(n.config.World.Health()) {
		out = append(out, "what is in force of these policies may not be the last that was said: "+unread)
	}
	for _, outage := range kube.Outages(n.config.World.Health()) {
		out = append(out, "the last known state is enforced: "+outage)
	}
	if n.matrix != nil && n.agent != nil {
		for key := range n.local {
			if e := n.matrix.Endpoint(key); e != nil && len(e.IPs) > 0 && n.placement.Local[key] == 0 {
				out = append(out, fmt.Sprintf("no device leads to pod %s at %v: it can neither send nor receive", key, e.IPs))
			}
		}
	}
	return out
}

// Endpoints lists the pods of the cluster.
func (n *Node) Endpoints() []api.Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []api.Endpoint{}
	if n.matrix == nil {
		return out
	}
	for _, e := range n.matrix.Endpoints() {
		x := api.Endpoint{Pod: e.Key(), Node: e.Node, IPs: e.IPs}
		if len(e.IPs) > 0 {
			x.Identity = uint32(n.matrix.AddressIdentity(e.IPs[0]))
		}
		x.Egress, x.Ingress = n.isolating(e, model.Egress), n.isolating(e, model.Ingress)
		if _, x.Local = n.local[e.Key()]; x.Local {
			index := n.placement.Local[e.Key()]
			x.Enforced = n.behind == nil && index != 0
			if d := n.places.devices[index]; d != nil {
				x.Device = d.name
			}
		}
		out = append(out, x)
	}
	return out
}

// isolating lists the policies that govern the pod's door.
func (n *Node) isolating(e *model.Endpoint, d model.Direction) []string {
	out := []string{}
	if g := n.matrix.Gate(e.Key(), d); g != nil {
		for _, p := range g.Policies {
			if name := policyName(p.Source); !slices.Contains(out, name) { // an object may be several policies
				out = append(out, name)
			}
		}
	}
	return out
}

// Policies lists the objects of policies with the number of pods that each selects.
func (n *Node) Policies() []api.Policy {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []api.Policy{}
	if n.matrix == nil {
		return out
	}
	parts := map[string][]*model.Policy{} // by key of the first
	for _, p := range n.matrix.Policies() {
		first := *p
		first.Part = 0
		key := engine.PolicyKey(&first)
		parts[key] = append(parts[key], p)
	}
	for _, key := range slices.Sorted(maps.Keys(parts)) {
		out = append(out, n.policyOf(parts[key]))
	}
	return out
}

// policyOf describes the object whose parts these are.
func (n *Node) policyOf(parts []*model.Policy) api.Policy {
	of := parts[0].Source
	x := api.Policy{APIVersion: of.APIVersion, Kind: of.Kind, Namespace: of.Namespace, Name: of.Name, Problems: []model.Problem{}}
	selected := map[string]struct{}{}
	for _, p := range parts {
		for _, e := range n.matrix.Selected(p.Subject) {
			selected[e.Key()] = struct{}{}
		}
	}
	x.Selected = len(selected)
	for key := range selected {
		if _, here := n.local[key]; here {
			x.Local++
		}
	}
	for _, problem := range n.problems {
		if s := problem.Source; s.APIVersion == of.APIVersion && s.Object() == of.Object() {
			x.Problems = append(x.Problems, problem)
		}
	}
	return x
}

// Identities lists the identities with who has them.
func (n *Node) Identities() []api.Identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []api.Identity{}
	if n.matrix == nil {
		return out
	}
	known := map[engine.Identity]*api.Identity{}
	of := func(id engine.Identity) *api.Identity {
		if known[id] == nil {
			known[id] = &api.Identity{Identity: uint32(id)}
		}
		return known[id]
	}
	for _, e := range n.matrix.Endpoints() {
		for _, a := range e.IPs {
			if x := of(n.matrix.AddressIdentity(a)); len(x.Endpoints) == 0 || x.Endpoints[len(x.Endpoints)-1] != e.Key() {
				x.Endpoints = append(x.Endpoints, e.Key())
			}
		}
	}
	for _, p := range n.matrix.Prefixes() {
		x := of(n.matrix.PrefixIdentity(p))
		x.Prefixes = append(x.Prefixes, p.String())
	}
	for _, x := range known {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b api.Identity) int { return int(a.Identity) - int(b.Identity) })
	return out
}

// Probe connects from inside the pod's network namespace.
func (n *Node) Probe(ctx context.Context, p api.Probe) api.Outcome {
	ns, err := n.spaceOf(p.From)
	if err != nil {
		return api.Outcome{Result: lab.Failed.String(), Error: err.Error()}
	}
	defer ns.Close()
	if p.Protocol != model.TCP && p.Protocol != model.UDP {
		return api.Outcome{Result: lab.Failed.String(), Error: fmt.Sprintf("cannot probe by %s: TCP and UDP can be", p.Protocol)}
	}
	q := lab.Probe{From: p.From, To: p.To, Protocol: p.Protocol, Port: p.Port, Source: p.Source}
	return api.Outcome{Result: lab.ProbeFrom(ctx, ns, q, p.Timeout).String()}
}

// spaceOf opens the network namespace of a pod of this node: the one at the
// other end of its device.
func (n *Node) spaceOf(key string) (netns.NsHandle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.places.devices[n.placement.Local[key]]
	if d == nil {
		return -1, fmt.Errorf("cannot probe from %s: it has no device on node %s", key, n.config.Name)
	}
	files, err := os.ReadDir(n.config.Spaces)
	if err != nil {
		return -1, fmt.Errorf("cannot look for the network namespace of %s: %w", key, err)
	}
	for _, f := range files {
		ns, err := netns.GetFromPath(filepath.Join(n.config.Spaces, f.Name()))
		if err != nil {
			continue
		}
		if id, err := n.places.links.GetNetNsIdByFd(int(ns)); err == nil && id == d.space {
			return ns, nil
		}
		ns.Close()
	}
	return -1, fmt.Errorf("cannot find the network namespace of %s in %s", key, n.config.Spaces)
}

var _ api.Backend = (*Node)(nil)
