package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/sallyport-dev/sallyport/model"
)

// stateVersion and stateResource are of the objects in which agents say what
// they enforce, one for each node, named as it is.
var (
	stateVersion  = schema.GroupVersion{Group: "sallyport.dev", Version: "v1alpha1"}
	stateResource = stateVersion.WithResource("nodestates")
)

// NodeState is what one node enforces. An object is in force on the node if its
// resourceVersion is not newer than what Realised says of its resource.
type NodeState struct {
	Node      string            `json:"-"`
	Ready     bool              `json:"ready"`
	Degraded  []string          `json:"degraded"`
	Realised  map[string]string `json:"realised"` // resource to resourceVersion
	Revision  int64             `json:"revision"` // of the kernel's tables
	Version   string            `json:"version"`  // of the agent
	Policies  int               `json:"policies"`
	Endpoints int               `json:"endpoints"` // pods of the node that are enforced
	Problems  []model.Problem   `json:"problems"`  // of policies, at most MaxProblems
	Updated   time.Time         `json:"updated"`
}

// Enforces says whether an object of the resource is in force on the node as
// it is at that resourceVersion. Those of one resource are numbers that grow.
func (s *NodeState) Enforces(resource, version string) bool {
	realised, ok := s.Realised[resource]
	return s.Ready && ok && versionOf(realised) >= versionOf(version)
}

// versionOf is 0 for what is no number. Calico's API server puts the versions
// of what an object was made of behind one another, with a slash between.
func versionOf(text string) uint64 {
	text, _, _ = strings.Cut(text, "/")
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// MaxProblems is how many problems a NodeState carries: each is in every
// node's object, and the API server keeps them all.
const MaxProblems = 20

// Reporter writes a node's NodeState. Beside what a [StatusWriter] writes it is
// the agent's only write to the API server.
type Reporter struct {
	client dynamic.Interface
	node   string
	uid    types.UID // of the Node, to which the state belongs
}

// NewReporter makes a Reporter; nothing is asked of the API server before
// Report.
func NewReporter(cfg *rest.Config, node string) (*Reporter, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	return &Reporter{client: c, node: node}, nil
}

// Report writes the state whole. The object goes with its Node.
func (r *Reporter) Report(ctx context.Context, s NodeState) error {
	if len(s.Problems) > MaxProblems {
		s.Problems = slices.Clone(s.Problems)
		slices.SortStableFunc(s.Problems, func(a, b model.Problem) int { return int(b.Severity) - int(a.Severity) })
		s.Problems = s.Problems[:MaxProblems]
	}
	// Through text, so that what writes itself as text does.
	text, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	content := map[string]any{}
	if err := utiljson.Unmarshal(text, &content); err != nil {
		return err
	}
	content["updated"] = s.Updated.UTC().Format(time.RFC3339)
	o := &unstructured.Unstructured{Object: content}
	o.SetGroupVersionKind(stateVersion.WithKind("NodeState"))
	o.SetName(r.node)
	if r.uid == "" {
		n, err := r.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).Get(ctx, r.node, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("cannot read Node %s: %w", r.node, err)
		}
		r.uid = n.GetUID()
	}
	o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: r.uid}})
	_, err = r.client.Resource(stateResource).Apply(ctx, r.node, o, metav1.ApplyOptions{FieldManager: "sallyport", Force: true})
	if err != nil {
		r.uid = "" // the Node may have been made anew
		return fmt.Errorf("cannot write NodeState %s: %w", r.node, err)
	}
	return nil
}

// NodeStates reads what all nodes enforce.
func NodeStates(ctx context.Context, cfg *rest.Config) ([]NodeState, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	return nodeStates(ctx, c)
}

func nodeStates(ctx context.Context, c dynamic.Interface) ([]NodeState, error) {
	var out []NodeState
	err := eachWritten(ctx, c, stateResource, func(o *unstructured.Unstructured) error {
		s, err := readState(o)
		out = append(out, s)
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("cannot find the nodestates of %s: is Sallyport installed? kubectl apply -f deploy/sallyport.yaml", stateVersion.Group)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list nodestates: %w", err)
	}
	return out, nil
}

// eachWritten lists a resource page by page.
func eachWritten(ctx context.Context, c dynamic.Interface, gvr schema.GroupVersionResource, f func(*unstructured.Unstructured) error) error {
	p := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return c.Resource(gvr).List(ctx, opts)
	})
	p.PageSize, p.PageBufferSize = pageSize, 0
	return p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error { return f(o.(*unstructured.Unstructured)) })
}

func readState(o *unstructured.Unstructured) (NodeState, error) {
	s := NodeState{Node: o.GetName()}
	text, err := json.Marshal(o.Object)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("cannot read NodeState %s: %w", o.GetName(), err)
	}
	return s, nil
}
