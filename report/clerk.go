package report

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// clerk works out what every door of a page says to everybody. What a door
// says depends on its gate and on the identity of who stands before it, so it
// is asked once for each of these two, and what is said twice is written once.
type clerk struct {
	page       Page
	data       *pageData
	gates      map[*engine.Gate]int
	state      []gateState     // beside data.Gates
	peers      []*engine.Party // one for each of the identities
	identities []engine.Identity
	doors      map[string]int
	texts      map[string]int
	rules      map[*model.Rule]int
	todo       [][2]int // gates and identities that are to be asked
}

// gateState is what the clerk knows of a gate besides what the page shows.
type gateState struct {
	gate    *engine.Gate
	subject engine.Party
	plain   bool            // only rules that allow: who is let in nowhere is denied by default
	cuts    []model.PortKey // where another rule may decide; sorted, from 0 on
	shut    int32           // index of Doors plus 1: what a plain gate says to those whom it lets in nowhere
	said    []int32         // per identity: the index of Doors plus 1
}

func newClerk(p Page, d *pageData) *clerk {
	return &clerk{page: p, data: d, gates: map[*engine.Gate]int{}, doors: map[string]int{}, texts: map[string]int{}, rules: map[*model.Rule]int{}}
}

// explain fills gates, doors and texts. It stops and says false where that is
// more work than the page's limits allow.
func (k *clerk) explain() bool {
	n := len(k.page.Units)
	source, destination, beside := make([]bool, n), make([]bool, n), make([]bool, n)
	for _, n := range k.page.Nodes {
		source[n.Unit], destination[n.Unit], beside[n.Unit] = n.Source, n.Destination, n.Beside
	}
	known := map[engine.Identity]int{}
	for i, u := range k.page.Units {
		id := k.page.Matrix.Identity(u.Party)
		n, ok := known[id]
		if !ok {
			n = len(k.peers)
			known[id] = n
			k.peers, k.identities = append(k.peers, &k.page.Units[i].Party), append(k.identities, id)
		}
		x := &k.data.Units[i]
		x.Identity = n
		if source[i] {
			x.Egress = k.gateOf(u, model.Egress)
		}
		if destination[i] {
			x.Ingress = k.gateOf(u, model.Ingress)
		}
	}
	for i, a := range k.data.Units {
		for j, b := range k.data.Units {
			if !source[i] || !destination[j] || beside[i] && beside[j] {
				continue
			}
			if !k.ask(a.Egress, b.Identity) || !k.ask(b.Ingress, a.Identity) {
				return false
			}
		}
	}
	for _, x := range k.todo {
		s := &k.state[x[0]]
		s.said[x[1]] = int32(k.door(k.walk(s, *k.peers[x[1]]))) + 1
	}
	for i := range k.state {
		k.finish(i)
	}
	return true
}

// gateOf is the index of the unit's gate.
func (k *clerk) gateOf(u Unit, d model.Direction) int {
	e := u.Party.Endpoint
	if e == nil || e.HostNetwork {
		return noDoor
	}
	g := k.page.Matrix.Gate(e.Key(), d)
	if g == nil {
		return openDoor
	}
	i, ok := k.gates[g]
	if !ok {
		i = len(k.state)
		k.gates[g] = i
		k.state = append(k.state, gateState{gate: g, subject: u.Party, plain: plain(g), cuts: cuts(g)})
		x := gateData{Policies: []int{}, Rest: -1, Others: []int{}}
		for _, p := range g.Policies {
			s := p.Source
			x.Policies = append(x.Policies, k.text(place(s.Kind, s.Namespace, s.Name, "", s.File, s.Line)))
		}
		k.data.Gates = append(k.data.Gates, x)
	}
	return i
}

// plain says whether the gate is made of NetworkPolicies alone, whose rules
// can do nothing but allow.
func plain(g *engine.Gate) bool {
	return !slices.ContainsFunc(g.Policies, func(p *model.Policy) bool {
		return p.Family != model.FamilyKubernetes || slices.ContainsFunc(p.Section(g.Direction).Rules, func(r model.Rule) bool { return r.Action != model.Allow || r.L7 != nil })
	})
}

// cuts lists the ports at which another rule than before may decide.
func cuts(g *engine.Gate) []model.PortKey {
	out := []model.PortKey{0}
	for _, r := range g.Ranges {
		out = append(out, r.First)
	}
	for _, p := range g.Policies {
		for _, r := range p.Section(g.Direction).Rules {
			for _, x := range r.Ports {
				if x.Name == "" {
					iv := x.Interval()
					out = append(out, iv.First, iv.Last+1)
				}
			}
		}
	}
	return tidy(out)
}

// tidy sorts the cuts and leaves out what is twice or beyond the last port.
func tidy(cuts []model.PortKey) []model.PortKey {
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	return slices.DeleteFunc(cuts, func(c model.PortKey) bool { return c > model.MaxPortKey })
}

// pending marks what is among the things to do.
const pending = -1

// ask notes that the gate's answer to the identity is needed. It says false
// where that becomes more work than the page's limits allow.
func (k *clerk) ask(gate, identity int) bool {
	if gate < 0 {
		return true
	}
	s := &k.state[gate]
	if s.said == nil {
		s.said = make([]int32, len(k.peers))
	}
	if s.said[identity] != 0 {
		return true
	}
	if id := k.identities[identity]; s.plain && id != 0 && !lets(s.gate, id) {
		if s.shut == 0 {
			s.shut = int32(k.door([]said{{Reason: string(engine.DefaultDeny), Rule: -1}}, []model.PortSet{model.AllPorts()})) + 1
		}
		s.said[identity] = s.shut
		return true
	}
	s.said[identity] = pending
	k.todo = append(k.todo, [2]int{gate, identity})
	return len(k.todo) <= k.page.Limits.Doors
}

// lets says whether the gate is open to the identity on any port.
func lets(g *engine.Gate, id engine.Identity) bool {
	return slices.ContainsFunc(g.Ranges, func(r engine.Range) bool { return r.Allow.Has(id) })
}

// walk asks at every port where the answer may change, and joins equal answers.
func (k *clerk) walk(s *gateState, peer engine.Party) (list []said, ports []model.PortSet) {
	at := slices.Clone(s.cuts)
	for _, e := range []*model.Endpoint{s.subject.Endpoint, peer.Endpoint} {
		if e == nil {
			continue
		}
		for _, c := range e.Ports {
			if c.Name != "" {
				key := model.PortKeyOf(c.Protocol, c.Number)
				at = append(at, key, key+1)
			}
		}
	}
	at = tidy(at)
	answers := k.page.Matrix.DoorTo(s.subject, peer, at, s.gate.Direction)
	var intervals [][]model.Interval
	for i, first := range at {
		last := model.MaxPortKey
		if i+1 < len(at) {
			last = at[i+1] - 1
		}
		x := k.says(s, answers[i])
		n := slices.IndexFunc(list, func(y said) bool {
			return x.Allowed == y.Allowed && x.Reason == y.Reason && x.Rule == y.Rule && slices.Equal(x.Tiers, y.Tiers)
		})
		if n < 0 {
			n = len(list)
			list, intervals = append(list, x), append(intervals, nil)
		}
		intervals[n] = append(intervals[n], model.Interval{First: first, Last: last})
	}
	for _, iv := range intervals {
		ports = append(ports, model.Union(iv...))
	}
	return list, ports
}

// says puts an answer into words.
func (k *clerk) says(s *gateState, a engine.Answer) said {
	x := said{Allowed: a.Door.Allowed, Reason: string(a.Door.Reason), Rule: -1}
	if r := a.Door.Rule; r != nil {
		n, ok := k.rules[r]
		if !ok {
			n = k.text(ruleOf(r).String())
			k.rules[r] = n
		}
		x.Rule = n
	}
	if s.plain {
		return x
	}
	for _, t := range tiers(a.Stages) {
		var b strings.Builder
		t.text(&b)
		for line := range strings.Lines(b.String()) {
			x.Tiers = append(x.Tiers, strings.TrimSpace(line))
		}
	}
	return x
}

// door is the index of what a door says, one answer for each set of ports.
func (k *clerk) door(list []said, ports []model.PortSet) int {
	most := 0
	for i, p := range ports {
		if size(p) > size(ports[most]) {
			most = i
		}
		list[i].Ports = p.String()
	}
	if len(list) > 1 {
		list[most].Ports = "everything else"
	}
	rest := list[most]
	list = slices.DeleteFunc(slices.Delete(list, most, most+1), func(x said) bool { return x.Ports == "" }) // port 0 alone
	slices.SortStableFunc(list, func(a, b said) int {
		switch {
		case a.Allowed == b.Allowed:
			return 0
		case a.Allowed:
			return -1
		}
		return 1
	})
	if list = append(list, rest); len(list) == 1 {
		list[0].Ports = "All"
	}
	key, _ := json.Marshal(list)
	n, ok := k.doors[string(key)]
	if !ok {
		n = len(k.data.Doors)
		k.doors[string(key)] = n
		k.data.Doors = append(k.data.Doors, list)
	}
	return n
}

func size(s model.PortSet) (n uint64) {
	for _, iv := range s {
		n += uint64(iv.Last-iv.First) + 1
	}
	return n
}

func (k *clerk) text(s string) int {
	n, ok := k.texts[s]
	if !ok {
		n = len(k.data.Texts)
		k.texts[s] = n
		k.data.Texts = append(k.data.Texts, s)
	}
	return n
}

// finish writes the gate's answers, the most frequent one once.
func (k *clerk) finish(gate int) {
	count := map[int32]int{}
	for _, n := range k.state[gate].said {
		count[n]++
	}
	delete(count, 0)
	rest := int32(0)
	for n, c := range count {
		if rest == 0 || cmp.Or(cmp.Compare(c, count[rest]), cmp.Compare(rest, n)) > 0 {
			rest = n
		}
	}
	x := &k.data.Gates[gate]
	x.Rest = int(rest) - 1
	for id, n := range k.state[gate].said {
		if n != 0 && n != rest {
			x.Others = append(x.Others, id, int(n)-1)
		}
	}
}
