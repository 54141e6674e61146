package main

import (
	"encoding/binary"
	"log"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// newest is how many of the latest targets get every round; the others take
// turns, so that a round stays short however many there are.
const newest = 8

// sender sends to targets. Every packet has a number.
type sender struct {
	targets atomic.Pointer[[]netip.AddrPort]
	seq     atomic.Uint32
	sent    [1 << 16]atomic.Int64 // when, by number
	raw     int
	udp     *net.UDPConn
	from    netip.Addr
}

func newSender() *sender {
	s := &sender{}
	s.targets.Store(&[]netip.AddrPort{})
	return s
}

func (s *sender) set(list []string) {
	var out []netip.AddrPort
	for _, text := range list {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			log.Printf("prober: no target: %v", err)
			continue
		}
		out = append(out, a)
	}
	s.targets.Store(&out)
}

func (s *sender) count() uint64 { return uint64(s.seq.Load()) }

func (s *sender) at(seq uint32) time.Time { return time.Unix(0, s.sent[uint16(seq)].Load()) }

// open makes the sockets: SYNs are made by hand, so that none waits for the
// one before.
func (s *sender) open() (err error) {
	if s.raw, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_TCP); err != nil {
		return err
	}
	if s.udp, err = net.ListenUDP("udp4", nil); err != nil {
		return err
	}
	addrs, err := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			s.from = p.Addr()
		}
	}
	return err
}

func (s *sender) run() {
	if err := s.open(); err != nil {
		log.Fatalf("prober: cannot send: %v", err)
	}
	began, turn := time.Now(), 0
	for {
		list := *s.targets.Load()
		old := max(0, len(list)-newest)
		for _, t := range list[old:] {
			s.send(t)
		}
		for range min(old, newest) {
			turn++
			s.send(list[turn%old])
		}
		if pause := *every; *burst == 0 || time.Since(began) < *burst {
			time.Sleep(pause)
		} else {
			time.Sleep(*then)
		}
	}
}

// send sends a datagram and a SYN. A packet that the node refuses is one that
// does not arrive.
func (s *sender) send(t netip.AddrPort) {
	seq := s.next()
	_, _ = s.udp.WriteToUDPAddrPort(binary.BigEndian.AppendUint32([]byte(magic), seq), t)
	seq = s.next()
	_ = syscall.Sendto(s.raw, s.syn(t, seq), 0, &syscall.SockaddrInet4{Addr: t.Addr().As4()})
}

// magic begins every numbered datagram.
const magic = "probe"

func (s *sender) next() uint32 {
	seq := s.seq.Add(1)
	s.sent[uint16(seq)].Store(time.Now().UnixNano())
	return seq
}

// syn is a TCP segment that asks for a connection, from a port of its own.
func (s *sender) syn(t netip.AddrPort, seq uint32) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], uint16(20000+seq%40000))
	binary.BigEndian.PutUint16(b[2:], t.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = 5<<4, flagSYN
	binary.BigEndian.PutUint16(b[14:], 1024)
	from, to := s.from.As4(), t.Addr().As4()
	pseudo := append(append(append([]byte{}, from[:]...), to[:]...), 0, syscall.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
