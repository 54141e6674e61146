package advice

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/model"
)

// compare finds what else opens and closes: pairs of which one end is the
// subject of a policy that changed.
func (a *attempt) compare(before *engine.Matrix) {
	// The groups of all policies at once are told apart before and after.
	all := a.cluster
	for _, p := range before.Policies() {
		if !slices.Contains(all.Policies, p) {
			all.Policies = append(slices.Clone(all.Policies), p)
		}
	}
	fine := engine.Compile(&all)
	groups := fine.Groups()
	size := map[workload]int{}
	for _, g := range groups {
		size[workloadOf(g.Endpoints[0])] += len(g.Endpoints)
	}
	d := difference{attempt: a, before: before, seen: map[[2]string]bool{}}
	for i := range groups {
		in, out := a.touches(groups[i].Endpoints[0])
		if !in && !out {
			continue
		}
		self := groupEnd(&groups[i], size)
		for j := range groups {
			other := groupEnd(&groups[j], size)
			if i == j {
				if len(groups[i].Endpoints) == 1 {
					continue
				}
				other.Endpoint = groups[i].Endpoints[1]
			}
			d.both(self, other, in, out)
		}
		for _, addr := range fine.Outside() {
			pod, ok := self, false
			if pod.Addr, ok = model.SameFamily(pod.Endpoint.IPs, addr); !ok && len(pod.Endpoint.IPs) > 0 {
				continue
			}
			d.both(pod, end{engine.Party{Addr: addr}, fine.PrefixOf(addr).String()}, in, out)
		}
	}
	a.out.Opens, a.out.Closes = sorted(a.out.Opens), sorted(a.out.Closes)
}

type workload struct {
	namespace string
	model.Workload
}

func workloadOf(e *model.Endpoint) workload { return workload{e.Namespace, e.Workload} }

// end is one end of a pair with its name.
type end struct {
	engine.Party
	name string
}

// groupEnd is a group as its workload, if it is all of that, or its pods.
func groupEnd(g *engine.Group, size map[workload]int) end {
	e := g.Endpoints[0]
	out := end{engine.Party{Endpoint: e}, e.Key()}
	switch {
	case len(g.Endpoints) == size[workloadOf(e)]:
		out.name = e.Namespace + "/" + e.Workload.Name
	case len(g.Endpoints) > 1:
		out.name = fmt.Sprintf("%s and %d more", e.Key(), len(g.Endpoints)-1)
	}
	return out
}

// touches says at which doors of the pod a policy changed.
func (a *attempt) touches(e *model.Endpoint) (ingress, egress bool) {
	for _, p := range a.changed {
		s := p.Subject
		if e.HostNetwork || s.Namespace != "" && s.Namespace != e.Namespace || !s.Pods.Matches(e.Labels) {
			continue
		}
		ingress, egress = ingress || p.Ingress != nil, egress || p.Egress != nil
	}
	return ingress, egress
}

// difference gathers the pairs that differ, each once.
type difference struct {
	*attempt
	before *engine.Matrix
	seen   map[[2]string]bool
}

func (d *difference) both(self, other end, ingress, egress bool) {
	if ingress {
		d.pair(other, self)
	}
	if egress {
		d.pair(self, other)
	}
}

func (d *difference) pair(from, to end) {
	key := [2]string{from.name, to.name}
	if d.seen[key] {
		return
	}
	d.seen[key] = true
	was, is := d.before.Connections(from.Party, to.Party), d.matrix.Connections(from.Party, to.Party)
	asked := d.asked(from, to)
	if opens := is.Subtract(was).Subtract(asked); len(opens) > 0 {
		d.out.Opens = append(d.out.Opens, Pair{from.name, to.name, opens.String()})
	}
	if closes := was.Subtract(is).Subtract(asked); len(closes) > 0 {
		d.out.Closes = append(d.out.Closes, Pair{from.name, to.name, closes.String()})
	}
}

// asked is the connection of the question, if the pair stands for it: the
// other pods of the two workloads are meant by it, too.
func (d *difference) asked(from, to end) model.PortSet {
	q := d.question
	if !d.means(q.From, from) || !d.means(q.To, to) {
		return nil
	}
	return model.PortSet{{First: q.Key, Last: q.Key}}
}

func (d *difference) means(p engine.Party, e end) bool {
	if p.Endpoint != nil && e.Endpoint != nil {
		return workloadOf(p.Endpoint) == workloadOf(e.Endpoint)
	}
	return p.Endpoint == nil && e.Endpoint == nil && p.Addr.IsValid() && e.Addr.IsValid() && d.matrix.PrefixOf(p.Addr) == d.matrix.PrefixOf(e.Addr)
}

func sorted(pairs []Pair) []Pair {
	slices.SortFunc(pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Destination, b.Destination))
	})
	if pairs == nil {
		return []Pair{} // in JSON, nothing is an empty list
	}
	return pairs
}
