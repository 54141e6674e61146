// Command cluster starts, uses and removes a real Kubernetes cluster on this
// machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/cluster"
	"github.com/sallyport-dev/sallyport/e2e/suite"
)

const usage = `usage: cluster COMMAND

  up [-nodes 3] [-cni ptp|bridge] [-dual-stack]   start a cluster and leave it up
  down                              remove it, or what is left of it
  kubeconfig                        print the path of its kubeconfig
  kubectl ARG...                    run its kubectl
  exec NODE PROGRAM ARG...          run a program on a node
  load IMAGE.tar...                 load images into all nodes
  install                           load bin/sallyport and apply deploy/sallyport.yaml
  suite [-procs 1] [-focus RE]      run upstream's NetworkPolicy suite
  programs                          build what the cache does not have, print where it is
`

// commands by name.
var commands = map[string]func(ctx context.Context, args []string) error{
	"up":         up,
	"down":       func(context.Context, []string) error { return cluster.Remove() },
	"kubeconfig": with(func(_ context.Context, c *cluster.Cluster, _ []string) error { fmt.Println(c.Kubeconfig); return nil }),
	"kubectl":    with(kubectl),
	"exec":       with(execute),
	"load":       with(load),
	"install":    with(func(ctx context.Context, c *cluster.Cluster, _ []string) error { return c.Install(ctx) }),
	"suite":      with(runSuite),
	"programs":   programs,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	err := commands[args[0]](ctx, args[1:])
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && (args[0] == "kubectl" || args[0] == "exec") {
		return exit.ExitCode() // the program has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return 0
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	o := cluster.Options{Log: os.Stderr}
	flags.IntVar(&o.Nodes, "nodes", 3, "how many nodes")
	flags.StringVar(&o.CNI, "cni", "ptp", "how pods are attached: ptp or bridge")
	flags.BoolVar(&o.Dual, "dual-stack", false, "IPv6 addresses, too")
	_ = flags.Parse(args)
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return err
	}
	if err := c.Leave(); err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", c.Kubeconfig, filepath.Dir(c.Program("kubectl")))
	return nil
}

// with runs a command on the cluster that is up.
func with(do func(context.Context, *cluster.Cluster, []string) error) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		c, err := cluster.Open()
		if err != nil {
			return err
		}
		return do(ctx, c, args)
	}
}

func kubectl(ctx context.Context, c *cluster.Cluster, args []string) error {
	return attach(exec.CommandContext(ctx, c.Program("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...))
}

func execute(ctx context.Context, c *cluster.Cluster, args []string) error {
	for _, n := range c.Nodes {
		if len(args) > 1 && n.Name == args[0] {
			return attach(n.Command(ctx, args[1:]...))
		}
	}
	return errors.New("exec wants a node, which `cluster kubectl get nodes` lists, and a program")
}

// attach runs a program in this one's place.
func attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func load(ctx context.Context, c *cluster.Cluster, args []string) error {
	if len(args) == 0 {
		return errors.New("load wants the tar of an image")
	}
	for _, tar := range args {
		if err := c.Load(ctx, tar); err != nil {
			return err
		}
	}
	return nil
}

func runSuite(ctx context.Context, c *cluster.Cluster, args []string) error {
	flags := flag.NewFlagSet("suite", flag.ExitOnError)
	var o suite.Options
	flags.IntVar(&o.Processes, "procs", 1, "how many specs run at once")
	flags.StringVar(&o.Focus, "focus", "", "regular expression of the specs to run")
	flags.StringVar(&o.Dir, "dir", filepath.Join(os.TempDir(), "sallyport-e2e-suite"), "where report and output go")
	_ = flags.Parse(args)
	r, err := suite.Run(ctx, c, o)
	if err != nil {
		return err
	}
	fmt.Println(r)
	want := suite.Specs
	if o.Focus != "" {
		want = max(1, r.Passed+len(r.Failed))
	}
	return r.Check(want)
}

func programs(ctx context.Context, _ []string) error {
	set, err := binary.Build(ctx, os.Stderr)
	if err == nil {
		fmt.Println(set.Dir)
	}
	return err
}
