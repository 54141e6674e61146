package datapath

import "net/netip"

// Snapshot is what a kernel's tables hold when a Planner starts on them. Of
// gates, ranges and rows only the number of slots from 0 that may be in use
// matters: a Planner writes its own behind them and frees them afterwards.
type Snapshot struct {
	Revision            Revision
	Gates, Ranges, Rows uint32 // one more than the highest slot in use
	Subjects            map[uint32]Subject
	Addresses           map[netip.Addr]Address
	Prefixes            map[netip.Prefix]Prefix
	Devices             map[uint32]uint32 // ifindex to subject
}

// adopt takes the predecessor's tables over as the published state.
func (p *Planner) adopt(s *Snapshot) {
	p.revision = s.Revision
	p.grace.all = true
	p.gateSlots.next = max(p.gateSlots.next, s.Gates)
	p.rangeSlots.next = max(p.rangeSlots.next, s.Ranges)
	p.rowSlots.next = max(p.rowSlots.next, s.Rows)
	p.inherited = inherited{gates: s.Gates, ranges: s.Ranges, rows: s.Rows}
	for slot, v := range s.Subjects {
		if slot == SubjectNone || slot >= p.limits.Subjects {
			continue
		}
		egress, e := settle(v.Egress, s.Revision)
		ingress, i := settle(v.Ingress, s.Revision)
		if e || i {
			p.dirtySubjects[slot] = struct{}{}
		}
		p.subjects[slot] = Subject{egress, ingress}
		p.orphans[slot] = struct{}{}
		p.subjectSlots.next = max(p.subjectSlots.next, slot+1)
	}
	for slot := uint32(1); slot < p.subjectSlots.next; slot++ {
		if _, ok := p.orphans[slot]; !ok {
			p.subjectSlots.put(slot, 1)
		}
	}
	for a, v := range s.Addresses {
		var dirty bool
		if v.Identity, dirty = settle(v.Identity, s.Revision); dirty {
			p.dirtyAddresses[a] = struct{}{}
		}
		p.addresses[a] = v
		p.countIdentity(v.Identity.At(s.Revision), 1)
	}
	for x, v := range s.Prefixes {
		var dirty bool
		if v.Identity, dirty = settle(v.Identity, s.Revision); dirty {
			p.dirtyPrefixes[x] = struct{}{}
		}
		p.prefixes[x] = v
		p.countIdentity(v.Identity.At(s.Revision), 1)
	}
	for d, subject := range s.Devices {
		p.devices[d] = subject
	}
}

// settle drops what a predecessor wrote for a revision that it did not live to
// publish; dirty says that the kernel's entry has to lose it too.
func settle(v Versioned, r Revision) (settled Versioned, dirty bool) {
	if v.Since <= r {
		return v, false
	}
	return Versioned{Old: v.Old, New: v.Old, Since: r}, true
}

// inherited are the slots of a predecessor, to be freed after the first
// publication. Slots below the first free ones are never handed out.
type inherited struct{ gates, ranges, rows uint32 }

func (p *Planner) disinherit() {
	free := func(s *slots, first, end uint32) {
		if end > first {
			s.put(first, end-first)
		}
	}
	free(&p.gateSlots, gateClosed+1, p.inherited.gates)
	free(&p.rangeSlots, 0, p.inherited.ranges)
	free(&p.rowSlots, RowAll+1, p.inherited.rows)
	p.inherited = inherited{}
}
