// Package pool keeps warm members, sandboxes in practice, and leases them to one holder at a time. Its audience is
// package sbx.
//
// Members belong to classes, which share one maximum. A member is made when somebody waits for its class and there is
// room; where there is none, an idle member of another class makes room. Waiters are served in the order in which they
// came. A place is not used again before the member that had it has stopped.
//
// Goroutines: one for every member that is being made or stopped, and one for every member that watches for its end.
// [Pool.Close] waits for all of them.
package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// stopAgain is the time between two tries to stop a member.
const stopAgain = time.Second

// ErrClosed is returned by Wait after Close began.
var ErrClosed = errors.New("pool closed")

// Member is what a pool keeps.
type Member interface {
	comparable
	// Done is closed when the member is of no use any more.
	Done() <-chan struct{}
	// Stop ends the member and frees what it holds. It may be called again after it failed.
	Stop(ctx context.Context) error
}

// Pool is a set of members. Its methods may be called at the same time.
type Pool[C comparable, M Member] struct {
	maximum int
	open    func(ctx context.Context, class C) (M, error)
	stop    func(M) error

	ctx     context.Context // of everything that is opened
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Mutex // one Close at a time

	mu        sync.Mutex
	closed    bool
	members   map[M]*place[C] // all that are open, those that are stopping included
	places    int             // taken: opening, open and stopping
	opening   map[C]int
	stopping  int
	idle      []M // least recently used first
	waiting   []*waiter[C, M]
	unstopped map[M]error // their stop failed; they keep their place
}

type place[C comparable] struct {
	class    C
	stopping bool
}

type waiter[C comparable, M Member] struct {
	class C
	ready chan struct{}
	m     M
	err   error
}

// New returns a pool of at most maximum members. open makes one; its context ends with the pool. stop ends one, within
// bounds of its own.
func New[C comparable, M Member](maximum int, open func(context.Context, C) (M, error), stop func(M) error) *Pool[C, M] {
	p := &Pool[C, M]{
		maximum: maximum, open: open, stop: stop,
		members: map[M]*place[C]{}, opening: map[C]int{}, unstopped: map[M]error{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Count returns how many members there are, those that are being made or stopped included.
func (p *Pool[C, M]) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.places
}

// A Turn is a place in the queue for a member.
type Turn[C comparable, M Member] struct {
	pool *Pool[C, M]
	w    *waiter[C, M]
}

// Queue takes a place in the queue for a member of class, behind all who came before. Whoever calls Queue calls Wait.
func (p *Pool[C, M]) Queue(class C) Turn[C, M] {
	w := &waiter[C, M]{class: class, ready: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.err = ErrClosed
		close(w.ready)
	} else {
		p.waiting = append(p.waiting, w)
		p.balance()
	}
	return Turn[C, M]{p, w}
}

// Wait returns a member that nobody else holds. It waits for one until ctx ends. Give it back by Release.
func (t Turn[C, M]) Wait(ctx context.Context) (M, error) {
	p, w := t.pool, t.w
	if ctx.Err() == nil {
		select {
		case <-w.ready:
			return w.m, w.err
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	select {
	case <-w.ready: // served at the same moment
		if w.err == nil {
			p.Release(w.m, true)
		}
	default:
	}
	var none M
	return none, context.Cause(ctx)
}

// Release gives back a leased member. If reuse is false, or the member is of no use any more, it is stopped, and its
// place is free when it has stopped. Release does not wait.
func (p *Pool[C, M]) Release(m M, reuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := p.members[m]
	if place == nil || place.stopping {
		return // Close was faster
	}
	if !reuse || isDone(m) || p.closed {
		p.discard(m, place)
		return
	}
	p.idle = append(p.idle, m)
	p.balance()
}

func isDone[M Member](m M) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}

// balance serves who waits, in order: by an idle member of the class, by opening one, or by making room. Callers hold mu.
func (p *Pool[C, M]) balance() {
	if p.closed {
		return
	}
	coming := maps.Clone(p.opening)
	freeing := p.stopping // places that are about to be free
	kept := p.waiting[:0]
	for i, w := range p.waiting {
		if len(p.idle) == 0 && p.places == p.maximum {
			kept = append(kept, p.waiting[i:]...) // there is nothing to give
			break
		}
		if m, ok := p.takeIdle(w.class); ok {
			w.m = m
			close(w.ready)
			continue
		}
		kept = append(kept, w)
		switch {
		case coming[w.class] > 0:
			coming[w.class]--
		case p.places < p.maximum:
			p.start(w.class)
		case freeing > 0:
			freeing--
		case len(p.idle) > 0: // of another class
			m := p.idle[0]
			p.idle = p.idle[1:]
			p.discard(m, p.members[m])
		}
	}
	clear(p.waiting[len(kept):])
	p.waiting = kept
}

// takeIdle leases an idle member of class, the most recently used one. Callers hold mu.
func (p *Pool[C, M]) takeIdle(class C) (m M, ok bool) {
	for i := len(p.idle) - 1; i >= 0; i-- {
		m := p.idle[i]
		place := p.members[m]
		if place.class != class {
			continue
		}
		p.idle = slices.Delete(p.idle, i, i+1)
		if isDone(m) {
			p.discard(m, place)
			continue
		}
		return m, true
	}
	return m, false
}

// start opens a member. Callers hold mu.
func (p *Pool[C, M]) start(class C) {
	p.places++
	p.opening[class]++
	p.tasks.Go(func() {
		m, err := p.open(p.ctx, class)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.opening[class]--; p.opening[class] == 0 {
			delete(p.opening, class)
		}
		if err != nil {
			p.places--
			p.fail(class, err)
			p.balance()
			return
		}
		place := &place[C]{class: class}
		p.members[m] = place
		if p.closed {
			p.discard(m, place)
			return
		}
		p.idle = append(p.idle, m)
		p.tasks.Go(func() { p.watch(m) })
		p.balance()
	})
}

// fail tells the first who waits for class that it can't be made. Callers hold mu.
func (p *Pool[C, M]) fail(class C, err error) {
	for i, w := range p.waiting {
		if w.class == class {
			p.waiting = slices.Delete(p.waiting, i, i+1)
			w.err = err
			close(w.ready)
			return
		}
	}
}

// watch discards an idle member that ended by itself.
func (p *Pool[C, M]) watch(m M) {
	select {
	case <-m.Done():
	case <-p.ctx.Done():
		return // Close stops every member
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, m); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.discard(m, p.members[m])
	}
}

// discard stops a member that is neither idle nor leased; its place is free afterwards. Callers hold mu.
func (p *Pool[C, M]) discard(m M, place *place[C]) {
	if place.stopping {
		return
	}
	place.stopping = true
	p.stopping++
	delete(p.unstopped, m)
	p.tasks.Go(func() {
		err := p.stop(m)
		for err != nil && p.ctx.Err() == nil {
			// It may still run, so its place is not free: try until it is, or until Close reports it.
			select {
			case <-time.After(stopAgain):
			case <-p.ctx.Done():
			}
			err = p.stop(m)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		place.stopping = false
		p.stopping--
		if err != nil {
			p.unstopped[m] = err // it may still run: its place is not free
			return
		}
		delete(p.members, m)
		p.places--
		p.balance()
	})
}

// Close refuses new leases, tells those who wait, ends what is being made, stops all members at the same time, leased
// ones too, and waits for all of it. The error joins what failed to stop; calling Close again tries that again.
func (p *Pool[C, M]) Close() error {
	p.closing.Lock()
	defer p.closing.Unlock()
	p.mu.Lock()
	p.closed = true
	p.cancel()
	for _, w := range p.waiting {
		w.err = ErrClosed
		close(w.ready)
	}
	p.waiting, p.idle = nil, nil
	for m, place := range p.members {
		p.discard(m, place)
	}
	p.mu.Unlock()
	p.tasks.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for m, err := range p.unstopped {
		errs = append(errs, fmt.Errorf("%v is left: %w", m, err))
	}
	return errors.Join(errs...)
}
