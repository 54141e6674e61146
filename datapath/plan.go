package datapath

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// plan is one transaction in the making. It changes nothing of the Planner but
// the slots it takes; commit moves the mirror, undo puts the slots back.
type plan struct {
	*Planner
	source    Source
	placement Placement
	next      Revision
	closing   bool // PlanClosing's: what is owed stays owed
	fork      bool // published rows may not change: new columns are in use
	tx        Tx

	needsGrace bool
	published  bool // tx has its Publish: what follows is clean-up
	chunks     uint32

	newGates    map[*engine.Gate]*gateSlot
	newRows     map[*engine.Row]*rowSlot
	newSubjects []uint32
	taken       []taken

	// What is to be in the mirror, and after Publish, in the kernel.
	addresses map[netip.Addr]*Address // nil: gone
	prefixes  map[netip.Prefix]*Prefix
	subjects  map[uint32]*Subject
	devices   map[uint32]*uint32
	pods      map[string]*localPod // nil: gone
	podAddrs  map[string][]netip.Addr
	nodeAddrs map[netip.Addr]uint32

	addressTombs map[netip.Addr]struct{}
	prefixTombs  map[netip.Prefix]struct{}
	adopted      map[uint32]struct{}
	handed       map[netip.Addr]struct{} // addresses that change hands: closed now, due next time
	cleanup      Tx                      // after Publish
}

type taken struct {
	from         *slots
	first, count uint32
}

func newPlan(p *Planner, source Source, placement Placement) *plan {
	return &plan{
		Planner: p, source: onLink{source, placement.Node}, placement: placement, next: p.revision + 1,
		chunks:   (uint32(source.Identities()) + ChunkColumns - 1) / ChunkColumns,
		newGates: map[*engine.Gate]*gateSlot{}, newRows: map[*engine.Row]*rowSlot{},
		addresses: map[netip.Addr]*Address{}, prefixes: map[netip.Prefix]*Prefix{},
		subjects: map[uint32]*Subject{}, devices: map[uint32]*uint32{},
		pods: map[string]*localPod{}, podAddrs: map[string][]netip.Addr{},
		addressTombs: map[netip.Addr]struct{}{}, prefixTombs: map[netip.Prefix]struct{}{},
		adopted: map[uint32]struct{}{}, handed: map[netip.Addr]struct{}{},
	}
}

// run fills the transaction: what is neutral first, then rows, gates and
// subjects, then the entries that lead to them, Publish, and the clean-up.
func (l *plan) run() error {
	if n := uint32(l.source.Identities()); n > l.limits.Columns {
		return &FullError{"columns", l.limits.Columns}
	}
	affected := l.affected()
	l.buryTombs(affected)
	if err := l.planColumns(); err != nil {
		return err
	}
	if !l.started {
		l.write(SetGate{gateClosed, Gate{}})
	}
	if err := l.planPods(affected); err != nil {
		return err
	}
	l.planPrefixes(affected)
	l.planAddresses(affected)
	l.rewriteDirty()
	if err := l.checkSizes(); err != nil {
		return err
	}
	l.finish()
	return nil
}

func (l *plan) write(op Op) { l.tx = append(l.tx, op) }

// finish publishes, if there is anything to publish. Writes that no packet
// can tell from what was there, tombs and dirt, are published as well: the
// kernel then has one revision per transaction.
func (l *plan) finish() {
	if len(l.tx) == 0 && len(l.cleanup) == 0 {
		return
	}
	l.tx = append(l.tx, Publish{l.next})
	l.tx = append(l.tx, l.cleanup...)
	l.published = true
}

// affected lists what the plan looks at.
type affected struct {
	endpoints map[string]struct{} // whose addresses or gates may have changed
	prefixes  map[netip.Prefix]struct{}
	addresses map[netip.Addr]struct{}
}

func (l *plan) affected() affected {
	out := affected{maps.Clone(l.owed.endpoints), maps.Clone(l.owed.prefixes), maps.Clone(l.owed.addresses)}
	l.placeNodes(out)
	l.placePods(out)
	if l.owed.full {
		l.affectAll(out)
	}
	for key := range out.endpoints {
		for _, a := range l.Planner.podAddrs[key] {
			out.addresses[a] = struct{}{}
		}
		l.podAddrs[key] = nil
		e := l.source.Endpoint(key)
		if e == nil || e.HostNetwork {
			continue
		}
		for _, a := range e.IPs {
			l.podAddrs[key] = append(l.podAddrs[key], a.Unmap())
			out.addresses[a.Unmap()] = struct{}{}
		}
	}
	for _, as := range []map[netip.Addr]netip.Addr{l.placement.As, l.Planner.placement.As} {
		for a := range as {
			out.addresses[a] = struct{}{}
		}
	}
	if len(out.prefixes) > 0 {
		for a := range l.nodeAddrs {
			out.addresses[a] = struct{}{}
		}
		for _, x := range linkScoped {
			out.prefixes[x] = struct{}{}
		}
	}
	return out
}

func (l *plan) affectAll(out affected) {
	for _, e := range l.source.Endpoints() {
		out.endpoints[e.Key()] = struct{}{}
	}
	for key := range l.Planner.podAddrs {
		out.endpoints[key] = struct{}{}
	}
	for key := range l.local {
		out.endpoints[key] = struct{}{}
	}
	for key := range l.placement.Local {
		out.endpoints[key] = struct{}{}
	}
	for _, x := range l.source.Prefixes() {
		out.prefixes[x] = struct{}{}
	}
	for x := range l.Planner.prefixes {
		out.prefixes[x] = struct{}{}
	}
	for a := range l.Planner.addresses {
		out.addresses[a] = struct{}{}
	}
}

// placeNodes notes which nodes' addresses came, went or changed sides.
func (l *plan) placeNodes(out affected) {
	l.nodeAddrs = l.Planner.nodeAddrs
	if l.started && slices.Equal(l.placement.Node, l.Planner.placement.Node) && slices.Equal(l.placement.Nodes, l.Planner.placement.Nodes) {
		return
	}
	for _, x := range linkScoped {
		out.prefixes[x] = struct{}{}
	}
	l.nodeAddrs = map[netip.Addr]uint32{}
	for _, a := range l.placement.Nodes {
		l.nodeAddrs[a.Unmap()] = 0
	}
	for _, a := range l.placement.Node {
		if !linkLocal(a) {
			l.nodeAddrs[a.Unmap()] = FlagNode
		}
	}
	for a, flags := range l.nodeAddrs {
		if old, ok := l.Planner.nodeAddrs[a]; !ok || old != flags {
			out.addresses[a] = struct{}{}
		}
	}
	for a := range l.Planner.nodeAddrs {
		if _, ok := l.nodeAddrs[a]; !ok {
			out.addresses[a] = struct{}{}
		}
	}
}

// placePods notes which pods came to, left or changed their device on this node.
func (l *plan) placePods(out affected) {
	for key, ifindex := range l.placement.Local {
		if pod := l.local[key]; pod == nil || pod.ifindex != ifindex {
			out.endpoints[key] = struct{}{}
		}
	}
	for key := range l.local {
		if _, ok := l.placement.Local[key]; !ok {
			out.endpoints[key] = struct{}{}
		}
	}
}

// buryTombs deletes the entries that the last transaction made neutral.
// Entries that are wanted again are left to planPrefixes and planAddresses.
func (l *plan) buryTombs(affected affected) {
	for _, x := range sortedPrefixes(l.Planner.prefixTombs) {
		if l.prefixWanted(x) {
			affected.prefixes[x] = struct{}{}
			continue
		}
		l.needsGrace = true
		l.write(DeletePrefix{x})
		l.prefixes[x] = nil
		delete(affected.prefixes, x)
	}
	for _, a := range sortedAddrs(l.Planner.addressTombs) {
		if _, wanted := l.wantAddress(a); wanted {
			affected.addresses[a] = struct{}{}
			continue
		}
		l.needsGrace = true
		l.write(DeleteAddress{a})
		l.addresses[a] = nil
		delete(affected.addresses, a)
	}
}

// planColumns rewrites the chunks with new columns of every published row, or,
// where a published address still shows one of these columns, has every row
// and gate written anew instead.
func (l *plan) planColumns() error {
	chunks := map[uint32]struct{}{}
	for id := range l.owed.columns {
		if _, used := l.identities[id]; used {
			l.fork = true
		}
		if _, resting := l.grace.columns[id]; resting || l.grace.all {
			l.needsGrace = true
		}
		chunks[id/ChunkColumns] = struct{}{}
	}
	if l.fork {
		return nil
	}
	if l.owed.full {
		for c := range l.chunks {
			chunks[c] = struct{}{}
		}
	}
	if len(chunks) == 0 {
		return nil // most changes: sorting many rows would be most of their cost
	}
	live := slices.SortedFunc(maps.Values(l.rows), func(a, b *rowSlot) int { return cmp.Compare(a.slot, b.slot) })
	for _, chunk := range slices.Sorted(maps.Keys(chunks)) {
		for _, r := range live {
			l.write(r.chunk(chunk))
		}
	}
	return nil
}

func (r *rowSlot) chunk(chunk uint32) SetRow {
	op := SetRow{Row: r.slot, Chunk: chunk}
	if from := int(chunk) * len(op.Words); from < len(r.row.Bits) {
		copy(op.Words[:], r.row.Bits[from:])
	}
	return op
}

// planPods gives every pod of this node its subject, device and gates.
func (l *plan) planPods(affected affected) error {
	keys := maps.Clone(affected.endpoints)
	if l.fork {
		for key := range l.local {
			keys[key] = struct{}{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if _, here := l.placement.Local[key]; !here {
			if l.local[key] != nil {
				l.removePod(key)
			}
			continue
		}
		if err := l.planPod(key); err != nil {
			return err
		}
	}
	if l.owed.full {
		for slot := range l.orphans {
			if _, ok := l.adopted[slot]; !ok {
				l.closeSubject(slot)
			}
		}
	}
	l.planDevices(keys)
	return nil
}

func (l *plan) planPod(key string) error {
	pod := &localPod{ifindex: l.placement.Local[key]}
	if old := l.local[key]; old != nil {
		pod.subject = old.subject
	} else {
		slot, err := l.newSubject(key, pod.ifindex)
		if err != nil {
			return err
		}
		pod.subject = slot
	}
	l.pods[key] = pod
	var err error
	if pod.egress, err = l.doorOf(key, model.Egress); err != nil {
		return err
	}
	if pod.ingress, err = l.doorOf(key, model.Ingress); err != nil {
		return err
	}
	l.setSubject(pod.subject, pod.egress.slot, pod.ingress.slot)
	return nil
}

// openDoor and closedDoor are the gates that every kernel has.
var (
	openDoor   = &gateSlot{slot: GateOpen}
	closedDoor = &gateSlot{slot: gateClosed}
)

func (l *plan) doorOf(key string, d model.Direction) (*gateSlot, error) {
	e := l.source.Endpoint(key)
	if e == nil || e.HostNetwork {
		return closedDoor, nil
	}
	g := l.source.Gate(key, d)
	if g == nil {
		return openDoor, nil
	}
	return l.placeGate(g)
}

// newSubject takes a slot for a pod: its predecessor's, if a predecessor knew
// it by its device or an address, so that entries that lead to it may stay.
func (l *plan) newSubject(key string, ifindex uint32) (uint32, error) {
	if slot, ok := l.Planner.devices[ifindex]; ok && l.isOrphan(slot) {
		l.adopted[slot] = struct{}{}
		return slot, nil
	}
	if e := l.source.Endpoint(key); e != nil {
		for _, a := range e.IPs {
			if old := l.Planner.addresses[a.Unmap()]; old.Ifindex == ifindex && l.isOrphan(old.Subject) {
				l.adopted[old.Subject] = struct{}{}
				return old.Subject, nil
			}
		}
	}
	slot, err := l.take(&l.subjectSlots, 1)
	if err == nil {
		closed := Versioned{Old: gateClosed, New: gateClosed, Since: l.next}
		l.subjects[slot] = &Subject{closed, closed}
		l.newSubjects = append(l.newSubjects, slot)
	}
	return slot, err
}

func (l *plan) isOrphan(slot uint32) bool {
	if slot == SubjectNone {
		return false
	}
	_, orphan := l.orphans[slot]
	_, adopted := l.adopted[slot]
	return orphan && !adopted
}

// setSubject flips the subject's gates, if they are not what they are to be.
func (l *plan) setSubject(slot, egress, ingress uint32) {
	old := l.Planner.subjects[slot]
	if fresh := l.subjects[slot]; fresh != nil {
		old = *fresh
	} else if old.Egress.At(l.revision) == egress && old.Ingress.At(l.revision) == ingress {
		return
	}
	if _, resting := l.grace.subjects[slot]; resting || l.grace.all {
		l.needsGrace = true
	}
	s := &Subject{l.flip(old.Egress, egress), l.flip(old.Ingress, ingress)}
	l.subjects[slot] = s
	l.write(SetSubject{slot, *s})
}

// flip is the value that is what it was until the next revision.
func (l *plan) flip(v Versioned, to uint32) Versioned {
	return Versioned{Old: v.At(l.revision), New: to, Since: l.next}
}

func (l *plan) removePod(key string) {
	l.pods[key] = nil
	l.closeSubject(l.local[key].subject)
}

// closeSubject shuts both doors of a pod that is gone; its slot rests.
func (l *plan) closeSubject(slot uint32) {
	l.setSubject(slot, gateClosed, gateClosed)
}

// planDevices binds the devices of the pods that came or changed, and unbinds,
// after Publish, those that no pod has any more.
func (l *plan) planDevices(keys map[string]struct{}) {
	gone := map[uint32]struct{}{}
	for key := range keys {
		if old := l.local[key]; old != nil {
			gone[old.ifindex] = struct{}{}
		}
	}
	if l.owed.full {
		for ifindex := range l.Planner.devices {
			gone[ifindex] = struct{}{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.pods)) {
		pod := l.pods[key]
		if pod == nil || pod.ifindex == 0 {
			continue
		}
		delete(gone, pod.ifindex)
		if bound, ok := l.Planner.devices[pod.ifindex]; !ok || bound != pod.subject {
			subject := pod.subject
			l.devices[pod.ifindex] = &subject
			l.write(SetDevice{pod.ifindex, pod.subject})
		}
	}
	for _, ifindex := range slices.Sorted(maps.Keys(gone)) {
		if _, bound := l.Planner.devices[ifindex]; bound {
			l.devices[ifindex] = nil
			l.cleanup = append(l.cleanup, DeleteDevice{ifindex})
		}
	}
}

func (l *plan) take(from *slots, count uint32) (uint32, error) {
	first, early, err := from.take(count)
	if early {
		l.grace.all = true // until it has passed, also if this plan fails
	}
	if err != nil {
		return 0, err
	}
	l.needsGrace = l.needsGrace || l.grace.all
	l.taken = append(l.taken, taken{from, first, count})
	return first, nil
}

// placeGate finds the gate's slot, or writes the gate into a free one.
func (l *plan) placeGate(g *engine.Gate) (*gateSlot, error) {
	if s := l.newGates[g]; s != nil {
		return s, nil
	}
	if s := l.gates[g]; s != nil && !l.fork {
		return s, nil
	}
	s := &gateSlot{gate: g, count: uint32(len(g.Ranges))}
	var err error
	if s.slot, err = l.take(&l.gateSlots, 1); err != nil {
		return nil, err
	}
	if s.first, err = l.take(&l.rangeSlots, s.count); err != nil {
		return nil, err
	}
	for i := range g.Ranges {
		if err := l.placeRange(s, uint32(i), &g.Ranges[i]); err != nil {
			return nil, err
		}
	}
	l.placeIndex(s)
	l.write(SetGate{s.slot, Gate{s.first, s.count, s.index}})
	l.newGates[g] = s
	return s, nil
}

// placeIndex gives a large gate its index; if none is free, its ranges are
// searched.
func (l *plan) placeIndex(s *gateSlot) {
	if s.count < indexFrom {
		return
	}
	slot, err := l.take(&l.indexSlots, 1)
	if err != nil {
		return
	}
	s.index = slot
	starts := make([]uint32, s.count)
	for i, r := range s.gate.Ranges {
		starts[i] = uint32(r.First)
	}
	l.write(SetIndex{slot, indexOf(starts)})
}

func (l *plan) placeRange(s *gateSlot, i uint32, r *engine.Range) error {
	out := Range{Start: uint32(r.First)}
	for _, x := range []struct {
		row  *engine.Row
		slot *uint32
	}{{r.Allow, &out.Allow}, {r.Shadow, &out.Shadow}, {r.Conditional, &out.Conditional}, {r.Log, &out.Log}} {
		switch {
		case x.row.None:
			*x.slot = RowNone
		case x.row.All:
			*x.slot = RowAll
		default:
			placed, err := l.placeRow(x.row)
			if err != nil {
				return err
			}
			s.rows = append(s.rows, placed)
			*x.slot = placed.slot
		}
	}
	l.write(SetRange{s.first + i, out})
	return nil
}

// placeRow finds the row's slot, or writes the row into a free one.
func (l *plan) placeRow(r *engine.Row) (*rowSlot, error) {
	if s := l.newRows[r]; s != nil {
		return s, nil
	}
	if s := l.rows[r]; s != nil && !l.fork {
		return s, nil
	}
	slot, err := l.take(&l.rowSlots, 1)
	if err != nil {
		return nil, err
	}
	s := &rowSlot{row: r, slot: slot}
	for c := range l.chunks {
		l.write(s.chunk(c))
	}
	l.newRows[r] = s
	return s, nil
}

func sortedAddrs(set map[netip.Addr]struct{}) []netip.Addr {
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

func sortedPrefixes(set map[netip.Prefix]struct{}) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(set), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}
