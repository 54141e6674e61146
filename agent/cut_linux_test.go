package agent

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
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
	c, err := dial(s.t, podNS(s.t, x.client), network, nil, netip.AddrPortFrom(s.pod(x.server, v6), port), soon)
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
		s.cut(way.name, list)
		end()
	}
}

// cut says what the streams do after an update: who lives on is listened to
// until enough has come, and meanwhile nothing may come from who is cut.
func (s *siege) cut(when string, list []*liveFlow) {
	s.t.Helper()
	const limit, watched, enough = 200 * time.Millisecond, 500 * time.Millisecond, 20
	time.Sleep(limit) // what was under way arrives
	for _, e := range s.ears {
		e.forget()
	}
	heard := func(x *liveFlow) int { return s.ears[x.receiver()].count(x.mark) }
	few := func(x *liveFlow) bool { return !x.cut && heard(x) < enough }
	for end := time.Now().Add(30 * time.Second); ; {
		time.Sleep(watched)
		if !slices.ContainsFunc(list, few) || time.Now().After(end) {
			break
		}
	}
	for _, x := range list {
		switch n := heard(x); {
		case x.cut && n > 0:
			s.t.Errorf("%s: %s: %d packets came later than %s after the update", when, x.name, n, limit)
		case !x.cut && n < enough:
			s.t.Errorf("%s: %s: only %d packets came", when, x.name, n)
		}
	}
	s.silent(when)
}

// silent says that not even packets without data were heard between the cut ends.
func (s *siege) silent(when string) {
	s.t.Helper()
	pairs := map[[2]netip.Addr]string{}
	for _, v6 := range []bool{false, true} {
		for _, victim := range []string{near, far} {
			m, v := s.pod(mallory, v6), s.pod(victim, v6)
			pairs[[2]netip.Addr{m, v}], pairs[[2]netip.Addr{v, m}] = victim, mallory
		}
	}
	for _, key := range []string{mallory, near, far} {
		for _, packet := range s.ears[key].heard {
			if packet[0]>>4 != 4 && (packet[0]>>4 != 6 || len(packet) < 40) {
				continue // no IP
			}
			src, dst := ends(packet)
			if who, ok := pairs[[2]netip.Addr{src, dst}]; ok && who == key {
				s.t.Errorf("%s: a packet of protocol %d from %s to %s", when, protocolOf(packet), src, dst)
			}
		}
	}
}
