package datapath

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// Source is what a Planner asks of a Matrix; *[engine.Matrix] is one.
type Source interface {
	Endpoint(key string) *model.Endpoint
	Endpoints() []*model.Endpoint
	EndpointAt(netip.Addr) *model.Endpoint
	Gate(key string, d model.Direction) *engine.Gate
	AddressIdentity(netip.Addr) engine.Identity
	PrefixIdentity(netip.Prefix) engine.Identity
	Prefixes() []netip.Prefix
	PodRanges() []netip.Prefix
	Identities() int
}

// Placement says what of the cluster is on this node. A Planner keeps the
// maps and slices: whoever changes them passes new ones.
type Placement struct {
	Local map[string]uint32 // endpoint key to the pod's host-side ifindex; 0 while there is none
	Node  []netip.Addr      // this node's own addresses
	Nodes []netip.Addr      // other nodes' addresses that may lie in pod ranges

	// As are addresses of this node that stand for a pod's, by its address: a
	// Service that the node itself answers (NodeLocal DNSCache) is judged as
	// what is behind it.
	As map[netip.Addr]netip.Addr
}

// gateClosed is the gate slot without ranges: nothing passes. It is the gate
// of local pods that the Matrix does not know (yet, or any more).
const gateClosed = 1

// Planner holds a mirror of what one node's kernel has published and turns
// changes of a Matrix into transactions. The protocol is Plan, then Apply by
// the kernel, then Commit or Abort. After an Abort the next Plan includes what
// the failed one was to do, and first rewrites every visible entry that the
// failed one may have left behind.
//
//	Matrix ── Delta ──▶ Plan ── Tx ──▶ Kernel.Apply ──▶ Commit: the mirror moves
//	                     ▲                          └─▶ Abort: owed and dirty grow
//	                     └──────────────────────────────────────┘
//
// One goroutine owns a Planner; its History may be asked from any.
type Planner struct {
	limits   Limits
	revision Revision
	history  *History

	subjectSlots, gateSlots, rangeSlots, indexSlots, rowSlots slots

	addresses  map[netip.Addr]Address
	prefixes   map[netip.Prefix]Prefix
	devices    map[uint32]uint32
	subjects   map[uint32]Subject
	gates      map[*engine.Gate]*gateSlot
	rows       map[*engine.Row]*rowSlot
	local      map[string]*localPod
	podAddrs   map[string][]netip.Addr // the addresses each endpoint had when it was last planned
	identities map[uint32]int          // entries that show the identity at the published revision

	orphans        map[uint32]struct{}       // subjects of a predecessor that no pod has taken over
	inherited      inherited                 // slots of a predecessor
	addressTombs   map[netip.Addr]struct{}   // neutral entries, deleted by the next transaction
	prefixTombs    map[netip.Prefix]struct{} // likewise
	nodeAddrs      map[netip.Addr]uint32     // flags of the nodes' addresses, as last planned
	placement      Placement
	grace          grace
	owed           owed
	dirtyAddresses map[netip.Addr]struct{}
	dirtyPrefixes  map[netip.Prefix]struct{}
	dirtySubjects  map[uint32]struct{}
	dirtyDevices   map[uint32]struct{}
	started        bool // the first publication has been committed
	pending        *plan
}

// gateSlot is a gate's place in the kernel.
type gateSlot struct {
	gate  *engine.Gate
	slot  uint32
	first uint32
	count uint32
	index uint32
	rows  []*rowSlot // one for each use by a range
	refs  int        // doors of published subjects
}

// rowSlot is a row's place in the kernel.
type rowSlot struct {
	row  *engine.Row
	slot uint32
	refs int // uses by ranges of published gates
}

// localPod is a pod of this node.
type localPod struct {
	subject         uint32
	ifindex         uint32
	egress, ingress *gateSlot
}

// grace is what packets of a revision before the last may still look at.
type grace struct {
	all       bool // a predecessor's last publication is of unknown age
	addresses map[netip.Addr]struct{}
	prefixes  map[netip.Prefix]struct{}
	subjects  map[uint32]struct{}
	columns   map[uint32]struct{}
}

func newGrace() grace {
	return grace{
		addresses: map[netip.Addr]struct{}{}, prefixes: map[netip.Prefix]struct{}{},
		subjects: map[uint32]struct{}{}, columns: map[uint32]struct{}{},
	}
}

// owed is what the next plan has to look at besides its own delta.
type owed struct {
	full       bool
	endpoints  map[string]struct{}
	prefixes   map[netip.Prefix]struct{}
	columns    map[uint32]struct{}
	addresses  map[netip.Addr]struct{}
	publishing bool // nothing else may come: publish once more by itself
}

func newOwed() owed {
	return owed{
		endpoints: map[string]struct{}{}, prefixes: map[netip.Prefix]struct{}{},
		columns: map[uint32]struct{}{}, addresses: map[netip.Addr]struct{}{},
	}
}

func (o *owed) add(d engine.Delta) {
	o.full = o.full || d.Full
	for _, k := range d.Endpoints {
		o.endpoints[k] = struct{}{}
	}
	for _, x := range d.Prefixes {
		o.prefixes[x] = struct{}{}
	}
	for _, id := range d.Identities {
		o.columns[uint32(id)] = struct{}{}
	}
}

// NewPlanner makes a Planner for an empty kernel or, with a snapshot, for one
// that holds a predecessor's tables. Its first Plan compares everything.
func NewPlanner(limits Limits, snapshot *Snapshot) *Planner {
	p := &Planner{
		limits: limits, history: newHistory(limits.History),
		subjectSlots: slots{table: "subjects", size: limits.Subjects, next: 1},
		gateSlots:    slots{table: "gates", size: limits.Gates, next: gateClosed + 1},
		rangeSlots:   slots{table: "ranges", size: limits.Ranges},
		indexSlots:   slots{table: "indexes", size: limits.Indexes, next: IndexNone + 1},
		rowSlots:     slots{table: "rows", size: limits.Rows, next: RowAll + 1},
		addresses:    map[netip.Addr]Address{}, prefixes: map[netip.Prefix]Prefix{},
		devices: map[uint32]uint32{}, subjects: map[uint32]Subject{},
		gates: map[*engine.Gate]*gateSlot{}, rows: map[*engine.Row]*rowSlot{},
		local: map[string]*localPod{}, podAddrs: map[string][]netip.Addr{},
		identities: map[uint32]int{}, orphans: map[uint32]struct{}{},
		addressTombs: map[netip.Addr]struct{}{}, prefixTombs: map[netip.Prefix]struct{}{},
		nodeAddrs: map[netip.Addr]uint32{}, grace: newGrace(), owed: newOwed(),
		dirtyAddresses: map[netip.Addr]struct{}{}, dirtyPrefixes: map[netip.Prefix]struct{}{},
		dirtySubjects: map[uint32]struct{}{}, dirtyDevices: map[uint32]struct{}{},
	}
	p.owed.full = true
	if snapshot != nil {
		p.adopt(snapshot)
	}
	return p
}

// Revision is the last one published.
func (p *Planner) Revision() Revision { return p.revision }

// History explains the slots of the last revisions.
func (p *Planner) History() *History { return p.history }

// Gate is History().Gate.
func (p *Planner) Gate(revision, slot uint32) (*engine.Gate, []string, bool) {
	return p.history.Gate(revision, slot)
}

// Subject is History().Subject.
func (p *Planner) Subject(revision, slot uint32) (string, bool) {
	return p.history.Subject(revision, slot)
}

// Owes says whether another publication, of an empty delta, is needed to
// finish the last one: an address that changed hands is closed for one
// revision before its new owner gets it.
func (p *Planner) Owes() bool { return p.owed.publishing }

// NeedsGrace says whether the planned transaction writes what packets of an
// earlier revision may still look at: Kernel.WaitGrace must come before Apply.
func (p *Planner) NeedsGrace() bool { return p.pending != nil && p.pending.needsGrace }

// Graced tells the Planner that Kernel.WaitGrace has returned.
func (p *Planner) Graced() {
	p.grace = newGrace()
	for _, s := range []*slots{&p.subjectSlots, &p.gateSlots, &p.rangeSlots, &p.indexSlots, &p.rowSlots} {
		s.rest()
	}
}

func (p *Planner) countIdentity(id uint32, n int) {
	if id == IdentityUnknown {
		return
	}
	p.identities[id] += n
	if p.identities[id] <= 0 {
		delete(p.identities, id)
		p.grace.columns[id] = struct{}{}
	}
}

// Plan works out the writes that bring the kernel to the source's state. Each
// Plan is followed by Commit or Abort. An empty Tx has nothing to publish: it
// is committed without Apply. On an error nothing is pending, and the delta
// is remembered for the next Plan.
func (p *Planner) Plan(source Source, delta engine.Delta, placement Placement) (Tx, error) {
	if p.pending != nil {
		return nil, errors.New("cannot plan a change: the last one is neither committed nor aborted")
	}
	p.owed.add(delta)
	l := newPlan(p, source, placement)
	if err := l.run(); err != nil {
		l.undo()
		return nil, err
	}
	p.pending = l
	return l.tx, nil
}

// PlanClosing works out the writes that close the addresses whose pods are gone
// or have another device, and nothing else: what Plan was to do stays owed. It
// takes no slots, so it fits where a Plan did not; like one it is followed by
// Commit or Abort.
func (p *Planner) PlanClosing(source Source, placement Placement) Tx {
	l := newPlan(p, source, p.placement)
	l.closing = true
	holders := map[netip.Addr]string{}
	for key, addrs := range p.podAddrs {
		for _, a := range addrs {
			holders[a] = key
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(p.addresses), netip.Addr.Compare) {
		key := ""
		if e := source.EndpointAt(a); e != nil {
			key = e.Key()
		}
		old := p.addresses[a]
		moved := old.Subject != SubjectNone && placement.Local[key] != old.Ifindex
		if holder, known := holders[a]; (moved || known && holder != key) && old.Identity.At(p.revision) != IdentityUnknown {
			closed := old
			closed.Identity.New = IdentityUnknown
			l.setAddress(a, old, true, closed)
		}
	}
	l.rewriteDirty()
	l.finish()
	p.pending = l
	return l.tx
}

// Commit tells the Planner that the kernel applied the planned transaction.
func (p *Planner) Commit() {
	l := p.pending
	p.pending = nil
	if l == nil {
		return
	}
	l.commit()
}

// Abort tells the Planner that the kernel did not publish the planned
// transaction: the mirror stays, and what it may have written is dirty.
func (p *Planner) Abort() {
	l := p.pending
	p.pending = nil
	if l == nil {
		return
	}
	l.undo()
	for _, op := range l.tx {
		switch o := op.(type) {
		case Publish:
			return
		case SetAddress:
			p.dirtyAddresses[o.Addr] = struct{}{}
		case DeleteAddress:
			p.dirtyAddresses[o.Addr] = struct{}{}
		case SetPrefix:
			p.dirtyPrefixes[o.Prefix] = struct{}{}
		case DeletePrefix:
			p.dirtyPrefixes[o.Prefix] = struct{}{}
		case SetSubject:
			p.dirtySubjects[o.ID] = struct{}{}
		case SetDevice:
			p.dirtyDevices[o.Ifindex] = struct{}{}
		case DeleteDevice:
			p.dirtyDevices[o.Ifindex] = struct{}{}
		}
	}
}

// fallback is the published identity of addresses inside x that have no entry
// of their own but that of a prefix of at most bits bits.
func (p *Planner) fallback(a netip.Addr, bits int) uint32 {
	for ; bits >= 0; bits-- {
		x, err := a.Prefix(bits)
		if err != nil {
			return IdentityUnknown
		}
		e, ok := p.prefixes[x]
		if !ok {
			continue
		}
		if e.Flags&FlagClosed != 0 {
			return IdentityUnknown
		}
		return e.Identity.At(p.revision)
	}
	return IdentityUnknown
}

// Publisher keeps a kernel up to date with a Matrix.
type Publisher struct {
	Planner *Planner
	Kernel  Kernel

	// Ahead has every publication followed by a wait for the packets that are
	// under way, beside whatever comes then: the next publication seldom has to
	// wait for them itself.
	Ahead  bool
	graced chan error // of the wait that began after the last publication; nil: none did, or its end is known
}

// Publish brings the change into force, in more than one revision where an
// address changes hands. On an error the last published state holds, but for
// addresses whose pods are gone, which are closed if the change does not fit;
// the next Publish includes the change.
func (b *Publisher) Publish(source Source, delta engine.Delta, placement Placement) error {
	for {
		if err := b.publish(source, delta, placement); err != nil {
			return err
		}
		if !b.Planner.Owes() {
			return nil
		}
		delta = engine.Delta{}
	}
}

func (b *Publisher) publish(source Source, delta engine.Delta, placement Placement) error {
	select {
	case err := <-b.graced:
		b.graced = nil
		if err == nil {
			b.Planner.Graced()
		}
	default:
	}
	tx, err := b.Planner.Plan(source, delta, placement)
	if err != nil {
		return errors.Join(err, b.execute(b.Planner.PlanClosing(source, placement)))
	}
	return b.execute(tx)
}

// execute has the kernel do what was planned.
func (b *Publisher) execute(tx Tx) error {
	if len(tx) == 0 {
		b.Planner.Commit()
		return nil
	}
	if b.Planner.NeedsGrace() {
		if err := b.waitGrace(); err != nil {
			b.Planner.Abort()
			return err
		}
		b.Planner.Graced()
	}
	if err := b.Kernel.Apply(tx); err != nil {
		b.Planner.Abort()
		return err
	}
	b.Planner.Commit()
	if b.Ahead {
		kernel, graced := b.Kernel, make(chan error, 1)
		b.graced = graced
		go func() { graced <- kernel.WaitGrace() }()
	}
	return nil
}

// waitGrace waits for the packets that are under way, with the wait that has
// begun if there is one.
func (b *Publisher) waitGrace() error {
	if b.graced != nil {
		err := <-b.graced
		b.graced = nil
		if err == nil {
			return nil
		}
	}
	return b.Kernel.WaitGrace()
}

func insideAny(x netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Bits() <= x.Bits() && r.Contains(x.Addr()) })
}
