package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/datapath/bpf"
	"github.com/sallyport-dev/sallyport/report"
)

func newDoctor(s *session) *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "What this machine can and cannot do, with the remedy", Args: cobra.NoArgs,
		Long:    "Tries what enforcement needs of the kernel, one thing after the other. Exit code 3 if something is missing.",
		Example: "  sudo sallyport doctor\n  sudo sallyport doctor -o json",
		RunE:    func(*cobra.Command, []string) error { return s.doctor() },
	}
	s.outputFlag(c, "table", "table", "json")
	return c
}

func (s *session) doctor() error {
	checks := bpf.Probe()
	bad := false
	for _, c := range checks {
		bad = bad || !c.OK
	}
	switch s.output {
	case "json":
		e := json.NewEncoder(s.stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(checks); err != nil {
			return err
		}
	case "table":
		if err := s.printChecks(checks); err != nil {
			return err
		}
	default:
		return usage("unknown output format %q: table or json", s.output)
	}
	if bad {
		return exit{code: ExitEnvironment}
	}
	return nil
}

func (s *session) printChecks(checks []bpf.Check) error {
	p := paint(s.stdout)
	return report.Table(s.stdout, width(s.stdout), []string{"STATE", "NEEDED", "FOUND"}, func(yield func([]string) bool) {
		for _, c := range checks {
			mark := p.Colour("32", "ok")
			if !c.OK {
				mark = p.Colour("31", "missing")
			}
			if !yield([]string{mark, c.Name, c.Detail}) {
				return
			}
			if !c.OK && !yield([]string{"", "", "remedy: " + c.Remedy}) {
				return
			}
		}
	})
}
