package bpf

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// area is a BPF array mapped into the process. Words are written atomically,
// each visible to the next packet. It stays valid when the map is closed.
type area struct {
	memory []byte
	stride uint32 // bytes from one element to the next
	length uint32 // elements
}

func newArea(m *ebpf.Map) (*area, error) {
	a := &area{stride: (m.ValueSize() + 7) &^ 7, length: m.MaxEntries()}
	page := unix.Getpagesize()
	size := (int(a.stride)*int(a.length) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map %s into memory: %w", m, err)
	}
	a.memory = memory
	return a, nil
}

func (a *area) close() error {
	if a == nil {
		return nil
	}
	if err := unix.Munmap(a.memory); err != nil {
		return fmt.Errorf("cannot unmap BPF array: %w", err)
	}
	return nil
}

// word is the 32-bit word at a byte offset of an element.
func (a *area) word(index, offset uint32) *uint32 {
	return (*uint32)(unsafe.Pointer(&a.memory[int(index)*int(a.stride)+int(offset)]))
}

// long is the 64-bit word at a byte offset of an element; 8 divides the offset.
func (a *area) long(index, offset uint32) *uint64 {
	return (*uint64)(unsafe.Pointer(&a.memory[int(index)*int(a.stride)+int(offset)]))
}

func (a *area) store(index, offset, value uint32) { atomic.StoreUint32(a.word(index, offset), value) }
func (a *area) load(index, offset uint32) uint32  { return atomic.LoadUint32(a.word(index, offset)) }

// used is one more than the index of the last element that is not all zero.
func (a *area) used() uint32 {
	for i := a.length; i > 0; i-- {
		for offset := uint32(0); offset < a.stride; offset += 8 {
			if atomic.LoadUint64(a.long(i-1, offset)) != 0 {
				return i
			}
		}
	}
	return 0
}
