package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/manifest"
)

const (
	longestFlow = 1 << 20 // bytes of one line
	flowsAtOnce = 4096    // lines that one worker takes
	flowsHandy  = "lines of `sallyport monitor -o json`, or of `hubble observe -o jsonpb`"
)

// lines are some lines of a file.
type lines struct {
	text  [][]byte
	first int // the number of the first one
}

// readFlows reads the records of a file, or of standard input, each different
// one once. Work is shared between the processors.
func (s *session) readFlows(ctx context.Context, path string) ([]flow.Record, error) {
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
	parts := make([]map[flow.Record]struct{}, runtime.GOMAXPROCS(0))
	for i := range parts {
		parts[i] = map[flow.Record]struct{}{}
		g.Go(func() error { return parseLines(path, work, parts[i]) })
	}
	if err := g.Wait(); err != nil {
		return nil, exit{ExitInput, err}
	}
	for _, more := range parts[1:] {
		for r := range more {
			parts[0][r] = struct{}{}
		}
	}
	var out []flow.Record
	for r := range parts[0] {
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, exit{ExitInput, errors.New(path + " has no flow: it should hold " + flowsHandy)}
	}
	return out, nil
}

func splitLines(ctx context.Context, in io.Reader, work chan<- lines) error {
	scan := bufio.NewScanner(in)
	scan.Buffer(make([]byte, 1<<16), longestFlow)
	batch := lines{first: 1}
	send := func() error {
		select {
		case work <- batch:
			batch = lines{first: batch.first + len(batch.text)}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for scan.Scan() {
		batch.text = append(batch.text, bytes.Clone(scan.Bytes()))
		if len(batch.text) == flowsAtOnce {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("cannot read flows behind line %d: %w", batch.first+len(batch.text)-1, err)
	}
	return send()
}

func parseLines(path string, work <-chan lines, out map[flow.Record]struct{}) error {
	for batch := range work {
		for i, line := range batch.text {
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			r, ok, err := flow.ParseRecord(line)
			if err != nil {
				return fmt.Errorf("%s:%d: %w (a file of flows has %s)", path, batch.first+i, err, flowsHandy)
			}
			if ok {
				out[r] = struct{}{}
			}
		}
	}
	return nil
}
