package agent

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// liveFlow is a connection on which one side keeps sending its mark.
type liveFlow struct {
	name           string
	mark           []byte
	client, server string
	push           bool // the server sends, and the client only said hello
	cut            bool // the policies to come deny it
}

// receiver is who hears the flow.
func (x *liveFlow) receiver() string {
	if x.push {
		return x.client
	}
	return x.server
}

// The ports of the servers: one sends back, again and again, what it is told
// first, the other listens.
const pushPort, sinkPort = 9001, 9002

// repeat says the mark every few milliseconds until it cannot any more.
func repeat(mark []byte, send func([]byte) (int, error)) {
	for {
		if _, err := send(mark); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// serveStreams starts the servers of a pod.
func serveStreams(t *testing.T, ns string) {
	t.Helper()
	listenTCP(t, ns, pushPort, func(c net.Conn) {
		mark := make([]byte, 8)
		if _, err := io.ReadFull(c, mark); err == nil {
			repeat(mark, c.Write)
		}
	})
	listenTCP(t, ns, sinkPort, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	inside(t, ns, func() error {
		c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", pushPort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			for {
				mark := make([]byte, 8)
				_, from, err := c.ReadFrom(mark)
				if err != nil {
					return
				}
				go repeat(mark, func(b []byte) (int, error) { return c.WriteTo(b, from) })
			}
		}()
		sink, err := net.ListenPacket("udp", fmt.Sprintf(":%d", sinkPort))
		if err == nil {
			t.Cleanup(func() { _ = sink.Close() })
		}
		return err
	})
}

// connect begins a liveFlow and returns its connection.
func (s *siege) connect(x *liveFlow, network string, v6 bool) net.Conn {
	s.t.Helper()
	port := uint16(sinkPort)
	if x.push {
		port = pushPort
	}
	c, err := dial(s.t, podNS(s.t, x.client), network, nil, netip.AddrPortFrom(s.pod(x.server, v6), port), 2*time.Second)
	if err != nil {
		s.t.Fatalf("%s: %v", x.name, err)
	}
	if x.push {
		_, _ = c.Write(x.mark)
	} else {
		go repeat(x.mark, c.Write)
	}
	return c
}

// streams begins a liveFlow of each kind from mallory, which is to be cut, and
// from friend, which is to live on.
func (s *siege) streams() (list []*liveFlow, end func()) {
	s.t.Helper()
	var open []net.Conn
	for _, client := range []string{mallory, friend} {
		for _, server := range []string{near, far} {
			for _, network := range []string{"tcp", "udp"} {
				for _, v6 := range []bool{false, true} {
					for _, push := range []bool{false, true} {
						x := &liveFlow{mark: s.marks.next(), client: client, server: server, push: push, cut: client == mallory}
						x.name = fmt.Sprintf("%s, %s %s, %s to %s", map[bool]string{false: "client sends", true: "server sends"}[push], family(v6), network, client, server)
						open = append(open, s.connect(x, network, v6))
						list = append(list, x)
					}
				}
			}
		}
	}
	return list, func() {
		for _, c := range open {
			_ = c.Close()
		}
	}
}

// A change of policies cuts the live connections that it denies, in both
// directions and whoever sends, and no other.
func TestChangesCutLiveConnectionsUnderAttack(t *testing.T) {
	toVictims := "[{to: [{podSelector: {matchLabels: {role: victim}}}]}]"
	s := besiege(t, "")
	for _, key := range []string{near, far} {
		serveStreams(t, podNS(t, key))
	}
	for _, way := range []struct{ name, policies string }{
		{"ingress shut", selecting("in", "victim", "policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]")},
		{"egress shut", selecting("out", "mallory", "policyTypes: [Egress]") + selecting("others", "friend", "policyTypes: [Egress], egress: "+toVictims)},
	} {
		s.update("")
		list, end := s.streams()
		for _, x := range list {
			s.delivered(way.name+": before: "+x.name, x.receiver(), x.mark)
		}
		s.update(way.policies)
		s.cut(way.name, list, time.Now())
		end()
	}
}

// cut says what the streams did from the time of the update on.
func (s *siege) cut(when string, list []*liveFlow, updated time.Time) {
	s.t.Helper()
	const limit, watched = 200 * time.Millisecond, 700 * time.Millisecond
	for _, e := range s.ears {
		e.forget()
	}
	var listeners sync.WaitGroup
	for _, key := range []string{mallory, friend, near, far} {
		listeners.Go(func() {
			for time.Since(updated) < watched {
				s.ears[key].listen()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	listeners.Wait()
	for _, x := range list {
		first, last := s.heardOf(x, updated.Add(limit))
		switch {
		case x.cut && last > 0:
			s.t.Errorf("%s: %s: %d packets came later than %s after the update", when, x.name, last, limit)
		case x.cut && first > 0:
			s.t.Logf("%s: %s: %d packets were under way", when, x.name, first)
		case !x.cut && last < 20:
			s.t.Errorf("%s: %s: only %d packets came in %s", when, x.name, last, watched-limit)
		}
	}
	s.silent(when, updated.Add(limit))
}

// heardOf counts a liveFlow's packets before and since a time.
func (s *siege) heardOf(x *liveFlow, since time.Time) (before, after int) {
	e := s.ears[x.receiver()]
	early := &ear{}
	for _, sound := range e.heard {
		if sound.at.Before(since) {
			early.heard = append(early.heard, sound)
		}
	}
	before = early.count(x.mark)
	return before, e.count(x.mark) - before
}

// silent says that not even packets without data passed between the cut ends.
func (s *siege) silent(when string, since time.Time) {
	s.t.Helper()
	pairs := map[[2]netip.Addr]string{}
	for _, v6 := range []bool{false, true} {
		for _, victim := range []string{near, far} {
			m, v := s.pod(mallory, v6), s.pod(victim, v6)
			pairs[[2]netip.Addr{m, v}], pairs[[2]netip.Addr{v, m}] = victim, mallory
		}
	}
	for _, key := range []string{mallory, near, far} {
		for _, sound := range s.ears[key].heard {
			if sound.packet[0]>>4 != 4 && (sound.packet[0]>>4 != 6 || len(sound.packet) < 40) {
				continue // no IP
			}
			src, dst := ends(sound.packet)
			if who, ok := pairs[[2]netip.Addr{src, dst}]; ok && who == key && sound.at.After(since) {
				s.t.Errorf("%s: a packet of protocol %d from %s to %s", when, protocolOf(sound.packet), src, dst)
			}
		}
	}
}
