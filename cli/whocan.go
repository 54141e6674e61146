package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/policytest"
	"github.com/sallyport-dev/sallyport/report"
)

func newWhoCan(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "who-can", Short: "Who reaches a pod, and whom it reaches", Args: cobra.NoArgs,
		Long: `Lists the other ends of every connection that passes both doors: workloads,
addresses outside, and pods that do not exist yet. "NAMESPACE/(any pod)" is a
pod without labels that somebody may start there, "(new namespace)/(any pod)"
one in a namespace without labels that somebody may make.`,
	}
	for _, x := range []struct {
		use, short string
		inward     bool
	}{
		{"reach NS/POD [PORT]", "Who can open a connection to the pod or workload", true},
		{"be-reached-from NS/POD [PORT]", "To whom the pod or workload can open a connection", false},
	} {
		name := x.use[:len(x.use)-len(" NS/POD [PORT]")]
		sub := &cobra.Command{
			Use: x.use + " -f MANIFESTS", Short: x.short, Args: cobra.RangeArgs(1, 2), ValidArgsFunction: s.completeConnection,
			Example: "  sallyport who-can " + name + " shop/db 5432 -f manifests/\n  sallyport who-can " + name + " shop/web -o json",
			RunE:    func(c *cobra.Command, args []string) error { return s.whoCan(c.Context(), args, x.inward) },
		}
		s.liveFlags(sub)
		s.outputFlag(sub, "table", "table", "csv", "json", "md")
		c.AddCommand(sub)
	}
	return c
}

func (s *session) whoCan(ctx context.Context, args []string, inward bool) error {
	f := matrixFlags{external: true, from: args[0]}
	if inward {
		f.from, f.to = "", args[0]
	}
	only := model.AllPorts()
	if len(args) > 1 {
		p, err := policytest.ParsePort(args[1], model.TCP)
		if err != nil || p.Name != "" {
			return usage("port %s: a number, a range or NUMBER/PROTOCOL", args[1])
		}
		only = model.PortSet{p.Interval}
	}
	r, err := s.loadAny(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(r.Cluster.Endpoints, func(e model.Endpoint) bool { return policytest.Names(args[0], &e) }) {
		return usage("%s matches no pod", args[0])
	}
	b := edgeBuilder{flags: f, only: only}
	b.compile(engine.Compile(withStrangers(r.Cluster)))
	edges := slices.DeleteFunc(b.edges, func(e report.Edge) bool { return implied(b.edges, e, inward) })
	if len(edges) == 0 {
		what := "nobody can reach " + args[0]
		if !inward {
			what = args[0] + " can reach nobody"
		}
		if len(args) > 1 {
			what += " on " + args[1]
		}
		fmt.Fprintln(s.stderr, what+"; sallyport explain says why, of each pair")
	}
	if s.output == "table" {
		return report.MatrixTable(s.stdout, width(s.stdout), edges)
	}
	return report.Matrix(s.stdout, s.output, edges)
}

const (
	anyPod       = "(any pod)"
	newNamespace = "(new namespace)"
)

// withStrangers adds a pod without labels to every namespace, and one in a
// namespace that nobody has made.
func withStrangers(c *model.Cluster) *model.Cluster {
	out := *c
	taken := map[netip.Addr]bool{}
	for i := range c.Endpoints {
		for _, a := range c.Endpoints[i].IPs {
			taken[a] = true
		}
	}
	namespaces := append(slices.Clone(c.Namespaces), model.Namespace{Name: newNamespace, Labels: map[string]string{model.MetadataName: newNamespace}})
	out.Namespaces, out.Endpoints = namespaces, slices.Clone(c.Endpoints)
	for _, n := range namespaces {
		e := model.Endpoint{Namespace: n.Name, Name: anyPod, ServiceAccount: "default", Workload: model.Workload{Kind: "Pod", Name: anyPod}}
		for _, r := range c.PodRanges {
			if a, ok := freeIn(r, taken); ok {
				taken[a] = true
				e.IPs = append(e.IPs, a)
			}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	slices.SortFunc(out.Endpoints, func(a, b model.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return &out
}

// freeIn is the last address of the range that no pod has: those who hand out
// addresses begin at the other end.
func freeIn(r netip.Prefix, taken map[netip.Addr]bool) (netip.Addr, bool) {
	for a := model.LastAddr(r).Prev(); r.Contains(a); a = a.Prev() {
		if !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// implied says whether the edge's other end is a stranger of one namespace who
// can do no more than one of a new namespace.
func implied(edges []report.Edge, e report.Edge, inward bool) bool {
	other := func(e report.Edge) string {
		if inward {
			return e.Source
		}
		return e.Destination
	}
	const everywhere = newNamespace + "/" + anyPod
	if other(e) == everywhere || !strings.HasSuffix(other(e), "/"+anyPod) {
		return false
	}
	return slices.ContainsFunc(edges, func(x report.Edge) bool { return other(x) == everywhere && x.Ports.String() == e.Ports.String() })
}
