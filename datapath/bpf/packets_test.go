package bpf

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"

	"github.com/sallyport-dev/sallyport/model"
)

// segment is a packet before it is written in bytes.
type segment struct {
	src, dst    netip.Addr
	protocol    model.Protocol
	sport       uint16
	dport       uint16 // ICMP: type and code
	id          uint16 // of an ICMP request and its reply
	flags       byte   // of TCP; of SCTP, the chunk's type
	hopLimit    byte
	tos         byte
	options     bool   // an IPv4 option, or an IPv6 destination option
	badChecksum bool   // of the transport header
	payload     []byte // of an ICMP error: the packet at fault
}

const (
	tcpFIN, tcpSYN, tcpRST, tcpACK = 1, 2, 4, 16
	sctpData, sctpInit, sctpAck    = 0, 1, 2
)

func (s segment) String() string {
	return fmt.Sprintf("%s -> %s protocol %d ports %d, %#x id %d flags %#x hop limit %d tos %#x options %v bad checksum %v inner %x",
		s.src, s.dst, s.protocol, s.sport, s.dport, s.id, s.flags, s.hopLimit, s.tos, s.options, s.badChecksum, s.payload)
}

// bytes writes the packet.
func (s segment) bytes() []byte {
	body := s.transport()
	if s.src.Is4() {
		return s.header4(body)
	}
	return s.header6(body)
}

func (s segment) header4(body []byte) []byte {
	length := 20
	if s.options {
		length = 24
	}
	b := make([]byte, length, length+len(body))
	for i := 20; i < length; i++ {
		b[i] = 1 // no operation
	}
	b[0], b[1], b[8], b[9] = byte(0x40|length/4), s.tos, s.hopLimit, byte(s.protocol)
	binary.BigEndian.PutUint16(b[2:], uint16(length+len(body)))
	binary.BigEndian.PutUint16(b[4:], s.id+s.sport)
	copy(b[12:], s.src.AsSlice())
	copy(b[16:], s.dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], onesSum(b))
	return append(b, body...)
}

func (s segment) header6(body []byte) []byte {
	b := make([]byte, 40, 48+len(body))
	b[0], b[1], b[6], b[7] = 0x60, s.tos<<4, byte(s.protocol), s.hopLimit
	copy(b[8:], s.src.AsSlice())
	copy(b[24:], s.dst.AsSlice())
	if s.options {
		b[6] = 60
		b = append(b, byte(s.protocol), 0, 1, 4, 0, 0, 0, 0)
	}
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func (s segment) transport() []byte {
	var b []byte
	sum := 0 // place of the checksum
	switch s.protocol {
	case model.TCP:
		b = make([]byte, 20)
		b[7], b[12], b[13], b[14], sum = 1, 0x50, s.flags, 0x20, 16
		b[11] = s.flags & tcpACK / tcpACK * 2 // a reply acknowledges the SYN
	case model.UDP:
		b = make([]byte, 16)
		b[5], sum = 16, 6
	case model.SCTP:
		return s.sctp()
	case model.ICMP, model.ICMPv6:
		b = append(make([]byte, 8), s.payload...)
		binary.BigEndian.PutUint16(b, s.dport)
		binary.BigEndian.PutUint16(b[4:], s.id)
		if s.protocol == model.ICMPv6 && s.dport>>8 >= 133 && s.dport>>8 <= 137 {
			b = append(b, make([]byte, 32)...)
		}
		sum = 2
	default:
		return make([]byte, 16)
	}
	if s.protocol != model.ICMP && s.protocol != model.ICMPv6 {
		binary.BigEndian.PutUint16(b, s.sport)
		binary.BigEndian.PutUint16(b[2:], s.dport)
	}
	value := s.checksum(b)
	if s.badChecksum {
		value ^= 0x5555
	}
	binary.BigEndian.PutUint16(b[sum:], value)
	return b
}

func (s segment) checksum(body []byte) uint16 {
	if s.protocol == model.ICMP {
		return onesSum(body)
	}
	pseudo := append(s.src.AsSlice(), s.dst.AsSlice()...)
	pseudo = append(pseudo, 0, byte(s.protocol), byte(len(body)>>8), byte(len(body)))
	return onesSum(append(pseudo, body...))
}

// sctp writes one chunk of the type in flags.
func (s segment) sctp() []byte {
	b := make([]byte, 32)
	binary.BigEndian.PutUint16(b, s.sport)
	binary.BigEndian.PutUint16(b[2:], s.dport)
	b[12], b[15] = s.flags, 20
	if s.flags != sctpInit {
		b[7] = 1 // verification tag
	}
	if s.flags != sctpData {
		b[19], b[25], b[27] = 1, 1, 1 // initiate tag, streams
	}
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	if s.badChecksum {
		sum ^= 0x5555
	}
	binary.LittleEndian.PutUint32(b[8:], sum)
	return b
}

func onesSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)&1 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// reply answers the packet.
func (s segment) reply() segment {
	s.src, s.dst = s.dst, s.src
	switch s.protocol {
	case model.ICMP:
		s.dport = map[uint16]uint16{8: 0, 13: 14, 15: 16, 17: 18}[s.dport>>8] << 8
	case model.ICMPv6:
		s.dport = map[uint16]uint16{128: 129, 139: 140}[s.dport>>8] << 8
	default:
		s.sport, s.dport = s.dport, s.sport
	}
	switch {
	case s.protocol == model.TCP && s.flags == tcpSYN:
		s.flags = tcpSYN | tcpACK
	case s.protocol == model.TCP && s.flags&tcpRST == 0:
		s.flags = tcpACK
	case s.protocol == model.SCTP && s.flags == sctpInit:
		s.flags = sctpAck
	}
	return s
}

// failure is an ICMP error about the packet, from the sender.
func (s segment) failure(sender netip.Addr, r *rand.Rand) segment {
	inner := s
	inner.options = false
	e := segment{src: sender, dst: s.src, protocol: model.ICMP, hopLimit: 64, payload: inner.bytes()}
	e.dport = pick[uint16](r, 3<<8|3, 3<<8|1, 11<<8, 12<<8)
	if s.src.Is6() {
		e.protocol, e.dport = model.ICMPv6, pick[uint16](r, 1<<8|4, 1<<8|1, 2<<8, 3<<8, 4<<8)
	}
	return e
}

// fragments splits an IPv4 packet in two behind n bytes of its body.
func fragments(packet []byte, n int) [2][]byte {
	header := int(packet[0]&15) * 4
	cut := func(body []byte, offset uint16) []byte {
		b := append(append([]byte(nil), packet[:header]...), body...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], offset)
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], onesSum(b[:header]))
		return b
	}
	return [2][]byte{cut(packet[header:header+n], 0x2000), cut(packet[header+n:], uint16(n/8))}
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }
