package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/lab"
)

// The ports of what the tests themselves serve in pods.
const (
	streamPort  = 9999
	sessionPort = 9998
)

// stream sends a numbered datagram from a pod to another every millisecond, now and
// then from a new socket, and counts what arrives: a packet that slips through
// is seen however late it comes, and one that is dropped is missed.
type stream struct {
	name          string
	sent, arrived atomic.Int64
	latest        atomic.Int64 // the highest number that has arrived
	quit          chan struct{}
	sender        sync.WaitGroup
	sink          net.PacketConn
	sunk          sync.WaitGroup
}

func startStream(t *testing.T, l *Lab, from, to string) *stream {
	t.Helper()
	s := &stream{name: from + " to " + to, quit: make(chan struct{})}
	inPod(t, to, func() (err error) {
		s.sink, err = net.ListenPacket("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), streamPort).String())
		return err
	})
	must(t, control(s.sink.(*net.UDPConn), func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // beyond what rmem_max allows
	}))
	s.sunk.Go(func() {
		buf := make([]byte, 64)
		for {
			if _, _, err := s.sink.ReadFrom(buf); err != nil {
				return
			}
			s.arrived.Add(1)
			s.latest.Store(max(s.latest.Load(), int64(binary.BigEndian.Uint64(buf))))
		}
	})
	target := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Matrix.Endpoint(to).IPs[0], streamPort))
	ready := make(chan error)
	s.sender.Go(func() {
		if err := enterPod(from); err != nil {
			ready <- err
			return
		}
		conn, err := net.ListenUDP("udp4", nil)
		ready <- err
		if err == nil {
			defer conn.Close()
			s.send(t, conn, target)
		}
	})
	must(t, <-ready)
	t.Cleanup(func() { s.end(false) })
	return s
}

func (s *stream) send(t *testing.T, conn *net.UDPConn, to *net.UDPAddr) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		from := conn
		if i%8 == 0 {
			fresh, err := net.ListenUDP("udp4", nil)
			if err != nil {
				t.Error(err)
				return
			}
			from = fresh
		}
		number := binary.BigEndian.AppendUint64(nil, uint64(s.sent.Add(1)))
		_, err := from.WriteTo(number, to)
		if from != conn {
			from.Close() // else a long test runs out of descriptors
		}
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			return
		}
	}
}

// end stops the sender, waits for what is under way, as long as it takes if
// all of it is to arrive, and stops the receiver.
func (s *stream) end(all bool) {
	select {
	case <-s.quit:
		return
	default:
	}
	close(s.quit)
	s.sender.Wait()
	time.Sleep(50 * time.Millisecond)
	for end := time.Now().Add(soon); all && s.arrived.Load() < s.sent.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	s.sink.Close()
	s.sunk.Wait()
}

// passes says whether what is sent from now on arrives. It is patient if that
// is wanted.
func (s *stream) passes(want bool) bool {
	now := s.sent.Load()
	patience := 150 * time.Millisecond
	if want {
		patience = soon
	}
	for end := time.Now().Add(patience); s.sent.Load() < now+20 || time.Now().Before(end); {
		if s.latest.Load() > now {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return s.latest.Load() > now
}

// wantSilence and wantAll end a stream and check what came of it.
func (s *stream) wantSilence(t *testing.T) {
	t.Helper()
	s.end(false)
	if s.arrived.Load() > 0 || s.sent.Load() == 0 {
		t.Errorf("%s: %d of %d packets got through", s.name, s.arrived.Load(), s.sent.Load())
	}
}

func (s *stream) wantAll(t *testing.T) {
	t.Helper()
	s.end(true)
	if s.arrived.Load() != s.sent.Load() || s.sent.Load() == 0 {
		t.Errorf("%s: only %d of %d packets got through", s.name, s.arrived.Load(), s.sent.Load())
	}
}

// session is an established TCP connection between two pods that carries a
// byte there and back every millisecond.
type session struct {
	client, server *net.TCPConn
	trips          atomic.Int64
	done           sync.WaitGroup // the client's
	served         sync.WaitGroup // the server's
	quit           chan struct{}
	err            error
}

func startSession(t *testing.T, l *Lab, from, to string) *session {
	t.Helper()
	s := &session{quit: make(chan struct{})}
	var listener net.Listener
	inPod(t, to, func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), sessionPort).String())
		return err
	})
	accepted := make(chan error, 1)
	s.served.Go(func() {
		defer listener.Close()
		c, err := listener.Accept()
		if err == nil {
			s.server = c.(*net.TCPConn)
		}
		accepted <- err
		if err == nil {
			_, _ = io.Copy(c, c)
		}
	})
	t.Cleanup(func() { _ = listener.Close(); _ = s.end() })
	target := net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.Matrix.Endpoint(to).IPs[0], sessionPort))
	inPod(t, from, func() (err error) {
		s.client, err = net.DialTCP("tcp4", nil, target)
		return err
	})
	must(t, <-accepted)
	s.done.Go(func() {
		buf := []byte{1}
		for {
			select {
			case <-s.quit:
				return
			case <-time.After(time.Millisecond):
			}
			if _, s.err = s.client.Write(buf); s.err != nil {
				return
			}
			if _, s.err = io.ReadFull(s.client, buf); s.err != nil {
				return
			}
			s.trips.Add(1)
		}
	})
	return s
}

// end closes the connection; it is an error if a packet was lost.
func (s *session) end() error {
	select {
	case <-s.quit:
		return nil
	default:
	}
	close(s.quit)
	if s.client == nil || s.server == nil {
		return nil
	}
	_ = s.client.SetDeadline(time.Now().Add(soon))
	s.done.Wait() // the last trip ends
	err := s.err
	for _, c := range []*net.TCPConn{s.client, s.server} {
		n, lostErr := lost(c)
		for end := time.Now().Add(soon); n > 0 && time.Now().Before(end); n, lostErr = lost(c) {
			time.Sleep(10 * time.Millisecond) // for the other end to say that it had the packet
		}
		if err = errors.Join(err, lostErr); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d packets of %s had to be sent again", n, c.LocalAddr()))
		}
	}
	err = errors.Join(err, s.client.Close())
	s.served.Wait()
	return errors.Join(err, s.server.Close())
}

// lost counts the packets of one end that were sent again because they had not
// arrived. On a busy machine TCP also repeats what just was not acknowledged in
// time; of that the other end says that it came twice.
func lost(c *net.TCPConn) (n uint32, err error) {
	err = control(c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Total_retrans - min(info.Total_retrans, info.Dsack_dups)
		}
		return err
	})
	return n, err
}

// control runs f on a socket.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

func (s *session) wantUnbroken(t *testing.T) {
	t.Helper()
	if err := s.end(); err != nil || s.trips.Load() == 0 {
		t.Errorf("the established connection was broken after %d round trips: %v", s.trips.Load(), err)
	}
}

// enterPod takes the goroutine, on a thread that ends with it, into a pod.
func enterPod(key string) error {
	state, err := lab.ReadState()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	ns, err := netns.GetFromName(state.Pods[key].NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

// inPod runs f in a pod: sockets that it makes stay there.
func inPod(t *testing.T, key string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		err := enterPod(key)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
