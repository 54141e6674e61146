package main

import (
	"bytes"
	"encoding/binary"
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
	fd   int
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

func (r *record) open() (err error) {
	const ip = syscall.ETH_P_IP<<8&0xff00 | syscall.ETH_P_IP>>8 // in the network's order
	r.fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM, ip)
	if err == nil {
		err = syscall.SetsockoptInt(r.fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<20)
	}
	return err
}

func (r *record) run() {
	b := make([]byte, 2048)
	for {
		n, from, err := syscall.Recvfrom(r.fd, b, 0)
		if err != nil {
			continue
		}
		if l, ok := from.(*syscall.SockaddrLinklayer); ok && l.Pkttype == syscall.PACKET_HOST {
			r.packet(b[:n])
		}
	}
}

// packet records an IPv4 packet.
func (r *record) packet(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	head := int(b[0]&15) * 4
	from, _ := netip.AddrFromSlice(b[12:16])
	if from.IsLoopback() || len(b) < head+8 {
		return
	}
	p := b[head:]
	key, seq := arrival{from: from, port: binary.BigEndian.Uint16(p[2:])}, uint32(0)
	switch b[9] {
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
	case syscall.IPPROTO_ICMP:
		if p[0] != 3 || p[1] != 3 { // "port unreachable" is the pod itself
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
