package engine

import (
	"iter"

	"github.com/sallyport-dev/sallyport/model"
)

// homes finds what asks for pods by something that these pods must have: a
// class that is new is shown only to what may ask for it.
type homes[T comparable] map[home]map[T]struct{}

// home is something that pods have: their namespace, or the value of a label.
// The zero home is everybody's.
type home struct{ namespace, key, value string }

// eachHome visits the homes that every pod which the selector selects has one of.
func eachHome(s *model.EndpointSelector, visit func(home)) {
	if s.Namespace != "" {
		visit(home{namespace: s.Namespace})
		return
	}
	one := &s.Pods
	if one.Op == model.SelectAnd {
		for i := range one.Args {
			if one.Args[i].Op == model.SelectIn {
				one = &one.Args[i]
				break
			}
		}
	}
	if one.Op != model.SelectIn {
		visit(home{})
		return
	}
	for _, v := range one.Values {
		visit(home{key: one.Key, value: v})
	}
}

func (h homes[T]) add(s *model.EndpointSelector, x T) {
	eachHome(s, func(at home) {
		if h[at] == nil {
			h[at] = map[T]struct{}{}
		}
		h[at][x] = struct{}{}
	})
}

// remove takes out all that add put in for x with this selector; it may have
// been there for another one of x's, which is removed with it.
func (h homes[T]) remove(s *model.EndpointSelector, x T) {
	eachHome(s, func(at home) {
		delete(h[at], x)
		if len(h[at]) == 0 {
			delete(h, at)
		}
	})
}

// of visits what may ask for pods of the class, in no order; what has several
// homes may come several times.
func (h homes[T]) of(c *class) iter.Seq[T] {
	return func(yield func(T) bool) {
		at := func(in home) bool {
			for x := range h[in] {
				if !yield(x) {
					return false
				}
			}
			return true
		}
		if !at(home{}) || !at(home{namespace: c.namespace}) {
			return
		}
		for key, value := range c.labels {
			if !at(home{key: key, value: value}) {
				return
			}
		}
	}
}
