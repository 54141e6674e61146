package kube

import (
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	"github.com/sallyport-dev/sallyport/model"
)

// pool keeps one copy of what many objects have in common: the labels and
// ports of a workload's pods, the names of nodes and namespaces. What it hands
// out is never written. Any number of goroutines may use it.
type pool struct {
	mu      sync.Mutex
	strings map[string]string
	labels  map[uint64]map[string]string
	ports   map[uint64][]model.ContainerPort
}

// poolSize is how many entries of a sort are kept before the pool forgets
// them: those in use stay shared, those of objects long gone are let go.
const poolSize = 8192

var poolSeed = maphash.MakeSeed()

func newPool() *pool {
	return &pool{strings: map[string]string{}, labels: map[uint64]map[string]string{}, ports: map[uint64][]model.ContainerPort{}}
}

// remember makes room for one more entry, and adds it.
func remember[K comparable, V any](entries map[K]V, k K, v V) V {
	if len(entries) >= poolSize {
		clear(entries)
	}
	entries[k] = v
	return v
}

func (p *pool) string(s string) string {
	if s == "" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text(s)
}

func (p *pool) text(s string) string {
	if shared, ok := p.strings[s]; ok {
		return shared
	}
	return remember(p.strings, s, s)
}

// labelSet returns the shared map of these labels; none is nil.
func (p *pool) labelSet(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	var hash uint64 // of the set: the order of the map must not matter
	for k, v := range labels {
		hash += maphash.Comparable(poolSeed, [2]string{k, v})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared, ok := p.labels[hash]; ok && maps.Equal(shared, labels) {
		return shared
	}
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		out[p.text(k)] = p.text(v)
	}
	return remember(p.labels, hash, out)
}

func (p *pool) portList(ports []model.ContainerPort) []model.ContainerPort {
	if len(ports) == 0 {
		return nil
	}
	var h maphash.Hash
	h.SetSeed(poolSeed)
	for _, c := range ports {
		maphash.WriteComparable(&h, c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared, ok := p.ports[h.Sum64()]; ok && slices.Equal(shared, ports) {
		return shared
	}
	out := slices.Clip(slices.Clone(ports))
	for i := range out {
		out[i].Name = p.text(out[i].Name)
	}
	return remember(p.ports, h.Sum64(), out)
}
