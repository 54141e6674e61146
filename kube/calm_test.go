package kube

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// calmReads writes pieces of so many bytes through a calm connection, one every
// interval, and returns how often it was read, how long the slowest word was on
// its way and how long all took.
func calmReads(t *testing.T, pieces, size int, interval time.Duration) (reads int, slowest, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn, err := dialer(func(context.Context, string, string) (net.Conn, error) { return &heap{Conn: far}, nil }).calm(standardPace.calm)(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		go func() {
			defer near.Close()
			for range pieces {
				if _, err := near.Write(make([]byte, size)); err != nil {
					t.Error(err)
				}
				time.Sleep(interval)
			}
		}()
		b, got := make([]byte, 16<<10), 0
		for {
			n, err := conn.Read(b)
			for at := got / size; at < (got+n)/size; at++ {
				slowest = max(slowest, time.Since(began.Add(time.Duration(at)*interval)))
			}
			got += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			reads++
		}
		if got != pieces*size {
			t.Errorf("%d bytes came of %d", got, pieces*size)
		}
		took = time.Since(began)
	})
	return reads, slowest, took
}

// heap keeps what comes until it is read, as a socket does.
type heap struct {
	net.Conn
	once  bool
	words chan []byte
	rest  bytes.Buffer
}

func (h *heap) Read(b []byte) (int, error) {
	if !h.once {
		h.once, h.words = true, make(chan []byte, 1<<20)
		go func() {
			defer close(h.words)
			for {
				word := make([]byte, 64<<10)
				n, err := h.Conn.Read(word)
				if err != nil {
					return
				}
				h.words <- word[:n]
			}
		}()
	}
	for h.rest.Len() < len(b) {
		var word []byte
		var ok bool
		if h.rest.Len() == 0 {
			word, ok = <-h.words
		} else {
			select {
			case word, ok = <-h.words:
			default:
				return h.rest.Read(b)
			}
		}
		if !ok {
			break
		}
		h.rest.Write(word)
	}
	return h.rest.Read(b)
}

func TestACalmConnection(t *testing.T) {
	for _, x := range []struct {
		name         string
		pieces, size int
		every        time.Duration
		reads        int // at most
		slowest      time.Duration
		took         time.Duration
	}{
		{"words one after the other wait for each other", 1000, 300, time.Millisecond, 60, standardPace.calm, 1021 * time.Millisecond},
		{"a word that comes alone is read at once", 10, 300, time.Second, 10, 0, 10 * time.Second},
		{"so are a few at a time", calmBurst, 300, time.Millisecond, calmBurst, 0, 100 * time.Millisecond},
		{"and large pieces", 1000, 16 << 10, 0, 1000, 0, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			reads, slowest, took := calmReads(t, x.pieces, x.size, x.every)
			if reads > x.reads || slowest > x.slowest || took > x.took {
				t.Errorf("%d reads, want %d; the slowest word took %s, want %s; all %s, want %s", reads, x.reads, slowest, x.slowest, took, x.took)
			}
		})
	}
}
