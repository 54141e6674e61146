package cli

import (
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const terminate = unix.SIGTERM

// platformCommands are the commands that need Linux.
func platformCommands(s *session) []*cobra.Command {
	return []*cobra.Command{newCNI(s), newDoctor(s), newLab(s), newDemo(s), newAgent(s), newAudit(s), newCleanup(s)}
}
