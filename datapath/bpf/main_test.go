package bpf

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/sallyport-dev/sallyport/datapath"
)

// needRoot skips loudly without root, or fails where that is a mistake.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SALLYPORT_REQUIRE_ROOT") == "1" {
		t.Fatal("SALLYPORT_REQUIRE_ROOT=1, but not root")
	}
	t.Skip("SKIPPED: needs root: the kernel program is NOT tested")
}

var namespaces int

// newNS makes a network namespace with a name and returns its path.
func newNS(t testing.TB) string {
	t.Helper()
	needRoot(t)
	namespaces++
	name := fmt.Sprintf("sptest-%d-%d", os.Getpid(), namespaces)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.NewNamed(name)
		if err == nil {
			err = ns.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Error(err)
		}
	})
	path := "/run/netns/" + name
	in(t, path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return path
}

func in(t testing.TB, ns string, f func() error) {
	t.Helper()
	if err := inNetNS(ns, f); err != nil {
		t.Fatal(err)
	}
}

// loadIn loads a program in the namespace and removes it at the end.
func loadIn(t testing.TB, ns string) *Program {
	t.Helper()
	needRoot(t)
	pin := filepath.Join(bpffs, filepath.Base(ns))
	t.Cleanup(func() {
		if err := Remove(pin); err != nil {
			t.Error(err)
		}
	})
	return loadAt(t, pin, ns)
}

func loadAt(t testing.TB, pin, ns string) *Program {
	t.Helper()
	p, err := Load(Options{Pin: pin, NetNS: ns, EventRate: 1 << 20, RedirectMark: 0x40, RedirectMask: 0x40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func apply(t testing.TB, p *Program, ops ...datapath.Op) {
	t.Helper()
	if err := p.Apply(append(ops, datapath.Publish{Revision: p.Revision() + 1})); err != nil {
		t.Fatal(err)
	}
}

func fixed(v uint32) datapath.Versioned { return datapath.Versioned{Old: v, New: v} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Identities and slots of the tests.
const (
	world = 1 + iota
	node
	podA
	podB

	subjectA = 1
	subjectB = 2
)

func roots() []datapath.Op {
	return []datapath.Op{
		datapath.SetPrefix{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Entry: datapath.Prefix{Identity: fixed(world)}},
		datapath.SetPrefix{Prefix: netip.MustParsePrefix("::/0"), Entry: datapath.Prefix{Identity: fixed(world)}},
		datapath.SetPrefix{Prefix: netip.MustParsePrefix("fe80::/10"), Entry: datapath.Prefix{Identity: fixed(node)}},
		datapath.SetPrefix{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Entry: datapath.Prefix{Flags: datapath.FlagClosed}},
	}
}

// gateOf writes gate id with one row (10+id) of the identities for every port.
func gateOf(id uint32, identities ...uint32) []datapath.Op {
	row := datapath.SetRow{Row: 10 + id}
	for _, i := range identities {
		row.Words[i/64] |= 1 << (i % 64)
	}
	return []datapath.Op{
		row,
		datapath.SetRange{Index: id, Range: datapath.Range{Allow: 10 + id, Shadow: 10 + id}},
		datapath.SetGate{ID: id, Gate: datapath.Gate{First: id, Count: 1}},
	}
}

// doors sets a subject's gates from the next revision on.
func doors(p *Program, subject, egress, ingress uint32) datapath.Op {
	old, next := p.subject(subject), p.Revision()+1
	return datapath.SetSubject{ID: subject, Subject: datapath.Subject{
		Egress:  datapath.Versioned{Old: old.Egress.At(p.Revision()), New: egress, Since: next},
		Ingress: datapath.Versioned{Old: old.Ingress.At(p.Revision()), New: ingress, Since: next},
	}}
}
