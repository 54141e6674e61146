package agent

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The packets of the tests are made byte by byte, with right checksums where
// nothing else is said: conntrack calls a packet with a wrong one invalid, and
// an attacker would not stumble over that.

const (
	tcpFin, tcpSyn, tcpRst, tcpPsh, tcpAck, tcpUrg = 1, 2, 4, 8, 16, 32

	protocolIGMP, protocolUDPLite, protocolNone, protocolUnknown = 2, 136, 59, 253
)

// ip is a packet of either family.
func ip(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is6() {
		b := make([]byte, 40, 40+len(payload))
		b[0], b[6], b[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return headed(append(b, payload...))
}

// headed gives an IPv4 packet its length and header checksum.
func headed(b []byte) []byte {
	header := b[:int(b[0]&15)*4]
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], checksum(header))
	return b
}

// headerSize is the length of the IP header, without extensions.
func headerSize(packet []byte) int {
	if packet[0]>>4 == 6 {
		return 40
	}
	return int(packet[0]&15) * 4
}

func addressOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// ends are the source and destination of a packet.
func ends(packet []byte) (src, dst netip.Addr) {
	if packet[0]>>4 == 6 {
		return addressOf(packet[8:24]), addressOf(packet[24:40])
	}
	return addressOf(packet[12:16]), addressOf(packet[16:20])
}

// protocolOf is the protocol of a packet without extensions.
func protocolOf(packet []byte) byte {
	if packet[0]>>4 == 6 {
		return packet[6]
	}
	return packet[9]
}

// checksum is the Internet checksum.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// summed gives a payload its checksum, at the offset, over the addresses too.
func summed(src, dst netip.Addr, protocol byte, payload []byte, offset int) []byte {
	binary.BigEndian.PutUint16(payload[offset:], 0)
	pseudo := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	if protocol == unix.IPPROTO_ICMP {
		pseudo = nil
	} else {
		pseudo = slices.Concat(src.AsSlice(), dst.AsSlice(), pseudo)
	}
	binary.BigEndian.PutUint16(payload[offset:], checksum(pseudo, payload))
	return payload
}

func ports(from, to netip.AddrPort) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
}

func udp(from, to netip.AddrPort, data []byte) []byte {
	b := append(ports(from, to), byte((8+len(data))>>8), byte(8+len(data)), 0, 0)
	return ip(from.Addr(), to.Addr(), unix.IPPROTO_UDP, summed(from.Addr(), to.Addr(), unix.IPPROTO_UDP, append(b, data...), 6))
}

// tcp is a segment with some sequence and acknowledgement numbers.
func tcp(from, to netip.AddrPort, flags byte, data []byte) []byte {
	b := append(ports(from, to), 0, 0, 3, 232, 0, 0, 7, 208, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	return ip(from.Addr(), to.Addr(), unix.IPPROTO_TCP, summed(from.Addr(), to.Addr(), unix.IPPROTO_TCP, append(b, data...), 16))
}

// icmp is an ICMP or ICMPv6 message; rest is the second word of its header.
func icmp(src, dst netip.Addr, kind, code byte, rest uint32, data []byte) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest), data...)
	protocol := byte(unix.IPPROTO_ICMP)
	if src.Is6() {
		protocol = unix.IPPROTO_ICMPV6
	}
	return ip(src, dst, protocol, summed(src, dst, protocol, b, 2))
}

// unreachable is the error that a packet's port cannot be reached.
func unreachable(src, dst netip.Addr, about []byte) []byte {
	if src.Is6() {
		return icmp(src, dst, 1, 4, 0, about)
	}
	return icmp(src, dst, 3, 3, 0, about)
}

// fragment is the part [from, to) of what the packet carries; to 0 is its end,
// and the part the last one.
func fragment(packet []byte, id byte, from, to int) []byte {
	head, body := packet[:headerSize(packet)], packet[headerSize(packet):]
	field := uint16(from)
	more := to != 0
	if !more {
		to = len(body)
	}
	if packet[0]>>4 == 6 {
		if more {
			field |= 1
		}
		head = slices.Clone(head)
		extension := []byte{head[6], 0, byte(field >> 8), byte(field), 0, 0, 1, id}
		head[6] = unix.IPPROTO_FRAGMENT
		binary.BigEndian.PutUint16(head[4:], uint16(8+to-from))
		return slices.Concat(head, extension, body[from:to])
	}
	field /= 8
	if more {
		field |= 0x2000
	}
	b := slices.Concat(head, body[from:to])
	b[5], b[6], b[7] = id, byte(field>>8), byte(field)
	return headed(b)
}

// extended puts sixteen bytes of each extension header into an IPv6 packet. The
// options in them begin where a careless reader looks for ports, with openPort.
func extended(packet []byte, types ...byte) []byte {
	head, body := slices.Clone(packet[:40]), packet[40:]
	var extensions []byte
	next := &head[6]
	for _, kind := range types {
		e := []byte{*next, 1, 3, 6, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0} // one that is unknown, one that pads
		if kind == unix.IPPROTO_ROUTING {
			e[2], e[3] = 253, 0 // of an experiment, with no way left to go
		}
		*next = kind
		extensions = append(extensions, e...)
		next = &extensions[len(extensions)-len(e)]
	}
	binary.BigEndian.PutUint16(head[4:], uint16(len(extensions)+len(body)))
	return slices.Concat(head, extensions, body)
}

// optioned puts eight bytes of options into an IPv4 header, which a careless
// reader takes for ports, the second of them openPort.
func optioned(packet []byte) []byte {
	b := slices.Concat(packet[:20], []byte{1, 1, 3, 6, 0, 0, 0, 0}, packet[20:])
	b[0] += 2
	return headed(b)
}

// hopping gives an IPv6 packet another hop limit.
func hopping(packet []byte, limit byte) []byte {
	packet[7] = limit
	return packet
}

// flawed makes the checksum of a packet's datagram or segment wrong.
func flawed(packet []byte) []byte {
	at := headerSize(packet) + 6
	if protocolOf(packet) == unix.IPPROTO_TCP {
		at += 10
	}
	packet[at] ^= 0x55
	return packet
}
