//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/sallyport-dev/sallyport/model"
	"github.com/vishvananda/netns"
)

// FromOutside is the origin of probes that come from outside of the cluster.
const FromOutside = "outside"

// nodeOrigin marks a node's name as the origin of a probe; no pod's key holds a colon.
const nodeOrigin = "node:"

// NodeOrigin is the origin of probes that a node itself sends.
func NodeOrigin(name string) string { return nodeOrigin + name }

// maxProbes is how many probes run at the same time.
const maxProbes = 256

// Probe is a question: does a connection come about?
type Probe struct {
	From     string // "namespace/name" of a pod, NodeOrigin of a node, or FromOutside
	To       netip.Addr
	Protocol model.Protocol // TCP, UDP, SCTP, ICMP or ICMPv6 (an echo request)
	Port     uint16         // of TCP, UDP and SCTP
	Source   netip.Addr     // the address it comes from; not valid: the kernel chooses
}

// Outcome is what became of a Probe.
type Outcome uint8

// The outcomes of probes.
const (
	Connected Outcome = iota // the other side has answered
	Refused                  // the other side, or something on the way, has said no
	TimedOut                 // nobody has said anything
	Failed                   // the probe could not be sent, or has no route
)

func (o Outcome) String() string {
	switch o {
	case Connected:
		return "connected"
	case Refused:
		return "refused"
	case TimedOut:
		return "timed out"
	}
	return "failed"
}

// Probe runs the probes, many at a time, and returns their outcomes in order.
func (l *Lab) Probe(ctx context.Context, probes []Probe, timeout time.Duration) []Outcome {
	return l.ProbeEach(ctx, probes, timeout, func() {})
}

// ProbeEach is Probe that calls done after each probe, from any goroutine.
func (l *Lab) ProbeEach(ctx context.Context, probes []Probe, timeout time.Duration, done func()) []Outcome {
	outcomes := make([]Outcome, len(probes))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(maxProbes, len(probes)) {
		workers.Go(func() {
			for i := range next {
				outcomes[i] = l.probe(ctx, probes[i], timeout)
				done()
			}
		})
	}
	for i := range probes {
		next <- i
	}
	close(next)
	workers.Wait()
	return outcomes
}

func (l *Lab) probe(ctx context.Context, p Probe, timeout time.Duration) Outcome {
	switch p.Protocol {
	case model.TCP, model.UDP:
		ns, err := l.netNS(p.From)
		if err != nil {
			return Failed
		}
		defer func() { _ = ns.Close() }()
		return ProbeFrom(ctx, ns, p, timeout)
	case model.SCTP, model.ICMP, model.ICMPv6:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return outcome(l.askRaw(ctx, p))
	}
	return Failed
}

// ProbeFrom probes from inside a network namespace, of whatever pod, by TCP or
// UDP. Something that answers datagrams has to be at the other end for UDP.
func ProbeFrom(ctx context.Context, ns netns.NsHandle, p Probe, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	to := netip.AddrPortFrom(p.To, p.Port)
	if p.Protocol == model.UDP {
		_, err := exchangeIn(ctx, ns, p.Source, to, knock)
		return outcome(err)
	}
	conn, err := dialIn(ctx, ns, "tcp", p.Source, to)
	if err == nil {
		// A reset leaves no TIME-WAIT behind that a later probe could meet.
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	return outcome(err)
}

// knock is what UDP probes send: a DNS question, which DNS servers answer too.
var knock = func() []byte {
	out, err := new(dns.Msg).SetQuestion("sallyport.", dns.TypeA).Pack()
	if err != nil {
		panic(err) // the question is a constant
	}
	return out
}()

// outcome says what an error means.
func outcome(err error) Outcome {
	switch {
	case err == nil:
		return Connected
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.ENOPROTOOPT), errors.Is(err, syscall.EPROTO):
		return Refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return TimedOut
	}
	return Failed
}

// netNS duplicates the handle to the network namespace of a pod or of the
// outside; the caller closes it.
func (l *Lab) netNS(from string) (netns.NsHandle, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var s *space
	if p := l.pods[from]; p != nil {
		s = p.space
	} else if n := l.nodes[strings.TrimPrefix(from, nodeOrigin)]; n != nil && strings.HasPrefix(from, nodeOrigin) {
		s = n.space
	} else if from == FromOutside && l.outside != nil {
		s = l.outside.space
	} else {
		return -1, fmt.Errorf("cannot find pod %s in the lab", from)
	}
	fd, err := syscall.Dup(int(s.ns))
	if err != nil {
		return -1, fmt.Errorf("cannot open the network namespace of %s: %w", from, err)
	}
	syscall.CloseOnExec(fd)
	return netns.NsHandle(fd), nil
}

// dialIn connects from inside a network namespace.
func dialIn(ctx context.Context, ns netns.NsHandle, network string, source netip.Addr, to netip.AddrPort) (conn net.Conn, err error) {
	err = inNS(ns, func() error {
		d := net.Dialer{LocalAddr: localAddr(network, source), KeepAlive: -1}
		conn, err = d.DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// localAddr is the address to bind to, or nil.
func localAddr(network string, source netip.Addr) net.Addr {
	switch {
	case !source.IsValid():
		return nil
	case network == "tcp":
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
}

// exchange sends a datagram from a pod and returns the answer.
func (l *Lab) exchange(ctx context.Context, from string, source netip.Addr, to netip.AddrPort, out []byte) ([]byte, error) {
	ns, err := l.netNS(from)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	return exchangeIn(ctx, ns, source, to, out)
}

// exchangeIn sends a datagram, once more after half of the time, and returns
// the answer.
func exchangeIn(ctx context.Context, ns netns.NsHandle, source netip.Addr, to netip.AddrPort, out []byte) ([]byte, error) {
	conn, err := dialIn(ctx, ns, "udp", source, to)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(5 * time.Second)
	}
	buf := make([]byte, 4096)
	for _, until := range []time.Time{time.Now().Add(time.Until(end) / 2), end} {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := conn.SetDeadline(until); err != nil {
			return nil, err
		}
		if _, err = conn.Write(out); err != nil {
			return nil, err
		}
		var n int
		n, err = conn.Read(buf)
		if err == nil {
			return buf[:n], nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
	return nil, err
}
