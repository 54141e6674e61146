package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/cni"
)

func newCNI(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "cni", Short: "Put the CNI plugin behind the node's CNI, or take it out",
		Long: `The plugin holds a pod's start until its policies are in force. The agent
installs it by itself; these commands are for nodes that are set up by hand.`,
		Args: cobra.NoArgs,
	}
	var confDir, binDir string
	c.PersistentFlags().StringVar(&confDir, "conf-dir", cni.ConfDir, "folder of CNI configurations")
	c.PersistentFlags().StringVar(&binDir, "bin-dir", cni.BinDir, "folder of CNI plugins")
	c.AddCommand(&cobra.Command{
		Use: "install", Short: "Put the plugin at the end of the node's CNI configuration", Args: cobra.NoArgs,
		Long: "Copies this binary to the folder of plugins and adds it to the first configuration\n" +
			"by name, as container runtimes choose it. Waits until there is one. To do it again changes nothing.",
		Example: "  sudo sallyport cni install",
		RunE:    func(c *cobra.Command, _ []string) error { return s.installCNI(c.Context(), confDir, binDir) },
	}, &cobra.Command{
		Use: "uninstall", Short: "Take out exactly what install put in", Args: cobra.NoArgs,
		Long:    "With CRI-O, which ends pods by the configuration that they began with, drain the node first.",
		Example: "  sudo sallyport cni uninstall",
		RunE: func(*cobra.Command, []string) error {
			if err := cni.Uninstall(confDir, binDir); err != nil {
				return environment(err)
			}
			return nil
		},
	})
	return c
}

func (s *session) installCNI(ctx context.Context, confDir, binDir string) (result error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	cni.Keep(ctx, confDir, binDir, "/proc/self/exe", func(err error) {
		if result = nil; err != nil {
			result = environment(err)
		}
		if errors.Is(err, cni.ErrNoNetwork) {
			fmt.Fprintln(s.stderr, "waiting:", err)
			return
		}
		done()
	})
	return result
}
