package main

import (
	"encoding/binary"
	"errors"
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
	v4, v6  family
}

// family is what sends packets of one.
type family struct {
	raw  int
	udp  *net.UDPConn
	from netip.Addr // invalid: the pod has no address of it
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
func (s *sender) open() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		switch p, err := netip.ParsePrefix(a.String()); {
		case err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast():
		case p.Addr().Is4():
			s.v4.from = p.Addr()
		default:
			s.v6.from = p.Addr()
		}
	}
	return errors.Join(s.v4.open(syscall.AF_INET, "udp4"), s.v6.open(syscall.AF_INET6, "udp6"))
}

func (f *family) open(number int, udp string) (err error) {
	if !f.from.IsValid() {
		return nil
	}
	if f.raw, err = syscall.Socket(number, syscall.SOCK_RAW, syscall.IPPROTO_TCP); err != nil {
		return err
	}
	f.udp, err = net.ListenUDP(udp, nil)
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
	f := &s.v4
	if t.Addr().Is6() {
		f = &s.v6
	}
	if !f.from.IsValid() {
		return
	}
	seq := s.next()
	_, _ = f.udp.WriteToUDPAddrPort(binary.BigEndian.AppendUint32([]byte(magic), seq), t)
	seq = s.next()
	var to syscall.Sockaddr = &syscall.SockaddrInet6{Addr: t.Addr().As16()}
	if t.Addr().Is4() {
		to = &syscall.SockaddrInet4{Addr: t.Addr().As4()}
	}
	_ = syscall.Sendto(f.raw, syn(f.from, t, seq), 0, to)
}

// magic begins every numbered datagram.
const magic = "probe"

func (s *sender) next() uint32 {
	seq := s.seq.Add(1)
	s.sent[uint16(seq)].Store(time.Now().UnixNano())
	return seq
}

// syn is a TCP segment that asks for a connection, from a port of its own.
func syn(from netip.Addr, t netip.AddrPort, seq uint32) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], uint16(20000+seq%40000))
	binary.BigEndian.PutUint16(b[2:], t.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = 5<<4, flagSYN
	binary.BigEndian.PutUint16(b[14:], 1024)
	pseudo := append(append(from.AsSlice(), t.Addr().AsSlice()...), 0, syscall.IPPROTO_TCP, 0, 20) // as good as IPv6's for the sum
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
