package cli

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen is a writer that may be read meanwhile.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestProgressIsShownOfWhatTakesLong(t *testing.T) {
	var s screen
	p := newProgress("probing", 3)
	p.show(&s, 80, time.Millisecond, time.Millisecond)
	p.step()
	p.step()
	for !strings.Contains(s.String(), "probing: 2 of 3 (0s)") {
		time.Sleep(time.Millisecond)
	}
	p.end()
	if !strings.HasSuffix(s.String(), "\r\x1b[K") {
		t.Errorf("the line is left: %q", s.String())
	}
	var short screen
	p = newProgress("loading", 0)
	p.show(&short, 80, time.Hour, time.Hour)
	if p.end(); short.String() != "" {
		t.Errorf("something that was short says %q", short.String())
	}
	if got := p.line(75*time.Second, 10); got != "loading (" {
		t.Errorf("on a narrow terminal: %q", got)
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if width(f) != 0 || paint(f).On || width(&strings.Builder{}) != 0 {
		t.Error("a file is taken for a terminal")
	}
	s := &session{stderr: f}
	p := s.progress("loading", 1)
	p.step()
	p.end()
}
