package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "unknown"

func newVersion(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Version and build", Args: cobra.NoArgs,
		Example: "  sallyport version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.stdout, "sallyport %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
