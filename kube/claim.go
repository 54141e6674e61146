package kube

import (
	"net/netip"
	"slices"
)

// claims says who has an address while several objects name it: a pod that is
// being deleted and the one that got its address, a node that came back under
// another name.
type claims[T comparable] struct {
	holder map[netip.Addr]T
	rivals map[netip.Addr][]T    // all who name the address, where more than one do
	better func(a, b T) bool     // a total order: the same holder whatever the order of events
	moves  func(loser, winner T) // called before an address changes hands
}

func newClaims[T comparable](better func(a, b T) bool, moves func(loser, winner T)) claims[T] {
	return claims[T]{holder: map[netip.Addr]T{}, rivals: map[netip.Addr][]T{}, better: better, moves: moves}
}

func (c *claims[T]) add(a netip.Addr, t T) {
	first, taken := c.holder[a]
	if !taken {
		c.holder[a] = t
		return
	}
	if c.rivals[a] == nil {
		c.rivals[a] = []T{first}
	}
	c.rivals[a] = append(c.rivals[a], t)
	c.elect(a)
}

func (c *claims[T]) remove(a netip.Addr, t T) {
	rest := slices.DeleteFunc(c.rivals[a], func(r T) bool { return r == t })
	if len(rest) == 0 {
		delete(c.holder, a)
		delete(c.rivals, a)
		return
	}
	c.rivals[a] = rest
	c.elect(a)
	if len(rest) == 1 {
		delete(c.rivals, a)
	}
}

func (c *claims[T]) elect(a netip.Addr) {
	best := c.rivals[a][0]
	for _, r := range c.rivals[a][1:] {
		if c.better(r, best) {
			best = r
		}
	}
	if loser := c.holder[a]; loser != best {
		c.moves(loser, best)
		c.holder[a] = best
	}
}

// won returns those of the addresses that t has; the same slice if it has all.
func (c *claims[T]) won(addresses []netip.Addr, t T) []netip.Addr {
	lost := func(a netip.Addr) bool { return c.holder[a] != t }
	if !slices.ContainsFunc(addresses, lost) {
		return addresses
	}
	return slices.DeleteFunc(slices.Clone(addresses), lost)
}
