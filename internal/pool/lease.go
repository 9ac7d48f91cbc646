package pool

import (
	"sync/atomic"
	"time"
)

// A Lease is a place in a member. Its methods may be called at the same time.
type Lease[C comparable, M Member] struct {
	pool    *Pool[C, M]
	place   *place[C, M]
	running chan struct{} // closed when the lease is no longer ahead
	moved   chan struct{} // closed when another member took the lease over, or it was sent back; nil if it never was ahead
	since   time.Time     // it is ahead

	sent atomic.Bool // written under pool.mu

	// guarded by pool.mu
	ahead    bool
	until    time.Time // when it was no longer ahead; zero if it never was or is
	sentBack bool
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
	if l.sent.Load() {
		return // without the lock: holders say it again, when it is all the same
	}
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.released || l.sent.Load() {
		return
	}
	l.sent.Store(true)
	l.place.unsent--
	if l.ahead {
		l.setRecall(recall)
	}
	p.index(l.place)
	p.balance(l.place.group)
}

func (l *Lease[C, M]) setRecall(recall func() bool) {
	if l.recall != nil {
		l.place.group.movable--
	}
	if l.recall = recall; recall != nil {
		l.place.group.movable++
	}
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

// maxSuspect is how many suspicious leases in a row a member is trusted with: one may be the lease's own fault, and of two the input's.
const maxSuspect = 3

// ReleaseSuspect is Release(true) of a lease for which the member may be the reason that nothing came of it. A member of which that is said
// of several leases in a row gets no more of them, but for those that wait in it, and is replaced.
func (l *Lease[C, M]) ReleaseSuspect() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if place := l.place; !l.released && !l.ahead && !place.group.limits.Own {
		if place.suspects++; place.suspects >= maxSuspect {
			place.quarantined = true
		}
		defer func(n int) { place.suspects = n }(place.suspects) // release takes it for one that came to something
	}
	l.release(true)
}

// release is for callers that hold mu.
func (l *Lease[C, M]) release(reuse bool) {
	p := l.pool
	if l.released {
		return
	}
	l.released = true
	place := l.place
	if !l.sent.Load() {
		place.unsent--
		place.uses-- // the member never heard of it
	}
	if l.ahead {
		place.dropAhead(l)
		place.group.ahead--
	} else {
		place.running--
		place.slow = false
		place.suspects = 0
		place.group.running--
	}
	if place.state != open || p.closed {
		p.index(place)
		p.balance(place.group) // others may be served by what was to be freed for its group
		return                 // it is on its way out
	}
	switch {
	case isDone(place.m):
		p.discard(place, &p.stats.Lost)
	case !reuse:
		p.discard(place, &p.stats.Discarded)
	default:
		for place.running < place.group.limits.Concurrency && len(place.ahead) > 0 {
			p.run(place.ahead[0], place)
		}
		p.index(place)
		p.settle(place)
	}
	p.balance(place.group)
}

// run ends a lease's being ahead, in place. Callers index that.
func (p *Pool[C, M]) run(l *Lease[C, M], in *place[C, M]) {
	l.place.dropAhead(l)
	in.group.ahead--
	l.ahead, l.until = false, time.Now()
	in.running++
	in.group.running++
	if from := l.place; in != from {
		l.sent.Store(false)
		in.unsent++
		from.uses--
		in.use()
		l.place = in
		p.index(from)
		close(l.moved)
	}
	close(l.running)
}

// always is closed.
var always = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
