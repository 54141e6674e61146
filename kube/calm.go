package kube

import (
	"context"
	"net"
	"time"
)

// A busy API server has a word for every change, and to wake up for each of
// them costs more than to read it: it goes from hand to hand, through the
// kernel, TLS, HTTP/2 and a watch. So where words come one after the other they
// wait in the socket, and are read a few at a time. What comes alone is read at
// once, and so is what comes in large pieces, like a list.
const (
	calmBurst = 8       // reads that do not wait, after as many intervals of rest
	calmLarge = 8 << 10 // bytes of a large piece
)

// calmConn is a connection that is read so. One goroutine reads.
type calmConn struct {
	net.Conn
	interval time.Duration // between two reads
	paid     time.Time     // until when the reads so far would have lasted at that pace
}

func (c *calmConn) Read(b []byte) (int, error) {
	time.Sleep(time.Until(c.paid))
	n, err := c.Conn.Read(b)
	if n < min(len(b), calmLarge) { // and no more is there
		earliest := time.Now().Add(-calmBurst * c.interval)
		if c.paid.Before(earliest) {
			c.paid = earliest
		}
		c.paid = c.paid.Add(c.interval)
	}
	return n, err
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// calm has the connections be read so; without an interval they are as they are.
func (d dialer) calm(interval time.Duration) dialer {
	if interval == 0 {
		return d
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &calmConn{Conn: conn, interval: interval}, nil
	}
}
