package bpf

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
)

// BenchmarkPacket reports the program's time per packet, by the kernel's run
// statistics, and that of an empty program at the same hook.
func BenchmarkPacket(b *testing.B) {
	bed := newBed(b)
	serve(b, bed.b)
	ops := append(gateOf(1, podB), gateOf(2, podA)...)
	apply(b, bed.p, append(ops, doors(bed.p, subjectA, 1, 0), doors(bed.p, subjectB, 0, 2))...)
	var empty link.Link
	in(b, bed.node, func() (err error) {
		empty, err = attachAt(bed.p.objects.Empty, link.NetfilterInetForward, link.NetfilterProtoIPv4)
		return err
	})
	b.Cleanup(func() { empty.Close() })
	fill(b, bed.p)
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { statistics.Close() })
	b.Run("established", func(b *testing.B) { bed.measure(b, false) })
	b.Run("first", func(b *testing.B) { bed.measure(b, true) })
}

// fill adds addresses nobody uses, so that the tables are as cold as in life.
func fill(b *testing.B, p *Program) {
	var ops []datapath.Op
	for i := range 100000 {
		a := addr("11.0.0.0").As4()
		a[1], a[2], a[3] = byte(i>>16), byte(i>>8), byte(i)
		ops = append(ops, datapath.SetAddress{Addr: netip.AddrFrom4(a), Address: datapath.Address{Identity: fixed(uint32(i%2000) + 1)}})
	}
	apply(b, p, ops...)
}

// measure sends b.N packets: of one flow that has been answered, or each the
// first of its flow, to a port that never answers.
func (x *bed) measure(b *testing.B, first bool) {
	in(b, x.b, func() error {
		sink, err := net.ListenPacket("udp", ":9")
		if err == nil {
			b.Cleanup(func() { sink.Close() })
		}
		return err
	})
	if !first && !reaches(b, x.a, "udp", ip4B) {
		b.Fatal("no answer")
	}
	before, bare := spent(b, x.p.objects.Sallyport), spent(b, x.p.objects.Empty)
	in(b, x.a, func() error {
		if first {
			return sendFirsts(b.N)
		}
		return sendOne(b.N)
	})
	after, bareAfter := spent(b, x.p.objects.Sallyport), spent(b, x.p.objects.Empty)
	b.ReportMetric(perRun(before, after), "program-ns/packet")
	b.ReportMetric(perRun(bare, bareAfter), "empty-ns/packet")
	b.ReportMetric(perRun(before, after)-perRun(bare, bareAfter), "added-ns/packet")
}

func sendFirsts(n int) error {
	for range n {
		c, err := net.Dial("udp", ip4B+":9")
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// sendOne sends in one flow, the first two packets of which are answered.
func sendOne(n int) error {
	c, err := net.Dial("udp", ip4B+":80")
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		if i < 2 {
			if _, err := c.Read(make([]byte, 1)); err != nil {
				return err
			}
		}
	}
	return nil
}

func spent(b *testing.B, p *ebpf.Program) *ebpf.ProgramStats {
	b.Helper()
	s, err := p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func perRun(before, after *ebpf.ProgramStats) float64 {
	if after.RunCount == before.RunCount {
		return 0
	}
	return float64(after.Runtime-before.Runtime) / float64(after.RunCount-before.RunCount)
}
