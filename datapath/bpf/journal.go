package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
)

// ringEvents is the length of a processor's part of the journal. Twin: RING_EVENTS.
const ringEvents = 4096

// Offsets of the words of struct ring.
const (
	ringHead = 4 * iota
	ringTail
)

// sizeJournal makes room for the events of every processor there can be.
func sizeJournal(spec *ebpf.CollectionSpec) error {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("cannot count processors: %w", err)
	}
	spec.Maps["rings"].MaxEntries = uint32(n)
	spec.Maps["journal"].MaxEntries = uint32(n) * ringEvents
	return nil
}

// journal reads events where the program writes them, which costs a packet no
// call: the program raises a ring's head, fills the event and stores its number
// last; the reader raises the tail when it has read.
type journal struct {
	rings, slots *area
	heads        []uint32
	batch        []Event
}

func (p *Program) openJournal() (*journal, error) {
	rings, err := newArea(p.objects.Rings)
	if err != nil {
		return nil, err
	}
	slots, err := newArea(p.objects.Journal)
	if err != nil {
		return nil, errors.Join(err, rings.close())
	}
	return &journal{rings: rings, slots: slots, heads: make([]uint32, rings.length)}, nil
}

func (j *journal) close() error { return errors.Join(j.rings.close(), j.slots.close()) }

// read takes the events since the last call, in the order of their time. They
// are overwritten by the next call.
func (j *journal) read() []Event {
	pending := false
	for cpu := range j.rings.length {
		j.heads[cpu] = j.rings.load(cpu, ringHead)
		pending = pending || j.heads[cpu] != j.rings.load(cpu, ringTail)
	}
	j.batch = j.batch[:0]
	if !pending {
		return nil
	}
	// Only amd64 shows what a processor stored in its order.
	if runtime.GOARCH != "amd64" {
		waitGrace()
	}
	for cpu := range j.rings.length {
		j.readRing(cpu)
	}
	slices.SortFunc(j.batch, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(int32(a.Sequence-b.Sequence), 0))
	})
	return j.batch
}

func (j *journal) readRing(cpu uint32) {
	tail := j.rings.load(cpu, ringTail)
	for ; tail != j.heads[cpu]; tail++ {
		e := (*Event)(unsafe.Pointer(j.slots.word(cpu*ringEvents+tail%ringEvents, 0)))
		if atomic.LoadUint32(&e.Sequence) != tail+1 {
			break // it is being written
		}
		j.batch = append(j.batch, *e)
	}
	j.rings.store(cpu, ringTail, tail)
}
