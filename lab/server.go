//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/vishvananda/netns"
)

// service is something that a namespace serves.
type service struct {
	proto model.Protocol
	addr  netip.Addr // not valid: all addresses
	port  uint16
	dns   bool
}

func (s service) address() string {
	host := ""
	if s.addr.IsValid() {
		host = s.addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(s.port)))
}

// server is a running server.
type server struct {
	stop func()
	done sync.WaitGroup
}

// close stops the server and waits until it has stopped.
func (s *server) close() {
	s.stop()
	s.done.Wait()
}

// serve serves HTTP or datagrams; the answer is who.
func serve(ns netns.NsHandle, svc service, who string) (*server, error) {
	if svc.proto == model.UDP {
		conn, err := listenUDP(ns, svc)
		if err != nil {
			return nil, err
		}
		s := &server{stop: func() { _ = conn.Close() }}
		s.done.Go(func() { echo(conn, who) })
		return s, nil
	}
	ln, err := listenTCP(ns, svc)
	if err != nil {
		return nil, err
	}
	h := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, who+"\n")
		}),
	}
	s := &server{stop: func() { _ = h.Close() }}
	s.done.Go(func() { _ = h.Serve(ln) })
	return s, nil
}

// serveDNS serves the names of the cluster.
func serveDNS(ns netns.NsHandle, svc service, h dns.Handler) (*server, error) {
	started := make(chan struct{})
	start := sync.OnceFunc(func() { close(started) })
	d := &dns.Server{Handler: h, NotifyStartedFunc: start}
	if svc.proto == model.UDP {
		conn, err := listenUDP(ns, svc)
		if err != nil {
			return nil, err
		}
		d.PacketConn = conn
	} else {
		ln, err := listenTCP(ns, svc)
		if err != nil {
			return nil, err
		}
		d.Listener = ln
	}
	s := &server{stop: func() { <-started; _ = d.Shutdown() }}
	s.done.Go(func() {
		defer start() // a server that cannot start can be stopped
		_ = d.ActivateAndServe()
	})
	return s, nil
}

func listenTCP(ns netns.NsHandle, svc service) (ln net.Listener, err error) {
	err = inNS(ns, func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		ln, err = lc.Listen(context.Background(), "tcp", svc.address())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on TCP port %d: %w", svc.port, err)
	}
	return ln, nil
}

func listenUDP(ns netns.NsHandle, svc service) (conn net.PacketConn, err error) {
	err = inNS(ns, func() error {
		var lc net.ListenConfig
		conn, err = lc.ListenPacket(context.Background(), "udp", svc.address())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on UDP port %d: %w", svc.port, err)
	}
	return conn, nil
}

// echo answers every datagram with who until the socket is closed.
func echo(conn net.PacketConn, who string) {
	buf := make([]byte, 2048)
	for {
		_, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = conn.WriteTo([]byte(who), from)
		}
	}
}

// syncServers starts and stops servers until every pod serves its ports.
func (l *Lab) syncServers(c *model.Cluster) error {
	if l.cfg.NoServers {
		return nil
	}
	dnsAt := dnsBackends(c)
	for key, p := range l.pods {
		if err := l.syncPodServers(p, dnsAt[key]); err != nil {
			return fmt.Errorf("cannot serve the ports of pod %s: %w", key, err)
		}
	}
	return nil
}

func (l *Lab) syncPodServers(p *pod, dnsPorts map[model.PortKey]bool) error {
	want := make(map[service]bool)
	for _, c := range p.model.Ports {
		if c.Protocol == model.TCP || c.Protocol == model.UDP {
			want[service{proto: c.Protocol, port: c.Number, dns: dnsPorts[model.PortKeyOf(c.Protocol, c.Number)]}] = true
		}
	}
	for svc, s := range p.servers {
		if !want[svc] {
			s.close()
			delete(p.servers, svc)
		}
	}
	for svc := range want {
		if p.servers[svc] != nil {
			continue
		}
		s, err := l.servePod(p, svc)
		if p.model.HostNetwork && errors.Is(err, syscall.EADDRINUSE) {
			continue // another hostNetwork pod of the node has the port
		}
		if err != nil {
			return err
		}
		p.servers[svc] = s
	}
	return nil
}

func (l *Lab) servePod(p *pod, svc service) (*server, error) {
	if svc.dns {
		return serveDNS(p.ns, svc, dns.HandlerFunc(l.answer))
	}
	return serve(p.ns, svc, p.model.Key())
}
