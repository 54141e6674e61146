// Package cli is the command line: one file per command, the same flags and
// exit codes everywhere. Results go to standard output, diagnostics to
// standard error. Commands wire packages together and decide nothing
// themselves; they are tested through Run.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/kube"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// The exit codes of every command.
const (
	ExitFine        = 0 // fine, allowed
	ExitFindings    = 1 // denied, failed expectations, differences
	ExitUsage       = 2 // the command line is wrong
	ExitEnvironment = 3 // no permission, no cluster, kernel too old
	ExitInput       = 4 // a Problem of severity error
)

// exit is an error that carries the exit code; with an empty message the
// command has said everything already.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func usage(format string, args ...any) error { return exit{ExitUsage, fmt.Errorf(format, args...)} }

func environment(err error) error { return exit{ExitEnvironment, err} }

// session is what every command is given.
type session struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	files          []string
	output         string
	dualStack      bool
	nodes          int
	profile        string
	clusterName    string
	cluster        clusterFlags
}

// clusterFlags say how to reach a live cluster.
type clusterFlags struct{ kubeconfig, context string }

func (f *clusterFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "the live cluster's kubeconfig; without it as kubectl finds it")
	c.Flags().StringVar(&f.context, "context", "", "context of the kubeconfig")
}

// Run runs one command line and returns its exit code.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, terminate)
	defer stop()
	root := newRoot(&session{stdin: stdin, stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitFine
	}
	code := ExitUsage
	var e exit
	if errors.As(err, &e) {
		code = e.code
	}
	if err.Error() != "" {
		fmt.Fprintln(stderr, "sallyport:", err)
	}
	if code == ExitUsage {
		fmt.Fprintln(stderr, "Run 'sallyport --help', or --help behind a command.")
	}
	return code
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Enforces network policies, and says why a connection may or may not pass",
		Long: `Sallyport enforces Kubernetes network policies in the kernel, and answers from
the same compiled matrix who reaches whom, and why or why not.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newMatrix(s), newExplain(s), newTest(s), newLint(s), newWhoCan(s), newDiff(s), newConvert(s), newRecommend(s), newCheck(s), newGet(s), newStatus(s), newMonitor(s), newRelay(s), newVersion(s))
	root.AddCommand(platformCommands(s)...)
	return root
}

// hasty is for commands that answer and end: garbage is collected later, for
// half as much memory again. Who sets GOGC knows better.
func hasty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// inputFlags adds the flags of commands that read manifests.
func (s *session) inputFlags(c *cobra.Command) {
	c.Flags().StringArrayVarP(&s.files, "filename", "f", nil, "file or folder of manifests, - for standard input (repeatable)")
	c.Flags().BoolVar(&s.dualStack, "dual-stack", false, "give pods, nodes and Services IPv6 addresses too")
	c.Flags().IntVar(&s.nodes, "nodes", 1, "nodes to assume where the input has no Node")
	c.Flags().StringVar(&s.profile, "profile", "", "read what Kubernetes leaves open as kubernetes, calico or cilium does (default kubernetes)")
	clusterNameFlag(c, &s.clusterName)
	_ = c.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions([]string{"kubernetes", "calico", "cilium"}, cobra.ShellCompDirectiveNoFileComp))
}

// clusterNameFlag adds --cluster-name, which must be the same everywhere.
func clusterNameFlag(c *cobra.Command, name *string) {
	c.Flags().StringVar(name, "cluster-name", os.Getenv("SALLYPORT_CLUSTER_NAME"), "this cluster's name, for policies that name clusters (default \"default\", else $SALLYPORT_CLUSTER_NAME)")
}

// liveFlags adds the flags of commands that read a live cluster where no
// manifests are given.
func (s *session) liveFlags(c *cobra.Command) {
	s.inputFlags(c)
	s.cluster.add(c)
}

// outputFlag adds -o with its values.
func (s *session) outputFlag(c *cobra.Command, standard string, values ...string) {
	c.Flags().StringP("output", "o", standard, fmt.Sprintf("output format: %v", values))
	c.PreRunE = func(c *cobra.Command, _ []string) (err error) {
		s.output, err = c.Flags().GetString("output")
		return err
	}
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// loadAny reads the manifests or, without any, the live cluster.
func (s *session) loadAny(ctx context.Context) (*manifest.Result, error) {
	if len(s.files) > 0 {
		return s.load()
	}
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return nil, usage("no input: give manifests with -f, or a live cluster (%v)", err)
	}
	p := s.progress("reading the cluster", 0)
	c, problems, err := s.liveCluster(ctx, cfg)
	p.end()
	if err != nil {
		return nil, err
	}
	// What is wrong in a cluster is enforced closed; that is what is answered.
	s.printProblems(problems)
	return &manifest.Result{Cluster: c, Problems: problems}, s.readAs(c)
}

// liveCluster lists the live cluster once, by the name that was given.
func (s *session) liveCluster(ctx context.Context, cfg *kube.Connection) (*model.Cluster, []model.Problem, error) {
	c, problems, err := kube.Load(ctx, cfg)
	if err != nil {
		return nil, nil, environment(err)
	}
	c.Name = s.clusterName
	return c, problems, nil
}

// load reads the manifests and prints their problems. With an error among
// them it fails, since answers about a part of the input would be wrong.
func (s *session) load() (*manifest.Result, error) {
	if len(s.files) == 0 {
		return nil, usage("no input: give manifests with -f")
	}
	p := s.progress("reading manifests", 0)
	r, err := manifest.Load(s.files, s.stdin, manifest.Options{DualStack: s.dualStack, Nodes: s.nodes})
	p.end()
	if err != nil {
		return nil, exit{ExitInput, err}
	}
	s.printProblems(r.Problems)
	if model.HasErrors(r.Problems) {
		return nil, exit{ExitInput, errBroken}
	}
	return r, s.readAs(r.Cluster)
}

// readAs has the policies read as the profile that was asked for reads them,
// in the cluster of the name that was given.
func (s *session) readAs(c *model.Cluster) error {
	p, err := s.reading()
	if err != nil {
		return err
	}
	p.Read(c.Policies)
	c.Name = s.clusterName
	return nil
}

// reading is the profile that was asked for; it says which, if one was.
func (s *session) reading() (dialect.Profile, error) {
	p, err := dialect.ParseProfile(s.profile)
	if err != nil {
		return "", usage("%v", err)
	}
	if s.profile != "" {
		fmt.Fprintf(s.stderr, "policies are read as %s reads them\n", p)
	}
	return p, nil
}

func (s *session) printProblems(problems []model.Problem) {
	p := paint(s.stderr)
	for _, x := range problems {
		line := x.Error()
		switch x.Severity {
		case model.Error:
			line = p.Colour("31", line)
		case model.Warning:
			line = p.Colour("33", line)
		}
		fmt.Fprintln(s.stderr, line)
	}
}
