package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

const (
	longestFlow = 1 << 20 // bytes of one line, and of what one worker takes at once
	flowsHandy  = "lines of `sallyport monitor -o json`, or of `hubble observe -o jsonpb`"
)

// flows are recorded connections, each different one once. There may be a
// million, of which few have an end that no other has.
type flows struct {
	ends  []flowEnd
	at    map[flowEnd]uint32 // in ends
	list  []recordedFlow
	clean int // so many of the list, the first ones, are sorted and different
}

type flowEnd struct {
	pod  string
	addr netip.Addr
}

type recordedFlow struct {
	from, to uint32 // in ends
	key      model.PortKey
	allowed  bool
}

func newFlows() *flows { return &flows{at: map[flowEnd]uint32{}} }

func (f *flows) end(e flowEnd) uint32 {
	i, ok := f.at[e]
	if !ok {
		i = uint32(len(f.ends))
		f.at[e] = i
		f.ends = append(f.ends, e)
	}
	return i
}

// add adds a flow, again or not: there are never more than twice as many in the
// list as different ones, and some.
func (f *flows) add(r recordedFlow) {
	if f.list = append(f.list, r); len(f.list) > 2*f.clean+1<<16 {
		f.tidy()
	}
}

func (f *flows) tidy() {
	slices.SortFunc(f.list, func(a, b recordedFlow) int {
		if a.from != b.from {
			return cmp.Compare(a.from, b.from)
		}
		if a.to != b.to {
			return cmp.Compare(a.to, b.to)
		}
		if a.key != b.key {
			return cmp.Compare(a.key, b.key)
		}
		return btoi(a.allowed) - btoi(b.allowed)
	})
	f.list = slices.Compact(f.list)
	f.clean = len(f.list)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// merge adds what others have read.
func (f *flows) merge(others []*flows) {
	for _, o := range others {
		ends := make([]uint32, len(o.ends))
		for i, e := range o.ends {
			ends[i] = f.end(e)
		}
		for _, r := range o.list {
			f.list = append(f.list, recordedFlow{ends[r.from], ends[r.to], r.key, r.allowed})
		}
		*o = flows{}
	}
	f.tidy()
}

// record is the flow as it was read.
func (f *flows) record(r recordedFlow) flow.Record {
	from, to := f.ends[r.from], f.ends[r.to]
	return flow.Record{Source: from.addr, SourcePod: from.pod, Destination: to.addr, DestinationPod: to.pod, Key: r.key, Allowed: r.allowed}
}

func (f *flows) records() []flow.Record {
	out := make([]flow.Record, len(f.list))
	for i, r := range f.list {
		out[i] = f.record(r)
	}
	return out
}

// lines are some lines of a file.
type lines struct {
	text  []byte
	first int // the number of the first one
}

// readFlows reads the records of a file, or of standard input. Work is shared
// between the processors; what is in memory does not grow with equal flows.
func (s *session) readFlows(ctx context.Context, path string) (*flows, error) {
	in := s.stdin
	if path != manifest.Stdin {
		f, err := os.Open(path)
		if err != nil {
			return nil, exit{ExitInput, fmt.Errorf("cannot read flows: %w", err)}
		}
		defer f.Close()
		in = f
	}
	p := s.progress("reading flows", 0)
	defer p.end()
	work := make(chan lines)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { defer close(work); return splitLines(ctx, in, work) })
	parts := make([]*flows, runtime.GOMAXPROCS(0))
	for i := range parts {
		parts[i] = newFlows()
		g.Go(func() error {
			defer parts[i].tidy()
			return parseLines(path, work, parts[i])
		})
	}
	if err := g.Wait(); err != nil {
		return nil, exit{ExitInput, err}
	}
	parts[0].merge(parts[1:])
	if len(parts[0].list) == 0 {
		return nil, exit{ExitInput, errors.New(path + " has no flow: it should hold " + flowsHandy)}
	}
	return parts[0], nil
}

// chunks are buffers for lines.
var chunks = sync.Pool{New: func() any { return make([]byte, longestFlow) }}

// splitLines sends whole lines, many at a time.
func splitLines(ctx context.Context, in io.Reader, work chan<- lines) error {
	first := 1
	var rest []byte // of a line that goes on
	for {
		chunk := chunks.Get().([]byte)
		have := copy(chunk, rest)
		n, err := io.ReadFull(in, chunk[have:])
		text := chunk[:have+n]
		rest = nil
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		case err != nil:
			return fmt.Errorf("cannot read flows behind line %d: %w", first+bytes.Count(text, newline)-1, err)
		default:
			end := bytes.LastIndexByte(text, '\n') + 1
			if end == 0 {
				return fmt.Errorf("cannot read flows behind line %d: %w", first-1, bufio.ErrTooLong)
			}
			rest, text = bytes.Clone(text[end:]), text[:end]
		}
		select {
		case work <- lines{text, first}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return nil
		}
		first += bytes.Count(text, newline)
	}
}

var newline = []byte{'\n'}

func parseLines(path string, work <-chan lines, out *flows) error {
	var reader flow.Reader
	for batch := range work {
		number := batch.first
		for line := range bytes.Lines(batch.text) {
			if len(bytes.TrimSpace(line)) > 0 {
				r, ok, err := reader.Parse(line)
				if err != nil {
					return fmt.Errorf("%s:%d: %w (a file of flows has %s)", path, number, err, flowsHandy)
				}
				if ok {
					from, to := out.end(flowEnd{r.SourcePod, r.Source}), out.end(flowEnd{r.DestinationPod, r.Destination})
					out.add(recordedFlow{from, to, r.Key, r.Allowed})
				}
			}
			number++
		}
		chunks.Put(batch.text[:cap(batch.text)]) //nolint:staticcheck // the header is small beside what is in it
	}
	return nil
}
