package model

import (
	"strconv"
	"strings"
)

// AppendKey appends an unambiguous encoding of the peer: peers with equal
// encodings match the same addresses.
func (p *Peer) AppendKey(b []byte) []byte {
	if p.Pods != nil {
		b = p.Pods.AppendKey(append(b, 'p'))
	}
	if p.Block != nil {
		b = p.Block.CIDR.AppendTo(append(b, 'b'))
		for _, e := range p.Block.Except {
			b = e.AppendTo(append(b, '-'))
		}
	}
	if p.Nodes != nil {
		b = p.Nodes.Labels.AppendKey(append(b, 'n', '0'+byte(p.Nodes.Which)))
	}
	if s := p.Sets; s != nil {
		b = append(b, 's', '0'+byte(s.Family))
		b = strconv.AppendBool(strconv.AppendBool(b, s.Namespaced), s.Global)
		b = strconv.AppendQuote(strconv.AppendQuote(b, s.Name), s.Namespace)
		b = s.Labels.AppendKey(s.Namespaces.AppendKey(b))
	}
	if s := p.Services; s != nil {
		b = append(b, 'v', '0'+byte(s.Behind))
		b = s.Labels.AppendKey(strconv.AppendQuote(strconv.AppendQuote(b, s.Namespace), s.Name))
	}
	for _, n := range p.Names {
		b = strconv.AppendQuote(append(b, 'd', '0'+byte(n.Syntax)), n.Text)
	}
	if p.Outside {
		b = append(b, 'o')
	}
	for i := range p.Not {
		b = append(p.Not[i].AppendKey(append(b, '!', '(')), ')')
	}
	return b
}

// String describes the peer for people.
func (p *Peer) String() string {
	var parts []string
	add := func(present bool, text func() string) {
		if present {
			parts = append(parts, text())
		}
	}
	add(p.Pods != nil, func() string { return p.Pods.String() })
	add(p.Nodes != nil, func() string { return p.Nodes.String() })
	add(p.Sets != nil, func() string { return p.Sets.String() })
	add(p.Services != nil, func() string { return p.Services.String() })
	add(len(p.Names) > 0, func() string {
		names := make([]string, len(p.Names))
		for i, n := range p.Names {
			names[i] = n.Text
		}
		return "names " + strings.Join(names, " ")
	})
	add(p.Block != nil, func() string { return p.Block.String() })
	add(p.Outside, func() string { return "outside the cluster" })
	if len(parts) == 0 {
		parts = append(parts, "any address")
	}
	for i := range p.Not {
		parts = append(parts, "not "+p.Not[i].String())
	}
	return strings.Join(parts, ", ")
}

func (b *IPBlock) String() string {
	out := b.CIDR.String()
	for i, e := range b.Except {
		if i == 0 {
			out += " except"
		}
		out += " " + e.String()
	}
	return out
}

func (n *NodeSelector) String() string {
	out := [...]string{"nodes", "its own node", "other nodes"}[n.Which]
	if n.Labels.Op != SelectAll {
		out += " " + n.Labels.String()
	}
	return out
}

func (s *SetSelector) String() string {
	out := "network sets"
	switch {
	case s.Name != "":
		out = "network set " + s.Name
	case s.Global:
		out = "global network sets"
	}
	switch {
	case s.Namespace != "":
		out += " of namespace " + s.Namespace
	case s.Namespaces.Op != SelectAll:
		out += " of namespaces " + s.Namespaces.String()
	}
	if s.Labels.Op != SelectAll {
		out += " " + s.Labels.String()
	}
	return out
}

func (s *ServiceSelector) String() string {
	out := "Services"
	if s.Name != "" {
		out = "Service " + s.Name
	}
	if s.Namespace != "" {
		out += " of namespace " + s.Namespace
	}
	if s.Labels.Op != SelectAll {
		out += " " + s.Labels.String()
	}
	return out
}
