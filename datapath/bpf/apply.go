package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/datapath"
)

// ErrInvalidTx says that a transaction does not have exactly one Publish, or
// writes beyond a table. Nothing of it was written.
var ErrInvalidTx = errors.New("invalid transaction")

// addressKey is an address in the maps, IPv4 as ::ffff:a.b.c.d. Twin: struct address_key.
type addressKey struct{ Addr [16]byte }

// prefixKey is a prefix in the maps. Twin: struct prefix_key.
type prefixKey struct {
	Length uint32 // of the IPv4 prefix: 96 more
	Addr   [16]byte
}

func keyOf(a netip.Addr) addressKey { return addressKey{a.As16()} }

func prefixKeyOf(p netip.Prefix) prefixKey {
	length := p.Bits()
	if p.Addr().Is4() {
		length += 96
	}
	return prefixKey{uint32(length), p.Masked().Addr().As16()}
}

func (k prefixKey) prefix() netip.Prefix {
	addr := netip.AddrFrom16(k.Addr)
	if addr.Is4In6() && k.Length >= 96 {
		return netip.PrefixFrom(addr.Unmap(), int(k.Length)-96)
	}
	return netip.PrefixFrom(addr, int(k.Length))
}

// Apply executes the transaction. If a write before its Publish fails, those
// already done are taken back. A clean-up that fails after it is tried again
// by the next Apply, which fails if it still cannot be done.
func (p *Program) Apply(tx datapath.Tx) error {
	publish, err := p.check(tx)
	if err != nil {
		return err
	}
	if err := p.cleanUp(); err != nil {
		return err
	}
	var undo []func() error
	for _, op := range tx[:publish] {
		back, err := p.execute(op)
		if err != nil {
			return p.fail(fmt.Errorf("cannot apply %T: %w", op, err), undo)
		}
		if back != nil {
			undo = append(undo, back)
		}
	}
	if err := p.publish(tx[publish].(datapath.Publish).Revision); err != nil {
		return p.fail(err, undo)
	}
	p.pending = append(p.pending, tx[publish+1:]...)
	_ = p.cleanUp() // what is left is kept in pending and reported by the next Apply
	return nil
}

// cleanUp executes what earlier transactions left behind their Publish.
func (p *Program) cleanUp() error {
	if len(p.pending) == 0 {
		return nil
	}
	for i, op := range p.pending {
		if _, err := p.execute(op); err != nil {
			p.pending = append([]datapath.Op(nil), p.pending[i:]...)
			p.bumpEpoch()
			return fmt.Errorf("cannot clean up with %T: %w", op, err)
		}
	}
	p.pending = nil
	p.bumpEpoch()
	return nil
}

// bumpEpoch makes the flow caches forget: entries that changed outside of a
// publication may have gone into cached verdicts.
func (p *Program) bumpEpoch() { atomic.AddUint32(p.config.word(0, configEpoch), 1) }

// fail takes back what was written before the error.
func (p *Program) fail(err error, undo []func() error) error {
	err = errors.Join(err, takeBack(undo))
	p.bumpEpoch()
	return err
}

func takeBack(undo []func() error) error {
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		if err := undo[i](); err != nil {
			errs = append(errs, fmt.Errorf("cannot take a write back: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (p *Program) publish(r datapath.Revision) error {
	// Only amd64 shows writes to other processors in their order; elsewhere
	// every processor passes a barrier first.
	if runtime.GOARCH != "amd64" {
		if err := p.WaitGrace(); err != nil {
			return err
		}
	}
	p.config.store(0, configRevision, uint32(r))
	return nil
}

// WaitGrace returns when every packet that was under way has been judged.
func (p *Program) WaitGrace() error {
	waitGrace()
	return nil
}

func waitGrace() {
	const membarrierGlobal = 1
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	if errno != 0 {
		// Not with nohz_full processors; no packet is judged for that long.
		time.Sleep(100 * time.Millisecond)
	}
}

// check finds the Publish and sees that every slot exists.
func (p *Program) check(tx datapath.Tx) (publish int, err error) {
	publish = -1
	for i, op := range tx {
		if _, ok := op.(datapath.Publish); ok {
			if publish >= 0 {
				return 0, fmt.Errorf("cannot apply %d operations: %w: two Publish", len(tx), ErrInvalidTx)
			}
			publish = i
		}
		if slot, length := p.slot(op); slot >= length {
			return 0, fmt.Errorf("cannot apply %T: %w: slot %d of %d", op, ErrInvalidTx, slot, length)
		}
	}
	if publish < 0 {
		return 0, fmt.Errorf("cannot apply %d operations: %w: no Publish", len(tx), ErrInvalidTx)
	}
	return publish, nil
}

// slot is the slot that an operation writes, and how many there are.
func (p *Program) slot(op datapath.Op) (slot, length uint32) {
	switch op := op.(type) {
	case datapath.SetRow:
		if op.Chunk >= uint32(len(p.chunks)) {
			return op.Chunk, uint32(len(p.chunks))
		}
		return op.Row, p.chunk.MaxEntries
	case datapath.SetRange:
		return op.Index, p.ranges.length
	case datapath.SetIndex:
		return op.ID, p.indexes.length
	case datapath.SetGate:
		return op.ID, p.gates.length
	case datapath.SetSubject:
		return op.ID, p.subjects.length
	}
	return 0, 1
}

// execute does one write and returns what takes it back.
func (p *Program) execute(op datapath.Op) (back func() error, err error) {
	switch op := op.(type) {
	case datapath.SetRow:
		return p.setRow(op)
	case datapath.SetRange:
		r := op.Range
		return setWords(p.ranges, op.Index, r.Start, r.Allow, r.Shadow, r.Conditional, r.Log), nil
	case datapath.SetIndex:
		return p.setIndex(op), nil
	case datapath.SetGate:
		return p.setGate(op), nil
	case datapath.SetSubject:
		return p.setSubject(op), nil
	case datapath.SetDevice:
		return put(p.objects.Devices, op.Ifindex, op.Subject)
	case datapath.DeleteDevice:
		return drop[uint32, uint32](p.objects.Devices, op.Ifindex)
	case datapath.SetAddress:
		return put(p.objects.Addresses, keyOf(op.Addr), op.Address)
	case datapath.DeleteAddress:
		return drop[addressKey, datapath.Address](p.objects.Addresses, keyOf(op.Addr))
	case datapath.SetPrefix:
		return put(p.objects.Prefixes, prefixKeyOf(op.Prefix), op.Entry)
	case datapath.DeletePrefix:
		return drop[prefixKey, datapath.Prefix](p.objects.Prefixes, prefixKeyOf(op.Prefix))
	}
	return nil, fmt.Errorf("%w: unknown operation", ErrInvalidTx)
}

func (p *Program) setRow(op datapath.SetRow) (func() error, error) {
	chunk, err := p.chunkAt(op.Chunk)
	if err != nil {
		return nil, err
	}
	var old [len(op.Words)]uint64
	for i, w := range op.Words {
		word := chunk.long(op.Row, uint32(8*i))
		old[i] = atomic.LoadUint64(word)
		if old[i] != w {
			atomic.StoreUint64(word, w)
		}
	}
	if old == op.Words {
		return nil, nil // most rows do not have a new identity: they say so already
	}
	before := old // only what changes something is kept
	return func() error {
		for i, w := range before {
			atomic.StoreUint64(chunk.long(op.Row, uint32(8*i)), w)
		}
		return nil
	}, nil
}

// chunkAt is the chunk of a column, made if it is not there.
func (p *Program) chunkAt(column uint32) (*area, error) {
	if c := p.chunks[column]; c != nil {
		return c, nil
	}
	m, err := ebpf.NewMap(p.chunk)
	if err != nil {
		return nil, fmt.Errorf("cannot make chunk %d: %w", column, err)
	}
	defer m.Close()
	c, err := newArea(m)
	if err != nil {
		return nil, err
	}
	if err := p.objects.Rows.Update(column, m, ebpf.UpdateAny); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot insert chunk %d: %w", column, err), c.close())
	}
	p.chunks[column] = c
	return c, nil
}

func setWords(a *area, index uint32, words ...uint32) func() error {
	old := make([]uint32, len(words))
	for i, w := range words {
		old[i] = a.load(index, uint32(4*i))
		a.store(index, uint32(4*i), w)
	}
	return func() error {
		setWords(a, index, old...)
		return nil
	}
}

// setIndex writes a slot that no gate leads to: there is nothing to take back.
func (p *Program) setIndex(op datapath.SetIndex) func() error {
	for i, page := range op.Index {
		word := p.indexes.long(op.ID, uint32(8*i))
		atomic.StoreUint64(word, *(*uint64)(unsafe.Pointer(&page)))
	}
	return func() error { return nil }
}

// setGate writes both words of the span at once: it is never half of another.
func (p *Program) setGate(op datapath.SetGate) func() error {
	word := p.gates.long(op.ID, 0)
	old := atomic.LoadUint64(word)
	index := p.gates.load(op.ID, 8)
	gate := op.Gate
	p.gates.store(op.ID, 8, gate.Index)
	atomic.StoreUint64(word, *(*uint64)(unsafe.Pointer(&[2]uint32{gate.First, gate.Count})))
	return func() error {
		atomic.StoreUint64(word, old)
		p.gates.store(op.ID, 8, index)
		return nil
	}
}

func (p *Program) setSubject(op datapath.SetSubject) func() error {
	old := p.subject(op.ID)
	storeVersioned(p.subjects, op.ID, 0, op.Subject.Egress)
	storeVersioned(p.subjects, op.ID, 12, op.Subject.Ingress)
	return func() error {
		// The other way round: New is what packets must not see of a
		// revision that is not published.
		restoreVersioned(p.subjects, op.ID, 0, old.Egress)
		restoreVersioned(p.subjects, op.ID, 12, old.Ingress)
		return nil
	}
}

// storeVersioned writes in the order that the program relies on: Old, which
// no packet reads yet, Since, New, which none reads any more.
func storeVersioned(a *area, index, offset uint32, v datapath.Versioned) {
	a.store(index, offset, v.Old)
	a.store(index, offset+8, uint32(v.Since))
	a.store(index, offset+4, v.New)
}

func restoreVersioned(a *area, index, offset uint32, v datapath.Versioned) {
	a.store(index, offset+4, v.New)
	a.store(index, offset+8, uint32(v.Since))
	a.store(index, offset, v.Old)
}

// put writes an element of a map.
func put[K comparable, V any](m *ebpf.Map, key K, value V) (func() error, error) {
	back, err := restorer[K, V](m, key)
	if err != nil {
		return nil, err
	}
	if err := m.Put(key, value); err != nil {
		return nil, fmt.Errorf("cannot write to map %s: %w", m, err)
	}
	return back, nil
}

// drop removes an element; one that is not there is no error.
func drop[K comparable, V any](m *ebpf.Map, key K) (func() error, error) {
	back, err := restorer[K, V](m, key)
	if err != nil {
		return nil, err
	}
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("cannot delete from map %s: %w", m, err)
	}
	return back, nil
}

// restorer returns what puts the element back as it is now. The prefix tree
// answers with the longest match, which only the same length makes exact.
func restorer[K comparable, V any](m *ebpf.Map, key K) (func() error, error) {
	var old V
	err := m.Lookup(key, &old)
	if err == nil && m.Type() == ebpf.LPMTrie {
		err = exactly(m, key)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return func() error {
			if err := m.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
			return nil
		}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read map %s: %w", m, err)
	}
	return func() error { return m.Put(key, old) }, nil
}

// exactly says ErrKeyNotExist unless the prefix tree holds this very prefix:
// BPF_NOEXIST is what tells, and the probe takes its own element out again.
func exactly[K comparable](m *ebpf.Map, key K) error {
	probe := datapath.Prefix{}
	_ = m.Lookup(key, &probe)
	err := m.Update(key, probe, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(m.Delete(key), ebpf.ErrKeyNotExist)
}
