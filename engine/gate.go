package engine

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/model"
)

// gate compiles, or finds, the class's gate in the direction.
func (m *Matrix) gate(c *class, d model.Direction) *Gate {
	if !c.known[d] {
		m.setGates(c, d, m.internGate(c, d))
		c.known[d] = true
	}
	return c.gates[d]
}

// setGates changes the class's gate, which the caller holds a reference to.
func (m *Matrix) setGates(c *class, d model.Direction, g *Gate) {
	if old := c.gates[d]; old != nil {
		m.releaseGate(old)
	}
	c.gates[d], c.known[d] = g, false
}

func (m *Matrix) releaseGate(g *Gate) {
	if g.refs--; g.refs > 0 {
		return
	}
	delete(m.gates, g.key)
	for _, s := range g.rows {
		m.releaseRows(s)
	}
}

// internGate finds the gate by what it is made of: the policies and the
// numbers that their port names stand for.
func (m *Matrix) internGate(c *class, d model.Direction) *Gate {
	if len(c.policies[d]) == 0 {
		return nil
	}
	key := m.gateKey(c, d)
	if g := m.gates[key]; g != nil {
		g.refs++
		return g
	}
	g := &Gate{Direction: d, key: key, refs: 1}
	g.Policies = make([]*model.Policy, len(c.policies[d]))
	for i, p := range c.policies[d] {
		g.Policies[i] = p.Policy
	}
	m.fill(g, c)
	m.gates[key] = g
	return g
}

func (m *Matrix) gateKey(c *class, d model.Direction) string {
	b := append(m.keyBuf[:0], byte(d))
	for _, p := range c.policies[d] {
		b = binary.AppendUvarint(b, uint64(p.id))
		if p.relative {
			b = appendString(b, c.labels[nodeLabel])
		}
		for i := range p.rules[d] {
			if s := p.rules[d][i].Subject; s != nil {
				b = strconv.AppendBool(b, m.selects(s, c))
			}
			for _, n := range p.rules[d][i].named {
				if d == model.Ingress {
					number, _ := c.namedPort(n)
					b = binary.AppendUvarint(b, uint64(number))
					continue
				}
				for _, number := range m.numbersOf(n) {
					b = binary.AppendUvarint(b, uint64(number))
				}
				b = append(b, 0)
			}
		}
	}
	m.keyBuf = b
	return string(b)
}

// enforced lists the steps of the gate, which has these policies as long as it
// is the class's.
func (g *Gate) enforced(c *class) []step {
	if g == nil {
		return nil
	}
	if g.walk == nil {
		g.walk = steps(c.policies[g.Direction], g.Direction, false)
	}
	return g.walk
}

// match is a rule's part in one gate: an atom over an interval of port keys.
type match struct {
	step     int
	atom     *atom
	interval model.Interval
}

// fill computes the gate's ranges for subjects of the class.
func (m *Matrix) fill(g *Gate, c *class) {
	enforced := steps(c.policies[g.Direction], g.Direction, false)
	matches := m.matchesOf(m.matchBuf[:0], g, c, enforced)
	m.matchBuf = matches
	shadow, shadowMatches := enforced, matches
	staged := slices.ContainsFunc(g.Policies, func(p *model.Policy) bool { return p.Staged })
	if staged {
		shadow = steps(c.policies[g.Direction], g.Direction, true)
		shadowMatches = m.matchesOf(nil, g, c, shadow)
	}
	m.boundaries = boundaries(m.boundaries[:0], matches, shadowMatches)
	g.Ranges, g.rows = make([]Range, 0, len(m.boundaries)), make([]*rowSet, 0, len(m.boundaries))
	for _, first := range m.boundaries {
		rows := m.internRows(m.expression.at(first, enforced, matches))
		g.rows = append(g.rows, rows)
		shadowRows := rows
		if staged {
			shadowRows = m.internRows(m.expression.at(first, shadow, shadowMatches))
			g.rows = append(g.rows, shadowRows)
		}
		r := Range{
			First: first, Allow: rows.rows[planeAllow], Shadow: shadowRows.rows[planeAllow],
			Conditional: rows.rows[planeConditional], Log: rows.rows[planeLog],
		}
		if n := len(g.Ranges); n == 0 || !sameRows(g.Ranges[n-1], r) {
			g.Ranges = append(g.Ranges, r)
		}
	}
}

func sameRows(a, b Range) bool {
	a.First = b.First
	return a == b
}

// boundaries lists, sorted, the port keys at which some match begins or has ended.
func boundaries(out []model.PortKey, lists ...[]match) []model.PortKey {
	out = append(out, 0)
	for _, matches := range lists {
		for _, x := range matches {
			out = append(out, x.interval.First)
			if x.interval.Last < model.MaxPortKey {
				out = append(out, x.interval.Last+1)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// matchesOf resolves the rules of the steps for subjects of the class: by step,
// and within a step by atom.
func (m *Matrix) matchesOf(out []match, g *Gate, c *class, steps []step) []match {
	for i, s := range steps {
		for _, r := range s.rules {
			a := r.rule.atomFor(c)
			if a == nil || r.rule.Subject != nil && !m.selects(r.rule.Subject, c) {
				continue
			}
			for _, iv := range r.rule.intervals {
				out = append(out, match{i, a, iv})
			}
			for _, n := range r.rule.named {
				out = m.namedMatches(out, g, c, i, a, n)
			}
		}
	}
	slices.SortFunc(out, func(a, b match) int { return cmp.Or(a.step-b.step, a.atom.id-b.atom.id) })
	return out
}

// namedMatches resolves a port name: at ingress the subject is the
// destination and has one number; at egress every number that some pod gives
// the name matches the destinations that do so.
func (m *Matrix) namedMatches(out []match, g *Gate, c *class, step int, a *atom, n named) []match {
	if g.Direction == model.Ingress {
		if number, ok := c.namedPort(n); ok {
			k := model.PortKeyOf(n.protocol, number)
			out = append(out, match{step, a, model.Interval{First: k, Last: k}})
		}
		return out
	}
	for _, number := range m.numbersOf(n) {
		restricted := m.atomByKey[restrictedKey(a, n, number)]
		k := model.PortKeyOf(n.protocol, number)
		out = append(out, match{step, restricted, model.Interval{First: k, Last: k}})
	}
	return out
}

// numbersOf lists, sorted, the numbers that pods give a port name.
func (m *Matrix) numbersOf(n named) []uint16 {
	var out []uint16
	for number := range m.numbers[n] {
		out = append(out, number)
	}
	slices.Sort(out)
	return out
}

// expression is room for the terms of one range at a time.
type expression struct {
	terms []term
	atoms []*atom
}

// at is the expression that holds at a port key. It is good until the next call.
func (x *expression) at(key model.PortKey, steps []step, matches []match) []term {
	x.terms, x.atoms = x.terms[:0], x.atoms[:0]
	for n, s := range steps {
		if s.op == termTierDeny || s.op == termTierPass || s.op == termAnd {
			x.terms = append(x.terms, term{op: s.op})
			continue
		}
		first := len(x.atoms)
		for len(matches) > 0 && matches[0].step == n {
			x.add(first, key, matches[0])
			matches = matches[1:]
		}
		if len(x.atoms) > first {
			x.terms = append(x.terms, term{op: s.op, atoms: x.atoms[first:len(x.atoms):len(x.atoms)]})
		}
	}
	return x.terms
}

// add notes the match's atom in the term whose atoms start at first. An atom
// that is everybody makes all others of the term superfluous.
func (x *expression) add(first int, key model.PortKey, hit match) {
	if key < hit.interval.First || hit.interval.Last < key {
		return
	}
	if n := len(x.atoms); n > first {
		if last := x.atoms[n-1]; last == hit.atom || last.any {
			return
		}
		if hit.atom.any {
			x.atoms = x.atoms[:first]
		}
	}
	x.atoms = append(x.atoms, hit.atom)
}
