package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// known is what the manifests of -f have, as far as they can be read: who
// presses Tab gets no complaints.
func (s *session) known() *model.Cluster {
	if len(s.files) == 0 || slices.Contains(s.files, "-") {
		return &model.Cluster{}
	}
	r, err := manifest.Load(s.files, nil, manifest.Options{})
	if err != nil {
		return &model.Cluster{}
	}
	return r.Cluster
}

// completeEnds offers the ends of a connection: workloads, pods and, for a
// destination, Services.
func (s *session) completeEnds(c *model.Cluster, destination bool) []string {
	var out []string
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		out = append(out, e.Key(), e.Namespace+"/"+e.Workload.Name)
	}
	if destination {
		for i := range c.Services {
			out = append(out, "svc/"+c.Services[i].Namespace+"/"+c.Services[i].Name)
		}
	}
	slices.Sort(out)
	return append(slices.Compact(out), "external")
}

// completePorts offers the ports that pods of the destination declare.
func (s *session) completePorts(c *model.Cluster, destination string) []string {
	var out []string
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		if destination != e.Key() && destination != e.Namespace+"/"+e.Workload.Name {
			continue
		}
		for _, p := range e.Ports {
			out = append(out, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// completeConnection completes SRC DST [PORT].
func (s *session) completeConnection(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	switch c := s.known(); len(args) {
	case 0:
		out = append(s.completeEnds(c, false), "node")
	case 1:
		out = append(s.completeEnds(c, true), "node")
	case 2:
		out = s.completePorts(c, args[1])
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeFlag makes the flags complete the ends of a connection.
func (s *session) completeFlag(c *cobra.Command, destination bool, flags ...string) {
	for _, f := range flags {
		_ = c.RegisterFlagCompletionFunc(f, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return s.completeEnds(s.known(), destination), cobra.ShellCompDirectiveNoFileComp
		})
	}
}
