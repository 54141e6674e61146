package main

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/prober"
)

const (
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// record counts the packets that arrive at the pod's device, whether anybody
// listens for them or not.
type record struct {
	fds  []int // of each family
	mu   sync.Mutex
	seen map[arrival]*prober.Arrival
}

// arrival is what tells packets apart.
type arrival struct {
	from netip.Addr
	kind string
	port uint16
}

func newRecord() *record { return &record{seen: map[arrival]*prober.Arrival{}} }

func (r *record) open() error {
	for _, family := range []uint16{syscall.ETH_P_IP, syscall.ETH_P_IPV6} {
		fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM, int(bits.ReverseBytes16(family)))
		if err == nil {
			err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<20)
		}
		if err != nil {
			return err
		}
		r.fds = append(r.fds, fd)
	}
	return nil
}

func (r *record) run() {
	for _, fd := range r.fds {
		go r.read(fd)
	}
}

func (r *record) read(fd int) {
	b := make([]byte, 2048)
	for {
		n, from, err := syscall.Recvfrom(fd, b, 0)
		if err != nil {
			continue
		}
		if l, ok := from.(*syscall.SockaddrLinklayer); ok && l.Pkttype == syscall.PACKET_HOST {
			r.packet(b[:n])
		}
	}
}

// unreachable is the type and code with which a pod says that it has no such
// port, by the protocol of ICMP.
var unreachable = map[byte][2]byte{syscall.IPPROTO_ICMP: {3, 3}, syscall.IPPROTO_ICMPV6: {1, 4}}

// packet records an IP packet; of IPv6 those without extension headers.
func (r *record) packet(b []byte) {
	if len(b) < 20 {
		return
	}
	head, source, protocol := int(b[0]&15)*4, b[12:16], b[9]
	if b[0]>>4 == 6 {
		if len(b) < 40 {
			return
		}
		head, source, protocol = 40, b[8:24], b[6]
	}
	from, _ := netip.AddrFromSlice(source)
	if from.IsLoopback() || len(b) < head+8 {
		return
	}
	p := b[head:]
	key, seq := arrival{from: from, port: binary.BigEndian.Uint16(p[2:])}, uint32(0)
	switch protocol {
	case syscall.IPPROTO_UDP:
		body := p[8:]
		if len(body) < len(magic)+4 || !bytes.HasPrefix(body, []byte(magic)) {
			return // a stream's, or somebody who connects
		}
		if seq = binary.BigEndian.Uint32(body[len(magic):]); len(body) == len(magic)+4 {
			key.kind = prober.UDPRequest
		} else {
			key.kind, key.port = prober.UDPAnswer, 0
		}
	case syscall.IPPROTO_TCP:
		if len(p) < 20 {
			return
		}
		switch flags := p[13] & (flagSYN | flagRST | flagACK); {
		case flags == flagSYN:
			key.kind, seq = prober.TCPRequest, binary.BigEndian.Uint32(p[4:])
		case flags&flagSYN != 0 || flags == flagRST|flagACK:
			// The RST with which our own kernel answers has no ACK.
			key.kind, key.port, seq = prober.TCPAnswer, 0, binary.BigEndian.Uint32(p[8:])-1
		default:
			return
		}
	case syscall.IPPROTO_ICMP, syscall.IPPROTO_ICMPV6:
		if [2]byte(p) != unreachable[protocol] {
			return
		}
		key.kind, key.port = prober.Unreachable, 0
	default:
		return
	}
	r.add(key, seq)
}

func (r *record) add(key arrival, seq uint32) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.seen[key]
	if a == nil {
		a = &prober.Arrival{From: key.from.String(), Kind: key.kind, Port: key.port, First: now}
		r.seen[key] = a
	}
	a.Count++
	a.Last, a.Seq = now, seq
}

func (r *record) list() []prober.Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]prober.Arrival, 0, len(r.seen))
	for _, a := range r.seen {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b prober.Arrival) int { return a.First.Compare(b.First) })
	return out
}
