package bpf

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/datapath"
)

// Snapshot is what the maps hold, for an agent that takes over. Slices are
// indexed by slot; rows by chunk and slot, without those that are empty.
type Snapshot struct {
	Revision  datapath.Revision
	Addresses map[netip.Addr]datapath.Address
	Prefixes  map[netip.Prefix]datapath.Prefix
	Devices   map[uint32]uint32 // ifindex to subject
	Subjects  []datapath.Subject
	Gates     []datapath.Gate
	Ranges    []datapath.Range
	Rows      []datapath.SetRow
}

// Snapshot reads every map.
func (p *Program) Snapshot() (*Snapshot, error) {
	s := &Snapshot{
		Revision:  p.Revision(),
		Addresses: map[netip.Addr]datapath.Address{},
		Prefixes:  map[netip.Prefix]datapath.Prefix{},
		Devices:   map[uint32]uint32{},
		Subjects:  make([]datapath.Subject, p.subjects.length),
		Gates:     make([]datapath.Gate, p.gates.length),
		Ranges:    make([]datapath.Range, p.ranges.length),
		Rows:      p.rowsInUse(),
	}
	for i := range s.Subjects {
		s.Subjects[i] = p.subject(uint32(i))
	}
	for i := range s.Gates {
		s.Gates[i] = datapath.Gate{First: p.gates.load(uint32(i), 0), Count: p.gates.load(uint32(i), 4)}
	}
	for i := range s.Ranges {
		s.Ranges[i] = p.rangeAt(uint32(i))
	}
	return s, p.readHashes(s)
}

func (p *Program) readHashes(s *Snapshot) error {
	var (
		address addressKey
		entry   datapath.Address
		prefix  prefixKey
		value   datapath.Prefix
		ifindex uint32
		subject uint32
	)
	all := p.objects.Addresses.Iterate()
	for all.Next(&address, &entry) {
		s.Addresses[netip.AddrFrom16(address.Addr).Unmap()] = entry
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("cannot read addresses: %w", err)
	}
	all = p.objects.Prefixes.Iterate()
	for all.Next(&prefix, &value) {
		s.Prefixes[prefix.prefix()] = value
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("cannot read prefixes: %w", err)
	}
	all = p.objects.Devices.Iterate()
	for all.Next(&ifindex, &subject) {
		s.Devices[ifindex] = subject
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("cannot read devices: %w", err)
	}
	return nil
}

func (p *Program) subject(id uint32) datapath.Subject {
	return datapath.Subject{
		Egress:  loadVersioned(p.subjects, id, 0),
		Ingress: loadVersioned(p.subjects, id, 12),
	}
}

func loadVersioned(a *area, index, offset uint32) datapath.Versioned {
	return datapath.Versioned{
		Old:   a.load(index, offset),
		New:   a.load(index, offset+4),
		Since: datapath.Revision(a.load(index, offset+8)),
	}
}

func (p *Program) rangeAt(i uint32) datapath.Range {
	r := p.ranges
	return datapath.Range{
		Start: r.load(i, 0), Allow: r.load(i, 4), Shadow: r.load(i, 8),
		Conditional: r.load(i, 12), Log: r.load(i, 16),
	}
}

func (p *Program) rowsInUse() []datapath.SetRow {
	var out []datapath.SetRow
	for column, chunk := range p.chunks {
		if chunk == nil {
			continue
		}
		for id := range chunk.length {
			row := datapath.SetRow{Row: id, Chunk: uint32(column)}
			for i := range row.Words {
				row.Words[i] = atomic.LoadUint64(chunk.long(id, uint32(8*i)))
			}
			if row.Words != [len(row.Words)]uint64{} {
				out = append(out, row)
			}
		}
	}
	return out
}
