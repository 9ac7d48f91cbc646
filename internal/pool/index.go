package pool

import "container/heap"

// index keeps items in an order: the first is found at once, and a change costs the logarithm of their number.
type index[T any] struct{ h ordered[T] }

// ordered is a heap of items that know their places in it.
type ordered[T any] struct {
	items  []T
	before func(a, b T) bool
	slot   func(T) *int // holds the item's place, from 1; 0 is none
}

func newIndex[T any](slot func(T) *int, before func(a, b T) bool) index[T] {
	return index[T]{ordered[T]{before: before, slot: slot}}
}

func (x *index[T]) len() int { return len(x.h.items) }

// first is the item before all others; the zero value if there is none.
func (x *index[T]) first() (item T) {
	if len(x.h.items) > 0 {
		item = x.h.items[0]
	}
	return item
}

// set puts an item in or takes it out, and moves one that is in and has changed.
func (x *index[T]) set(item T, in bool) {
	at := *x.h.slot(item) - 1
	switch {
	case in && at >= 0:
		heap.Fix(&x.h, at)
	case in:
		heap.Push(&x.h, item)
	case at >= 0:
		heap.Remove(&x.h, at)
	}
}

func (h *ordered[T]) Len() int           { return len(h.items) }
func (h *ordered[T]) Less(i, j int) bool { return h.before(h.items[i], h.items[j]) }

func (h *ordered[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.slot(h.items[i]), *h.slot(h.items[j]) = i+1, j+1
}

func (h *ordered[T]) Push(item any) {
	h.items = append(h.items, item.(T))
	*h.slot(item.(T)) = len(h.items)
}

func (h *ordered[T]) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	var none T
	h.items[last] = none
	h.items = h.items[:last]
	*h.slot(item) = 0
	return item
}
