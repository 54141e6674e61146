package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/report"
)

// nodeFlags say which agent to ask: that of this machine, by its socket, or
// those of a live cluster, through the API server.
type nodeFlags struct {
	socket, node string
}

func (s *session) nodeFlags(c *cobra.Command, f *nodeFlags) {
	c.Flags().StringVar(&f.socket, "socket", api.Socket, "the agent's socket, on its node")
	c.Flags().StringVar(&f.node, "node", "", "the node to ask, through the API server")
	s.cluster.add(c)
}

// agents makes a client for the agent of this machine, if one is here and no
// cluster was named, and else for the cluster's: of the node, or of all nodes.
func (s *session) agents(ctx context.Context, f nodeFlags) (map[string]*api.Client, error) {
	if _, err := os.Stat(f.socket); err == nil && f.node == "" && s.cluster == (clusterFlags{}) {
		return map[string]*api.Client{"": api.NewClient(f.socket)}, nil
	}
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return nil, environment(fmt.Errorf("there is no agent at %s on this machine, and %w", f.socket, err))
	}
	return clusterAgents(ctx, cfg, f.node)
}

func clusterAgents(ctx context.Context, cfg *kube.Connection, node string) (map[string]*api.Client, error) {
	pods, err := kube.Agents(ctx, cfg)
	if err != nil {
		return nil, environment(err)
	}
	out := map[string]*api.Client{}
	for name, pod := range pods {
		if node != "" && node != name {
			continue
		}
		out[name] = api.NewClientBy("node "+name, func(ctx context.Context) (net.Conn, error) {
			return kube.DialAgent(ctx, cfg, pod, "/sallyport", "relay")
		})
	}
	if len(out) == 0 {
		return nil, environment(fmt.Errorf("no agent runs on node %s", node))
	}
	return out, nil
}

// newRelay is how the API server's users reach an agent: a command that is run
// in the agent's pod.
func newRelay(s *session) *cobra.Command {
	var socket string
	c := &cobra.Command{
		Use: "relay", Short: "Pass standard input and output on to the agent's socket", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			c, err := net.Dial("unix", socket)
			if err != nil {
				return environment(err)
			}
			defer c.Close()
			go func() {
				_, _ = io.Copy(c, s.stdin)
				_ = c.(*net.UnixConn).CloseWrite()
			}()
			_, err = io.Copy(s.stdout, c)
			return err
		},
	}
	c.Flags().StringVar(&socket, "socket", api.Socket, "the agent's socket")
	return c
}

func newStatus(s *session) *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use: "status", Short: "Health of the agent of this node, or of every node", Args: cobra.NoArgs,
		Long: `Asks the agent of this machine, or with a kubeconfig those of the cluster's
nodes. Exit code 1 if one of them does not enforce what the API server says.`,
		Example: "  sudo sallyport status\n  sallyport status --kubeconfig admin.conf --node worker-1 -o json",
		RunE:    func(c *cobra.Command, _ []string) error { return s.status(c.Context(), f) },
	}
	s.nodeFlags(c, &f)
	s.outputFlag(c, "table", "table", "json")
	return c
}

func (s *session) status(ctx context.Context, f nodeFlags) error {
	clients, err := s.agents(ctx, f)
	if err != nil {
		return err
	}
	var list []api.Status
	for _, name := range sortedKeys(clients) {
		x, err := clients[name].Status(ctx)
		if err != nil {
			x = api.Status{Node: name, Degraded: []string{err.Error()}}
		}
		list = append(list, x)
	}
	if s.output == "json" {
		err = s.asJSON(map[string]any{"nodes": list})
	} else {
		err = s.printStatus(list)
	}
	if err == nil && slices.ContainsFunc(list, func(x api.Status) bool { return !x.Ready }) {
		err = exit{code: ExitFindings}
	}
	return err
}

func (s *session) printStatus(list []api.Status) error {
	p := paint(s.stdout)
	err := report.Table(s.stdout, width(s.stdout), []string{"NODE", "STATE", "REVISION", "PODS", "POLICIES", "IDENTITIES", "DENIED", "LOST", "VERSION"}, func(yield func([]string) bool) {
		for _, x := range list {
			state := p.Colour("32", "ready")
			if !x.Ready {
				state = p.Colour("31", "not ready")
			} else if len(x.Degraded) > 0 {
				state = p.Colour("33", "degraded")
			}
			var denied uint64
			for reason, n := range x.Events.Packets {
				if reason != "allowed" && reason != "unjudged" {
					denied += n
				}
			}
			if !yield([]string{x.Node, state, fmt.Sprint(x.Revision), fmt.Sprint(x.Local), fmt.Sprint(x.Policies), fmt.Sprint(x.Identities), fmt.Sprint(denied), fmt.Sprint(x.Events.Lost), x.Version}) {
				return
			}
		}
	})
	for _, x := range list {
		for _, why := range x.Degraded {
			fmt.Fprintf(s.stdout, "%s: %s\n", x.Node, p.Colour("33", why))
		}
		for _, q := range x.Problems {
			fmt.Fprintf(s.stdout, "%s: %s\n", x.Node, q.Error())
		}
		for _, t := range x.Tables {
			if t.Size > 0 && t.Used*10 >= t.Size*8 {
				fmt.Fprintf(s.stdout, "%s: %s\n", x.Node, p.Colour("33", fmt.Sprintf("table %s is filled to %d %%: %d of %d entries", t.Name, t.Used*100/t.Size, t.Used, t.Size)))
			}
		}
	}
	return err
}

func newMonitor(s *session) *cobra.Command {
	var f nodeFlags
	var filter api.FlowFilter
	var kind string
	var verbose bool
	c := &cobra.Command{
		Use: "monitor", Short: "Live verdicts with the policies that decide", Args: cobra.NoArgs,
		Long: `Shows denied connections as they happen, with --type all the new allowed ones
too: who, whom, on which port, and the policies that decided.`,
		Example: "  sudo sallyport monitor\n  sallyport monitor --kubeconfig admin.conf --pod shop/db --type all -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			verdict, ok := map[string]string{"drop": "denied", "allow": "allowed", "all": ""}[kind]
			if !ok {
				return usage("--type %s: drop, allow or all", kind)
			}
			filter.Verdict = verdict
			return s.monitor(c.Context(), f, filter, verbose)
		},
	}
	s.nodeFlags(c, &f)
	s.outputFlag(c, "line", "line", "json")
	c.Flags().StringVar(&kind, "type", "drop", "drop, allow or all")
	c.Flags().StringVar(&filter.Pod, "pod", "", "only connections of this pod, NAMESPACE/NAME")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "with every detail")
	return c
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (s *session) asJSON(v any) error {
	e := json.NewEncoder(s.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
