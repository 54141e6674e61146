package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// liveInput is the word for the live cluster in the place of a path.
const liveInput = "cluster"

var (
	errNothingInCommon = errors.New("no pod is on both sides, so there is nothing to compare: give the workloads that both have with -f")
	errBroken          = errors.New("the input has errors; nothing was computed")
)

type diffFlags struct {
	kubeconfig string
	contexts   []string
	exitZero   bool
}

func newDiff(s *session) *cobra.Command {
	var f diffFlags
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Which connections open and which close between two inputs",
		Long: `Compares two inputs exactly: which connections open and close, between which
workloads, on which ports, and with which addresses outside the cluster. OLD
and NEW are files, folders, - for standard input, or "cluster" for the live
cluster; what both have in common, such as the workloads beside two folders of
policies, is given with -f. With --context twice and without OLD and NEW, two
live clusters are compared.

Pods that only one side has are listed and not compared. "opens to the proxy"
is what may pass if conditions hold that only a proxy can check.

Exit code 0 if no connection differs, 1 if one does.`,
		Example: `  sallyport diff before/ after/
  sallyport diff old-policies.yaml new-policies.yaml -f workloads/
  sallyport diff cluster manifests/ --context production -o json
  sallyport diff --context staging --context production
  git show HEAD~1:policies.yaml | sallyport diff - policies.yaml -f workloads/ -o md`,
		Args: cobra.MaximumNArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{liveInput}, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error { return s.diff(c.Context(), args, f) },
	}
	s.inputFlags(c)
	c.Flags().Lookup("filename").Usage = "file or folder of manifests that both sides have (repeatable)"
	s.outputFlag(c, "table", report.DiffFormats...)
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "the live clusters' kubeconfig; without it as kubectl finds it")
	c.Flags().StringArrayVar(&f.contexts, "context", nil, `context of the kubeconfig, once for each "cluster"`)
	c.Flags().BoolVar(&f.exitZero, "exit-zero", false, "exit code 0 also if connections differ")
	return c
}

// input is one side of a comparison.
type input struct {
	path, context string
	matrix        *engine.Matrix
	problems      []model.Problem
}

// inputs are the two sides that the command line names.
func (f diffFlags) inputs(args []string) (*[2]input, error) {
	switch {
	case len(args) == 0 && len(f.contexts) == 2:
		args = []string{liveInput, liveInput}
	case len(args) != 2:
		return nil, usage("diff needs OLD and NEW, or --context twice")
	}
	var out [2]input
	contexts := f.contexts
	for i, a := range args {
		out[i].path = a
		if a == liveInput && len(contexts) > 0 {
			out[i].context, contexts = contexts[0], contexts[1:]
		}
	}
	switch {
	case len(contexts) > 0:
		return nil, usage(`there are more --context than "cluster"`)
	case args[0] == liveInput && args[1] == liveInput && out[0].context == out[1].context:
		return nil, usage("both sides are the same cluster: give --context twice")
	case args[0] == manifest.Stdin && args[1] == manifest.Stdin:
		return nil, usage("both sides are standard input")
	}
	return &out, nil
}

func (s *session) diff(ctx context.Context, args []string, f diffFlags) error {
	hasty()
	if !slices.Contains(report.DiffFormats, s.output) {
		return usage("unknown output format %q: one of %v", s.output, report.DiffFormats)
	}
	sides, err := f.inputs(args)
	if err != nil {
		return err
	}
	profile, err := s.reading()
	if err != nil {
		return err
	}
	p := s.progress("reading and comparing", 0)
	common := manifest.NewCommon(len(sides))
	g, ctx := errgroup.WithContext(ctx)
	for i := range sides {
		g.Go(func() error { return s.read(ctx, &sides[i], f.kubeconfig, profile, common) })
	}
	err = g.Wait()
	p.end()
	for i := range sides {
		s.printProblems(sides[i].problems)
	}
	if err != nil {
		return err
	}
	d := diff.Compare(sides[0].matrix, sides[1].matrix)
	if d.Compared == 0 {
		return exit{ExitInput, errNothingInCommon}
	}
	if err := report.Diff(s.stdout, width(s.stdout), s.output, d); err != nil {
		return err
	}
	if d.Relation() != diff.Equivalent && !f.exitZero {
		return exit{code: ExitFindings}
	}
	return nil
}

// read reads and compiles one side.
func (s *session) read(ctx context.Context, in *input, kubeconfig string, profile dialect.Profile, common *manifest.Common) error {
	cluster, err := s.clusterOf(ctx, in, kubeconfig, common)
	if err != nil {
		return err
	}
	profile.Read(cluster.Policies)
	cluster.Name = s.clusterName
	in.matrix = engine.Compile(cluster)
	return nil
}

func (s *session) clusterOf(ctx context.Context, in *input, kubeconfig string, common *manifest.Common) (*model.Cluster, error) {
	if in.path == liveInput {
		cfg, err := kube.Connect(kubeconfig, in.context)
		if err != nil {
			return nil, environment(err)
		}
		c, problems, err := s.liveCluster(ctx, cfg)
		if err != nil {
			return nil, err
		}
		// What is wrong in a cluster is enforced closed; that is what is compared.
		in.problems = problems
		return c, nil
	}
	r, err := manifest.Load(append([]string{in.path}, s.files...), s.stdin, manifest.Options{DualStack: s.dualStack, Nodes: s.nodes, Common: common})
	if err != nil {
		return nil, exit{ExitInput, err}
	}
	in.problems = r.Problems
	if model.HasErrors(r.Problems) {
		return nil, exit{ExitInput, errBroken}
	}
	return r.Cluster, nil
}
