package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
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
	must(t, s.sink.(*net.UDPConn).SetReadBuffer(8<<20))
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
	t.Cleanup(func() { s.end() })
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
			defer fresh.Close()
			from = fresh
		}
		number := binary.BigEndian.AppendUint64(nil, uint64(s.sent.Add(1)))
		if _, err := from.WriteTo(number, to); err != nil {
			t.Errorf("%s: %v", s.name, err)
			return
		}
	}
}

// end stops the sender, gives what is under way the time to arrive, and stops
// the receiver.
func (s *stream) end() {
	select {
	case <-s.quit:
		return
	default:
	}
	close(s.quit)
	s.sender.Wait()
	time.Sleep(50 * time.Millisecond)
	s.sink.Close()
	s.sunk.Wait()
}

// passes says whether what is sent from now on arrives.
func (s *stream) passes() bool {
	now := s.sent.Load()
	patience := time.Now().Add(150 * time.Millisecond)
	for s.sent.Load() < now+20 || time.Now().Before(patience) {
		if s.latest.Load() > now {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// wantSilence and wantAll end a stream and check what came of it.
func (s *stream) wantSilence(t *testing.T) {
	t.Helper()
	s.end()
	if s.arrived.Load() > 0 || s.sent.Load() == 0 {
		t.Errorf("%s: %d of %d packets got through", s.name, s.arrived.Load(), s.sent.Load())
	}
}

func (s *stream) wantAll(t *testing.T) {
	t.Helper()
	s.end()
	if s.arrived.Load() != s.sent.Load() || s.sent.Load() == 0 {
		t.Errorf("%s: only %d of %d packets got through", s.name, s.arrived.Load(), s.sent.Load())
	}
}

// session is an established TCP connection between two pods that carries a
// byte there and back every millisecond.
type session struct {
	client *net.TCPConn
	trips  atomic.Int64
	done   sync.WaitGroup
	quit   chan struct{}
	err    error
}

func startSession(t *testing.T, l *Lab, from, to string) *session {
	t.Helper()
	s := &session{quit: make(chan struct{})}
	var listener net.Listener
	inPod(t, to, func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), sessionPort).String())
		return err
	})
	s.done.Go(func() {
		defer listener.Close()
		if c, err := listener.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); _ = s.end() })
	target := net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.Matrix.Endpoint(to).IPs[0], sessionPort))
	inPod(t, from, func() (err error) {
		s.client, err = net.DialTCP("tcp4", nil, target)
		return err
	})
	s.done.Go(func() {
		defer s.client.CloseWrite()
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

// end closes the connection; it is an error if a packet had to be sent again.
func (s *session) end() error {
	select {
	case <-s.quit:
		return nil
	default:
	}
	close(s.quit)
	if s.client == nil {
		return nil
	}
	again := uint32(0)
	raw, err := s.client.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			info, infoErr := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if infoErr == nil {
				again = info.Total_retrans
			}
		})
	}
	_ = s.client.SetDeadline(time.Now().Add(time.Second))
	s.done.Wait()
	err = errors.Join(err, s.err, s.client.Close())
	if again > 0 {
		err = errors.Join(err, errors.New("packets had to be sent again"))
	}
	return err
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
