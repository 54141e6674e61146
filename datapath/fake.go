package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"sync/atomic"
)

// Fake is a Kernel in memory that decides packets as the BPF program does, with
// the same tables. Its zero value is an empty kernel: it forwards nothing, and
// leaves the node itself alone.
type Fake struct {
	Revision  Revision
	Addresses map[netip.Addr]Address
	Prefixes  map[netip.Prefix]Prefix
	Devices   map[uint32]uint32
	Subjects  map[uint32]Subject
	Gates     map[uint32]Gate
	Ranges    map[uint32]Range
	Indexes   map[uint32]*Index
	Rows      map[[2]uint32]SetRow // by row and chunk

	// RedirectMark and RedirectMask tell packets on their way to the proxy; a
	// mask of 0 means that there are none.
	RedirectMark, RedirectMask uint32

	// FailAt makes the write of that number, counted from 1 in each Apply,
	// fail if it comes before Publish; 0 lets all succeed.
	FailAt int
	// Step is called after every single write, Publish included.
	Step func(Op)

	Applied int          // writes done so far
	Graces  atomic.Int64 // calls of WaitGrace so far
}

// Apply executes the transaction, up to the write that is to fail.
func (f *Fake) Apply(tx Tx) error {
	f.init()
	published := false
	for i, op := range tx {
		if !published && f.FailAt == i+1 {
			return fmt.Errorf("cannot apply write %d of %d (%s): failure injected", i+1, len(tx), describe(op))
		}
		f.apply(op)
		f.Applied++
		if _, ok := op.(Publish); ok {
			published = true
		}
		if f.Step != nil {
			f.Step(op)
		}
	}
	return nil
}

// WaitGrace returns at once: no packet is ever under way.
func (f *Fake) WaitGrace() error {
	f.Graces.Add(1)
	return nil
}

func (f *Fake) init() {
	if f.Addresses != nil {
		return
	}
	f.Addresses, f.Prefixes = map[netip.Addr]Address{}, map[netip.Prefix]Prefix{}
	f.Devices, f.Subjects = map[uint32]uint32{}, map[uint32]Subject{}
	f.Gates, f.Ranges, f.Rows = map[uint32]Gate{}, map[uint32]Range{}, map[[2]uint32]SetRow{}
	f.Indexes = map[uint32]*Index{}
}

func (f *Fake) apply(op Op) {
	switch o := op.(type) {
	case SetRow:
		f.Rows[[2]uint32{o.Row, o.Chunk}] = o
	case SetRange:
		f.Ranges[o.Index] = o.Range
	case SetIndex:
		f.Indexes[o.ID] = o.Index
	case SetGate:
		f.Gates[o.ID] = o.Gate
	case SetSubject:
		f.Subjects[o.ID] = o.Subject
	case SetDevice:
		f.Devices[o.Ifindex] = o.Subject
	case DeleteDevice:
		delete(f.Devices, o.Ifindex)
	case SetAddress:
		f.Addresses[o.Addr] = o.Address
	case DeleteAddress:
		delete(f.Addresses, o.Addr)
	case SetPrefix:
		f.Prefixes[o.Prefix] = o.Entry
	case DeletePrefix:
		delete(f.Prefixes, o.Prefix)
	case Publish:
		f.Revision = o.Revision
	default:
		panic(fmt.Sprintf("unknown operation %T", op))
	}
}

// Snapshot is what a Planner that starts on this kernel has to know.
func (f *Fake) Snapshot() *Snapshot {
	f.init()
	return &Snapshot{
		Revision: f.Revision, Gates: maps.Clone(f.Gates), Ranges: maps.Clone(f.Ranges),
		Subjects: maps.Clone(f.Subjects), Addresses: maps.Clone(f.Addresses),
		Prefixes: maps.Clone(f.Prefixes), Devices: maps.Clone(f.Devices),
	}
}
