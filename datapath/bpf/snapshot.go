package bpf

import (
	"fmt"
	"net/netip"

	"github.com/sallyport-dev/sallyport/datapath"
)

// Snapshot reads what the maps hold, for a planner that takes over.
func (p *Program) Snapshot() (*datapath.Snapshot, error) {
	s := &datapath.Snapshot{
		Revision:  p.Revision(),
		Gates:     map[uint32]datapath.Gate{},
		Ranges:    map[uint32]datapath.Range{},
		Subjects:  map[uint32]datapath.Subject{},
		Addresses: map[netip.Addr]datapath.Address{},
		Prefixes:  map[netip.Prefix]datapath.Prefix{},
		Devices:   map[uint32]uint32{},
	}
	for i := range p.subjects.used() {
		subject := p.subject(i)
		if subject == (datapath.Subject{}) {
			continue
		}
		s.Subjects[i] = subject
		for _, v := range []datapath.Versioned{subject.Egress, subject.Ingress} {
			p.readGate(s, v.Old)
			p.readGate(s, v.New)
		}
	}
	return s, p.readHashes(s)
}

// readGate reads a gate and its ranges, if they are not read yet.
func (p *Program) readGate(s *datapath.Snapshot, id uint32) {
	if _, read := s.Gates[id]; read || id >= p.gates.length {
		return
	}
	g := datapath.Gate{First: p.gates.load(id, 0), Count: p.gates.load(id, 4), Index: p.gates.load(id, 8)}
	s.Gates[id] = g
	for i := g.First; i < min(g.First+g.Count, p.ranges.length); i++ {
		s.Ranges[i] = datapath.Range{
			Start: p.ranges.load(i, 0), Allow: p.ranges.load(i, 4), Shadow: p.ranges.load(i, 8),
			Conditional: p.ranges.load(i, 12), Log: p.ranges.load(i, 16),
		}
	}
}

func (p *Program) readHashes(s *datapath.Snapshot) error {
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
