package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/cni"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/kube"
)

type agentFlags struct {
	node, kubeconfig, context string
	socket, http, pin, spaces string
	podRanges                 []string
	cni                       bool
	cniConf, cniBin           string
	logFormat, logLevel       string
	pprof, closed, noReport   bool
}

func newAgent(s *session) *cobra.Command {
	var f agentFlags
	c := &cobra.Command{
		Use: "agent", Short: "Enforce the cluster's policies on this node", Args: cobra.NoArgs,
		Long: `Watches the API server and enforces the policies of this node's pods in the
kernel, until it is ended. What is enforced then stays enforced: an agent may
be killed or replaced at any time. "sallyport cleanup" ends the enforcement.

Addresses in the cluster's pod ranges that the agent does not know may neither
send nor receive. With --cni a pod starts only when its policies are in force.`,
		Example: `  sallyport agent --node "$NODE_NAME" --cni
  sudo sallyport agent --kubeconfig admin.conf --node worker-1 --log-format text`,
		RunE: func(c *cobra.Command, _ []string) error { return s.agent(c.Context(), f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "this node's name in the cluster ($NODE_NAME, else the host's name)")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "how to reach the API server; without it as kubectl does, or by the pod's service account")
	flags.StringVar(&f.context, "context", "", "context of the kubeconfig")
	flags.StringVar(&f.socket, "socket", api.Socket, "where this node's commands and the CNI plugin ask the agent")
	flags.StringVar(&f.http, "http", "127.0.0.1:9878", `address for /healthz, /readyz and /metrics; "" is none`)
	flags.BoolVar(&f.pprof, "pprof", false, "profiles at the HTTP address, below /debug/pprof/")
	flags.StringVar(&f.pin, "pin", bpf.DefaultPin, "folder of bpffs for maps and links")
	flags.StringVar(&f.spaces, "netns", "/run/netns", "folder with the pods' network namespaces, for probes")
	clusterNameFlag(c, &s.clusterName)
	flags.StringSliceVar(&f.podRanges, "pod-cidr", nil, "range of pod addresses beside those that nodes and IPAM objects name (repeatable)")
	flags.BoolVar(&f.cni, "cni", false, "keep the CNI plugin behind the node's CNI: pods start when their policies are in force")
	flags.StringVar(&f.cniConf, "cni-conf-dir", cni.ConfDir, "folder of CNI configurations")
	flags.StringVar(&f.cniBin, "cni-bin-dir", cni.BinDir, "folder of CNI plugins")
	flags.BoolVar(&f.closed, "fail-closed", true, "what cannot be decided is denied; there is no other way")
	flags.BoolVar(&f.noReport, "no-report", false, "write nothing to the API server: neither this node's NodeState nor the status of policies")
	flags.StringVar(&f.logFormat, "log-format", "json", "json or text")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

func (s *session) agent(ctx context.Context, f agentFlags) error {
	if !f.closed {
		return usage("--fail-closed=false: what cannot be decided is denied; there is no other way")
	}
	log, err := newLog(s.stderr, f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	ranges, err := f.ranges()
	if err != nil {
		return err
	}
	if err := requireRoot(); err != nil {
		return err
	}
	host, _ := os.Hostname()
	name := cmp.Or(f.node, strings.ToLower(host))
	cfg, err := kube.Connect(f.kubeconfig, f.context)
	if err != nil {
		return environment(err)
	}
	// A node is near the API server, and its processor is the pods'.
	cfg.DisableCompression = true
	world, err := kube.New(kube.Config{REST: cfg, Log: log, PodRanges: ranges, ClusterName: s.clusterName})
	if err != nil {
		return environment(err)
	}
	config := agent.NodeConfig{
		Name: name, World: world, Version: version, Log: log, Enforce: agent.Config{Pin: f.pin, NoMount: true},
		Socket: f.socket, HTTP: f.http, PProf: f.pprof, Spaces: f.spaces,
	}
	if !f.noReport {
		r, err := kube.NewReporter(cfg, name)
		if err != nil {
			return environment(err)
		}
		status, err := kube.NewStatusWriter(cfg, world, name, log)
		if err != nil {
			return environment(err)
		}
		config.Report, config.Status = r.Report, status.Run
	}
	n, err := agent.NewNode(config)
	if err != nil {
		return environment(err)
	}
	if f.cni {
		go keepPlugin(ctx, f, log)
	}
	if os.Getenv("GOGC") == "" {
		// On every node memory is worth more than the little time that this costs.
		debug.SetGCPercent(40)
	}
	log.Info("the agent starts", "node", name, "version", version)
	if err := n.Run(ctx); err != nil {
		return environment(err)
	}
	log.Info("the agent ends; what is enforced stays enforced")
	return nil
}

// ranges reads --pod-cidr.
func (f agentFlags) ranges() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range f.podRanges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usage("--pod-cidr %s: %v", text, err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// keepPlugin keeps the CNI plugin in its place until the context ends.
func keepPlugin(ctx context.Context, f agentFlags, log *slog.Logger) {
	cni.Keep(ctx, f.cniConf, f.cniBin, "/proc/self/exe", func(err error) {
		if err != nil {
			log.Warn("the CNI plugin is not installed: pods may start before their policies are in force, closed", "error", err)
			return
		}
		log.Info("the CNI plugin is installed", "folder", f.cniConf)
	})
}

func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usage("--log-level %s: debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return nil, usage("--log-format %s: json or text", format)
}

func newCleanup(s *session) *cobra.Command {
	var pin, cniConf, cniBin, socket string
	c := &cobra.Command{
		Use: "cleanup", Short: "End the enforcement on this node and remove every trace of it", Args: cobra.NoArgs,
		Long: `Takes off links, maps, the nftables table and the CNI plugin. Every connection
is allowed afterwards. End the agent first: it would put all back.`,
		Example: "  sudo sallyport cleanup",
		RunE: func(*cobra.Command, []string) error {
			if err := requireRoot(); err != nil {
				return err
			}
			err := errors.Join(cni.Uninstall(cniConf, cniBin), agent.Cleanup(agent.Config{Pin: pin}))
			if e := os.Remove(socket); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("cannot remove the agent's socket: %w", e))
			}
			_ = os.Remove(filepath.Dir(socket)) // unless something else is in it
			if err != nil {
				return environment(err)
			}
			fmt.Fprintln(s.stderr, "nothing is enforced on this node any more")
			return nil
		},
	}
	c.Flags().StringVar(&pin, "pin", bpf.DefaultPin, "folder of bpffs for maps and links")
	c.Flags().StringVar(&socket, "socket", api.Socket, "the agent's socket")
	c.Flags().StringVar(&cniConf, "cni-conf-dir", cni.ConfDir, "folder of CNI configurations")
	c.Flags().StringVar(&cniBin, "cni-bin-dir", cni.BinDir, "folder of CNI plugins")
	return c
}
