package datapath

import (
	"math/bits"

	"github.com/sallyport-dev/sallyport/model"
)

// indexFrom is the number of ranges from which on a gate gets an index.
const indexFrom = 16

// indexOf is the index of ranges that start at these keys, which are sorted.
func indexOf(starts []uint32) *Index {
	out := &Index{}
	before := 0
	for n := range out {
		first := uint32(model.TCP)<<16 + uint32(n)*indexPorts
		if n >= indexPages {
			first = uint32(model.UDP)<<16 + uint32(n-indexPages)*indexPorts
		}
		for before < len(starts) && starts[before] < first {
			before++
		}
		out[n].Before = uint32(before)
		for _, s := range starts[before:] {
			if s >= first+indexPorts {
				break
			}
			out[n].Starts |= 1 << (s - first)
		}
	}
	return out
}

// count is how many ranges start at the port key or before; ok is false if the
// index does not know about its protocol.
func (x *Index) count(key uint32) (n uint32, ok bool) {
	page := key & 0xffff / indexPorts
	switch model.Protocol(key >> 16) {
	case model.TCP:
	case model.UDP:
		page += indexPages
	default:
		return 0, false
	}
	upto := uint32(2) << (key % indexPorts)
	return x[page].Before + uint32(bits.OnesCount32(x[page].Starts&(upto-1))), true
}
