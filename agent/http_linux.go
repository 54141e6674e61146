package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/api"
)

// serve opens the socket and the HTTP address, and serves until the context
// ends.
func (n *Node) serve(ctx context.Context, g *errgroup.Group) error {
	if n.config.Socket != "" {
		l, err := api.Listen(n.config.Socket)
		if err != nil {
			return err
		}
		n.serveAt(ctx, g, l, api.Handler(n))
	}
	if n.config.HTTP != "" {
		l, err := net.Listen("tcp", n.config.HTTP)
		if err != nil {
			return fmt.Errorf("cannot serve health and metrics: %w; choose another address with --http", err)
		}
		n.serveAt(ctx, g, l, n.monitoring())
	}
	return nil
}

func (n *Node) serveAt(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("cannot serve at %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
}

// alive is how long loop may be busy with one thing before the node is taken
// for stuck.
const alive = 30 * time.Second

// monitoring is for the kubelet and Prometheus: health, readiness, metrics.
func (n *Node) monitoring() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if age := n.beatAge(); age > alive {
			http.Error(w, fmt.Sprintf("nothing was done for %s", age.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s := n.Status(); !s.Ready {
			http.Error(w, "not ready: "+strings.Join(s.Degraded, "; "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.counts.registry, promhttp.HandlerOpts{}))
	if n.config.PProf {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// beatAge is how long loop has not been seen alive. A lock that is held is a
// sign of work, or of a loop that is stuck: both count as no beat.
func (n *Node) beatAge() time.Duration { return time.Since(time.Unix(0, n.beat.Load())) }
