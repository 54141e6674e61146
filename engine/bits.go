package engine

import "math/bits"

// bitset is a growing set of small numbers; absent words are zero.
type bitset []uint64

func (b bitset) has(i int) bool { return i>>6 < len(b) && b[i>>6]>>(i&63)&1 == 1 }

// grow makes the set at least so many words long.
func (b *bitset) grow(words int) {
	if n := words - len(*b); n > 0 {
		*b = append(*b, make([]uint64, n)...)
	}
}

func (b *bitset) set(i int) {
	b.grow(i>>6 + 1)
	(*b)[i>>6] |= 1 << (i & 63)
}

func (b bitset) clear(i int) {
	if i>>6 < len(b) {
		b[i>>6] &^= 1 << (i & 63)
	}
}

func (b *bitset) put(i int, on bool) {
	if on {
		b.set(i)
	} else {
		b.clear(i)
	}
}

// or adds the members of o.
func (b *bitset) or(o bitset) {
	b.grow(len(o))
	for i, w := range o {
		(*b)[i] |= w
	}
}

// and keeps the members that o has too.
func (b bitset) and(o bitset) {
	n := min(len(b), len(o))
	for i, w := range o[:n] {
		b[i] &= w
	}
	clear(b[n:])
}

// andNot removes the members of o.
func (b bitset) andNot(o bitset) {
	for i, w := range o[:min(len(b), len(o))] {
		b[i] &^= w
	}
}

func (b bitset) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// each calls f for every member, in order.
func (b bitset) each(f func(i int)) {
	for w, word := range b {
		for word != 0 {
			f(w<<6 + bits.TrailingZeros64(word))
			word &= word - 1
		}
	}
}

// fill has the set be 0 … n-1, in the room that it has.
func (b bitset) fill(n int) {
	clear(b)
	for i := range n >> 6 {
		b[i] = ^uint64(0)
	}
	if n&63 != 0 {
		b[n>>6] = 1<<(n&63) - 1
	}
}
