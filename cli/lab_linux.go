package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/lab"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/sallyport-dev/sallyport/report"
)

// probeTimeout is how long a probe waits before it counts as dropped. In the
// lab an answer comes within a millisecond; Observe is more patient with what
// is allowed.
const probeTimeout = 500 * time.Millisecond

// downTimeout is how long a lab that is up may take to end.
const downTimeout = 15 * time.Second

type labFlags struct {
	probe, watch bool
	test         string
}

func newLab(s *session) *cobra.Command {
	var f labFlags
	c := &cobra.Command{
		Use:   "lab -f MANIFESTS",
		Short: "Turn manifests into pods on this machine and enforce their policies in the kernel",
		Long: `Makes a network namespace for every pod and node of the input, serves every
declared container port, translates Services, answers DNS, and enforces the
policies with the same agent that runs in a cluster. It stays up until it is
interrupted, and removes everything then. Needs root.`,
		Example: `  sudo sallyport lab -f manifests/ --nodes 3 --watch
  sudo sallyport lab -f manifests/ --probe
  sudo sallyport lab -f manifests/ --test expectations.yaml
  sudo sallyport lab exec shop/web -- curl -m 2 http://db.shop:5432
  sudo sallyport lab down`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.lab(c.Context(), f) },
	}
	s.inputFlags(c)
	c.Flags().BoolVar(&f.probe, "probe", false, "connect every pair on every port, compare with what was computed, and exit")
	c.Flags().StringVar(&f.test, "test", "", "run this PolicyTest with real connections, and exit")
	c.Flags().BoolVar(&f.watch, "watch", false, "watch the files and apply every change")
	c.AddCommand(newLabExec(s), newLabDown())
	return c
}

func newLabExec(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "exec NAMESPACE/POD -- COMMAND", Short: "Run a command in a pod of the lab that is up", Args: cobra.MinimumNArgs(2),
		Long: `Runs the command in the pod's network namespace, with the cluster's DNS. It
ends with the pod, if not before. The exit code is the command's.`,
		Example: "  sudo sallyport lab exec shop/web -- curl -m 2 http://db.shop:5432",
		RunE: func(c *cobra.Command, args []string) error {
			err := lab.ExecIn(c.Context(), args[0], args[1:], s.stdin, s.stdout, s.stderr)
			var failed *exec.ExitError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &failed) && failed.ExitCode() > 0:
				return exit{code: failed.ExitCode()}
			}
			return environment(err)
		},
	}
}

func newLabDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove everything that a lab left on this machine", Args: cobra.NoArgs,
		Long: `Ends the lab that is up, and removes what a lab that was killed has left:
network namespaces, what runs in them, BPF programs and state.`,
		Example: "  sudo sallyport lab down",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := requireRoot(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), downTimeout)
			defer cancel()
			unlock, err := lab.TakeOver(ctx)
			if err != nil {
				return environment(err)
			}
			defer unlock()
			if err := agent.RemoveLab(); err != nil {
				return environment(err)
			}
			return nil
		},
	}
}

func requireRoot() error {
	if os.Geteuid() != 0 {
		return environment(errors.New("the lab needs root, for network namespaces and BPF; run it with sudo"))
	}
	return nil
}

func (s *session) lab(ctx context.Context, f labFlags) (err error) {
	if err := requireRoot(); err != nil {
		return err
	}
	var w *watcher
	if f.watch { // from before the first reading: no change is missed
		if w, err = watch(s.files); err != nil {
			return exit{ExitInput, err}
		}
		defer w.close()
	}
	r, err := s.load()
	if err != nil {
		return err
	}
	began := time.Now()
	l, err := s.startLab(ctx, lab.WithDNS(r.Cluster))
	if err != nil {
		return environment(err)
	}
	defer func() {
		if stopErr := l.Stop(); stopErr != nil && err == nil {
			err = environment(stopErr)
		}
	}()
	fmt.Fprintf(s.stderr, "lab is up: %d pods on %d nodes, %d policies enforced (%s)\n",
		len(l.Cluster().Endpoints), len(l.Cluster().Nodes), len(l.Cluster().Policies), time.Since(began).Round(time.Millisecond))
	switch {
	case f.test != "":
		return s.labTest(ctx, l, r, f.test)
	case f.probe:
		return s.labProbe(ctx, l)
	}
	return s.labStay(ctx, l, w)
}

// startLab starts a lab; another one of this machine may have to end first.
func (s *session) startLab(ctx context.Context, c *model.Cluster) (*agent.Lab, error) {
	p := s.progress(fmt.Sprintf("starting %d pods on %d nodes", len(c.Endpoints), len(c.Nodes)), 0)
	defer p.end()
	return agent.StartLab(ctx, c)
}

// observe runs the probes and fills in their outcomes.
func (s *session) observe(ctx context.Context, l *agent.Lab, list []agent.Observation) {
	p := s.progress("connecting", len(list))
	defer p.end()
	l.ObserveEach(ctx, list, probeTimeout, p.step)
}

// labStay keeps the lab up, following the files if there is a watcher. Input that is
// wrong changes nothing: the last good state holds.
func (s *session) labStay(ctx context.Context, l *agent.Lab, w *watcher) error {
	ctx, cancel := l.Removed(ctx)
	defer cancel()
	fmt.Fprintln(s.stderr, "run a command in a pod with: sallyport lab exec NAMESPACE/POD -- COMMAND; end with Ctrl-C")
	if w == nil {
		<-ctx.Done()
		return nil
	}
	return w.run(ctx, func(err error) {
		if err != nil {
			fmt.Fprintln(s.stderr, "some changes will not be seen:", err)
		}
		began := time.Now()
		r, err := s.load()
		if err == nil {
			err = l.Update(ctx, lab.WithDNS(r.Cluster))
		}
		if err != nil {
			fmt.Fprintln(s.stderr, "not applied, the last good state holds:", err)
			return
		}
		fmt.Fprintf(s.stderr, "applied: %d policies (%s)\n", len(r.Cluster.Policies), time.Since(began).Round(time.Millisecond))
	})
}

// labProbe prints what was observed beside what was computed.
func (s *session) labProbe(ctx context.Context, l *agent.Lab) error {
	list := l.Pairs()
	fmt.Fprintf(s.stderr, "probing %d connections\n", len(list))
	s.observe(ctx, l, list)
	return s.printObservations(list)
}

func (s *session) printObservations(list []agent.Observation) error {
	p := paint(s.stdout)
	wrong := 0
	for _, o := range list {
		if !o.Agrees() {
			wrong++
		}
	}
	err := report.Table(s.stdout, width(s.stdout), []string{"FROM", "TO", "PORT", "COMPUTED", "OBSERVED"}, func(yield func([]string) bool) {
		for _, o := range list {
			observed := o.Outcome.String()
			if !o.Agrees() {
				observed += "  " + p.Colour("31", "differs")
			}
			if !yield([]string{o.From, o.To, model.PortKeyOf(o.Protocol, o.Port).String(), p.Verdict(verdictWord(o.Computed.Allowed)), observed}) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%d connections as computed, %d not\n", len(list)-wrong, wrong)
	if wrong > 0 {
		return exit{code: ExitFindings}
	}
	return nil
}

// labTest runs a PolicyTest with real connections.
func (s *session) labTest(ctx context.Context, l *agent.Lab, r *manifest.Result, file string) error {
	cases, err := s.cases(r.Tests, []string{file})
	if err != nil {
		return err
	}
	results, err := observeCases(ctx, l.Matrix, cases, labProber{s, l})
	if err != nil {
		return environment(err)
	}
	return s.conclude(results, func(r []caseResult) error { return printTestText(s.stdout, paint(s.stdout), r) })
}

// labProber connects from the lab's pods, nodes and outside.
type labProber struct {
	*session
	*agent.Lab
}

func (p labProber) probe(ctx context.Context, list []connection) ([]api.Outcome, error) {
	observations := make([]agent.Observation, len(list))
	for i, k := range list {
		var err error
		if observations[i], err = p.Observation(k.From, k.To, k.Key); err != nil {
			return nil, err
		}
	}
	p.observe(ctx, p.Lab, observations)
	out := make([]api.Outcome, len(list))
	for i, o := range observations {
		out[i].Result = o.Outcome.String()
	}
	return out, nil
}
