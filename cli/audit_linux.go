package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/agent"
	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/kube"
)

type auditFlags struct {
	node, pin    string
	peers, tries int
	seed         uint64
}

func newAudit(s *session) *cobra.Command {
	var f auditFlags
	c := &cobra.Command{
		Use: "audit", Short: "Compare what this node's kernel decides with what the policies say", Args: cobra.NoArgs,
		Long: `Reads the cluster from the API server, compiles its policies from scratch, and
compares what follows with what the kernel's tables decide: for every pod of
this node, to and from pods taken by chance and everything outside that
policies tell apart. The agent is not asked. A cluster that changes meanwhile
is read again, until nothing differs or --tries is reached.

Exit code 1 if something differs.`,
		Example: `  sudo sallyport audit --node "$NODE_NAME"
  sudo sallyport audit --kubeconfig admin.conf --node worker-1 --peers 1000 -o json`,
		RunE: func(c *cobra.Command, _ []string) error { return s.audit(c.Context(), f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "this node's name in the cluster ($NODE_NAME, else the host's name)")
	flags.StringVar(&f.pin, "pin", bpf.DefaultPin, "folder of bpffs for maps and links")
	flags.IntVar(&f.peers, "peers", 200, "peers for each pod")
	flags.IntVar(&f.tries, "tries", 5, "how often to look while something differs")
	flags.Uint64Var(&f.seed, "seed", 1, "chooses the peers")
	s.cluster.add(c)
	clusterNameFlag(c, &s.clusterName)
	s.outputFlag(c, "text", "text", "json")
	return c
}

func (s *session) audit(ctx context.Context, f auditFlags) error {
	if err := requireRoot(); err != nil {
		return err
	}
	host, _ := os.Hostname()
	node := cmp.Or(f.node, strings.ToLower(host))
	cfg, err := kube.Connect(s.cluster.kubeconfig, s.cluster.context)
	if err != nil {
		return environment(err)
	}
	var found *agent.Comparison
	for try := 1; ; try++ {
		c, _, err := s.liveCluster(ctx, cfg)
		if err != nil {
			return err
		}
		if found, err = agent.Compare(c, node, f.pin, f.peers, f.seed); err != nil {
			return environment(err)
		}
		if len(found.Differences) == 0 || try >= f.tries {
			break
		}
		select {
		case <-ctx.Done():
			return environment(ctx.Err())
		case <-time.After(time.Second):
		}
	}
	if s.output == "json" {
		err = json.NewEncoder(s.stdout).Encode(found)
	} else {
		for _, d := range found.Differences {
			fmt.Fprintln(s.stdout, d)
		}
		_, err = fmt.Fprintf(s.stdout, "%d decisions about %d pods of %s at revision %d, %d of them allowed: %d differ\n",
			found.Decisions, found.Pods, node, found.Revision, found.Allowed, len(found.Differences))
	}
	if err != nil {
		return environment(err)
	}
	if len(found.Differences) > 0 {
		return exit{code: ExitFindings}
	}
	return nil
}
