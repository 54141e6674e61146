//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/model"
)

// ICMP and SCTP are spoken on raw sockets: an echo request, and the first half
// of SCTP's handshake, so that kernels without SCTP do.

// question is what a raw probe sends, and how it knows its answer.
type question struct {
	packet  []byte
	answers func(packet []byte) bool
}

func rawQuestion(protocol model.Protocol, port uint16) question {
	switch protocol {
	case model.SCTP:
		return sctpQuestion(port)
	case model.ICMP:
		return echoQuestion(8, 0)
	}
	return echoQuestion(128, 129)
}

// askRaw sends the question, once more after half of the time, and waits for the
// answer or an ICMP error.
func (l *Lab) askRaw(ctx context.Context, p Probe) error {
	if p.Protocol == model.SCTP {
		if err := l.answerSCTP(p.To); err != nil {
			return err
		}
	}
	q := rawQuestion(p.Protocol, p.Port)
	conn, err := l.dialRaw(ctx, p)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(5 * time.Second)
	}
	buf := make([]byte, 2048)
	for _, until := range []time.Time{time.Now().Add(time.Until(end) / 2), end} {
		if err := conn.SetDeadline(until); err != nil {
			return err
		}
		if _, err := conn.Write(q.packet); err != nil {
			return err
		}
		for {
			var n int
			if n, _, err = conn.ReadFromIP(buf); err != nil {
				break
			}
			if q.answers(buf[:n]) {
				return nil
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

func (l *Lab) dialRaw(ctx context.Context, p Probe) (conn *net.IPConn, err error) {
	ns, err := l.netNS(p.From)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	err = inNS(ns, func() error {
		var d net.Dialer
		if p.Source.IsValid() {
			d.LocalAddr = &net.IPAddr{IP: p.Source.AsSlice()}
		}
		c, err := d.DialContext(ctx, rawNetwork(p.To, p.Protocol), p.To.String())
		if err == nil {
			conn = c.(*net.IPConn)
		}
		return err
	})
	return conn, err
}

func rawNetwork(a netip.Addr, protocol model.Protocol) string {
	if a.Is4() {
		return fmt.Sprintf("ip4:%d", protocol)
	}
	return fmt.Sprintf("ip6:%d", protocol)
}

// echoQuestion is an echo request. The kernel fills in the checksum of ICMPv6.
func echoQuestion(request, reply byte) question {
	b := make([]byte, 16)
	b[0] = request
	binary.BigEndian.PutUint64(b[4:], rand.Uint64()) // identifier and sequence number, and some data
	if request == 8 {
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	}
	return question{b, func(packet []byte) bool {
		return len(packet) >= 12 && packet[0] == reply && [8]byte(packet[4:12]) == [8]byte(b[4:12])
	}}
}

func internetChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// The chunk types of SCTP's handshake (RFC 9260).
const (
	sctpInit    = 1
	sctpInitAck = 2
)

// sctpPacket is one packet with an INIT or INIT ACK chunk. The state cookie,
// which an INIT ACK must have, is four bytes that nobody reads.
func sctpPacket(chunk byte, from, to uint16, verification, tag uint32) []byte {
	b := make([]byte, 32, 40)
	binary.BigEndian.PutUint16(b[0:], from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], verification)
	b[12] = chunk
	binary.BigEndian.PutUint32(b[16:], tag)
	binary.BigEndian.PutUint32(b[20:], 1<<16) // receiver window
	binary.BigEndian.PutUint16(b[24:], 1)     // streams out
	binary.BigEndian.PutUint16(b[26:], 1)     // and in
	binary.BigEndian.PutUint32(b[28:], tag)   // first sequence number
	if chunk == sctpInitAck {
		b = append(b, 0, 7, 0, 8, 's', 'p', 'r', 't')
	}
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-12))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func sctpQuestion(port uint16) question {
	from, tag := uint16(32768+rand.IntN(28000)), rand.Uint32()|1
	return question{sctpPacket(sctpInit, from, port, 0, tag), func(p []byte) bool {
		return len(p) > 12 && binary.BigEndian.Uint16(p[0:]) == port && binary.BigEndian.Uint16(p[2:]) == from &&
			binary.BigEndian.Uint32(p[4:]) == tag && p[12] == sctpInitAck
	}}
}

// spaceAt finds the namespace that has the address.
func (l *Lab) spaceAt(a netip.Addr) *space {
	for _, n := range l.nodes {
		if slices.Contains(n.model.IPs, a) {
			return n.space
		}
	}
	for _, p := range l.pods {
		if slices.Contains(p.model.IPs, a) {
			return p.space
		}
	}
	if l.outside != nil && l.outside.addrs[a] {
		return l.outside.space
	}
	return nil
}

// answerSCTP sees to it that the address answers the handshake on every port,
// if anybody has it: without that the kernel's refusal, which names no port,
// would reach all who ask at the same time.
func (l *Lab) answerSCTP(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spaceAt(a)
	if s == nil || s.sctp[a] != nil {
		return nil
	}
	var conn net.PacketConn
	err := inNS(s.ns, func() (err error) {
		var lc net.ListenConfig
		conn, err = lc.ListenPacket(context.Background(), rawNetwork(a, model.SCTP), a.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot listen for SCTP on %s: %w", a, err)
	}
	if s.sctp == nil {
		s.sctp = map[netip.Addr]*server{}
	}
	srv := &server{stop: func() { _ = conn.Close() }}
	srv.done.Go(func() { shake(conn) })
	s.sctp[a] = srv
	return nil
}

// shake answers every INIT until the socket is closed.
func shake(conn net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 32 || buf[12] != sctpInit {
			continue
		}
		src, dst := binary.BigEndian.Uint16(buf[0:]), binary.BigEndian.Uint16(buf[2:])
		_, _ = conn.WriteTo(sctpPacket(sctpInitAck, dst, src, binary.BigEndian.Uint32(buf[16:]), rand.Uint32()|1), from)
	}
}
