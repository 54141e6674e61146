package datapath

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// An index finds what a search finds, and the gate needs none for that.
func TestIndexFindsWhatSearchFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	protocols := []uint32{0, 1, 5, 6, 7, 16, 17, 18, 58, 132, 255}
	key := func(near uint32) uint32 {
		port := near + uint32(r.IntN(40)) - 20
		if r.IntN(3) == 0 {
			port = r.Uint32()
		}
		return protocols[r.IntN(len(protocols))]<<16 | port&0xffff
	}
	for range 300 {
		near := r.Uint32()
		starts := make([]uint32, r.IntN(200))
		for i := range starts {
			starts[i] = key(near)
		}
		slices.Sort(starts)
		starts = slices.Compact(starts)
		tx := Tx{SetGate{1, Gate{First: 7, Count: uint32(len(starts))}}, SetIndex{3, indexOf(starts)},
			SetGate{2, Gate{First: 7, Count: uint32(len(starts)), Index: 3}}}
		for i, s := range starts {
			tx = append(tx, SetRange{7 + uint32(i), Range{Start: s}})
		}
		f := &Fake{}
		if err := f.Apply(append(tx, Publish{1})); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			k := key(near)
			want, found := f.find(1, k)
			if got, ok := f.find(2, k); ok != found || found && got != want {
				t.Fatalf("key %#x among %#x: index says %+v %v, search %+v %v", k, starts, got, ok, want, found)
			}
		}
	}
}

// Gates that find no index free are searched, and those that leave put theirs
// back, also those of a predecessor.
func TestIndexesRunOut(t *testing.T) {
	w := newWorld(4)
	w.ports = 10
	limits := DefaultLimits()
	limits.Indexes = 4
	held, without := 0, 0
	for i := range 400 {
		if i%50 == 0 {
			w.Planner = NewPlanner(limits, w.fake.Snapshot())
		}
		if err := w.publish(w.change()); err != nil {
			t.Fatal(err)
		}
		w.check(t, w.packets(20))
		used := uint32(0)
		for _, s := range w.Planner.gates {
			if s.index != IndexNone {
				used++
			} else if s.count >= indexFrom {
				without++
			}
		}
		if got := w.Planner.indexSlots.used() - 1; got != used {
			t.Fatalf("%d indexes are taken, gates have %d", got, used)
		}
		held += int(used)
	}
	if held == 0 || without == 0 {
		t.Errorf("gates had %d indexes, %d found none: nothing was tested", held, without)
	}
}
