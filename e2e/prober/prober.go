// Package prober turns the socket of a running prober, the program of
// cmd/prober, into what it has seen: which packets arrived, which of its own
// were answered, how its streams fare. The socket is a file on the node, so
// asking needs no network and no policy can be in the way.
package prober

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Dir is where probers have their sockets, on their node: Dir/NAME.sock.
const Dir = "/run/prober"

// Kinds of packets that arrive.
const (
	UDPRequest  = "udp"        // a datagram to one of the prober's ports
	TCPRequest  = "syn"        // a SYN to any port of the pod
	UDPAnswer   = "udp answer" // a datagram from a target
	TCPAnswer   = "tcp answer" // a SYN-ACK or RST
	Unreachable = "icmp"       // a pod says that it has no such port
)

// State is what a prober has seen since it began.
type State struct {
	Name     string
	Began    time.Time
	Sent     uint64    // packets to targets
	Arrivals []Arrival // everything that came in, but for what belongs to streams
	Streams  []Stream
}

// Arrival counts the packets of one kind from one address.
type Arrival struct {
	From        string
	Kind        string
	Port        uint16 // the prober's, of requests
	Count       uint64
	First, Last time.Time
	Seq         uint32 // of the sender's packets, the last
}

// Stream is a connection on which a number goes out every few milliseconds
// and comes back.
type Stream struct {
	To, Proto string
	Sent      uint64
	Back      uint64
	Last      time.Time     // when a number came back
	LastSent  time.Time     // of the last number that came back
	Gap       time.Duration // the longest time between two that came back
	Broken    int           // how often the connection ended
	Error     string        // why, the last time
}

// Outcome is what came of an attempt to connect.
type Outcome struct {
	Result string // connected, refused, timeout or failed
	Server string // the server's name
	Seen   string // our address as the server sees it
	Error  string
}

// Client asks one prober.
type Client struct{ http http.Client }

// NewClient asks the prober at a socket.
func NewClient(socket string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *Client) call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://prober"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	return err
}

// State returns what the prober has seen.
func (c *Client) State(ctx context.Context) (s State, err error) {
	return s, c.call(ctx, "/state", nil, &s)
}

// Targets has the prober send to these addresses, "ip:port", and to no others.
func (c *Client) Targets(ctx context.Context, list []string) error {
	return c.call(ctx, "/targets", list, nil)
}

// SentAt returns when the packet with that number went out; it remembers the
// last 65536.
func (c *Client) SentAt(ctx context.Context, seq uint32) (t time.Time, err error) {
	return t, c.call(ctx, "/sent", seq, &t)
}

// Stream starts a stream to "ip:port". The protocol is tcp or udp, whose
// numbers the server sends back, or "tcp push" or "udp push", in which only
// the server sends.
func (c *Client) Stream(ctx context.Context, proto, to string) error {
	return c.call(ctx, "/stream", []string{proto, to}, nil)
}

// Connect tries one connection.
func (c *Client) Connect(ctx context.Context, proto, to string) (o Outcome, err error) {
	return o, c.call(ctx, "/connect", []string{proto, to}, &o)
}

// Dial tries one connection from the place of the caller. UDP counts as
// connected when the prober there answers.
func Dial(proto, to string, timeout time.Duration) Outcome {
	conn, err := net.DialTimeout(proto, to, timeout)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte(Who)); err != nil {
		return failed(err)
	}
	b := make([]byte, 256)
	n, err := conn.Read(b)
	if err != nil {
		return failed(err)
	}
	o := Outcome{Result: "connected"}
	_, _ = fmt.Sscan(string(b[:n]), &o.Server, &o.Seen)
	return o
}

// Who asks a server for its name and for the asker's address.
const Who = "who?\n"
