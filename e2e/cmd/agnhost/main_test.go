package main

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"
)

func TestQuestion(t *testing.T) {
	for args, want := range map[string]bool{
		"connect --timeout=3s --protocol=sctp 10.0.0.1:9003":  true,
		"connect --protocol sctp --timeout 3s [fd00::1]:9003": true,
		"connect --timeout=3s --protocol=tcp 10.0.0.1:9003":   false,
		"connect --timeout=3s 10.0.0.1:9003":                  false,
		"connect --protocol=sctp --sctp-data=x 10.0.0.1:9003": false,
		"serve-hostname --tcp --http=false --port 80":         false,
		"pause": false,
		"connect --timeout=3s --protocol=sctp 10.0.0.1:9003 x": false,
	} {
		_, patience, ok := question(strings.Fields(args))
		if ok != want || ok && patience != 3*time.Second {
			t.Errorf("%s: %v, %s", args, ok, patience)
		}
	}
}

func TestServedPorts(t *testing.T) {
	got := servedPorts([]string{"SERVE_SCTP_PORT_9003=foo", "SERVE_SCTP_PORT_9005=bar", "SERVE_PORT_80=x", "SERVE_SCTP_PORT_x=y", "HOME=/"})
	if !maps.Equal(got, map[uint16]bool{9003: true, 9005: true}) {
		t.Errorf("got %v", got)
	}
}

func TestHandshake(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("SALLYPORT_REQUIRE_ROOT") != "" {
			t.Fatal("raw sockets need root, and SALLYPORT_REQUIRE_ROOT is set")
		}
		t.Skip("NOT TESTED: raw sockets need root")
	}
	go func() { _ = serve(map[uint16]bool{9003: true}) }()
	for _, dest := range []string{"127.0.0.1:9003", "[::1]:9003"} {
		if err := ask(dest, 3*time.Second); err != nil {
			t.Errorf("%s: %v", dest, err)
		}
	}
	if err := ask("127.0.0.1:9005", 600*time.Millisecond); err == nil || err.Error() != "TIMEOUT" {
		t.Errorf("a port that nobody serves: %v", err)
	}
}
