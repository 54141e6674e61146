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

// split divides the set into what o has and what it has not; a part without
// members is nil.
func (b bitset) split(o bitset) (in, out bitset) {
	var anyIn, anyOut uint64
	n := min(len(b), len(o))
	for i, w := range b[:n] {
		anyIn |= w & o[i]
		anyOut |= w &^ o[i]
	}
	for _, w := range b[n:] {
		anyOut |= w
	}
	switch {
	case anyIn == 0:
		return nil, b
	case anyOut == 0:
		return b, nil
	}
	in, out = make(bitset, n), make(bitset, len(b))
	for i, w := range b[:n] {
		in[i], out[i] = w&o[i], w&^o[i]
	}
	copy(out[n:], b[n:])
	return in, out
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// first is the smallest member, or -1.
func (b bitset) first() int {
	for w, word := range b {
		if word != 0 {
			return w<<6 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// full is the set of 0 … n-1.
func full(n int) bitset {
	b := make(bitset, (n+63)/64)
	for i := range b {
		b[i] = ^uint64(0)
	}
	if n&63 != 0 {
		b[len(b)-1] = 1<<(n&63) - 1
	}
	return b
}
