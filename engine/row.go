package engine

import (
	"encoding/binary"
	"slices"
)

// term is one step of the expression that a row stands for. The undecided
// identities run through the terms; each takes its share of them.
type term struct {
	op    termOp
	atoms []*atom // sorted by id, without repetition
}

type termOp byte

const (
	termAllow    termOp = iota // may pass
	termAllowL7                // may pass through the proxy, if nothing that follows lets them pass without; stays undecided
	termDeny                   // may not
	termPass                   // decided by a later tier
	termLog                    // reported; stays undecided
	termTierDeny               // end of a tier: whoever did not pass on may not
	termTierPass               // end of a tier: everybody still undecided goes on
	termAnd                    // whoever passes what stands before it must pass what follows, too
)

// plane is which of an expression's results a row holds.
type plane byte

const (
	planeAllow plane = iota
	planeConditional
	planeLog
	planes
)

// rowSet is the rows of one expression.
type rowSet struct {
	key  string
	refs int
	rows [planes]*Row

	own  Row     // rows[planeAllow], where that is not constant
	room [2]term // for the terms of the commonest expressions
}

var (
	rowAll  = &Row{All: true}
	rowNone = &Row{None: true}
)

func appendTerms(b []byte, terms []term) []byte {
	for _, t := range terms {
		b = append(b, 0xff, byte(t.op))
		for _, a := range t.atoms {
			b = binary.BigEndian.AppendUint32(b, uint32(a.id))
		}
	}
	return b
}

// internRows finds or computes the rows of an expression and takes a
// reference. Rows of equal expressions are one, so that no later identity can
// make two users of a row disagree.
func (m *Matrix) internRows(terms []term) *rowSet {
	m.keyBuf = appendTerms(m.keyBuf[:0], terms)
	if s := m.rowSets[string(m.keyBuf)]; s != nil {
		s.refs++
		return s
	}
	s := &rowSet{key: string(m.keyBuf), refs: 1}
	terms = keep(s.room[:0], terms)
	var results [planes][]uint64
	if isUnion(terms) {
		results[planeAllow] = m.union(terms[0].atoms)
	} else {
		results = m.evaluate(terms)
	}
	for p := range planes {
		if row := constantRow(terms, p); row != nil {
			s.rows[p] = row
			continue
		}
		r := &s.own
		if p != planeAllow {
			r = new(Row)
		}
		*r = Row{Bits: results[p], terms: terms, plane: p, slot: len(m.rows)}
		s.rows[p] = r
		m.rows = append(m.rows, s.rows[p])
	}
	m.rowSets[s.key] = s
	return s
}

// keep copies terms that lie in scratch to out.
func keep(out, terms []term) []term {
	n := 0
	for _, t := range terms {
		n += len(t.atoms)
	}
	atoms := make([]*atom, 0, n)
	out = append(out, terms...)
	for i, t := range terms {
		atoms = append(atoms, t.atoms...)
		out[i].atoms = atoms[len(atoms)-len(t.atoms) : len(atoms) : len(atoms)]
	}
	return out
}

func (m *Matrix) releaseRows(s *rowSet) {
	if s.refs--; s.refs > 0 {
		return
	}
	delete(m.rowSets, s.key)
	for _, r := range s.rows {
		if !r.All && !r.None {
			last := len(m.rows) - 1
			m.rows[r.slot] = m.rows[last]
			m.rows[r.slot].slot = r.slot
			m.rows[last], m.rows = nil, m.rows[:last]
		}
	}
}

// constantRow recognises expressions whose result cannot depend on the
// identity; it returns nil for all others.
func constantRow(terms []term, p plane) *Row {
	if slices.ContainsFunc(terms, func(t term) bool { return t.op == termAnd }) {
		return nil
	}
	for _, t := range terms {
		switch {
		case t.op == termTierDeny && p == planeAllow:
			return rowNone
		case t.op == termTierDeny || t.op == termTierPass:
		case t.op == termAllow && p == planeAllow && t.atoms[0].any:
			return rowAll
		case t.op == termAllow && p == planeAllow, t.op == termAllowL7 && p == planeConditional, t.op == termLog && p == planeLog:
			return nil
		case t.op != termLog && p == planeAllow:
			return nil
		}
	}
	if p == planeAllow {
		return rowAll
	}
	return rowNone
}

// isUnion recognises the commonest expression: some may pass, nobody else.
func isUnion(terms []term) bool {
	return len(terms) == 2 && terms[0].op == termAllow && terms[1].op == termTierDeny
}

func (m *Matrix) union(atoms []*atom) bitset {
	words := (len(m.sizes) + 63) / 64
	out := make(bitset, words, words+words/16+1) // identities that split off do not move it
	for _, a := range atoms {
		out.or(a.ids)
	}
	return out
}

// evaluate computes the expression over all identities.
func (m *Matrix) evaluate(terms []term) (out [planes][]uint64) {
	var sets [planes]bitset
	for i := range sets {
		sets[i] = make(bitset, (len(m.sizes)+63)/64)
	}
	for first := true; ; first = false {
		n := slices.IndexFunc(terms, func(t term) bool { return t.op == termAnd })
		part := terms
		if n >= 0 {
			part = terms[:n]
		}
		m.evaluatePart(part, &sets, first)
		if n < 0 {
			break
		}
		terms = terms[n+1:]
	}
	for i := range sets {
		out[i] = sets[i]
	}
	return out
}

// evaluatePart computes the terms up to a termAnd, and joins the result to
// that of the parts before it.
func (m *Matrix) evaluatePart(terms []term, sets *[planes]bitset, first bool) {
	und := full(len(m.sizes))
	var passed, allowed, conditional bitset
	for _, t := range terms {
		share := make(bitset, len(und))
		for _, a := range t.atoms {
			share.or(a.ids)
		}
		share.and(und)
		switch t.op {
		case termAllow:
			allowed.or(share)
		case termAllowL7:
			conditional.or(share)
			continue
		case termPass:
			passed.or(share)
		case termLog:
			sets[planeLog].or(share)
			continue
		case termTierDeny:
			und, passed = passed, nil
			continue
		case termTierPass:
			und.or(passed)
			passed = nil
			continue
		}
		und.andNot(share)
	}
	allowed.or(und)
	allowed.grow(len(sets[planeAllow]))
	allowed.clear(0)
	conditional.andNot(allowed)
	if first {
		sets[planeAllow].or(allowed)
		sets[planeConditional].or(conditional)
		return
	}
	// Who passes both, if only through the proxy: not freely in both.
	either := slices.Clone(sets[planeAllow])
	either.or(sets[planeConditional])
	conditional.or(allowed)
	either.and(conditional)
	sets[planeAllow].and(allowed)
	either.andNot(sets[planeAllow])
	clear(sets[planeConditional])
	sets[planeConditional].or(either)
}

// passes evaluates the row's expression for one identity, whose bits in the
// atoms are set already.
func (r *Row) passes(id int) bool {
	allowed, conditional, logged := true, false, false
	for terms := r.terms; ; {
		n := slices.IndexFunc(terms, func(t term) bool { return t.op == termAnd })
		part := terms
		if n >= 0 {
			part = terms[:n]
		}
		op, log := decide(part, id)
		logged = logged || log
		conditional = conditional || op == termAllowL7
		allowed = allowed && op != termDeny
		if n < 0 {
			break
		}
		terms = terms[n+1:]
	}
	switch r.plane {
	case planeLog:
		return logged
	case planeConditional:
		return allowed && conditional
	}
	return allowed && !conditional
}

// decide walks the terms for one identity: termAllow, termAllowL7 or termDeny.
func decide(terms []term, id int) (op termOp, logged bool) {
	passed, undecided := false, true
	deny := termDeny
	for _, t := range terms {
		switch t.op {
		case termTierDeny:
			undecided, passed = passed, false
			if !undecided {
				return deny, logged
			}
			continue
		case termTierPass:
			undecided, passed = true, false
			continue
		}
		if !undecided || !slices.ContainsFunc(t.atoms, func(a *atom) bool { return a.ids.has(id) }) {
			continue
		}
		switch t.op {
		case termLog:
			logged = true
		case termAllowL7:
			deny = termAllowL7
		case termPass:
			passed, undecided = true, false
		case termDeny:
			return deny, logged
		default:
			return t.op, logged
		}
	}
	return termAllow, logged
}
