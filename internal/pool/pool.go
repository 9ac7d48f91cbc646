// Package pool keeps warm members, sandboxes in practice, and leases places in them. Its audience is package sbx.
//
// Members belong to classes, which share one maximum. A member runs as many leases at a time as its class says. One is made
// when somebody waits for its class and there is room; where there is none, an idle member of another class makes room.
// Waiters are served in the order in which they came. A place is not used again before the member that had it has stopped.
//
// When every member is busy, who waits may be given a lease ahead: a place in a busy member's own queue, so that the next
// call is there already when the one before it ends. Such a lease binds nobody: when another member has nothing to do, it
// takes the lease over, and where none ever is, because others come, who has waited for long goes back to its place in the queue.
//
// Goroutines: one for every member that is being made, checked or stopped, and one for every member that watches for its
// end. [Pool.Close] waits for all of them.
package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// stopAgain is the time between two tries to stop a member.
	stopAgain = time.Second
	// stuckAfter is how long after the first try a member that does not stop is waited for.
	stuckAfter = 30 * time.Second
	// checkAfter is how long a member may be idle and still be leased without a check, and checkTime how long a check may take.
	checkAfter = time.Second
	checkTime  = 5 * time.Second
	// patience is how long a lease may be ahead while others wait in the queue.
	patience = time.Second
)

// ErrClosed is returned by Wait after Close began.
var ErrClosed = errors.New("pool closed")

// Member is what a pool keeps.
type Member interface {
	comparable
	// Done is closed when the member is of no use any more.
	Done() <-chan struct{}
	// Check returns an error if the member is of no use, although Done may not know.
	Check(ctx context.Context) error
	// Queues reports whether the member can take a lease ahead. It must not block.
	Queues() bool
}

// Limits are the bounds of a class.
type Limits struct {
	// Concurrency is how many leases run in a member at a time, at least 1.
	Concurrency int
	// Ahead is how many leases may wait in a busy member.
	Ahead int
	// Uses is after how many leases a member is stopped; 0 is never.
	Uses int
	// Age and Idle are how long a member may live, and be idle; 0 is for ever. A lease is not cut short.
	Age, Idle time.Duration
}

// Backend makes and ends members.
type Backend[C comparable, M Member] struct {
	// Open makes a member; its context ends with the pool. What it returns with an error is left of a member that could not be
	// made, and is to be stopped.
	Open func(ctx context.Context, class C) (M, error)
	// Stop ends one, within bounds of its own, and frees what it holds. It may be called again after it failed.
	Stop func(M) error
	// Limits are a class's.
	Limits func(C) Limits
}

// Pool is a set of members. Its methods may be called at the same time.
type Pool[C comparable, M Member] struct {
	maximum int
	backend Backend[C, M]

	ctx     context.Context // of everything that is opened
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	closing sync.Mutex // one Close at a time

	mu      sync.Mutex
	closed  bool
	places  []*place[C, M]  // all that are taken
	waiting []*waiter[C, M] // in the order in which they came
	came    uint64
	ahead   int        // leases
	looked  time.Time  // for leases ahead that have waited for long
	held    map[C]bool // classes of which none is opened for now
	missed  map[C]int  // how many could not be opened lately while others were being opened
	stats   Stats
}

// New returns a pool of at most maximum members.
func New[C comparable, M Member](maximum int, backend Backend[C, M]) *Pool[C, M] {
	p := &Pool[C, M]{maximum: maximum, backend: backend, held: map[C]bool{}, missed: map[C]int{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Count returns how many members there are, those that are being made or stopped included.
func (p *Pool[C, M]) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.places)
}

type waiter[C comparable, M Member] struct {
	class  C
	number uint64 // those that came later have higher ones
	ahead  bool   // it takes a lease ahead
	since  time.Time
	ready  chan struct{} // closed when it has what follows; nil until it has to wait
	lease  *Lease[C, M]
	err    error
}

// fail tells who waits that there is no lease. Callers hold the pool's mu.
func (w *waiter[C, M]) fail(err error) {
	w.err = err
	if w.ready != nil {
		close(w.ready)
	}
}

// A Turn is a place in the queue for a lease.
type Turn[C comparable, M Member] struct {
	pool *Pool[C, M]
	w    *waiter[C, M]
}

// Queue takes a place in the queue for a lease of class, behind all who came before. ahead says that a lease ahead will do.
// Whoever calls Queue calls Wait.
func (p *Pool[C, M]) Queue(class C, ahead bool) Turn[C, M] {
	return p.queue(&waiter[C, M]{class: class, ahead: ahead})
}

// Again is for who lost its lease and did nothing with it: in front of all who came later, and for a place that runs.
func (t Turn[C, M]) Again() Turn[C, M] {
	return t.pool.queue(&waiter[C, M]{class: t.w.class, number: t.w.number})
}

func (p *Pool[C, M]) queue(w *waiter[C, M]) Turn[C, M] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.err = ErrClosed
		return Turn[C, M]{p, w}
	}
	if w.number == 0 {
		p.came++
		w.number = p.came
		p.waiting = append(p.waiting, w)
	} else {
		at := slices.IndexFunc(p.waiting, func(other *waiter[C, M]) bool { return other.number > w.number })
		if at < 0 {
			at = len(p.waiting)
		}
		p.waiting = slices.Insert(p.waiting, at, w)
	}
	p.balance()
	if w.lease == nil {
		p.stats.Waits++
		w.since = time.Now()
		if w.err == nil {
			w.ready = make(chan struct{})
		}
	}
	return Turn[C, M]{p, w}
}

// Wait returns a lease. It waits for one until ctx ends. Give it back by Release.
func (t Turn[C, M]) Wait(ctx context.Context) (*Lease[C, M], error) {
	p, w := t.pool, t.w
	if w.ready == nil { // served at once
		if w.err != nil || ctx.Err() == nil {
			return w.lease, w.err
		}
		w.lease.Release(true)
		return nil, cmp.Or(context.Cause(ctx), context.Canceled)
	}
	if ctx.Err() == nil {
		select {
		case <-w.ready:
			return w.lease, w.err
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.balance() // who waited behind may be served now
	}
	p.mu.Unlock()
	select {
	case <-w.ready: // served at the same moment
		if w.err == nil {
			w.lease.Release(true)
		}
	default:
	}
	return nil, cmp.Or(context.Cause(ctx), context.Canceled)
}

// A Lease is a place in a member. Its methods may be called at the same time.
type Lease[C comparable, M Member] struct {
	pool    *Pool[C, M]
	place   *place[C, M]
	running chan struct{} // closed when the lease is no longer ahead
	moved   chan struct{} // closed when another member took the lease over, or it was sent back; nil if it never was ahead
	since   time.Time     // it is ahead

	// guarded by pool.mu
	ahead    bool
	until    time.Time // when it was no longer ahead; zero if it never was or is
	sentBack bool
	sent     bool
	recall   func() bool
	released bool
}

// Member is the lease's member. It changes when Moved closes, and never again.
func (l *Lease[C, M]) Member() M {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.place.m
}

// Running is closed when the lease is not, or no longer, ahead.
func (l *Lease[C, M]) Running() <-chan struct{} { return l.running }

// Moved is closed when another member has taken over a lease ahead, or it was sent back.
func (l *Lease[C, M]) Moved() <-chan struct{} { return l.moved }

// SentBack reports, once Moved is closed, whether the lease was taken from its holder, who is to wait again.
func (l *Lease[C, M]) SentBack() bool {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.sentBack
}

// Sent tells that the holder gave the member what it has to do; members take things in the order in which they get them, so
// no further lease ahead is given until then. While the lease is ahead another member may take it over: recall must take back
// what was given, and report whether it could. It must not block, or call the pool.
func (l *Lease[C, M]) Sent(recall func() bool) {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.released || l.sent {
		return
	}
	l.sent = true
	l.place.unsent--
	if l.ahead {
		l.recall = recall
	}
	p.balance()
}

// Release gives the lease back. If reuse is false, or the member is of no use any more, it is stopped, whoever else has a
// lease of it, and its place is free when it has stopped. Release does not wait; a second one does nothing.
func (l *Lease[C, M]) Release(reuse bool) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.release(reuse)
}

// Drop is Release(false), unless another member than m has the lease by now: then it does nothing and returns false.
func (l *Lease[C, M]) Drop(m M) bool {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.place.m != m {
		return false
	}
	l.release(false)
	return true
}

// release is for callers that hold mu.
func (l *Lease[C, M]) release(reuse bool) {
	p := l.pool
	if l.released {
		return
	}
	l.released = true
	place := l.place
	if !l.sent {
		place.unsent--
		place.uses-- // the member never heard of it
	}
	if l.ahead {
		place.dropAhead(l)
		p.ahead--
	} else {
		place.running--
		place.slow = false
	}
	if place.state != open || p.closed {
		return // it is on its way out
	}
	switch {
	case isDone(place.m):
		p.discard(place, &p.stats.Lost)
		return
	case !reuse:
		p.discard(place, &p.stats.Discarded)
		return
	}
	for place.running < place.limits.Concurrency && len(place.ahead) > 0 {
		p.run(place.ahead[0], place)
	}
	p.settle(place)
	p.balance()
}

// run ends a lease's being ahead, in place. Callers hold mu.
func (p *Pool[C, M]) run(l *Lease[C, M], in *place[C, M]) {
	l.place.dropAhead(l)
	p.ahead--
	l.ahead, l.until = false, time.Now()
	in.running++
	if in != l.place {
		l.sent = false
		in.unsent++
		l.place.uses--
		in.uses++
		l.place = in
		close(l.moved)
	}
	close(l.running)
}

func isDone[M Member](m M) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}

// always is closed.
var always = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// balance serves who waits, in order, and then members that have nothing to do. Callers hold mu.
func (p *Pool[C, M]) balance() {
	if p.closed {
		return
	}
	for _, place := range p.places {
		place.draining = false // unless somebody still waits for it
	}
	if len(p.waiting) > 0 {
		p.serve()
	}
	if p.ahead > 0 {
		p.takeOver()
	}
	if p.ahead > 0 && len(p.waiting) > 0 {
		p.sendBack()
	}
}

// serve goes through those who wait: each gets a place that runs, or one that is on its way, or a lease ahead.
func (p *Pool[C, M]) serve() {
	if err := p.stuck(); err != nil {
		for _, w := range p.waiting {
			w.fail(err)
		}
		p.waiting = nil
		return
	}
	coming := map[C]int{} // places that will run
	freeing := 0          // places that are about to be free
	for _, place := range p.places {
		switch place.state {
		case opening, checking:
			coming[place.class] += place.limits.Concurrency
		case stopping:
			if place.err == nil { // else it may never stop
				freeing++
			}
		}
	}
	served := func(w *waiter[C, M], l *Lease[C, M]) {
		w.lease = l
		p.stats.Leases++
		if !w.since.IsZero() {
			p.stats.WaitTime += time.Since(w.since)
			close(w.ready)
		}
	}
	kept := p.waiting[:0]
	queues := true // nobody who came before waits for a place that nothing is about to free
	for i, w := range p.waiting {
		if l := p.lease(w.class, coming, &freeing); l != nil {
			served(w, l)
			continue
		}
		held := p.held[w.class] // it waits for one that there is
		switch {
		case coming[w.class] > 0:
			coming[w.class]--
		case !held && len(p.places) < p.maximum:
			coming[w.class] += p.start(w.class).limits.Concurrency - 1
		case !held && freeing > 0:
			freeing--
		case !held && p.makeRoom(w.class):
		case !held && p.drain(w.class):
			queues = false
		default:
			var l *Lease[C, M]
			if queues && w.ahead {
				l = p.leaseAhead(w.class)
			}
			if l != nil {
				served(w, l)
				continue
			}
			queues = false
			if !p.idle() && len(p.places) == p.maximum { // else there is room, which this class can't use
				kept = append(kept, p.waiting[i:]...) // there is nothing to give
				clear(p.waiting[len(kept):])
				p.waiting = kept
				return
			}
		}
		kept = append(kept, w)
	}
	clear(p.waiting[len(kept):])
	p.waiting = kept
}

// stuck is an error if no place will be free as far as anybody knows: all are taken by members that can't be stopped.
func (p *Pool[C, M]) stuck() error {
	if len(p.places) < p.maximum {
		return nil
	}
	for _, place := range p.places {
		if place.state != stopping || place.err == nil || time.Since(place.since) < stuckAfter {
			return nil
		}
	}
	return fmt.Errorf("there is room for %d, taken by what can't be stopped: %v: %w", p.maximum, p.places[0].m, p.places[0].err)
}

// idle reports whether any member could run another lease.
func (p *Pool[C, M]) idle() bool {
	return slices.ContainsFunc(p.places, func(place *place[C, M]) bool { return place.free() > 0 })
}

// lease returns a lease that runs in a member of class, nil if none has a place: the least busy one, and of those the one
// that was used last. A member that was idle for long is checked first, and counts as coming until then; the place of one that
// has ended counts as freeing.
func (p *Pool[C, M]) lease(class C, coming map[C]int, freeing *int) *Lease[C, M] {
	for {
		var best *place[C, M]
		for _, place := range p.places {
			if place.class != class || place.free() == 0 {
				continue
			}
			if best == nil || place.running < best.running || place.running == best.running && place.since.After(best.since) {
				best = place
			}
		}
		switch {
		case best == nil:
			return nil
		case isDone(best.m):
			p.discard(best, &p.stats.Lost)
			*freeing++
		case best.running == 0 && time.Since(best.since) >= checkAfter:
			p.check(best)
			coming[class] += best.limits.Concurrency
			return nil
		default:
			best.running++
			best.use()
			best.unsent++
			return &Lease[C, M]{pool: p, place: best, running: always}
		}
	}
}

// leaseAhead returns a lease that waits in the busy member of class that has the fewest of them; nil if none takes one.
func (p *Pool[C, M]) leaseAhead(class C) *Lease[C, M] {
	var best *place[C, M]
	for _, place := range p.places {
		if place.class == class && place.room() > 0 && place.unsent == 0 && (best == nil || len(place.ahead) < len(best.ahead)) && place.m.Queues() {
			best = place
		}
	}
	if best == nil {
		return nil
	}
	l := &Lease[C, M]{pool: p, place: best, ahead: true, since: time.Now(), running: make(chan struct{}), moved: make(chan struct{})}
	best.ahead = append(best.ahead, l)
	best.use()
	best.unsent++
	p.ahead++
	return l
}

// makeRoom stops an idle member of another class, the one that was not used for the longest time.
func (p *Pool[C, M]) makeRoom(class C) bool {
	var best *place[C, M]
	for _, place := range p.places {
		if place.class != class && place.state == open && place.empty() && (best == nil || place.since.Before(best.since)) {
			best = place
		}
	}
	if best == nil {
		return false
	}
	p.discard(best, &p.stats.MadeRoom)
	return true
}

// drain keeps new leases from a member of another class that runs several at a time, the least busy one: their lives overlap, so
// it might never have nothing to do. A member that runs one at a time is free by itself when that is done.
func (p *Pool[C, M]) drain(class C) bool {
	var best *place[C, M]
	for _, place := range p.places {
		switch {
		case place.class == class || place.state != open || place.draining || place.limits.Concurrency == 1:
		case best == nil || place.running+len(place.ahead) < best.running+len(best.ahead):
			best = place
		}
	}
	if best == nil {
		return false
	}
	best.draining = true
	return true
}

// takeOver gives leases ahead of busy members to those that have nothing to do.
func (p *Pool[C, M]) takeOver() {
	for _, to := range p.places {
		for to.free() > 0 && !isDone(to.m) {
			l := p.recallFor(to)
			if l == nil {
				break
			}
			p.run(l, to)
			p.stats.TakenOver++
		}
	}
}

// sendBack takes leases ahead back that have waited for long: those who came later have been served meanwhile, and would be as long as there are any.
// Their holders wait in the queue again, in front of these. Callers hold mu.
func (p *Pool[C, M]) sendBack() {
	now := time.Now()
	if now.Sub(p.looked) < patience/4 {
		return
	}
	p.looked = now
	for _, place := range p.places {
		for _, l := range slices.Clone(place.ahead) {
			recall := l.recall
			if recall == nil || now.Sub(l.since) < patience {
				continue
			}
			if l.recall = nil; !recall() {
				continue
			}
			place.dropAhead(l)
			place.uses--
			p.ahead--
			place.slow = true
			p.stats.TakenOver++
			l.released, l.sentBack = true, true
			close(l.moved)
		}
	}
}

// recallFor takes a lease ahead from the busiest other member of the same class.
func (p *Pool[C, M]) recallFor(to *place[C, M]) *Lease[C, M] {
	for {
		var from *place[C, M]
		for _, place := range p.places {
			if place != to && place.class == to.class && place.recallable() != nil && (from == nil || len(place.ahead) > len(from.ahead)) {
				from = place
			}
		}
		if from == nil {
			return nil
		}
		l := from.recallable()
		recall := l.recall
		l.recall = nil
		if recall() {
			return l
		}
	}
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
		w.fail(ErrClosed)
	}
	p.waiting = nil
	for _, place := range slices.Clone(p.places) {
		if place.state == open {
			p.discard(place, nil)
		}
	}
	p.mu.Unlock()
	p.tasks.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, place := range p.places {
		errs = append(errs, fmt.Errorf("%v is left: %w", place.m, place.err))
		place.state = open // so that the next Close tries again
	}
	return errors.Join(errs...)
}
