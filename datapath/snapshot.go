package datapath

import "net/netip"

// Snapshot is what a kernel's tables hold when a Planner starts on them. Of
// gates and ranges those matter that subjects lead to: a Planner writes its own
// beside them and frees them afterwards. Whatever else is in their tables is
// what earlier publications left behind.
type Snapshot struct {
	Revision  Revision
	Gates     map[uint32]Gate  // at least those of the subjects
	Ranges    map[uint32]Range // at least those of these gates
	Subjects  map[uint32]Subject
	Addresses map[netip.Addr]Address
	Prefixes  map[netip.Prefix]Prefix
	Devices   map[uint32]uint32 // ifindex to subject
}

// adopt takes the predecessor's tables over as the published state.
func (p *Planner) adopt(s *Snapshot) {
	p.revision = s.Revision
	p.grace.all = true
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
	}
	p.subjectSlots.adopt(p.orphans)
	p.inherit(s)
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
// publication.
type inherited struct{ gates, ranges, indexes, rows []span }

// inherit keeps the slots that the published doors lead to.
func (p *Planner) inherit(s *Snapshot) {
	gates, ranges, indexes, rows := map[uint32]struct{}{}, map[uint32]struct{}{}, map[uint32]struct{}{}, map[uint32]struct{}{}
	for _, subject := range p.subjects {
		for _, slot := range []uint32{subject.Egress.At(s.Revision), subject.Ingress.At(s.Revision)} {
			gates[slot] = struct{}{}
			g := s.Gates[slot]
			indexes[g.Index] = struct{}{}
			for i := range min(g.Count, p.limits.Ranges) {
				r := s.Ranges[g.First+i]
				ranges[g.First+i] = struct{}{}
				for _, row := range []uint32{r.Allow, r.Shadow, r.Conditional, r.Log} {
					rows[row] = struct{}{}
				}
			}
		}
	}
	p.inherited = inherited{p.gateSlots.adopt(gates), p.rangeSlots.adopt(ranges), p.indexSlots.adopt(indexes), p.rowSlots.adopt(rows)}
}

func (p *Planner) disinherit() {
	for _, x := range []struct {
		to   *slots
		held []span
	}{{&p.gateSlots, p.inherited.gates}, {&p.rangeSlots, p.inherited.ranges}, {&p.indexSlots, p.inherited.indexes}, {&p.rowSlots, p.inherited.rows}} {
		for _, h := range x.held {
			x.to.put(h.first, h.count)
		}
	}
	p.inherited = inherited{}
}
