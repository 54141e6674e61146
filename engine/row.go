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
	union := isUnion(terms)
	var results *[planes]bitset
	if !union {
		results = &m.evaluate(terms).planes
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
		var bits bitset
		if union {
			bits = m.union(terms[0].atoms)
		} else {
			bits = append(m.roomForRow(), results[p]...)
		}
		*r = Row{Bits: bits, terms: terms, plane: p, slot: len(m.rows)}
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

// roomForRow is an empty set that identities which split off do not move.
func (m *Matrix) roomForRow() bitset {
	words := (len(m.sizes) + 63) / 64
	return make(bitset, 0, words+words/16+1)
}

func (m *Matrix) union(atoms []*atom) bitset {
	out := m.roomForRow()
	out = out[:(len(m.sizes)+63)/64]
	for _, a := range atoms {
		out.or(a.ids)
	}
	return out
}

// evaluation is room to evaluate one expression at a time. Its sets have one
// length, that of all identities.
type evaluation struct {
	planes                                         [planes]bitset
	undecided, passed, allowed, conditional, share bitset
}

// evaluate computes the expression over all identities. The result is good
// until the next call.
func (m *Matrix) evaluate(terms []term) *evaluation {
	e := &m.evaluation
	words := (len(m.sizes) + 63) / 64
	for _, b := range []*bitset{&e.planes[planeAllow], &e.planes[planeConditional], &e.planes[planeLog], &e.undecided, &e.passed, &e.allowed, &e.conditional, &e.share} {
		b.grow(words)
	}
	clear(e.planes[planeLog])
	for first := true; ; first = false {
		n := slices.IndexFunc(terms, func(t term) bool { return t.op == termAnd })
		part := terms
		if n >= 0 {
			part = terms[:n]
		}
		e.run(part, len(m.sizes))
		e.join(first)
		if n < 0 {
			return e
		}
		terms = terms[n+1:]
	}
}

// run computes who passes, and who under conditions, by the terms up to a
// termAnd.
func (e *evaluation) run(terms []term, identities int) {
	e.undecided.fill(identities)
	clear(e.passed)
	clear(e.allowed)
	clear(e.conditional)
	for _, t := range terms {
		switch t.op {
		case termTierDeny:
			e.undecided, e.passed = e.passed, e.undecided
			clear(e.passed)
			continue
		case termTierPass:
			e.undecided.or(e.passed)
			clear(e.passed)
			continue
		}
		share := e.share
		clear(share)
		for _, a := range t.atoms {
			share.or(a.ids)
		}
		share.and(e.undecided)
		switch t.op {
		case termAllow:
			e.allowed.or(share)
		case termAllowL7:
			e.conditional.or(share)
			continue
		case termPass:
			e.passed.or(share)
		case termLog:
			e.planes[planeLog].or(share)
			continue
		}
		e.undecided.andNot(share)
	}
	e.allowed.or(e.undecided)
	e.allowed.clear(0)
	e.conditional.andNot(e.allowed)
}

// join has who passed pass only if it passed the parts before, too; freely
// only if it does so in both.
func (e *evaluation) join(first bool) {
	allow, conditional := e.planes[planeAllow], e.planes[planeConditional]
	if first {
		copy(allow, e.allowed)
		copy(conditional, e.conditional)
		return
	}
	for w := range allow {
		either := (allow[w] | conditional[w]) & (e.conditional[w] | e.allowed[w])
		allow[w] &= e.allowed[w]
		conditional[w] = either &^ allow[w]
	}
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
