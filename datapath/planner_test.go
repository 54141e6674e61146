package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/engine"
	"github.com/sallyport-dev/sallyport/flow"
	"github.com/sallyport-dev/sallyport/model"
)

var podRange = netip.MustParsePrefix("10.0.0.0/16")

// world is a random cluster, a Matrix of it, and a kernel that follows it.
type world struct {
	*Publisher
	fake      *Fake
	random    *rand.Rand
	matrix    *engine.Matrix
	placement Placement
	pods      map[string]*model.Endpoint
	serial    int
	ports     uint16 // that rules name besides
}

func newWorld(seed uint64) *world {
	w := &world{fake: &Fake{}, random: rand.New(rand.NewPCG(seed, 1)), pods: map[string]*model.Endpoint{}}
	w.matrix = engine.Compile(&model.Cluster{
		PodRanges:  []netip.Prefix{podRange},
		Namespaces: []model.Namespace{{Name: "n", Labels: map[string]string{model.MetadataName: "n"}}},
	})
	w.placement = Placement{Local: map[string]uint32{}, Node: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}
	w.Publisher = &Publisher{Planner: NewPlanner(DefaultLimits(), nil), Kernel: w.fake}
	return w
}

func (w *world) publish(d engine.Delta) error { return w.Publish(w.matrix, d, w.placement) }

func (w *world) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + w.random.IntN(24))})
}

func (w *world) labels() map[string]string {
	return map[string]string{"a": fmt.Sprint(w.random.IntN(4)), "b": fmt.Sprint(w.random.IntN(3))}
}

func (w *world) selector() model.EndpointSelector {
	key, n := "a", 4
	if w.random.IntN(2) == 0 {
		key, n = "b", 3
	}
	return model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{key: fmt.Sprint(w.random.IntN(n))})}
}

func (w *world) section() *model.Section {
	s := &model.Section{DefaultDeny: true}
	for range w.random.IntN(3) {
		sel := w.selector()
		r := model.Rule{Peers: []model.Peer{{Pods: &sel}}, AnyPort: w.random.IntN(2) == 0}
		if w.random.IntN(3) == 0 {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(w.random.IntN(4) * 64)})
			r.Peers = []model.Peer{{Block: &model.IPBlock{CIDR: netip.PrefixFrom(a, 24+w.random.IntN(3)).Masked()}}}
		}
		if !r.AnyPort {
			p := uint16(80 + w.random.IntN(3))
			r.Ports = []model.Port{{Protocol: model.TCP, First: p, Last: p + uint16(w.random.IntN(2))}}
			for i := range w.ports {
				r.Ports = append(r.Ports, model.Port{Protocol: model.TCP, First: 1000 + 2*i, Last: 1000 + 2*i})
			}
		}
		s.Rules = append(s.Rules, r)
	}
	return s
}

func (w *world) policy(name string) *model.Policy {
	p := &model.Policy{
		Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "n", Name: name},
		Tier:   model.TierDefault, Order: model.KubernetesOrder, Subject: w.selector(),
	}
	if w.random.IntN(2) == 0 {
		p.Ingress = w.section()
	}
	if p.Ingress == nil || w.random.IntN(2) == 0 {
		p.Egress = w.section()
	}
	return p
}

// change makes one random change of pods or policies.
func (w *world) change() engine.Delta {
	var ch engine.Change
	name := fmt.Sprint("x", w.random.IntN(12))
	if w.random.IntN(20) == 0 {
		return w.rebuild()
	}
	if w.random.IntN(15) == 0 {
		other := []string{"10.0.0.0/24", "192.0.2.0/25", "192.0.2.0/24", "192.0.3.0/24"} // of which the first has all pods
		ranges := []netip.Prefix{netip.MustParsePrefix(other[0]), netip.MustParsePrefix(other[w.random.IntN(4)])}
		if w.random.IntN(2) == 0 {
			ranges[0] = podRange
		}
		ch.PodRanges = &ranges
	}
	switch w.random.IntN(6) {
	case 0:
		p := w.policy(name)
		ch.DeletedPolicies = []string{engine.PolicyKey(p)}
	case 1, 2:
		ch.Policies = []*model.Policy{w.policy(name)}
	case 3:
		w.remove(&ch, "n/"+name)
	default:
		w.add(&ch, name)
	}
	return w.matrix.Apply(ch)
}

// rebuild compiles everything anew: identities are renumbered, prefixes that
// no policy names any more are gone.
func (w *world) rebuild() engine.Delta {
	c := &model.Cluster{
		PodRanges: w.matrix.PodRanges(), Policies: w.matrix.Policies(),
		Namespaces: []model.Namespace{{Name: "n", Labels: map[string]string{model.MetadataName: "n"}}},
	}
	for _, e := range w.matrix.Endpoints() {
		c.Endpoints = append(c.Endpoints, *e)
	}
	w.matrix = engine.Compile(c)
	return engine.Delta{Full: true}
}

func (w *world) remove(ch *engine.Change, key string) {
	if w.pods[key] == nil {
		return
	}
	delete(w.pods, key)
	w.place(key, 0)
	ch.DeletedEndpoints = append(ch.DeletedEndpoints, key)
}

// add makes a pod with an address that may just have been another's.
func (w *world) add(ch *engine.Change, name string) {
	e := &model.Endpoint{Namespace: "n", Name: name, Labels: w.labels(), IPs: []netip.Addr{w.addr()}}
	for key, o := range w.pods {
		if key != e.Key() && o.IPs[0] == e.IPs[0] {
			w.remove(ch, key)
		}
	}
	old := w.pods[e.Key()]
	w.pods[e.Key()] = e
	ch.Endpoints = append(ch.Endpoints, e)
	if old == nil && w.random.IntN(3) > 0 {
		w.serial++
		w.place(e.Key(), uint32(10+w.serial))
	}
}

func (w *world) place(key string, ifindex uint32) {
	local := make(map[string]uint32, len(w.placement.Local))
	for k, v := range w.placement.Local {
		local[k] = v
	}
	delete(local, key)
	if ifindex != 0 {
		local[key] = ifindex
	}
	w.placement.Local = local
}

// packets are random new connections that FORWARD sees, by the device that the
// source has in the present placement.
func (w *world) packets(n int) []Packet {
	out := make([]Packet, n)
	for i := range out {
		p := Packet{Hook: flow.Forward, HasCT: true, CTInfo: CTNew, In: 2}
		p.Src, p.Dst = w.end(), w.end()
		p.Proto, p.SrcPort, p.DstPort = model.TCP, 40000, uint16(79+w.random.IntN(6))
		if e := w.matrix.EndpointAt(p.Src); e != nil {
			p.In = max(w.placement.Local[e.Key()], 2)
		}
		out[i] = p
	}
	return out
}

func (w *world) end() netip.Addr {
	if w.random.IntN(4) == 0 {
		return netip.AddrFrom4([4]byte{192, 0, byte(2 + w.random.IntN(2)), byte(w.random.IntN(256))})
	}
	return w.addr()
}

// accepts is the Matrix's own word, by looking the doors up naively.
func (w *world) accepts(p Packet) bool {
	src, dst := w.matrix.EndpointAt(p.Src), w.matrix.EndpointAt(p.Dst)
	from, to := w.matrix.AddressIdentity(p.Src), w.matrix.AddressIdentity(p.Dst)
	if from == 0 || to == 0 || w.spoofs(src, p.In) {
		return false
	}
	if src != nil && src == dst {
		return true
	}
	key := model.PortKeyOf(p.Proto, p.DstPort)
	pass := func(e *model.Endpoint, d model.Direction, peer engine.Identity) bool {
		if e == nil || w.placement.Local[e.Key()] == 0 {
			return true
		}
		g := w.matrix.Gate(e.Key(), d)
		return g == nil || g.At(key).Allow.Has(peer)
	}
	return pass(src, model.Egress, to) && pass(dst, model.Ingress, from)
}

func (w *world) spoofs(src *model.Endpoint, in uint32) bool {
	if src != nil && w.placement.Local[src.Key()] != 0 {
		return w.placement.Local[src.Key()] != in
	}
	for _, ifindex := range w.placement.Local {
		if ifindex == in {
			return true
		}
	}
	return false
}

func (w *world) check(t *testing.T, packets []Packet) {
	t.Helper()
	for _, p := range packets {
		if got, want := w.fake.Judge(p), w.accepts(p); got.Accept != want {
			t.Fatalf("%v from device %d: kernel says %v (%+v), matrix says %v", p.Tuple, p.In, got.Accept, got, want)
		}
	}
}

func TestVerdictsFollowTheMatrix(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed)
			passed := 0
			for range 150 {
				if err := w.publish(w.change()); err != nil {
					t.Fatal(err)
				}
				packets := w.packets(60)
				w.check(t, packets)
				for _, p := range packets {
					if w.fake.Judge(p).Accept {
						passed++
					}
				}
			}
			if passed == 0 {
				t.Fatal("no packet ever passed: nothing was tested")
			}
		})
	}
}

func TestFailedWritesLeaveTheOldVerdicts(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed)
			failures := 0
			for range 150 {
				packets := w.packets(40)
				before := make([]bool, len(packets))
				for i, p := range packets {
					before[i] = w.fake.Judge(p).Accept
				}
				delta, revision := w.change(), w.fake.Revision
				w.fake.FailAt = 1 + w.random.IntN(12)
				err := w.publish(delta)
				if err != nil && w.fake.Revision == revision {
					failures++
					for i, p := range packets {
						if got := w.fake.Judge(p).Accept; got && !before[i] {
							t.Fatalf("%v passes after a failed publication", p.Tuple)
						}
					}
				}
				w.fake.FailAt = 0
				if w.random.IntN(2) == 0 {
					continue // the next change meets what this one left
				}
				if err := w.publish(engine.Delta{}); err != nil {
					t.Fatal(err)
				}
				w.check(t, w.packets(60))
			}
			if failures == 0 {
				t.Fatal("no publication ever failed: nothing was tested")
			}
		})
	}
}

// holder is who an address leads to.
type holder struct {
	key     string
	ifindex uint32
}

func (w *world) holder(a netip.Addr) holder {
	e := w.matrix.EndpointAt(a)
	if e == nil {
		return holder{}
	}
	return holder{e.Key(), w.placement.Local[e.Key()]}
}

// Each change fails at its first write, then at its second, and so on until
// none fails: never passes what neither the old nor the new policies allow,
// and in the end kernel and history say what the Matrix says.
func TestFailuresAtEveryWriteOpenNothing(t *testing.T) {
	failures := 0
	for seed := range uint64(10) {
		w := newWorld(seed)
		for range 60 {
			packets := w.packets(40)
			before, held := make([]bool, len(packets)), map[netip.Addr]holder{}
			for i, p := range packets {
				before[i] = w.accepts(p)
				held[p.Src], held[p.Dst] = w.holder(p.Src), w.holder(p.Dst)
			}
			started, delta := w.fake.Revision > 0, w.change()
			for w.fake.FailAt = 1; w.publish(delta) != nil; w.fake.FailAt++ {
				failures++
				delta = engine.Delta{}
				for i, p := range packets {
					got, after := w.fake.Judge(p).Accept, w.accepts(p)
					same := held[p.Src] == w.holder(p.Src) && held[p.Dst] == w.holder(p.Dst)
					if got && !before[i] && !after {
						t.Fatalf("seed %d: after a failure at write %d %v passes, neither before nor after", seed, w.fake.FailAt, p.Tuple)
					}
					if !got && before[i] && after && same && started {
						t.Fatalf("seed %d: after a failure at write %d %v is dropped, passes before and after", seed, w.fake.FailAt, p.Tuple)
					}
				}
			}
			w.fake.FailAt = 0
			w.check(t, packets)
			w.checkHistory(t)
		}
	}
	if failures < 1000 {
		t.Fatalf("only %d failures: nothing was tested", failures)
	}
}

// checkHistory holds what the history says of the kernel's slots against the Matrix.
func (w *world) checkHistory(t *testing.T) {
	t.Helper()
	for key := range w.placement.Local {
		e := w.matrix.Endpoint(key)
		slot, revision := w.fake.Addresses[e.IPs[0]].Subject, w.fake.Revision
		if got, _ := w.Planner.Subject(uint32(revision), slot); got != key {
			t.Fatalf("subject %d is %s, history says %q", slot, key, got)
		}
		for direction, door := range map[model.Direction]Versioned{
			model.Egress: w.fake.Subjects[slot].Egress, model.Ingress: w.fake.Subjects[slot].Ingress,
		} {
			gate, _, known := w.Planner.Gate(uint32(revision), door.At(revision))
			if want := w.matrix.Gate(key, direction); gate != want || known != (want != nil) {
				t.Fatalf("%s %v: gate %d is not what history says", key, direction, door.At(revision))
			}
		}
	}
}

func TestEveryStepIsOldOrNew(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(seed)
			if err := w.publish(engine.Delta{}); err != nil {
				t.Fatal(err)
			}
			for range 120 {
				w.stepThrough(t)
			}
		})
	}
}

func (w *world) stepThrough(t *testing.T) {
	packets := w.packets(30)
	before := make([]bool, len(packets))
	for i, p := range packets {
		before[i] = w.accepts(p)
	}
	delta := w.change()
	after := make([]bool, len(packets))
	for i, p := range packets {
		after[i] = w.accepts(p)
	}
	old := w.fake.Revision
	w.fake.Step = func(op Op) {
		for i, p := range packets {
			for _, r := range []Revision{old, w.fake.Revision} {
				got := w.fake.JudgeAt(p, r).Accept
				if got && !before[i] && !after[i] {
					t.Fatalf("after %s: %v passes at revision %d, neither before nor after", describe(op), p.Tuple, r)
				}
				if !got && before[i] && after[i] && w.samePods(p) {
					t.Fatalf("after %s: %v is dropped at revision %d, passes before and after", describe(op), p.Tuple, r)
				}
			}
		}
		if p, ok := op.(Publish); ok && p.Revision > old+1 {
			old = p.Revision - 1
		}
	}
	if err := w.publish(delta); err != nil {
		t.Fatal(err)
	}
	w.fake.Step = nil
	w.check(t, packets)
}

// samePods says that no end of the packet changed hands: those are closed for
// one revision in between.
func (w *world) samePods(p Packet) bool {
	_, src := w.Planner.grace.addresses[p.Src]
	_, dst := w.Planner.grace.addresses[p.Dst]
	pending := w.Planner.pending
	if pending == nil {
		return !src && !dst
	}
	_, src = pending.handed[p.Src]
	_, dst = pending.handed[p.Dst]
	_, oweSrc := w.Planner.owed.addresses[p.Src]
	_, oweDst := w.Planner.owed.addresses[p.Dst]
	return !src && !dst && !oweSrc && !oweDst
}

func TestSlotsDoNotLeak(t *testing.T) {
	w := newWorld(7)
	for range 3000 {
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
	}
	p := w.Planner
	if n := p.subjectSlots.used(); n != uint32(len(p.local))+1 {
		t.Errorf("%d subject slots for %d pods", n-1, len(p.local))
	}
	if n := p.gateSlots.used(); n != uint32(len(p.gates))+2 {
		t.Errorf("%d gate slots for %d gates", n-2, len(p.gates))
	}
	if n := p.rowSlots.used(); n != uint32(len(p.rows))+2 {
		t.Errorf("%d row slots for %d rows", n-2, len(p.rows))
	}
	if p.rangeSlots.next > 1000 {
		t.Errorf("%d range slots were touched", p.rangeSlots.next)
	}
	if len(w.fake.Addresses) != len(p.addresses) || len(p.addresses) > len(w.pods)+1 {
		t.Errorf("kernel has %d addresses, mirror %d, cluster %d", len(w.fake.Addresses), len(p.addresses), len(w.pods)+1)
	}
}

func TestWritesAreInProportion(t *testing.T) {
	w := newWorld(3)
	var ch engine.Change
	for i := range 2000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(1 + i/250), byte(1 + i%250)})
		ch.Endpoints = append(ch.Endpoints, &model.Endpoint{Namespace: "n", Name: fmt.Sprint("p", i), Labels: map[string]string{"a": "0"}, IPs: []netip.Addr{a}})
		if i < 100 {
			w.place(fmt.Sprint("n/p", i), uint32(100+i))
		}
	}
	ch.Policies = []*model.Policy{w.policy("x")}
	if err := w.publish(w.matrix.Apply(ch)); err != nil {
		t.Fatal(err)
	}
	before := w.fake.Applied
	extra := &model.Endpoint{Namespace: "n", Name: "extra", Labels: map[string]string{"a": "0"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.99.1")}}
	if err := w.publish(w.matrix.Apply(engine.Change{Endpoints: []*model.Endpoint{extra}})); err != nil {
		t.Fatal(err)
	}
	if n := w.fake.Applied - before; n > 3 {
		t.Errorf("a pod of a known workload took %d writes", n)
	}
	if before < 2000 {
		t.Errorf("the first publication took only %d writes", before)
	}
}

func TestRestartOnAPredecessorsTables(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(seed)
		for range 60 {
			if err := w.publish(w.change()); err != nil {
				t.Fatal(err)
			}
		}
		packets := w.packets(60)
		w.Planner = NewPlanner(DefaultLimits(), w.fake.Snapshot())
		w.fake.Step = func(op Op) {
			for _, p := range packets {
				if got := w.fake.Judge(p).Accept; got != w.accepts(p) {
					t.Fatalf("after %s: %v: %v", describe(op), p.Tuple, got)
				}
			}
		}
		if err := w.publish(engine.Delta{Full: true}); err != nil {
			t.Fatal(err)
		}
		w.fake.Step = nil
		for range 30 {
			if err := w.publish(w.change()); err != nil {
				t.Fatal(err)
			}
			w.check(t, w.packets(40))
		}
	}
}

// While a change does not fit, packets pass only between pods that were there
// before, by the policies of then.
func TestFullTablesOpenNothing(t *testing.T) {
	failures := 0
	for seed := range uint64(20) {
		w := newWorld(seed)
		limits := DefaultLimits()
		limits.Gates, limits.Ranges, limits.Rows, limits.Subjects, limits.Addresses = 14, 28, 16, 9, 13
		w.Planner = NewPlanner(limits, nil)
		held := map[netip.Addr]holder{}
		packets := w.packets(100)
		before := map[Tuple]bool{}
		for range 150 {
			err := w.publish(w.change())
			if err == nil {
				w.check(t, w.packets(60))
				packets = w.packets(100)
				for _, p := range packets {
					before[p.Tuple] = w.accepts(p)
					held[p.Src], held[p.Dst] = w.holder(p.Src), w.holder(p.Dst)
				}
				continue
			}
			failures++
			for _, p := range packets {
				for _, a := range []netip.Addr{p.Src, p.Dst} {
					if held[a] != w.holder(a) {
						held[a] = holder{key: "changed hands"} // and stays closed
					}
				}
				same := held[p.Src] == w.holder(p.Src) && held[p.Dst] == w.holder(p.Dst)
				if got := w.fake.Judge(p).Accept; got && !before[p.Tuple] || got && !same {
					t.Fatalf("seed %d: %v passes though nothing could be published (the pods are the same: %v)", seed, p.Tuple, same)
				} else if !got && before[p.Tuple] && same {
					t.Fatalf("seed %d: %v is dropped though nothing could be published", seed, p.Tuple)
				}
			}
		}
	}
	if failures < 100 {
		t.Fatalf("only %d changes did not fit: nothing was tested", failures)
	}
}

// What predecessors left behind in the tables is free for their successors: a
// hundred restarts need no more room than two.
func TestRestartsDoNotUseTheTablesUp(t *testing.T) {
	w := newWorld(3)
	for range 60 {
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
	}
	limits := DefaultLimits()
	limits.Gates, limits.Ranges, limits.Rows = 40, 100, 60
	for range 100 {
		w.Planner = NewPlanner(limits, w.fake.Snapshot())
		if err := w.publish(engine.Delta{Full: true}); err != nil {
			t.Fatal(err)
		}
		w.check(t, w.packets(60))
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullTableIsNamed(t *testing.T) {
	w := newWorld(1)
	limits := DefaultLimits()
	limits.Addresses = 4
	w.Planner = NewPlanner(limits, nil)
	var err error
	for i := range 8 {
		e := &model.Endpoint{Namespace: "n", Name: fmt.Sprint("p", i), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}}
		if err = w.publish(w.matrix.Apply(engine.Change{Endpoints: []*model.Endpoint{e}})); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "table addresses is full (4 entries)") {
		t.Fatalf("error %v", err)
	}
	if len(w.fake.Addresses) > 4 {
		t.Errorf("%d addresses written", len(w.fake.Addresses))
	}
}

func TestHistoryExplainsOldRevisions(t *testing.T) {
	w := newWorld(5)
	type seen struct {
		revision uint32
		slot     uint32
		gate     *engine.Gate
	}
	var all []seen
	for range 200 {
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
		for g, s := range w.Planner.gates {
			all = append(all, seen{uint32(w.Planner.revision), s.slot, g})
		}
	}
	now, found := uint32(w.Planner.revision), 0
	for _, s := range all {
		g, keys, ok := w.Planner.Gate(s.revision, s.slot)
		if recent := now-s.revision < 64; ok != recent {
			t.Fatalf("revision %d at %d: found %v", s.revision, now, ok)
		}
		if ok && (g != s.gate || len(keys) == 0) {
			t.Fatalf("revision %d slot %d: wrong gate, or of nobody (%v)", s.revision, s.slot, keys)
		}
		if ok {
			found++
		}
	}
	if found == 0 {
		t.Fatal("nothing was found")
	}
}

// Old: egress open, ingress shut. New: the reverse. Nothing may ever pass.
func TestPermissionMovesToTheOtherDoor(t *testing.T) {
	w := newWorld(1)
	src := &model.Endpoint{Namespace: "n", Name: "src", Labels: map[string]string{"a": "0"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	dst := &model.Endpoint{Namespace: "n", Name: "dst", Labels: map[string]string{"a": "1"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	w.place("n/src", 11)
	w.place("n/dst", 12)
	policy := func(name, subject string) *model.Policy {
		return &model.Policy{
			Source: model.Source{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: "n", Name: name},
			Tier:   model.TierDefault, Order: model.KubernetesOrder,
			Subject: model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": subject})},
		}
	}
	shutOut, shutIn := policy("out", "0"), policy("in", "1")
	shutOut.Egress, shutIn.Ingress = &model.Section{DefaultDeny: true}, &model.Section{DefaultDeny: true}
	change := engine.Change{Endpoints: []*model.Endpoint{src, dst}, Policies: []*model.Policy{shutIn}}
	p := Packet{Hook: flow.Forward, HasCT: true, CTInfo: CTNew, In: 11, Tuple: Tuple{src.IPs[0], dst.IPs[0], model.TCP, 40000, 80}}
	w.fake.Step = func(op Op) {
		if w.fake.Judge(p).Accept {
			t.Fatalf("passes after %s", describe(op))
		}
	}
	for range 10 {
		if err := w.publish(w.matrix.Apply(change)); err != nil {
			t.Fatal(err)
		}
		change = engine.Change{Policies: []*model.Policy{shutOut}, DeletedPolicies: []string{engine.PolicyKey(shutIn)}}
		shutOut, shutIn = shutIn, shutOut
	}
	if w.Planner.Revision() < 10 {
		t.Fatalf("only %d revisions", w.Planner.Revision())
	}
	w.fake.Step = nil
	if err := w.publish(w.matrix.Apply(engine.Change{DeletedPolicies: []string{engine.PolicyKey(shutOut), engine.PolicyKey(shutIn)}})); err != nil {
		t.Fatal(err)
	}
	if !w.fake.Judge(p).Accept {
		t.Fatal("does not pass without policies")
	}
}

func TestPrefixesGoWithTheNextTransaction(t *testing.T) {
	w := newWorld(2)
	for range 60 {
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range w.matrix.Policies() {
		w.matrix.Apply(engine.Change{DeletedPolicies: []string{engine.PolicyKey(p)}})
	}
	named := len(w.fake.Prefixes)
	for range 2 {
		if err := w.publish(w.rebuild()); err != nil {
			t.Fatal(err)
		}
	}
	want := len(w.matrix.Prefixes()) + len(linkScoped)
	if len(w.fake.Prefixes) != want || named <= want {
		t.Errorf("%d prefixes of %d are left, want %d", len(w.fake.Prefixes), named, want)
	}
}

// Addresses that never leave a link are judged as the node's own, whatever the
// policies come to say of that.
func TestLinkScopedAddressesAreTheNodes(t *testing.T) {
	w := newWorld(5)
	seen := map[uint32]bool{}
	for i := range 60 {
		w.placement.Node = []netip.Addr{netip.MustParseAddr("fe80::9"), netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8::9")}
		if i%10 == 9 {
			w.placement.Node = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		}
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
		r := w.Planner.Revision()
		for _, x := range linkScoped {
			for _, own := range w.placement.Node {
				if own.Is4() != x.Addr().Is4() || own.IsLinkLocalUnicast() {
					continue
				}
				link, node := w.fake.Prefixes[x].Identity.At(r), w.fake.Addresses[own].Identity.At(r)
				if link != node {
					t.Fatalf("step %d: %s has identity %d, the node's %s %d", i, x, link, own, node)
				}
				seen[node] = true
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("the node had %d identities only", len(seen))
	}
}

func TestColumnsInUseForkTheRows(t *testing.T) {
	w := newWorld(4)
	for range 60 {
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
	}
	live := map[uint32]bool{}
	for _, r := range w.Planner.rows {
		live[r.slot] = true
	}
	if len(live) == 0 {
		t.Fatal("no row is published: nothing is tested")
	}
	w.fake.Step = func(op Op) {
		if o, ok := op.(SetRow); ok && live[o.Row] {
			t.Errorf("published row %d is overwritten", o.Row)
		}
	}
	var all []engine.Identity
	for id := range w.Planner.identities {
		all = append(all, engine.Identity(id))
	}
	if err := w.publish(engine.Delta{Identities: all}); err != nil {
		t.Fatal(err)
	}
	w.fake.Step = nil
	w.check(t, w.packets(200))
}

func TestGraceIsWaitedForOnlyWhereNeeded(t *testing.T) {
	w := newWorld(1)
	set := func(i, label int) {
		e := &model.Endpoint{Namespace: "n", Name: fmt.Sprint("p", i), Labels: map[string]string{"a": fmt.Sprint(label)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}}
		if err := w.publish(w.matrix.Apply(engine.Change{Endpoints: []*model.Endpoint{e}})); err != nil {
			t.Fatal(err)
		}
	}
	p := w.policy("x")
	p.Subject = model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": "1"})}
	p.Ingress = &model.Section{DefaultDeny: true, Rules: []model.Rule{{Peers: []model.Peer{{Pods: &p.Subject}}, AnyPort: true}}}
	w.place("n/p1", 11)
	w.place("n/p2", 12)
	if err := w.publish(w.matrix.Apply(engine.Change{Policies: []*model.Policy{p}})); err != nil {
		t.Fatal(err)
	}
	set(1, 0)
	before := w.fake.Graces.Load()
	set(3, 0)
	set(4, 0)
	if n := w.fake.Graces.Load() - before; n != 0 {
		t.Errorf("new addresses waited %d times", n)
	}
	set(4, 1)
	if w.fake.Graces.Load() == before {
		t.Error("an address changed twice without a wait")
	}
}

// slow is a kernel whose packets are under way until they are let go.
type slow struct {
	*Fake
	waits chan chan error
}

func (k slow) WaitGrace() error {
	end := make(chan error)
	k.waits <- end
	return <-end
}

// TestWaitingAhead has every publication be followed by a wait: one that needs
// it goes by the last of them, and by no other.
func TestWaitingAhead(t *testing.T) {
	w := newWorld(1)
	kernel := slow{w.fake, make(chan chan error)}
	w.Publisher.Kernel, w.Publisher.Ahead = kernel, true
	label := 0
	set := func(i int) <-chan error {
		label = 1 - label
		e := &model.Endpoint{Namespace: "n", Name: fmt.Sprint("p", i), Labels: map[string]string{"a": fmt.Sprint(label)}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}}
		done := make(chan error, 1)
		go func() { done <- w.publish(w.matrix.Apply(engine.Change{Endpoints: []*model.Endpoint{e}})) }()
		return done
	}
	p := w.policy("x")
	p.Subject = model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": "1"})}
	p.Ingress = &model.Section{DefaultDeny: true, Rules: []model.Rule{{Peers: []model.Peer{{Pods: &p.Subject}}, AnyPort: true}}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	waits := func(done <-chan error) {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	must(w.publish(w.matrix.Apply(engine.Change{Policies: []*model.Policy{p}})))
	first := <-kernel.waits
	must(<-set(1)) // a new address
	second := <-kernel.waits
	again := set(1)
	waits(again)
	first <- nil // which began before the address was published
	waits(again)
	second <- nil
	must(<-again)
	third := <-kernel.waits
	third <- nil
	time.Sleep(50 * time.Millisecond) // and is taken note of
	must(<-set(1))                    // at once: nothing is under way
	fourth := <-kernel.waits
	fourth <- errors.New("no such call")
	time.Sleep(50 * time.Millisecond)
	again = set(1) // it has to wait itself
	own := <-kernel.waits
	waits(again)
	own <- nil
	must(<-again)
	(<-kernel.waits) <- nil
}

func TestRestartAfterDeathInMidTransaction(t *testing.T) {
	deaths := 0
	for seed := range uint64(30) {
		w := newWorld(seed)
		for range 40 {
			if err := w.publish(w.change()); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			w.fake.FailAt = 1 + w.random.IntN(12)
			if w.publish(w.change()) != nil {
				deaths++
			}
			w.fake.FailAt = 0
			w.matrix.Apply(engine.Change{DeletedPolicies: []string{engine.PolicyKey(w.policy(fmt.Sprint("x", w.random.IntN(12))))}})
			w.Planner = NewPlanner(DefaultLimits(), w.fake.Snapshot())
			if err := w.publish(engine.Delta{Full: true}); err != nil {
				t.Fatal(err)
			}
			w.check(t, w.packets(100))
		}
	}
	if deaths == 0 {
		t.Fatal("no transaction was cut short: nothing was tested")
	}
}

// A predecessor dies before its Publish, and the successor wants the old state:
// what the dead one wrote must not come to light.
func TestRestartHidesUnpublishedEntries(t *testing.T) {
	w := newWorld(1)
	p := w.policy("x")
	web := model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": "1"})}
	p.Subject, p.Egress = model.EndpointSelector{Namespace: "n", Pods: model.MatchLabels(map[string]string{"a": "3"})}, nil
	p.Ingress = &model.Section{DefaultDeny: true, Rules: []model.Rule{{Peers: []model.Peer{{Pods: &web}}, AnyPort: true}}}
	compile := func(first, second string) *engine.Matrix {
		c := &model.Cluster{PodRanges: []netip.Prefix{podRange}, Namespaces: []model.Namespace{{Name: "n"}}, Policies: []*model.Policy{p}}
		for i, label := range []string{first, second, "3"} {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
			c.Endpoints = append(c.Endpoints, model.Endpoint{Namespace: "n", Name: fmt.Sprint("x", i), Labels: map[string]string{"a": label}, IPs: []netip.Addr{a}})
		}
		return engine.Compile(c)
	}
	w.place("n/x2", 11)
	w.matrix = compile("1", "2")
	if err := w.publish(engine.Delta{}); err != nil {
		t.Fatal(err)
	}
	tx, err := w.Planner.Plan(compile("2", "1"), engine.Delta{Full: true}, w.placement)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range tx {
		if _, ok := op.(Publish); ok {
			break
		}
		w.fake.apply(op)
	}
	w.Planner = NewPlanner(DefaultLimits(), w.fake.Snapshot())
	w.matrix = compile("1", "2")
	if err := w.publish(engine.Delta{}); err != nil {
		t.Fatal(err)
	}
	w.check(t, w.packets(500))
}

// Slots that were put back rest until the grace period has passed, also if
// they were looked at for a run that did not fit.
func TestSlotsThatDidNotFitRestOn(t *testing.T) {
	p := NewPlanner(Limits{Ranges: 4}, nil)
	l := newPlan(p, engine.Compile(&model.Cluster{}), Placement{})
	for _, count := range []uint32{1, 2, 1} {
		if _, err := l.take(&p.rangeSlots, count); err != nil {
			t.Fatal(err)
		}
	}
	p.rangeSlots.put(1, 2)
	if _, err := l.take(&p.rangeSlots, 3); err == nil {
		t.Fatal("three of two slots were taken")
	}
	l = newPlan(p, engine.Compile(&model.Cluster{}), Placement{})
	if _, err := l.take(&p.rangeSlots, 1); err != nil || !l.needsGrace {
		t.Errorf("a slot that packets may look at is written to: %v", err)
	}
}
