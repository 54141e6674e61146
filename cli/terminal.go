package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/report"
)

// paint colours only what goes to a terminal, and not if NO_COLOR is set.
func paint(w io.Writer) report.Paint {
	return report.Paint{On: width(w) > 0 && os.Getenv("NO_COLOR") == ""}
}

// width is how many columns the terminal has; 0 if w is none.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	if columns == 0 { // a terminal that does not know its size
		return 80
	}
	return columns
}

// Progress is shown of what takes longer than patience, and renewed every beat.
const (
	patience = time.Second
	beat     = 100 * time.Millisecond
)

// progress says on a terminal what goes on and how far it is.
type progress struct {
	what  string
	total int // 0: nobody knows how far it is
	done  atomic.Int64
	stop  chan struct{}
	over  sync.WaitGroup
}

// progress shows, on standard error if that is a terminal, that something is
// going on, until end is called.
func (s *session) progress(what string, total int) *progress {
	p := newProgress(what, total)
	if columns := width(s.stderr); columns > 0 {
		p.show(s.stderr, columns, patience, beat)
	}
	return p
}

func newProgress(what string, total int) *progress {
	return &progress{what: what, total: total, stop: make(chan struct{})}
}

// step counts one thing as done; any goroutine may call it.
func (p *progress) step() { p.done.Add(1) }

// end takes the line off the terminal again.
func (p *progress) end() {
	close(p.stop)
	p.over.Wait()
}

func (p *progress) show(w io.Writer, columns int, patience, beat time.Duration) {
	began := time.Now()
	p.over.Go(func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		shown := false
		for {
			select {
			case <-p.stop:
				if shown {
					fmt.Fprint(w, "\r\x1b[K")
				}
				return
			case <-timer.C:
				shown = true
				fmt.Fprintf(w, "\r%s\x1b[K", p.line(time.Since(began), columns))
				timer.Reset(beat)
			}
		}
	})
}

// line is what goes on, short enough for the terminal.
func (p *progress) line(since time.Duration, columns int) string {
	text := p.what
	if p.total > 0 {
		text = fmt.Sprintf("%s: %d of %d", p.what, p.done.Load(), p.total)
	}
	text = fmt.Sprintf("%s (%s)", text, since.Round(time.Second))
	if r := []rune(text); len(r) >= columns {
		return string(r[:columns-1])
	}
	return text
}
