package advice

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/diff"
	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/engine/reference"
	"github.com/sallyport-dev/sallyport/engine/synth"
	"github.com/sallyport-dev/sallyport/manifest"
	"github.com/sallyport-dev/sallyport/model"
)

// TestSuggestionsDoWhatTheySay asks about random connections of random clusters
// in all languages and does what is suggested, as a user would: policies are
// read from their YAML, rules are found by their place. The oracle, which shares
// no code with the engine, says whether the verdict is another one then, and of
// random connections whether they are, and whether that was said.
func TestSuggestionsDoWhatTheySay(t *testing.T) {
	clusters, made, none, said := 1200, [2]int{}, 0, 0
	if testing.Short() {
		clusters = 120
	}
	for seed := range uint64(clusters) {
		x := &suggested{Chaos: synth.NewChaos(seed)}
		x.before = x.workloads()
		m := engine.Compile(x.before)
		for range 4 {
			from, to, key := x.end(), x.end(), x.Key()
			x.question = Question{From: party(from), To: party(to), Key: key, External: x.IntN(4) == 0}
			was := reference.Judge(x.before, from, to, key).Allowed
			if x.suggestion = Suggest(x.before, m, x.question); x.suggestion == nil {
				none++
				continue
			}
			x.apply(t, seed)
			if reference.Judge(x.after, from, to, key).Allowed == was {
				t.Fatalf("seed %d: %s is as before (%v) with\n%s%v", seed, x.asked(), was, x.suggestion.Policies, x.suggestion.Remove)
			}
			if was {
				made[1]++
			} else {
				made[0]++
			}
			said += len(x.suggestion.Opens) + len(x.suggestion.Closes)
			x.check(t, seed)
		}
	}
	t.Logf("%d to allow, %d to deny, which said %d other things; %d times there was none", made[0], made[1], said, none)
	if made[0] < clusters/4 || made[1] < clusters/4 {
		t.Error("there are too few suggestions")
	}
}

// suggested is a cluster before and after a suggestion.
type suggested struct {
	*synth.Chaos
	before, after *model.Cluster
	question      Question
	suggestion    *Suggestion
	ends          map[string]*diff.End // by the name that the suggestion calls them
	without       map[string]netip.Addr
}

// workloads is a random cluster in which some pods are of one workload, and
// every rule has a place of its own.
func (x *suggested) workloads() *model.Cluster {
	c := x.Cluster()
	for i := range c.Endpoints {
		if x.IntN(3) == 0 {
			c.Endpoints[i].Workload = model.Workload{Kind: "Deployment", Name: "web"}
		}
	}
	for _, p := range c.Policies {
		for d, s := range []*model.Section{p.Ingress, p.Egress} {
			for i := 0; s != nil && i < len(s.Rules); i++ {
				s.Rules[i].Source = p.Source.At(fmt.Sprintf("%d[%d]", d, i), 0, 0)
			}
		}
	}
	return c
}

// end is a pod, an address outside, or a node's.
func (x *suggested) end() reference.Party {
	switch x.IntN(7) {
	case 0:
		return reference.Party{Addr: x.before.Nodes[x.IntN(len(x.before.Nodes))].IPs[0]}
	case 1, 2:
		outside := []string{"203.0.113.0", "203.0.113.127", "203.0.113.128", "203.0.113.200", "203.0.113.207", "203.0.113.208", "8.8.8.8", "172.30.9.99", "10.0.0.1"}
		return reference.Party{Addr: netip.MustParseAddr(outside[x.IntN(len(outside))])}
	}
	e := &x.before.Endpoints[x.IntN(len(x.before.Endpoints))]
	return reference.Party{Pod: e, Addr: e.IPs[0]}
}

func party(p reference.Party) engine.Party { return engine.Party{Endpoint: p.Pod, Addr: p.Addr} }

func (x *suggested) asked() string {
	q := x.question
	name := func(p engine.Party) string {
		if p.Endpoint != nil {
			return p.Endpoint.Key()
		}
		return p.Addr.String()
	}
	return fmt.Sprintf("%s to %s on %s (external %v)", name(q.From), name(q.To), q.Key, q.External)
}

// apply does what is suggested.
func (x *suggested) apply(t *testing.T, seed uint64) {
	t.Helper()
	r := manifest.Parse(map[string][]byte{"s.yaml": []byte(x.suggestion.Policies)}, []string{"s.yaml"}, manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatalf("seed %d: %v in\n%s", seed, r.Problems, x.suggestion.Policies)
	}
	gone := map[model.Source]bool{}
	for _, s := range x.suggestion.Remove {
		gone[s] = true
	}
	next := *x.before
	next.Policies = nil
	for _, p := range x.before.Policies {
		q := *p
		for _, s := range []**model.Section{&q.Ingress, &q.Egress} {
			if *s != nil {
				kept := **s
				kept.Rules = slices.DeleteFunc(slices.Clone(kept.Rules), func(r model.Rule) bool { return gone[r.Source] })
				*s = &kept
			}
		}
		next.Policies = append(next.Policies, &q)
	}
	next.Policies = append(next.Policies, r.Cluster.Policies...)
	x.after = &next
	x.ends, x.without = map[string]*diff.End{}, map[string]netip.Addr{}
	for _, c := range diff.Compare(engine.Compile(x.before), engine.Compile(x.after)).Changes {
		for _, e := range []*diff.End{c.From, c.To} {
			x.ends[e.Name] = e
			for _, q := range []engine.Party{x.question.From, x.question.To} {
				if name := but(e.Blocks, q.Addr); len(e.Blocks) > 0 && name != e.Name {
					x.ends[name], x.without[name] = e, q.Addr
				}
			}
		}
	}
	for _, n := range x.before.Nodes { // named alone where the other is meant by the question
		x.ends["node "+n.Name] = &diff.End{Nodes: []diff.NodeAddress{{Name: n.Name, Old: n.IPs[0], New: n.IPs[0]}}}
	}
}

// check holds what is said of random connections against what the oracle says.
func (x *suggested) check(t *testing.T, seed uint64) {
	t.Helper()
	for range 120 {
		from, to, key := x.end(), x.end(), x.Key()
		if x.IntN(3) == 0 {
			key = x.question.Key
		}
		was, is := level(x.before, from, to, key), level(x.after, from, to, key)
		opens, closes := x.says(x.suggestion.Opens, from, to, key), x.says(x.suggestion.Closes, from, to, key)
		if x.isAsked(from, to, key) || x.alwaysPasses(from, to) {
			continue
		}
		if opens != (is > was) || closes != (is < was) {
			t.Fatalf("seed %d, %s: %v %v to %v %v on %v: %d before and %d after, said to open: %v, to close: %v\n%s%v\nopens %v\ncloses %v", seed, x.asked(),
				from.Pod, from.Addr, to.Pod, to.Addr, key, was, is, opens, closes, x.suggestion.Policies, x.suggestion.Remove, x.suggestion.Opens, x.suggestion.Closes)
		}
	}
}

func level(c *model.Cluster, from, to reference.Party, key model.PortKey) reference.Said {
	v := reference.Judge(c, from, to, key)
	return min(v.Egress, v.Ingress)
}

// says whether one of the pairs speaks of the connection.
func (x *suggested) says(list []Pair, from, to reference.Party, key model.PortKey) bool {
	return slices.ContainsFunc(list, func(p Pair) bool {
		return x.stands(p.Source, from) && x.stands(p.Destination, to) && speaks(p.Connections, key)
	})
}

// speaks reads the ports as they are written.
func speaks(connections string, key model.PortKey) bool {
	for part := range strings.SplitSeq(connections, "; ") {
		word, numbers, some := strings.Cut(part, " ")
		number := int(key.Port())
		switch {
		case part == "All" || part == key.Protocol().String():
			return true
		case word == "protocol" || word == "protocols":
			number = int(key.Protocol())
		case !some || word != key.Protocol().String():
			continue
		}
		for one := range strings.SplitSeq(numbers, ",") {
			var first, last int
			if n, _ := fmt.Sscanf(one, "%d-%d", &first, &last); n < 2 {
				last = first
			}
			if first <= number && number <= last {
				return true
			}
		}
	}
	return false
}

// stands says whether the name is that of what has the party in it.
func (x *suggested) stands(name string, p reference.Party) bool {
	e := x.ends[name]
	if e == nil {
		return false
	}
	if p.Pod != nil {
		return slices.ContainsFunc(e.Pods, func(o diff.Pod) bool { return o.Old.Key() == p.Pod.Key() })
	}
	if x.isNode(p.Addr) {
		return slices.ContainsFunc(e.Nodes, func(n diff.NodeAddress) bool { return n.Old == p.Addr })
	}
	return x.without[name] != p.Addr && slices.ContainsFunc(e.Blocks, func(b model.IPBlock) bool { return b.Contains(p.Addr) })
}

func (x *suggested) isNode(a netip.Addr) bool {
	return slices.ContainsFunc(x.before.Nodes, func(n model.Node) bool { return slices.Contains(n.IPs, a) })
}

// alwaysPasses says whether the connection is from a pod to itself, or from a
// node to a pod on it: what is said of workloads and of nodes does not mean it.
func (x *suggested) alwaysPasses(from, to reference.Party) bool {
	return to.Pod != nil && (from.Pod == to.Pod || !to.Pod.HostNetwork && slices.ContainsFunc(x.before.Nodes, func(n model.Node) bool {
		return n.Name == to.Pod.Node && slices.Contains(n.IPs, from.Addr)
	}))
}

// isAsked says whether the connection is that of the question: also one between
// other pods of the workloads, and where the question is about what is outside,
// every one with an address there.
func (x *suggested) isAsked(from, to reference.Party, key model.PortKey) bool {
	return key == x.question.Key && x.meant(x.question.From, from) && x.meant(x.question.To, to)
}

func (x *suggested) meant(q engine.Party, p reference.Party) bool {
	switch {
	case q.Endpoint != nil && q.Endpoint.HostNetwork && p.Pod == nil:
		return slices.Contains(q.Endpoint.IPs, p.Addr) // its traffic is the node's
	case q.Endpoint != nil:
		return p.Pod != nil && p.Pod.Namespace == q.Endpoint.Namespace && p.Pod.Workload == q.Endpoint.Workload
	case p.Pod != nil:
		return false
	}
	return q.Addr == p.Addr || x.question.External && !x.isNode(q.Addr) && !x.isNode(p.Addr)
}
