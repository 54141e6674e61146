package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const (
	packetRounds     = 9
	packetsPerRound  = 20_000
	establishedLimit = 100 // ns
	firstLimit       = 350
)

// packetSizes differ in policies and prefixes alone: the time must not.
var packetSizes = []size{
	{policies: 10, addresses: 100_000, blocks: 10},
	{policies: 10_000, addresses: 100_000, blocks: 10_000},
}

// packets are the kinds of packets that are sent from A to B.
var packets = []struct {
	name  string
	limit float64
	send  func(n int) error
}{
	{"established flow", establishedLimit, sendOne},
	{"first packet", firstLimit, sendFirsts},
}

// BenchmarkPacket reports the program's time per packet, by the kernel's run
// statistics, without that of an empty program at the same hook. The sizes
// take turns. It measures once, whatever the number of iterations asked for.
func BenchmarkPacket(b *testing.B) {
	var sites []*packetSite
	for _, n := range packetSizes {
		sites = append(sites, newPacketSite(b, n))
	}
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { statistics.Close() })
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	fmt.Fprintf(out, "\nns per packet\tprogram\tempty\tadded (95 %% interval)\ttarget\t\n")
	for _, kind := range packets {
		samples := make([][3][]float64, len(sites))
		for range packetRounds {
			for i, s := range sites {
				program, empty := s.measure(b, kind.send)
				for j, x := range []float64{program, empty, program - empty} {
					samples[i][j] = append(samples[i][j], x)
				}
			}
		}
		for i, n := range packetSizes {
			added := medianOf(samples[i][2])
			fmt.Fprintf(out, "%s, %s\t%.0f\t%.0f\t%.0f (%.0f–%.0f)\t≤ %.0f %s\t\n", kind.name, n,
				medianOf(samples[i][0]).value, medianOf(samples[i][1]).value, added.value, added.low, added.high,
				kind.limit, met(added.value <= kind.limit))
			b.Run(fmt.Sprintf("%s/%d-policies", kind.name, n.policies), func(b *testing.B) {
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(added.value, "added-ns/packet")
			})
		}
	}
}

// packetSite is a site with an empty program at the same hook.
type packetSite struct{ *site }

func newPacketSite(b *testing.B, n size) *packetSite {
	s := &packetSite{newSite(b, n)}
	serve(b, s.b)
	in(b, s.b, func() error {
		sink, err := net.ListenPacket("udp", fmt.Sprint(":", portSink))
		if err == nil {
			b.Cleanup(func() { sink.Close() })
		}
		return err
	})
	in(b, s.node, func() error {
		empty, err := attachAt(s.p.objects.Empty, link.NetfilterInetForward, link.NetfilterProtoIPv4)
		if err == nil {
			b.Cleanup(func() { empty.Close() })
		}
		return err
	})
	return s
}

// measure is the time per run of both programs while packets are sent.
func (s *packetSite) measure(b *testing.B, send func(n int) error) (program, empty float64) {
	before, bare := spent(b, s.p.objects.Sallyport), spent(b, s.p.objects.Empty)
	in(b, s.a, func() error { return send(packetsPerRound) })
	return perRun(before, spent(b, s.p.objects.Sallyport)), perRun(bare, spent(b, s.p.objects.Empty))
}

// sendFirsts sends to a port that never answers: each packet is the first of
// its flow.
func sendFirsts(n int) error {
	for range n {
		c, err := net.Dial("udp", udpAddr(portSink))
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
	c, err := net.Dial("udp", udpAddr(portEcho))
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

func udpAddr(port int) string { return netip.AddrPortFrom(addr(ip4B), uint16(port)).String() }

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
