package bpf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// The pods of one site take turns: with the program, without any, and, now and
// then, without connection tracking as well. Each round has the first two once,
// in random order, and gives one ratio.
const (
	rounds         = 80
	untrackedEvery = 4                      // rounds
	slice          = 120 * time.Millisecond // of each kind of load, per turn
	settling       = 30 * time.Millisecond  // of a load before it is measured
	churnRate      = 100                    // address changes per second, with the program
	ratioTarget    = 0.97
	bulkSize       = 128 << 10 // of a write
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

// rig is a site with servers in B and what the sides are told apart by. Every
// processor has a client and a server, who are never moved: a pair that shares
// a processor waits for nobody else's.
type rig struct {
	*site
	size     size
	cpus     []int
	side     side
	opened   atomic.Int64 // connections, by the clients
	received atomic.Int64 // bytes, by the bulk server
	lasted   time.Duration
}

func newRig(b *testing.B, n size) *rig {
	r := &rig{site: newSite(b, n), size: n, cpus: processors(b)}
	// Connections that have ended leave no heap of entries behind them.
	tune(b, r.node, "netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
	for _, ns := range []string{r.a, r.b} {
		tune(b, ns, "ipv4/tcp_congestion_control", "reno") // which has no pace of its own
	}
	for i, cpu := range r.cpus {
		r.serve(b, portAnswer+i, cpu, answer)
		r.serve(b, portBulk+i, cpu, r.swallow)
	}
	return r
}

// processors are those that the process may use. Until the benchmark ends,
// threads in system calls keep their place in the runtime: blocking sockets
// are used throughout, since the poller would cost more than what is measured.
func processors(b *testing.B) (out []int) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		b.Fatal(err)
	}
	for i := 0; len(out) < set.Count(); i++ {
		if set.IsSet(i) {
			out = append(out, i)
		}
	}
	before := runtime.GOMAXPROCS(4*len(out) + 4)
	b.Cleanup(func() { runtime.GOMAXPROCS(before) })
	return out
}

// at runs f in the namespace, on one processor.
func at(ns string, cpu int, f func() error) error {
	return inNetNS(ns, func() error {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("cannot stay on processor %d: %w", cpu, err)
		}
		return f()
	})
}

// serve takes connections one after the other, until the benchmark ends.
func (r *rig) serve(b *testing.B, port, cpu int, one func(c int) error) {
	listening, done := make(chan int), make(chan error, 1)
	go func() {
		done <- at(r.b, cpu, func() error {
			l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(l)
			if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Port: port}), unix.Listen(l, 128)); err != nil {
				return err
			}
			listening <- l
			for {
				c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
				if err != nil {
					return nil // shut down
				}
				_ = errors.Join(one(c), unix.Close(c)) // the client reports what fails
			}
		})
	}()
	select {
	case l := <-listening:
		b.Cleanup(func() {
			_ = unix.Shutdown(l, unix.SHUT_RDWR)
			<-done
		})
	case err := <-done:
		b.Fatal(err)
	}
}

// answer gives the byte back.
func answer(c int) error {
	var x [1]byte
	if _, err := unix.Read(c, x[:]); err != nil {
		return err
	}
	_, err := unix.Write(c, x[:])
	return err
}

func (r *rig) swallow(c int) error {
	buffer := make([]byte, bulkSize)
	for {
		n, err := unix.Read(c, buffer)
		if n <= 0 {
			return err
		}
		r.received.Add(int64(n))
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
	for i := range rounds {
		turns := []side{enforced, bare}
		if i%untrackedEvery == 0 {
			turns = append(turns, untracked)
		}
		rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, s := range turns {
			r.take(b, s)
			for j, x := range r.turn(b) {
				samples[j][s] = append(samples[j][s], x)
			}
		}
	}
	return samples
}

// turn measures every load once.
func (r *rig) turn(b *testing.B) (out []float64) {
	if r.side == enforced {
		defer r.churn(b, r.size, churnRate)()
		defer func(started time.Time) { r.lasted += time.Since(started) }(time.Now())
	}
	for _, load := range loads {
		x, err := load.measure(r)
		if err != nil {
			b.Fatalf("%s: %v", load.name, err)
		}
		out = append(out, x)
	}
	return out
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
	return r.perSecond(&r.opened, func(i int, ended *atomic.Bool) error {
		for !ended.Load() {
			if err := exchange(portAnswer + i); err != nil {
				return err
			}
			r.opened.Add(1)
		}
		return nil
	})
}

// bytes sends as much as a connection takes.
func (r *rig) bytes() (float64, error) {
	return r.perSecond(&r.received, func(i int, ended *atomic.Bool) error {
		c, err := connect(portBulk + i)
		if err != nil {
			return err
		}
		defer unix.Close(c)
		data := make([]byte, bulkSize)
		for !ended.Load() {
			if _, err := unix.Write(c, data); err != nil {
				return fmt.Errorf("cannot send: %w", err)
			}
		}
		return nil
	})
}

// perSecond is how fast the counter goes up while every processor has a client.
func (r *rig) perSecond(counter *atomic.Int64, client func(i int, ended *atomic.Bool) error) (float64, error) {
	var ended atomic.Bool
	errs := make(chan error)
	for i, cpu := range r.cpus {
		go func() { errs <- at(r.a, cpu, func() error { return client(i, &ended) }) }()
	}
	time.Sleep(settling)
	before, started := counter.Load(), time.Now()
	time.Sleep(slice)
	rate := float64(counter.Load()-before) / time.Since(started).Seconds()
	ended.Store(true)
	var err error
	for range r.cpus {
		err = errors.Join(err, <-errs)
	}
	return rate, err
}

// exchange is one connection: a byte there, a byte back, and the end.
func exchange(port int) error {
	c, err := connect(port)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	var x [1]byte
	if _, err := unix.Write(c, x[:]); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	for { // until the server closes
		n, err := unix.Read(c, x[:])
		if err != nil {
			return fmt.Errorf("cannot receive: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
}

// connect makes a blocking socket in the thread's namespace.
func connect(port int) (int, error) {
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot make a socket: %w", err)
	}
	const patience = 2000 // ms
	err = errors.Join(
		unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, patience),
		unix.Connect(c, &unix.SockaddrInet4{Port: port, Addr: addr(ip4B).As4()}))
	if err != nil {
		return 0, errors.Join(fmt.Errorf("cannot connect to port %d: %w", port, err), unix.Close(c))
	}
	return c, nil
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
