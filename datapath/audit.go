package datapath

import "fmt"

// Use is how much of a table is in use, in entries. Slots that rest until the
// grace period has passed are not counted.
type Use struct {
	Table      string
	Used, Size uint32
}

// Usage is the use of every table as last published.
func (p *Planner) Usage() []Use {
	out := []Use{
		{"addresses", uint32(len(p.addresses)), p.limits.Addresses},
		{"prefixes", uint32(len(p.prefixes)), p.limits.Prefixes},
		{"devices", uint32(len(p.devices)), p.limits.Devices},
	}
	for _, s := range []*slots{&p.subjectSlots, &p.gateSlots, &p.rangeSlots, &p.rowSlots, &p.indexSlots} {
		out = append(out, Use{s.table, s.used(), s.size})
	}
	return append(out, Use{"columns", uint32(len(p.identities)), p.limits.Columns})
}

// Differs says how a kernel's tables differ from what was published; "" if
// they do not, as far as a Snapshot shows it.
func (p *Planner) Differs(s *Snapshot) string {
	r := p.revision
	if s.Revision != r {
		return fmt.Sprintf("revision %d is published, not %d", s.Revision, r)
	}
	sameAddress := func(a, b Address) bool {
		return a.Identity.At(r) == b.Identity.At(r) && a.Subject == b.Subject && a.Ifindex == b.Ifindex && a.Flags == b.Flags
	}
	samePrefix := func(a, b Prefix) bool { return a.Identity.At(r) == b.Identity.At(r) && a.Flags == b.Flags }
	sameDevice := func(a, b uint32) bool { return a == b }
	for _, diff := range []string{
		differ("address", p.addresses, s.Addresses, sameAddress), differ("prefix", p.prefixes, s.Prefixes, samePrefix),
		differ("device", p.devices, s.Devices, sameDevice),
	} {
		if diff != "" {
			return diff
		}
	}
	for id, mine := range p.subjects {
		theirs := s.Subjects[id]
		if mine.Egress.At(r) != theirs.Egress.At(r) || mine.Ingress.At(r) != theirs.Ingress.At(r) {
			return fmt.Sprintf("subject %d has other gates", id)
		}
	}
	for _, g := range p.gates {
		if diff := g.differs(s); g.refs > 0 && diff != "" {
			return diff
		}
	}
	return ""
}

// differs compares a gate and its ranges, if the snapshot has it.
func (g *gateSlot) differs(s *Snapshot) string {
	theirs, ok := s.Gates[g.slot]
	if !ok {
		return ""
	}
	if mine := (Gate{g.first, g.count, g.index}); theirs != mine {
		return fmt.Sprintf("gate %d is %v, not %v", g.slot, theirs, mine)
	}
	for i := range g.gate.Ranges {
		if r := s.Ranges[g.first+uint32(i)]; r.Start != uint32(g.gate.Ranges[i].First) {
			return fmt.Sprintf("range %d of gate %d starts at %d", i, g.slot, r.Start)
		}
	}
	return ""
}

func differ[K comparable, V any](what string, mine, theirs map[K]V, same func(a, b V) bool) string {
	if len(mine) != len(theirs) {
		return fmt.Sprintf("there are %d entries by %s, not %d", len(theirs), what, len(mine))
	}
	for k, a := range mine {
		if b, ok := theirs[k]; !ok || !same(a, b) {
			return fmt.Sprintf("%s %v is %v, not %v", what, k, b, a)
		}
	}
	return ""
}
