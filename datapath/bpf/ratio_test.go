package bpf

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// The pods of one site take turns: with the program, without any, and without
// connection tracking as well. Every round has each of them once, in random
// order, and gives one ratio.
const (
	rounds        = 24
	slice         = 300 * time.Millisecond // of each kind of load, per turn
	settling      = 40 * time.Millisecond  // of a load before it is measured
	clients       = 2                      // connections at a time
	churnRate     = 100                    // address changes per second, with the program
	ratioTarget   = 0.97
	bulkWriteSize = 128 << 10
)

var ratioSizes = []size{
	{policies: 10, addresses: 100, blocks: 10},
	{policies: 10_000, addresses: 100_000, blocks: 10_000},
}

type side int

const (
	enforced side = iota
	bare
	untracked
	sides
)

// loads are what is measured in each turn.
var loads = []struct {
	name, unit string
	scale      float64
	measure    func(*rig) (float64, error) // per second
}{
	{"new TCP connections", "connections/s", 1, (*rig).connections},
	{"bulk TCP throughput", "Gbit/s", 8e-9, (*rig).bytes},
}

// BenchmarkRatio compares connection rate and throughput of two pods with
// those of the same pods without the program. It measures once, whatever the
// number of iterations asked for.
func BenchmarkRatio(b *testing.B) {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	fmt.Fprintf(out, "\nper second\tenforced\twithout\tuntracked\tratio (95 %% interval)\ttarget\t\n")
	for _, n := range ratioSizes {
		r := newRig(b, n)
		samples := r.alternate(b)
		for i, load := range loads {
			s := samples[i]
			ratios := make([]float64, rounds)
			for j := range ratios {
				ratios[j] = s[enforced][j] / s[bare][j]
			}
			m := medianOf(ratios)
			fmt.Fprintf(out, "%s, %s, %s\t%.5g\t%.5g\t%.5g\t%s\t≥ %.2f %s\t\n", load.name, load.unit, n,
				load.scale*medianOf(s[enforced]).value, load.scale*medianOf(s[bare]).value, load.scale*medianOf(s[untracked]).value,
				m, ratioTarget, met(m.value >= ratioTarget))
			b.Run(fmt.Sprintf("%s/%d-policies", load.unit[:len(load.unit)-2], n.policies), func(b *testing.B) {
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(m.value, "ratio")
			})
		}
		fmt.Fprintf(out, "%d rounds; %s\t\t\t\t\t\t\n", rounds, r.account(b))
	}
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

// rig is a site with servers in B and what the sides are told apart by.
type rig struct {
	*site
	size     size
	side     side
	received atomic.Int64 // bytes, by the bulk server
	lasted   time.Duration
}

func newRig(b *testing.B, n size) *rig {
	r := &rig{site: newSite(b, n), size: n}
	// Connections that have ended leave no heap of entries behind them.
	tune(b, r.node, "netfilter/nf_conntrack_tcp_timeout_time_wait", 1)
	r.listen(b, portAnswer, answer)
	r.listen(b, portBulk, r.swallow)
	return r
}

func (r *rig) listen(b *testing.B, port int, serve func(net.Conn) error) {
	in(b, r.b, func() error {
		l, err := net.Listen("tcp4", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		b.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_ = serve(c) // the client sees a failure as well, and reports it
				}()
			}
		}()
		return nil
	})
}

func answer(c net.Conn) error {
	var x [1]byte
	if _, err := c.Read(x[:]); err != nil {
		return err
	}
	_, err := c.Write(x[:])
	return err
}

func (r *rig) swallow(c net.Conn) error {
	buffer := make([]byte, bulkWriteSize)
	for {
		n, err := c.Read(buffer)
		r.received.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// take makes it one side's turn.
func (r *rig) take(b *testing.B, s side) {
	b.Helper()
	if r.side == s {
		return
	}
	if r.side == enforced {
		r.unlink(b)
	}
	if r.side == untracked {
		in(b, r.node, trackConnections)
	}
	if s == untracked {
		in(b, r.node, untrackConnections)
	}
	if s == enforced {
		r.link(b)
	}
	r.side = s
}

// alternate gives, by load and side, one sample of each round.
func (r *rig) alternate(b *testing.B) (samples [][sides][]float64) {
	samples = make([][sides][]float64, len(loads))
	for range rounds {
		for _, s := range rand.Perm(int(sides)) {
			r.take(b, side(s))
			stop := func() {}
			if r.side == enforced {
				stop = r.churn(b, r.size, churnRate)
			}
			started := time.Now()
			for i, load := range loads {
				x, err := load.measure(r)
				if err != nil {
					b.Fatalf("%s: %v", load.name, err)
				}
				samples[i][s] = append(samples[i][s], x)
			}
			if r.side == enforced {
				r.lasted += time.Since(started)
			}
			stop()
		}
	}
	return samples
}

// account says what went on besides while the program was linked.
func (r *rig) account(b *testing.B) string {
	time.Sleep(100 * time.Millisecond) // the last events are read
	stats, err := r.p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return fmt.Sprintf("%.0f address changes/s, %d revisions, %d events read, %d lost",
		float64(r.changes)/r.lasted.Seconds(), r.p.Revision(), r.events.Load(), stats[LostEvents])
}

// connections opens TCP connections, a byte each way, one after the other.
func (r *rig) connections() (float64, error) {
	var opened atomic.Int64
	ends := make(chan struct{})
	errs := make([]error, clients)
	var working sync.WaitGroup
	for i := range clients {
		working.Go(func() {
			errs[i] = inNetNS(r.a, func() error {
				for {
					select {
					case <-ends:
						return nil
					default:
					}
					if err := exchange(); err != nil {
						return err
					}
					opened.Add(1)
				}
			})
		})
	}
	rate := perSecond(&opened)
	close(ends)
	working.Wait()
	return rate, errors.Join(errs...)
}

// perSecond is how fast the counter goes up, after a while.
func perSecond(counter *atomic.Int64) float64 {
	time.Sleep(settling)
	before, started := counter.Load(), time.Now()
	time.Sleep(slice)
	return float64(counter.Load()-before) / time.Since(started).Seconds()
}

// exchange is one connection: a byte there, a byte back, and the end.
func exchange() error {
	c, err := connect(portAnswer)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	x := []byte("x")
	if _, err := unix.Write(c, x); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	for range 2 { // the server closes first
		n, err := unix.Read(c, x)
		if err != nil {
			return fmt.Errorf("cannot receive: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// connect makes a plain blocking socket in the thread's namespace: the
// runtime's poller would cost more than what is measured.
func connect(port int) (int, error) {
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot make a socket: %w", err)
	}
	to := &unix.SockaddrInet4{Port: port, Addr: addr(ip4B).As4()}
	const patience = 2000 // ms
	err = errors.Join(unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, patience), unix.Connect(c, to))
	if err != nil {
		return 0, errors.Join(fmt.Errorf("cannot connect to port %d: %w", port, err), unix.Close(c))
	}
	return c, nil
}

// bytes sends as much as one connection takes.
func (r *rig) bytes() (rate float64, err error) {
	ends, done := make(chan struct{}), make(chan error)
	go func() {
		done <- inNetNS(r.a, func() error {
			c, err := connect(portBulk)
			if err != nil {
				return err
			}
			defer unix.Close(c)
			data := make([]byte, bulkWriteSize)
			for {
				select {
				case <-ends:
					return nil
				default:
				}
				if _, err := unix.Write(c, data); err != nil {
					return fmt.Errorf("cannot send: %w", err)
				}
			}
		})
	}()
	rate = perSecond(&r.received)
	close(ends)
	return rate, <-done
}

// median is a median and a confidence interval for it.
type median struct{ value, low, high float64 }

func (m median) String() string { return fmt.Sprintf("%.3f (%.3f–%.3f)", m.value, m.low, m.high) }

// medianOf takes the interval between two order statistics: the true median
// is as likely above as below a sample, so that the number of samples below it
// is binomial, whatever the distribution. At least 95 % lie in the interval.
func medianOf(samples []float64) median {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	outside, probability := 0.0, 1.0
	for range n {
		probability /= 2
	}
	low := 0
	for {
		outside += 2 * probability
		if outside > 0.05 || low >= n/2 {
			break
		}
		probability *= float64(n-low) / float64(low+1)
		low++
	}
	low = max(low-1, 0)
	return median{(s[(n-1)/2] + s[n/2]) / 2, s[low], s[n-1-low]}
}

// TestMedian knows the ranks from tables of the sign test.
func TestMedian(t *testing.T) {
	for n, rank := range map[int]int{6: 1, 10: 2, 20: 6, 24: 7} {
		samples := make([]float64, n)
		for i := range samples {
			samples[i] = float64(n - i)
		}
		want := median{float64(n+1) / 2, float64(rank), float64(n + 1 - rank)}
		if got := medianOf(samples); got != want {
			t.Errorf("of %d: %v, want %v", n, got, want)
		}
	}
}
