package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/sallyport-dev/sallyport/datapath"
)

// TestTwins compares each Go struct with its twin in C, field by field.
func TestTwins(t *testing.T) {
	spec, err := loadObject()
	if err != nil {
		t.Fatal(err)
	}
	twins := map[string]any{
		"versioned": datapath.Versioned{}, "address": datapath.Address{}, "prefix": datapath.Prefix{},
		"subject": datapath.Subject{}, "gate": datapath.Gate{}, "range": datapath.Range{},
		"page":        datapath.Page{},
		"address_key": addressKey{}, "prefix_key": prefixKey{}, "event": Event{},
	}
	for name, twin := range twins {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Errorf("struct %s: %v", name, err)
			continue
		}
		compareTwins(t, name, c, reflect.TypeOf(twin))
	}
	for name, want := range map[string]int{"indexes": int(unsafe.Sizeof(datapath.Index{})), "rings": 64} {
		if got := int(spec.Maps[name].ValueSize); got != want {
			t.Errorf("%s: %d bytes in C, want %d", name, got, want)
		}
	}
	if got := spec.Maps["journal"].MaxEntries; got != ringEvents {
		t.Errorf("%d events per processor in C, %d in Go", got, ringEvents)
	}
}

func compareTwins(t *testing.T, name string, c *btf.Struct, g reflect.Type) {
	if uintptr(c.Size) != g.Size() {
		t.Errorf("struct %s: %d bytes in C, %d in Go", name, c.Size, g.Size())
	}
	if len(c.Members) != g.NumField() {
		t.Fatalf("struct %s: %d fields in C, %d in Go", name, len(c.Members), g.NumField())
	}
	for i, m := range c.Members {
		f := g.Field(i)
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() {
			t.Errorf("struct %s: %s at %d of %d bytes in C, %s at %d of %d bytes in Go",
				name, m.Name, m.Offset.Bytes(), size, f.Name, f.Offset, f.Type.Size())
		}
	}
}

func TestReasonsMatchC(t *testing.T) {
	spec, err := loadObject()
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Maps["stats"].MaxEntries; got != uint32(reasons) {
		t.Errorf("%d reasons in C, %d in Go", got, reasons)
	}
	if offset := unsafe.Offsetof(Event{}.Reason); offset != 82 {
		t.Errorf("reason of an event at %d", offset)
	}
}

// TestUndo sees a transaction that fails midway leave everything as it was.
func TestUndo(t *testing.T) {
	ns := newNS(t)
	p := loadIn(t, ns)
	apply(t, p, append(roots(), datapath.SetAddress{Addr: addr("10.0.0.1"), Address: datapath.Address{Identity: fixed(podA)}})...)
	before, err := dump(p)
	if err != nil {
		t.Fatal(err)
	}
	tx := datapath.Tx(gateOf(3, podA, podB))
	tx = append(tx,
		datapath.SetSubject{ID: 7, Subject: datapath.Subject{Egress: fixed(3)}},
		datapath.SetDevice{Ifindex: 5, Subject: 7},
		datapath.DeleteAddress{Addr: addr("10.0.0.1")},
		datapath.SetPrefix{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Entry: datapath.Prefix{Identity: fixed(9)}},
		datapath.DeletePrefix{Prefix: netip.MustParsePrefix("::/0")},
	)
	for i := range p.objects.Addresses.MaxEntries() + 1 { // one too many
		a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		tx = append(tx, datapath.SetAddress{Addr: a, Address: datapath.Address{Identity: fixed(1)}})
	}
	if err := p.Apply(append(tx, datapath.Publish{Revision: 2})); err == nil {
		t.Fatal("a full map was not reported")
	}
	after, err := dump(p)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, after) {
		t.Error("the failed transaction left something behind")
	}
}

// TestCleanUpIsTriedAgain sees what fails behind a Publish be done before the
// next transaction, which fails as long as it cannot be.
func TestCleanUpIsTriedAgain(t *testing.T) {
	p := loadIn(t, newNS(t))
	apply(t, p, datapath.SetDevice{Ifindex: 5, Subject: 7})
	devices := p.objects.Devices
	broken, err := devices.Clone()
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Close(); err != nil {
		t.Fatal(err)
	}
	p.objects.Devices = broken
	defer func() { p.objects.Devices = devices }()
	address := addr("10.0.0.1")
	tx := datapath.Tx{datapath.Publish{Revision: 2}, datapath.DeleteDevice{Ifindex: 5}}
	if err := p.Apply(tx); err != nil || p.Revision() != 2 {
		t.Fatalf("revision %d, %v: what is published is in force", p.Revision(), err)
	}
	tx = datapath.Tx{datapath.SetAddress{Addr: address, Address: datapath.Address{Identity: fixed(podA)}}, datapath.Publish{Revision: 3}}
	if err := p.Apply(tx); err == nil || p.Revision() != 2 {
		t.Fatalf("revision %d, %v: the clean-up still fails", p.Revision(), err)
	}
	p.objects.Devices = devices
	if s, err := p.Snapshot(); err != nil || s.Devices[5] != 7 || len(s.Addresses) > 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := p.Apply(tx); err != nil || p.Revision() != 3 {
		t.Fatalf("revision %d, %v", p.Revision(), err)
	}
	if s, err := p.Snapshot(); err != nil || len(s.Devices) > 0 || len(s.Addresses) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
}

func TestInvalidTx(t *testing.T) {
	p := loadIn(t, newNS(t))
	publish := datapath.Publish{Revision: 1}
	for name, tx := range map[string]datapath.Tx{
		"no publish": {datapath.SetDevice{Ifindex: 1, Subject: 1}},
		"two":        {publish, publish},
		"gate":       {datapath.SetGate{ID: p.gates.length}, publish},
		"range":      {datapath.SetRange{Index: p.ranges.length}, publish},
		"index":      {datapath.SetIndex{ID: p.indexes.length}, publish},
		"subject":    {datapath.SetSubject{ID: p.subjects.length}, publish},
		"row":        {datapath.SetRow{Row: p.chunk.MaxEntries}, publish},
		"chunk":      {datapath.SetRow{Chunk: uint32(len(p.chunks))}, publish},
	} {
		if err := p.Apply(tx); !errors.Is(err, ErrInvalidTx) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.Revision() != 0 {
		t.Errorf("revision %d was published", p.Revision())
	}
}

// TestReopen loads again over the pins, as after SIGKILL or for an upgrade,
// and counts descriptors and links.
func TestReopen(t *testing.T) {
	ns := newNS(t)
	p := loadIn(t, ns)
	apply(t, p, append(roots(), gateOf(1500, podA, podB)...)...)
	apply(t, p, datapath.SetRow{Row: 5, Chunk: 3, Words: [16]uint64{15: 1 << 63}})
	want, err := dump(p)
	if err != nil {
		t.Fatal(err)
	}
	pin, fds := p.pin, countFDs(t)
	for range 5 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if p, err = Load(Options{Pin: pin, NetNS: ns}); err != nil {
			t.Fatal(err)
		}
	}
	defer p.Close()
	got, err := dump(p)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the maps do not hold what they held")
	}
	if n := countFDs(t); n != fds {
		t.Errorf("%d descriptors, after reopening %d", fds, n)
	}
	if folders, err := linkFolders(pin); err != nil || len(folders) != 1 {
		t.Errorf("link folders %v, %v", folders, err)
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
}

// contents is everything that the maps hold.
type contents struct {
	snapshot                *datapath.Snapshot
	subjects, gates, ranges []byte
	rows                    map[int][]byte
}

func dump(p *Program) (*contents, error) {
	s, err := p.Snapshot()
	c := &contents{s, bytes.Clone(p.subjects.memory), bytes.Clone(p.gates.memory), bytes.Clone(p.ranges.memory), map[int][]byte{}}
	for i, chunk := range p.chunks {
		if chunk != nil && chunk.used() > 0 {
			c.rows[i] = bytes.Clone(chunk.memory)
		}
	}
	return c, err
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// run runs raw packets through the program, unattached, at LOCAL_OUT.
func run(t *testing.T, p *Program, packet []byte) bool {
	t.Helper()
	verdict, err := p.objects.Sallyport.Run(&ebpf.RunOptions{Data: packet})
	if err != nil {
		t.Fatal(err)
	}
	return verdict == 1
}

func packet4(src, dst string, protocol byte, fragment uint16, port uint16) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], 40)
	binary.BigEndian.PutUint16(b[6:], fragment)
	copy(b[12:], addr(src).AsSlice())
	copy(b[16:], addr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[20:], 40000)
	binary.BigEndian.PutUint16(b[22:], port)
	return b
}

// TestRun judges packets that no conntrack saw: at LOCAL_OUT these pass to
// anybody but a pod.
func TestRun(t *testing.T) {
	p := loadIn(t, newNS(t))
	apply(t, p, append(roots(),
		datapath.SetAddress{Addr: addr("10.0.0.1"), Address: datapath.Address{Identity: fixed(podA), Subject: subjectA, Ifindex: 9}})...)
	for _, c := range []struct {
		name   string
		packet []byte
		want   Reason
	}{
		{"to the world", packet4("192.0.2.1", "192.0.2.2", 6, 0, 80), Unjudged},
		{"untracked to a pod", packet4("192.0.2.1", "10.0.0.1", 6, 0, 80), Invalid},
		{"fragment", packet4("192.0.2.1", "192.0.2.2", 17, 3, 80), Fragment},
		{"first fragment", packet4("192.0.2.1", "192.0.2.2", 17, 0x2000, 80), Unjudged},
		{"short header", append([]byte{0x44}, packet4("192.0.2.1", "192.0.2.2", 6, 0, 80)[1:]...), Malformed},
		{"IGMP to a group", packet4("192.0.2.1", "224.0.0.22", 2, 0, 0), Unjudged},
		{"IGMP to a pod", packet4("192.0.2.1", "10.0.0.1", 2, 0, 0), Invalid},
	} {
		before, _ := p.Stats()
		passed := run(t, p, c.packet)
		after, err := p.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if passed != c.want.Passed() || after[c.want] != before[c.want]+1 {
			t.Errorf("%s: passed %v, want %s; counters %v -> %v", c.name, passed, c.want, before, after)
		}
	}
}

func TestProbe(t *testing.T) {
	needRoot(t)
	for _, c := range Probe() {
		if c.Detail == "" || c.OK == (c.Remedy != "") {
			t.Errorf("check %+v", c)
		}
		if !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
}

// TestFullJournal leaves events unread until there is no room: what is in the
// journal stays, what is not is counted, and reading makes room again.
func TestFullJournal(t *testing.T) {
	p := loadIn(t, newNS(t))
	apply(t, p)
	j, err := p.openJournal()
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	run := func(n uint32) {
		t.Helper()
		fragment := append(make([]byte, 6), 0, 8, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 0)
		fragment[0] = 0x45
		if _, err := p.objects.Sallyport.Run(&ebpf.RunOptions{Data: fragment, Repeat: n}); err != nil {
			t.Fatal(err)
		}
	}
	total := uint64(0)
	for _, n := range []uint32{3, ringEvents * 3 * j.rings.length, 5} {
		run(n)
		total += uint64(n)
		events := j.read()
		for _, e := range events {
			if e.Reason != Fragment {
				t.Fatalf("event %+v", e)
			}
		}
		stats, err := p.Stats()
		if err != nil {
			t.Fatal(err)
		}
		total -= uint64(len(events))
		if stats[LostEvents] != total || len(events) > int(n) || n < 10 && len(events) != int(n) || n > 10 && len(events) < ringEvents/2 {
			t.Errorf("of %d events %d were read and %d lost in all, want %d", n, len(events), stats[LostEvents], total)
		}
	}
	if events := j.read(); len(events) != 0 {
		t.Errorf("%d events were read twice", len(events))
	}
}
