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
		Gates:     p.gates.used(),
		Ranges:    p.ranges.used(),
		Subjects:  map[uint32]datapath.Subject{},
		Addresses: map[netip.Addr]datapath.Address{},
		Prefixes:  map[netip.Prefix]datapath.Prefix{},
		Devices:   map[uint32]uint32{},
	}
	for _, chunk := range p.chunks {
		if chunk != nil {
			s.Rows = max(s.Rows, chunk.used())
		}
	}
	for i := range p.subjects.used() {
		if subject := p.subject(i); subject != (datapath.Subject{}) {
			s.Subjects[i] = subject
		}
	}
	return s, p.readHashes(s)
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
