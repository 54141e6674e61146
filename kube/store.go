package kube

import "reflect"

// key names an object within its resource; namespace is "" for those of the
// cluster.
type key struct{ namespace, name string }

// store is what the API server has of one resource, cut down to V. Its user
// holds the watcher's lock.
type store[V any] struct {
	rows map[key]row[V]
	gone map[key]uint64 // versions at which objects were deleted, lest a late event brings them back
	// change is called before a row changes; nil is no object. It is not
	// called for an event that changes nothing that V holds.
	change func(k key, old, now *V)
}

type row[V any] struct {
	value   *V
	version uint64 // 0: unknown
	since   uint64 // the version at which it became what it is, as far as was seen
}

// goneSize bounds the memory of deletions. An event that comes later than
// this many deletions after its time is one that no server sends.
const goneSize = 4096

func newStore[V any](change func(k key, old, now *V)) *store[V] {
	return &store[V]{rows: map[key]row[V]{}, gone: map[key]uint64{}, change: change}
}

// event takes over one object; a nil value is one that policies no longer see.
// An event older than what is known of the object is passed over, so that
// doubled and disordered events end as the ordered ones do.
func (s *store[V]) event(k key, version uint64, value any) {
	if version < max(s.rows[k].version, s.gone[k]) && version != 0 {
		return
	}
	v, _ := value.(*V)
	s.set(k, version, v)
	if v != nil {
		delete(s.gone, k)
		return
	}
	if len(s.gone) >= goneSize {
		clear(s.gone)
	}
	s.gone[k] = version
}

func (s *store[V]) set(k key, version uint64, v *V) {
	old := s.rows[k].value
	switch {
	case v == nil:
		if old != nil {
			s.change(k, old, nil)
			delete(s.rows, k)
		}
	case old != nil && reflect.DeepEqual(old, v):
		s.rows[k] = row[V]{old, version, s.rows[k].since}
	default:
		s.change(k, old, v)
		s.rows[k] = row[V]{v, version, version}
	}
}

// replace takes over a whole list. The list is right whatever its versions
// say: a database restored from a backup counts anew.
func (s *store[V]) replace(items []*item) {
	listed := make(map[key]struct{}, len(items))
	for _, i := range items {
		listed[i.key()] = struct{}{}
	}
	for k := range s.rows {
		if _, ok := listed[k]; !ok {
			s.set(k, 0, nil)
		}
	}
	for _, i := range items {
		v, _ := i.value.(*V)
		s.set(i.key(), i.version(), v)
	}
	clear(s.gone)
}

// shelf is a store of any V.
type shelf interface {
	event(k key, version uint64, value any)
	replace(items []*item)
}
