package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/api"
	"github.com/sallyport-dev/sallyport/flow"
)

// monitor shows the flows of all agents asked, until it is interrupted.
func (s *session) monitor(ctx context.Context, f nodeFlags, filter api.FlowFilter, verbose bool) error {
	clients, err := s.agents(ctx, f)
	if err != nil {
		return err
	}
	p := paint(s.stdout)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for node, c := range clients {
		g.Go(func() error {
			return c.Flows(ctx, filter, func(x *flow.Flow) error {
				mu.Lock()
				defer mu.Unlock()
				if s.output == "json" {
					return json.NewEncoder(s.stdout).Encode(struct {
						Node string `json:"node,omitempty"`
						*flow.Flow
					}{node, x})
				}
				line := x.String()
				if node != "" {
					line = node + "  " + line
				}
				if !x.Allowed() {
					line = p.Colour("31", line)
				}
				_, err := fmt.Fprintln(s.stdout, line)
				if err == nil && verbose {
					_, err = fmt.Fprintf(s.stdout, "    revision %d, hook %s, devices %d → %d\n", x.Revision, x.Hook, x.InIfindex, x.OutIfindex)
				}
				return err
			})
		})
	}
	fmt.Fprintf(s.stderr, "watching %d nodes; end with Ctrl-C\n", len(clients))
	if err := g.Wait(); err != nil {
		return environment(err)
	}
	return nil
}
