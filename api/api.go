// Package api is how the agent of a node is asked: JSON over HTTP on a socket
// that is root's alone. A [Server] turns requests into calls of a [Backend]; a
// [Client] turns calls into requests. Test with a Backend of your own.
package api

import (
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

// Socket is where the agent listens.
const Socket = "/run/sallyport/agent.sock"

// Pod is what a CNI plugin tells of a pod that starts, ends or is checked.
type Pod struct {
	Namespace     string       `json:"namespace"`
	Name          string       `json:"name"`
	UID           string       `json:"uid,omitempty"`
	ContainerID   string       `json:"containerID"`
	NetNS         string       `json:"netns,omitempty"`         // path on the node
	HostInterface string       `json:"hostInterface,omitempty"` // the pod's device on the node
	IPs           []netip.Addr `json:"ips,omitempty"`
}

// Key is the pod's "namespace/name".
func (p Pod) Key() string { return p.Namespace + "/" + p.Name }

// Enforced answers that a pod's policies are in force.
type Enforced struct {
	Revision uint32 `json:"revision"`
}

// Status is the state of one node's agent.
type Status struct {
	Node     string    `json:"node"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`    // the kernel enforces what the API server said last
	Degraded []string  `json:"degraded"` // why it does not, or what is closed because of an error; empty if fine

	Revision   uint32            `json:"revision"` // last published; 0: nothing is enforced yet
	Published  time.Time         `json:"published"`
	Resources  []Resource        `json:"resources"`
	Realised   map[string]string `json:"realised"` // resource to the newest resourceVersion that is in force
	Endpoints  int               `json:"endpoints"`
	Local      int               `json:"local"` // pods of this node that are enforced
	Policies   int               `json:"policies"`
	Identities int               `json:"identities"`
	Problems   []model.Problem   `json:"problems"` // of policies
	Tables     []Table           `json:"tables"`
	Events     Events            `json:"events"`
}

// Resource is how well the agent knows one resource of the API server.
type Resource struct {
	Name    string    `json:"name"`
	Synced  bool      `json:"synced"`
	Contact time.Time `json:"contact"` // when the API server was last heard
	Error   string    `json:"error,omitempty"`
}

// Table is how full a table of the kernel is.
type Table struct {
	Name string `json:"name"`
	Used uint32 `json:"used"`
	Size uint32 `json:"size"`
}

// Events counts the kernel's verdicts on packets since its program was loaded.
type Events struct {
	Packets map[string]uint64 `json:"packets"` // by reason
	Lost    uint64            `json:"lost"`    // reports that did not fit
}

// Endpoint is a pod as the agent sees it.
type Endpoint struct {
	Pod      string       `json:"pod"`
	Node     string       `json:"node"`
	IPs      []netip.Addr `json:"ips"`
	Identity uint32       `json:"identity"` // of its first address
	Local    bool         `json:"local"`
	Device   string       `json:"device,omitempty"` // on this node
	Enforced bool         `json:"enforced"`         // a local pod's doors are in force
	Egress   []string     `json:"egress"`           // policies that isolate it: "kind ns/name"; empty: it is open
	Ingress  []string     `json:"ingress"`
}

// Policy is an object of policies as the agent sees it.
type Policy struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Namespace  string          `json:"namespace,omitempty"`
	Name       string          `json:"name"`
	Selected   int             `json:"selected"` // pods of the cluster
	Local      int             `json:"local"`    // of them, pods of this node
	Problems   []model.Problem `json:"problems"`
}

// Identity is a class of addresses that no policy tells apart.
type Identity struct {
	Identity  uint32   `json:"identity"`
	Endpoints []string `json:"endpoints,omitempty"`
	Prefixes  []string `json:"prefixes,omitempty"`
}

// Probe is one real connection from a pod of the node, as the agent tries it
// from inside the pod's network namespace.
type Probe struct {
	From     string         `json:"from"` // namespace/name
	Source   netip.Addr     `json:"source,omitzero"`
	To       netip.Addr     `json:"to"`
	Protocol model.Protocol `json:"protocol"`
	Port     uint16         `json:"port"`
	Timeout  time.Duration  `json:"timeout"`
}

// Outcome is what became of a probe.
type Outcome struct {
	Result string `json:"result"` // connected, refused, timeout or failed
	Error  string `json:"error,omitempty"`
}

// FlowFilter chooses flows; a zero takes everything.
type FlowFilter struct {
	Verdict string `json:"verdict,omitempty"` // allowed or denied
	Pod     string `json:"pod,omitempty"`     // at either end
}

// Matches says whether the flow is chosen.
func (f FlowFilter) Matches(x *flow.Flow) bool {
	return (f.Verdict == "" || f.Verdict == x.Verdict) && (f.Pod == "" || f.Pod == x.SourcePod || f.Pod == x.DestinationPod)
}

// Failure is an error as the server tells it. Retry says that the same request
// may succeed in a moment.
type Failure struct {
	Message string `json:"error"`
	Retry   bool   `json:"retry,omitempty"`
}

func (f *Failure) Error() string { return f.Message }
