package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/dialect/networkpolicy"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

type getFlags struct {
	nodeFlags
	namespace string
	all       bool
	kind      string // of policies, lower-case; "" is every kind
}

// aliases are the words of calicoctl and kubectl. Those of a policy's kind
// ask for that kind alone.
var aliases = map[string][]string{
	"policies": {
		"policy", "networkpolicy", "networkpolicies", "netpol", "globalnetworkpolicy", "globalnetworkpolicies",
		"clusternetworkpolicy", "clusternetworkpolicies", "adminnetworkpolicy", "adminnetworkpolicies", "baselineadminnetworkpolicy", "baselineadminnetworkpolicies",
		"ciliumnetworkpolicy", "ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicy", "ciliumclusterwidenetworkpolicies",
		"stagednetworkpolicy", "stagednetworkpolicies", "stagedglobalnetworkpolicy", "stagedglobalnetworkpolicies",
		"stagedkubernetesnetworkpolicy", "stagedkubernetesnetworkpolicies",
	},
	"endpoints": {"endpoint", "workloadendpoint", "workloadendpoints", "wep"},
	"nodes":     {"node"},
	"profiles":  {"profile"},
	"tiers":     {"tier"},
}

// kindNamed is the kind that one of the other names of policies asks for.
func kindNamed(word string) string {
	switch word {
	case "policies", "policy":
		return ""
	case "netpol":
		return "networkpolicy"
	}
	if stem, ok := strings.CutSuffix(word, "ies"); ok {
		return stem + "y"
	}
	return word
}

func newGet(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "get", Short: "What the agents see, and whether it is enforced", Args: cobra.NoArgs,
		Long: `Asks the API server and, for what nodes alone know, their agents. On a node
without a kubeconfig the agent of that node is asked.`,
	}
	for _, x := range []struct {
		use, short, long string
		run              func(context.Context, getFlags) error
	}{
		{"policies", "Every policy: the pods it selects, the nodes that enforce it, its problems",
			"A node enforces a policy if its agent has the last version in the kernel. Exit\ncode 1 if one is not enforced everywhere, or has an error.", s.getPolicies},
		{"endpoints", "Every pod: addresses, identity, device, and the policies that isolate it", "", s.getEndpoints},
		{"identities", "Classes of addresses that no policy tells apart, as an agent numbers them", "", s.getIdentities},
		{"nodes", "What every node enforces", "Exit code 1 if a node does not enforce what the API server says.", s.getNodes},
	} {
		var f getFlags
		sub := &cobra.Command{
			Use: x.use, Short: x.short, Long: x.long, Args: cobra.NoArgs, Aliases: aliases[x.use],
			Example: "  sallyport get " + x.use + "\n  sallyport get " + x.use + " --kubeconfig admin.conf -o json",
			RunE: func(c *cobra.Command, _ []string) error {
				if x.use == "policies" {
					f.kind = kindNamed(c.CalledAs())
				}
				return x.run(c.Context(), f)
			},
		}
		s.nodeFlags(sub, &f.nodeFlags)
		if x.use == "policies" {
			clusterNameFlag(sub, &s.clusterName)
		}
		s.outputFlag(sub, "table", "table", "json")
		sub.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only of this namespace")
		sub.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "of all namespaces, as is without -n")
		c.AddCommand(sub)
	}
	c.AddCommand(s.newGetProfiles(), s.newGetTiers())
	return c
}

func (f getFlags) wants(namespace string) bool {
	return f.all || f.namespace == "" || f.namespace == namespace
}

// policyState is one policy and where it is in force.
type policyState struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Namespace  string          `json:"namespace,omitempty"`
	Name       string          `json:"name"`
	Selected   int             `json:"selected"`
	Enforcing  []string        `json:"enforcing"` // nodes
	Nodes      int             `json:"nodes"`
	Problems   []model.Problem `json:"problems"`
}

func (s *session) getPolicies(ctx context.Context, f getFlags) error {
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return environment(err)
	}
	// The nodes first: what they enforce is then not newer than the policies.
	nodes, err := kube.NodeStates(ctx, cfg)
	if err != nil {
		return environment(err)
	}
	c, objects, problems, err := kube.LoadPolicies(ctx, cfg)
	if err != nil {
		return environment(err)
	}
	c.Name = s.clusterName // LoadPolicies lists more than liveCluster does
	s.printProblems(problems)
	list := policyStates(c, objects, nodes, f)
	if s.output == "json" {
		err = s.asJSON(map[string]any{"policies": list})
	} else {
		err = s.printPolicies(list)
	}
	if err == nil && slices.ContainsFunc(list, func(p policyState) bool { return len(p.Enforcing) < p.Nodes || model.HasErrors(p.Problems) }) {
		err = exit{code: ExitFindings}
	}
	return err
}

func policyStates(c *model.Cluster, objects []kube.PolicyObject, nodes []kube.NodeState, f getFlags) []policyState {
	list := []policyState{}
	m := engine.Compile(c)
	for _, o := range objects {
		if !f.wants(o.Source.Namespace) || f.kind != "" && f.kind != strings.ToLower(o.Source.Kind) {
			continue
		}
		x := policyState{
			APIVersion: o.Source.APIVersion, Kind: o.Source.Kind, Namespace: o.Source.Namespace, Name: o.Source.Name,
			Nodes: len(c.Nodes), Enforcing: []string{}, Problems: append([]model.Problem{}, o.Problems...),
		}
		selected := map[*model.Endpoint]struct{}{}
		for _, p := range o.Policies {
			for _, e := range m.Selected(p.Subject) {
				selected[e] = struct{}{}
			}
		}
		x.Selected = len(selected)
		for i := range nodes {
			if nodes[i].Enforces(o.Resource, o.Version) {
				x.Enforcing = append(x.Enforcing, nodes[i].Node)
			}
		}
		list = append(list, x)
	}
	return list
}

// kindOf is the kind, with its group where Kubernetes has a kind of that name.
func kindOf(apiVersion, kind string) string {
	if group, _, _ := strings.Cut(apiVersion, "/"); kind == networkpolicy.Kind && apiVersion != networkpolicy.APIVersion {
		return kind + "." + group
	}
	return kind
}

func (s *session) printPolicies(list []policyState) error {
	p := paint(s.stdout)
	return report.Table(s.stdout, width(s.stdout), []string{"NAMESPACE", "POLICY", "KIND", "PODS", "NODES", "PROBLEMS"}, func(yield func([]string) bool) {
		for _, x := range list {
			nodes := fmt.Sprintf("%d/%d", len(x.Enforcing), x.Nodes)
			if len(x.Enforcing) < x.Nodes {
				nodes = p.Colour("31", nodes)
			}
			var problems []string
			for _, q := range x.Problems {
				problems = append(problems, strings.TrimPrefix(q.Source.Field+": ", ": ")+q.Message)
			}
			if !yield([]string{x.Namespace, x.Name, kindOf(x.APIVersion, x.Kind), fmt.Sprint(x.Selected), nodes, strings.Join(problems, "; ")}) {
				return
			}
		}
	})
}

func (s *session) getNodes(ctx context.Context, f getFlags) error {
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return environment(err)
	}
	list, err := kube.NodeStates(ctx, cfg)
	if err != nil {
		return environment(err)
	}
	list = slices.DeleteFunc(list, func(n kube.NodeState) bool { return f.node != "" && f.node != n.Node })
	if s.output == "json" {
		type named struct {
			Node string `json:"node"`
			kube.NodeState
		}
		out := []named{}
		for _, n := range list {
			out = append(out, named{n.Node, n})
		}
		err = s.asJSON(map[string]any{"nodes": out})
	} else {
		err = report.Table(s.stdout, width(s.stdout), []string{"NODE", "READY", "REVISION", "PODS", "POLICIES", "UPDATED", "VERSION", "DEGRADED"}, func(yield func([]string) bool) {
			for _, n := range list {
				if !yield([]string{n.Node, fmt.Sprint(n.Ready), fmt.Sprint(n.Revision), fmt.Sprint(n.Endpoints), fmt.Sprint(n.Policies), ago(n.Updated), n.Version, strings.Join(n.Degraded, "; ")}) {
					return
				}
			}
		})
	}
	if err == nil && slices.ContainsFunc(list, func(n kube.NodeState) bool { return !n.Ready }) {
		err = exit{code: ExitFindings}
	}
	return err
}

func (s *session) getEndpoints(ctx context.Context, f getFlags) error {
	clients, err := s.agents(ctx, f.nodeFlags)
	if err != nil {
		return err
	}
	list := []api.Endpoint{}
	for _, name := range sortedKeys(clients) {
		some, err := clients[name].Endpoints(ctx)
		if err != nil {
			return environment(err)
		}
		for _, e := range some {
			namespace, _, _ := strings.Cut(e.Pod, "/")
			// Of several nodes, each tells of its own pods.
			if f.wants(namespace) && (len(clients) == 1 || e.Local) {
				list = append(list, e)
			}
		}
	}
	slices.SortFunc(list, func(a, b api.Endpoint) int { return strings.Compare(a.Pod, b.Pod) })
	if s.output == "json" {
		return s.asJSON(map[string]any{"endpoints": list})
	}
	return report.Table(s.stdout, width(s.stdout), []string{"POD", "NODE", "ADDRESSES", "IDENTITY", "ENFORCED", "DEVICE", "EGRESS", "INGRESS"}, func(yield func([]string) bool) {
		for _, e := range list {
			enforced := "elsewhere"
			if e.Local {
				enforced = map[bool]string{true: "yes", false: "closed"}[e.Enforced]
			}
			if !yield([]string{e.Pod, e.Node, strings.Trim(fmt.Sprint(e.IPs), "[]"), fmt.Sprint(e.Identity), enforced, e.Device, isolated(e.Egress), isolated(e.Ingress)}) {
				return
			}
		}
	})
}

func isolated(policies []string) string {
	if len(policies) == 0 {
		return "open"
	}
	return strings.Join(policies, ", ")
}

func (s *session) getIdentities(ctx context.Context, f getFlags) error {
	clients, err := s.agents(ctx, f.nodeFlags)
	if err != nil {
		return err
	}
	// Every node numbers its own: the first one's are shown unless one is named.
	list, err := clients[sortedKeys(clients)[0]].Identities(ctx)
	if err != nil {
		return environment(err)
	}
	if s.output == "json" {
		return s.asJSON(map[string]any{"identities": list})
	}
	return report.Table(s.stdout, width(s.stdout), []string{"IDENTITY", "PREFIXES", "PODS"}, func(yield func([]string) bool) {
		for _, x := range list {
			if !yield([]string{fmt.Sprint(x.Identity), strings.Join(x.Prefixes, ", "), strings.Join(x.Endpoints, ", ")}) {
				return
			}
		}
	})
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}
