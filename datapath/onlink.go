package datapath

import (
	"net/netip"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
)

// linkScoped are the addresses that never leave a link. On a pod's link there
// is only its node: whoever may not talk to the node by its own address may
// not by these, be the world allowed.
var linkScoped = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16"),
}

// onLink is a Source in which these addresses are the node's, unless a policy
// names the very prefix. A node without an address in the family is known by
// one of the other.
type onLink struct {
	Source
	node []netip.Addr
}

func (s onLink) PrefixIdentity(x netip.Prefix) engine.Identity {
	id := s.Source.PrefixIdentity(x)
	if id != 0 || !slices.Contains(linkScoped, x) {
		return id
	}
	for _, a := range s.node {
		if a = a.Unmap(); linkLocal(a) {
			continue
		}
		if id = s.identityOf(a); a.Is4() == x.Addr().Is4() {
			break
		}
	}
	return id
}

// identityOf is a node's address's identity. The Matrix may not know it for a
// node's, as that of a bridge in a pod range: then its prefix counts.
func (s onLink) identityOf(a netip.Addr) engine.Identity {
	id := s.AddressIdentity(a)
	for bits := a.BitLen(); id == 0 && bits >= 0; bits-- {
		id = s.Source.PrefixIdentity(netip.PrefixFrom(a, bits).Masked())
	}
	return id
}

func (s onLink) Prefixes() []netip.Prefix { return append(s.Source.Prefixes(), linkScoped...) }

// linkLocal says whether the address is one of the node's that need not be
// told: their prefix is the node's. 169.254.0.0/16 is not among them, for
// metadata and DNS servers have addresses there.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
