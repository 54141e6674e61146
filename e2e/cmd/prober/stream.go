package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/prober"
)

// serve answers on a port: who asks, gets a name; everything else comes back.
func serve(spec string) {
	proto, port, ok := strings.Cut(spec, "/")
	if !ok {
		serve("tcp/" + spec)
		serve("udp/" + spec)
		return
	}
	if !strings.Contains(port, ":") {
		port = ":" + port
	}
	if proto == "udp" {
		conn, err := net.ListenPacket("udp", port)
		if err != nil {
			log.Fatalf("prober: %v", err)
		}
		go serveUDP(conn)
		return
	}
	l, err := net.Listen("tcp", port)
	if err != nil {
		log.Fatalf("prober: %v", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				continue
			}
			go serveTCP(conn)
		}
	}()
}

func serveUDP(conn net.PacketConn) {
	b := make([]byte, 2048)
	pushes := map[string]bool{} // to whom; who is impatient asks twice
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			continue
		}
		text := b[:n]
		switch {
		case string(text) == prober.Who:
			text = fmt.Appendf(nil, "%s %s\n", *name, from)
		case string(text) == push:
			if pushes[from.String()] {
				continue
			}
			pushes[from.String()] = true
			go numbers(func(b []byte) error { _, err := conn.WriteTo(b, from); return err })
			continue
		case strings.HasPrefix(string(text), magic):
			text = append(text, '!') // an answer, to those who record
		}
		_, _ = conn.WriteTo(text, from)
	}
}

func serveTCP(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	b := make([]byte, 2048)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		text := b[:n]
		switch string(text) {
		case push:
			_ = numbers(func(b []byte) error { _, err := conn.Write(b); return err })
			return
		case prober.Who:
			text = fmt.Appendf(nil, "%s %s\n", *name, conn.RemoteAddr())
		}
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

// push asks a server to send the numbers itself.
const push = "push!\n"

// numbers sends numbers until that fails.
func numbers(send func([]byte) error) error {
	for number := uint64(0); ; number++ {
		b := binary.BigEndian.AppendUint64(nil, number)
		if err := send(binary.BigEndian.AppendUint64(b, uint64(time.Now().UnixNano()))); err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// streams are the connections that go on for ever.
type streams struct {
	mu  sync.Mutex
	all []*prober.Stream
}

func (s *streams) list() (out []prober.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		out = append(out, *x)
	}
	return out
}

func (s *streams) add(proto, to string) {
	x := &prober.Stream{To: to, Proto: proto}
	s.mu.Lock()
	s.all = append(s.all, x)
	s.mu.Unlock()
	go func() {
		for {
			err := s.run(x)
			s.mu.Lock()
			if x.Back > 0 {
				x.Broken++ // and no attempt that came too early
			}
			x.Error = err.Error()
			s.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	}()
}

// run sends numbers every two milliseconds until the connection ends. It never
// ends it itself: what is cut stays silent until TCP gives up.
func (s *streams) run(x *prober.Stream) error {
	proto, pushed := strings.CutSuffix(x.Proto, " push")
	conn, err := net.DialTimeout(proto, x.To, 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	done := make(chan error, 2)
	if pushed {
		go func() {
			if err := s.ask(conn, x, proto == "udp"); err != nil {
				done <- err
			}
		}()
	} else {
		go func() {
			done <- numbers(func(b []byte) error {
				_, err := conn.Write(b)
				s.mu.Lock()
				defer s.mu.Unlock()
				x.Sent++
				if proto == "udp" {
					return nil // the node refuses to send; it may not later
				}
				return err
			})
		}()
	}
	go func() { done <- s.read(conn, x) }()
	return <-done
}

// ask asks for numbers. A datagram may be lost, as long as the other's node has
// not heard of this pod: it is sent until numbers come.
func (s *streams) ask(conn net.Conn, x *prober.Stream, again bool) error {
	for {
		if _, err := conn.Write([]byte(push)); !again {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		s.mu.Lock()
		x.Sent++
		flows := x.Back > 0
		s.mu.Unlock()
		if flows {
			return nil
		}
	}
}

func (s *streams) read(conn net.Conn, x *prober.Stream) error {
	b := make([]byte, 16)
	for want := uint64(0); ; want++ {
		var err error
		if strings.HasPrefix(x.Proto, "tcp") {
			_, err = io.ReadFull(conn, b)
		} else if _, err = conn.Read(b); err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if number := binary.BigEndian.Uint64(b); strings.HasPrefix(x.Proto, "tcp") && number != want {
			return errors.New("a number came back out of order")
		}
		now := time.Now()
		s.mu.Lock()
		if !x.Last.IsZero() {
			x.Gap = max(x.Gap, now.Sub(x.Last))
		}
		x.Back++
		x.Last, x.LastSent = now, time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))
		s.mu.Unlock()
	}
}
