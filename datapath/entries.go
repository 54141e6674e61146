package datapath

import (
	"maps"
	"net/netip"
	"slices"
)

// prefixWanted says whether the source tells the prefix from what is around it.
func (l *plan) prefixWanted(x netip.Prefix) bool { return l.source.PrefixIdentity(x) != 0 }

// longest is the identity, in the source, of addresses inside a prefix of at
// most bits bits around a. closed says whether pod ranges are closed.
func (l *plan) longest(a netip.Addr, bits int, closed bool) uint32 {
	for ; bits >= 0; bits-- {
		x, err := a.Prefix(bits)
		if err != nil {
			return IdentityUnknown
		}
		id := l.source.PrefixIdentity(x)
		if id == 0 {
			continue
		}
		if closed && insideAny(x, l.source.PodRanges()) {
			return IdentityUnknown
		}
		return uint32(id)
	}
	return IdentityUnknown
}

func (l *plan) planPrefixes(affected affected) {
	for _, x := range sortedPrefixes(affected.prefixes) {
		old, have := l.Planner.prefixes[x]
		switch {
		case l.prefixWanted(x):
			closed := insideAny(x, l.source.PodRanges())
			to := uint32(l.source.PrefixIdentity(x))
			if closed {
				to = IdentityUnknown
			}
			l.setPrefix(x, old, have, to, closed)
		case have:
			l.setPrefix(x, old, true, l.longest(x.Addr(), x.Bits()-1, true), false)
			l.prefixTombs[x] = struct{}{}
		}
	}
}

// setPrefix flips a prefix. Its flag is not versioned: it is set before
// Publish only if the prefix is closed before and after.
func (l *plan) setPrefix(x netip.Prefix, old Prefix, have bool, to uint32, closed bool) {
	from := old.Identity.At(l.revision)
	if !have {
		from = l.fallback(x.Addr(), x.Bits()-1)
	} else if old.Flags&FlagClosed != 0 {
		from = IdentityUnknown
	}
	flags := uint32(0)
	if closed {
		flags = FlagClosed
	}
	if have && from == to && old.Flags == flags {
		return
	}
	if _, resting := l.grace.prefixes[x]; resting || l.grace.all {
		l.needsGrace = true
	}
	entry := Prefix{Identity: Versioned{Old: from, New: to, Since: l.next}, Flags: flags}
	first := entry
	if from != IdentityUnknown {
		first.Flags = 0
	}
	l.write(SetPrefix{x, first})
	if first != entry {
		l.cleanup = append(l.cleanup, SetPrefix{x, entry})
	}
	l.prefixes[x] = &entry
}

// wantAddress is the entry that the address is to have, with its identity as New.
func (l *plan) wantAddress(a netip.Addr) (Address, bool) {
	id := uint32(l.source.AddressIdentity(a))
	if e := l.source.EndpointAt(a); e != nil {
		out := Address{Identity: Versioned{New: id}}
		if pod := l.podOf(e.Key()); pod != nil {
			out.Subject, out.Ifindex = pod.subject, pod.ifindex
		}
		return out, true
	}
	flags, ok := l.nodeAddrs[a]
	if !ok {
		return Address{}, false
	}
	if pod, ok := l.placement.As[a]; ok {
		id = uint32(l.source.AddressIdentity(pod))
	}
	if id == IdentityUnknown {
		id = l.longest(a, a.BitLen(), false)
	}
	return Address{Identity: Versioned{New: id}, Flags: flags}, true
}

// podOf is the local pod as it is to be.
func (l *plan) podOf(key string) *localPod {
	if pod, ok := l.pods[key]; ok {
		return pod
	}
	return l.local[key]
}

func (l *plan) planAddresses(affected affected) {
	for _, a := range sortedAddrs(affected.addresses) {
		old, have := l.Planner.addresses[a]
		want, wanted := l.wantAddress(a)
		switch {
		case wanted && have && changesHands(old, want) && old.Identity.At(l.revision) != IdentityUnknown:
			closed := old
			closed.Identity.New = IdentityUnknown
			l.setAddress(a, old, true, closed)
			l.handed[a] = struct{}{}
		case wanted:
			l.setAddress(a, old, have, want)
		case have:
			l.dropAddress(a, old)
		}
	}
}

// changesHands says whether what is not versioned of an address changes: it
// has to be closed in between.
func changesHands(old, want Address) bool {
	return old.Subject != want.Subject || old.Flags != want.Flags
}

func (l *plan) setAddress(a netip.Addr, old Address, have bool, want Address) {
	from := old.Identity.At(l.revision)
	if !have {
		from = l.fallback(a, a.BitLen())
	}
	to := want.Identity.New
	if have && from == to && !changesHands(old, want) && old.Ifindex == want.Ifindex {
		return
	}
	if _, resting := l.grace.addresses[a]; resting || l.grace.all {
		l.needsGrace = true
	}
	want.Identity = Versioned{Old: from, New: to, Since: l.next}
	l.write(SetAddress{a, want})
	l.addresses[a] = &want
}

// dropAddress closes the address of a pod that was here, and gives any other
// what its prefix says. The entry goes after Publish if that makes no
// difference to a packet of either revision, else with the next transaction.
func (l *plan) dropAddress(a netip.Addr, old Address) {
	under := l.longest(a, a.BitLen(), true)
	to := under
	if old.Subject != SubjectNone {
		to = IdentityUnknown
	}
	gone := old
	gone.Identity.New = to
	l.setAddress(a, old, true, gone)
	if under == IdentityUnknown {
		l.cleanup = append(l.cleanup, DeleteAddress{a})
		l.addresses[a] = nil
		return
	}
	l.addressTombs[a] = struct{}{}
}

// rewriteDirty gives every entry that a failed transaction may have written
// its published value again, if this transaction does not write it anyway.
func (l *plan) rewriteDirty() {
	for _, a := range sortedAddrs(l.dirtyAddresses) {
		if _, planned := l.addresses[a]; planned {
			continue
		}
		if v, ok := l.Planner.addresses[a]; ok {
			l.write(SetAddress{a, v})
		} else {
			l.write(DeleteAddress{a})
		}
	}
	for _, x := range sortedPrefixes(l.dirtyPrefixes) {
		if _, planned := l.prefixes[x]; planned {
			continue
		}
		if v, ok := l.Planner.prefixes[x]; ok {
			l.write(SetPrefix{x, v})
		} else {
			l.write(DeletePrefix{x})
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(l.dirtySubjects)) {
		v, ok := l.Planner.subjects[slot]
		if _, planned := l.subjects[slot]; ok && !planned {
			l.write(SetSubject{slot, v})
		}
	}
	for _, ifindex := range slices.Sorted(maps.Keys(l.dirtyDevices)) {
		if _, planned := l.devices[ifindex]; planned {
			continue
		}
		if subject, ok := l.Planner.devices[ifindex]; ok {
			l.write(SetDevice{ifindex, subject})
		} else {
			l.write(DeleteDevice{ifindex})
		}
	}
}

// checkSizes compares what the kernel holds at Publish with its tables.
func (l *plan) checkSizes() error {
	n := heldAfter(l.Planner.addresses, l.addresses, l.Planner.addressTombs)
	if n > l.limits.Addresses {
		return &FullError{"addresses", l.limits.Addresses}
	}
	n = heldAfter(l.Planner.prefixes, l.prefixes, l.Planner.prefixTombs)
	if n > l.limits.Prefixes {
		return &FullError{"prefixes", l.limits.Prefixes}
	}
	if heldAfter(l.Planner.devices, l.devices, nil) > l.limits.Devices {
		return &FullError{"devices", l.limits.Devices}
	}
	return nil
}

func heldAfter[K comparable, V any](held map[K]V, planned map[K]*V, tombs map[K]struct{}) uint32 {
	n := len(held)
	for k, v := range planned {
		_, had := held[k]
		_, tomb := tombs[k]
		switch {
		case v != nil && !had:
			n++
		case v == nil && tomb:
			n--
		}
	}
	return uint32(n)
}

func (l *plan) undo() {
	for _, t := range l.taken {
		t.from.undo(t.first, t.count)
	}
}

// commit moves the mirror to what the transaction published.
func (l *plan) commit() {
	p := l.Planner
	if l.published {
		p.history.update(l.next, l.commitPods)
		p.commitAddresses(l)
		p.commitPrefixes(l)
		p.revision = l.next
		for ifindex, subject := range l.devices {
			if subject == nil {
				delete(p.devices, ifindex)
			} else {
				p.devices[ifindex] = *subject
			}
		}
	}
	clear(p.dirtyAddresses)
	clear(p.dirtyPrefixes)
	clear(p.dirtySubjects)
	clear(p.dirtyDevices)
	if l.closing {
		for a := range l.addresses {
			p.owed.addresses[a] = struct{}{}
		}
		return
	}
	for key, addrs := range l.podAddrs {
		if len(addrs) == 0 {
			delete(p.podAddrs, key)
		} else {
			p.podAddrs[key] = addrs
		}
	}
	p.nodeAddrs, p.placement = l.nodeAddrs, l.placement
	p.addressTombs, p.prefixTombs = l.addressTombs, l.prefixTombs
	p.owed = newOwed()
	p.owed.addresses, p.owed.publishing = l.handed, len(l.handed) > 0
	if !p.started {
		p.started = true
		p.disinherit()
	}
}

func (p *Planner) commitAddresses(l *plan) {
	for a, v := range l.addresses {
		old, had := p.addresses[a]
		if v != nil {
			p.countIdentity(v.Identity.At(l.next), 1)
			p.addresses[a] = *v
			p.grace.addresses[a] = struct{}{}
		} else {
			delete(p.addresses, a)
		}
		if had {
			p.countIdentity(old.Identity.At(p.revision), -1)
		}
	}
}

func (p *Planner) commitPrefixes(l *plan) {
	for x, v := range l.prefixes {
		old, had := p.prefixes[x]
		if v != nil {
			p.countIdentity(v.Identity.At(l.next), 1)
			p.prefixes[x] = *v
			p.grace.prefixes[x] = struct{}{}
		} else {
			delete(p.prefixes, x)
		}
		if had {
			p.countIdentity(old.Identity.At(p.revision), -1)
		}
	}
}

// commitPods moves gates, rows and subjects; history is locked.
func (l *plan) commitPods() {
	p := l.Planner
	for r, s := range l.newRows {
		p.rows[r] = s
	}
	for g, s := range l.newGates {
		p.gates[g] = s
		for _, r := range s.rows {
			r.refs++
		}
		p.history.startGate(s.slot, g)
	}
	for slot, v := range l.subjects {
		p.subjects[slot] = *v
		p.grace.subjects[slot] = struct{}{}
	}
	for _, pod := range l.pods {
		if pod != nil {
			pod.egress.acquire()
			pod.ingress.acquire()
		}
	}
	for key, pod := range l.pods {
		l.replacePod(key, pod)
	}
	for slot := range l.adopted {
		delete(p.orphans, slot)
	}
	if p.started || !l.owed.full || l.closing {
		return
	}
	for slot := range p.orphans {
		delete(p.subjects, slot)
		p.subjectSlots.put(slot, 1)
	}
	clear(p.orphans)
}

func (l *plan) replacePod(key string, pod *localPod) {
	p := l.Planner
	old := p.local[key]
	if old != nil {
		p.release(old.egress)
		p.release(old.ingress)
	}
	if pod == nil {
		delete(p.local, key)
		delete(p.subjects, old.subject)
		p.subjectSlots.put(old.subject, 1)
		p.history.endSubject(old.subject)
		return
	}
	p.local[key] = pod
	if old == nil || old.egress != pod.egress || old.ingress != pod.ingress {
		p.history.startSubject(pod.subject, door{key, pod.egress.slot, pod.ingress.slot})
	}
}

func (s *gateSlot) acquire() {
	if s.gate != nil {
		s.refs++
	}
}

// release takes a door's reference from the gate; without any, its slots rest.
func (p *Planner) release(s *gateSlot) {
	if s.gate == nil { // openDoor and closedDoor stay
		return
	}
	if s.refs--; s.refs > 0 {
		return
	}
	if p.gates[s.gate] == s {
		delete(p.gates, s.gate)
	}
	p.gateSlots.put(s.slot, 1)
	p.rangeSlots.put(s.first, s.count)
	if s.index != IndexNone {
		p.indexSlots.put(s.index, 1)
	}
	p.history.endGate(s.slot)
	for _, r := range s.rows {
		if r.refs--; r.refs > 0 {
			continue
		}
		if p.rows[r.row] == r {
			delete(p.rows, r.row)
		}
		p.rowSlots.put(r.slot, 1)
	}
}
