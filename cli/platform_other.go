//go:build !linux

package cli

import (
	"syscall"

	"github.com/spf13/cobra"
)

const terminate = syscall.SIGTERM

// platformCommands are the commands that need Linux: none of them here.
func platformCommands(*session) []*cobra.Command { return nil }
