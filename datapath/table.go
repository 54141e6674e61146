// Package datapath turns a Matrix into what one node's kernel holds, and a
// change of the Matrix into the writes that publish it atomically.
//
// [Plan] and the [Planner]'s mirror are pure bookkeeping: they own the slots
// of subjects, gates, ranges and rows. A [Kernel] executes a [Tx]; the BPF
// loader is one, [Fake], which decides packets with the very same tables, the
// other. One goroutine owns a Planner and its Kernel. Test with the Fake, and
// the Fake against the kernel (datapath/bpf).
package datapath

import "net/netip"

// Revision numbers publications. A packet reads it once; every [Versioned]
// entry then shows it the value of that revision.
type Revision uint32

// Versioned is a value that changes at a revision: New for packets whose
// revision is at least Since, Old for the others. Twin: struct versioned.
type Versioned struct {
	Old, New uint32
	Since    Revision
}

// At is the value that a packet of the revision sees.
func (v Versioned) At(r Revision) uint32 {
	if r >= v.Since {
		return v.New
	}
	return v.Old
}

// Reserved slots.
const (
	IdentityUnknown = 0 // closed: an address in a pod range that nobody knows
	SubjectNone     = 0 // the address is no local pod's
	GateOpen        = 0 // not isolated
	IndexNone       = 0 // the ranges are searched
	RowNone         = 0 // no identity
	RowAll          = 1 // every identity
)

// Address flags.
const (
	FlagNode   = 1 << iota // one of this node's own addresses
	FlagClosed             // on a prefix: addresses in it that have no entry are unknown peers
)

// Address is the entry of one exact address. Twin: struct address.
type Address struct {
	Identity Versioned
	Subject  uint32 // SubjectNone unless the address is a local pod's
	Ifindex  uint32 // the local pod's host-side device; 0 otherwise
	Flags    uint32
}

// Prefix is the entry of one prefix, found by longest match when no Address
// is. Twin: struct prefix.
type Prefix struct {
	Identity Versioned
	Flags    uint32
}

// Subject is a local pod. Twin: struct subject.
type Subject struct {
	Egress  Versioned // gate
	Ingress Versioned // gate
}

// Gate is the span of a gate's ranges, sorted by Start; the first range starts
// at 0, so every port key falls into exactly one. Twin: struct gate.
type Gate struct {
	First, Count uint32
	Index        uint32 // slot of the Index of its ranges; IndexNone if it has none
}

// Range is one interval of port keys (protocol<<16 | port), up to the next
// range's Start. The columns of row Allow that are set may pass; Shadow is the
// same for the shadow plane; Conditional names columns that may pass only
// with the redirect mark; Log those to report. Twin: struct range.
type Range struct {
	Start                           uint32
	Allow, Shadow, Conditional, Log uint32
}

// Index finds the range of a TCP or UDP port in a large gate at once: page by
// page, first TCP's, then UDP's. Twin: struct index.
type Index [2 * indexPages]Page

// Page is what an Index knows of 32 neighbouring port keys: Starts has a bit for
// each at which a range starts, and Before ranges of the gate start before the
// first. Twin: struct page.
type Page struct{ Starts, Before uint32 }

const (
	indexPorts = 32 // of a page
	indexPages = 1 << 16 / indexPorts
)

// ChunkColumns is the number of identities whose row bits lie in one chunk.
const ChunkColumns = 1024

// Op is one write to the kernel. The types below are all there are.
type Op interface{ op() }

// The operations, in the order in which a Tx holds them.
type (
	// SetRow writes one chunk (1,024 columns) of a row.
	SetRow struct {
		Row, Chunk uint32
		Words      [ChunkColumns / 64]uint64
	}
	// SetRange writes a slot of the range table.
	SetRange struct {
		Index uint32
		Range Range
	}
	// SetIndex writes a slot of the index table.
	SetIndex struct {
		ID    uint32
		Index *Index
	}
	// SetGate writes a slot of the gate table.
	SetGate struct {
		ID   uint32
		Gate Gate
	}
	// SetSubject writes a slot of the subject table.
	SetSubject struct {
		ID      uint32
		Subject Subject
	}
	// SetDevice binds a pod's host-side device to its subject.
	SetDevice struct{ Ifindex, Subject uint32 }
	// DeleteDevice unbinds a device.
	DeleteDevice struct{ Ifindex uint32 }
	// SetAddress writes an address.
	SetAddress struct {
		Addr    netip.Addr
		Address Address
	}
	// DeleteAddress removes an address: what its prefix says holds again.
	DeleteAddress struct{ Addr netip.Addr }
	// SetPrefix writes a prefix.
	SetPrefix struct {
		Prefix netip.Prefix
		Entry  Prefix
	}
	// DeletePrefix removes a prefix.
	DeletePrefix struct{ Prefix netip.Prefix }
	// Publish raises the global revision: everything before it becomes visible
	// to the next packet, everything after it is clean-up.
	Publish struct{ Revision Revision }
)

func (SetRow) op()        {}
func (SetRange) op()      {}
func (SetIndex) op()      {}
func (SetGate) op()       {}
func (SetSubject) op()    {}
func (SetDevice) op()     {}
func (DeleteDevice) op()  {}
func (SetAddress) op()    {}
func (DeleteAddress) op() {}
func (SetPrefix) op()     {}
func (DeletePrefix) op()  {}
func (Publish) op()       {}

// Tx is an ordered list of writes with exactly one Publish in it.
type Tx []Op

// Kernel executes transactions. Apply fails before its Publish or not at all:
// on an error the published state is what it was. WaitGrace returns when no
// packet is under way that read a revision older than the last one published;
// only then may slots that it freed be reused and versioned entries rewritten.
// It may be called beside Apply.
type Kernel interface {
	Apply(Tx) error
	WaitGrace() error
}
