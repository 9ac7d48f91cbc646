package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

type state int

const (
	opening state = iota
	open
	checking // it was idle for long, and is asked whether it is still there
	stopping
)

// place is a member's, from before there is one until it has stopped. All of it is guarded by the pool's mu.
type place[C comparable, M Member] struct {
	class  C
	limits Limits
	state  state
	m      M

	running int
	ahead   []*Lease[C, M] // in the order in which they will run
	unsent  int            // leases whose holders have not given the member anything yet
	slow    bool           // leases ahead were sent back, and none that ran was released since
	uses    int
	// draining says that somebody of another class waits for the place.
	draining bool
	opened   time.Time
	since    time.Time   // of the last change between opening, busy, idle and stopping, or of the last check
	timer    *time.Timer // ends it when it has been idle for too long, or is too old

	done chan struct{} // closed when it is no longer opening
	gone chan struct{} // closed when the place is free again
	err  error         // why it could not be stopped

	openErr error // why it could not be opened
}

// free is how many more leases can run.
func (pl *place[C, M]) free() int {
	if pl.state != open || pl.retired() {
		return 0
	}
	return pl.limits.Concurrency - pl.running
}

// room is how many more leases can wait.
func (pl *place[C, M]) room() int {
	if pl.state != open || pl.slow || pl.retired() {
		return 0
	}
	return pl.limits.Ahead - len(pl.ahead)
}

// retired reports whether the member gets no lease any more. It is stopped when the ones that it has are given back.
func (pl *place[C, M]) retired() bool { return pl.draining || pl.usedUp() || pl.tooOld() }

func (pl *place[C, M]) usedUp() bool { return pl.limits.Uses > 0 && pl.uses >= pl.limits.Uses }

// tooOld is true of no member that was never used: it would have been made in vain.
func (pl *place[C, M]) tooOld() bool {
	return pl.limits.Age > 0 && pl.uses > 0 && time.Since(pl.opened) >= pl.limits.Age
}

func (pl *place[C, M]) empty() bool { return pl.running == 0 && len(pl.ahead) == 0 }

// use counts a new lease.
func (pl *place[C, M]) use() {
	pl.uses++
	if pl.timer != nil {
		pl.timer.Stop()
	}
}

func (pl *place[C, M]) dropAhead(l *Lease[C, M]) {
	if i := slices.Index(pl.ahead, l); i >= 0 {
		pl.ahead = slices.Delete(pl.ahead, i, i+1)
	}
}

// recallable is the lease ahead that would run next of those that can be taken back.
func (pl *place[C, M]) recallable() *Lease[C, M] {
	for _, l := range pl.ahead {
		if l.recall != nil {
			return l
		}
	}
	return nil
}

// start opens a member. Callers hold mu.
func (p *Pool[C, M]) start(class C) *place[C, M] {
	place := &place[C, M]{class: class, limits: p.backend.Limits(class), since: time.Now(), done: make(chan struct{}), gone: make(chan struct{})}
	p.places = append(p.places, place)
	p.tasks.Go(func() {
		var m M
		err := errGoexit
		defer func() { p.started(place, m, err) }()
		m, err = p.backend.Open(p.ctx, class)
	})
	return place
}

var errGoexit = errors.New("what makes a sandbox called runtime.Goexit")

// started takes what came of a start.
func (p *Pool[C, M]) started(place *place[C, M], m M, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(place.done)
	if err != nil {
		place.openErr = err
		p.stats.OpenFailed++
		var none M
		if m == none {
			p.remove(place)
		} else { // something of it is left
			place.m = m
			p.discard(place, nil)
		}
		switch {
		case p.has(place.class):
			p.hold(place.class)
		case p.coming(place.class): // the others may be luckier
			p.missed[place.class]++
			p.hold(place.class)
		default:
			for range 1 + p.missed[place.class] {
				p.fail(place.class, err)
			}
			delete(p.missed, place.class)
			delete(p.held, place.class)
		}
		p.balance()
		return
	}
	p.stats.Opened++
	delete(p.missed, place.class)
	place.m, place.state, place.opened, place.since = m, open, time.Now(), time.Now()
	if p.closed {
		p.discard(place, nil)
		return
	}
	p.tasks.Go(func() { p.watch(place) })
	p.balance()
	p.settle(place)
}

// has reports whether there is a member of class. Callers hold mu.
func (p *Pool[C, M]) has(class C) bool {
	return slices.ContainsFunc(p.places, func(place *place[C, M]) bool {
		return place.class == class && (place.state == open || place.state == checking)
	})
}

// coming reports whether a member of class is being opened. Callers hold mu.
func (p *Pool[C, M]) coming(class C) bool {
	return slices.ContainsFunc(p.places, func(place *place[C, M]) bool { return place.class == class && place.state == opening })
}

// openAgain is how long a class is served by the members that there are, after one more could not be opened.
const openAgain = time.Second

// hold has those who wait for class be served by the members that there are, and opens no more for a while: what is short, a
// quota or descriptors, is so for the next one, too. Callers hold mu.
func (p *Pool[C, M]) hold(class C) {
	if p.held[class] {
		return
	}
	p.held[class] = true
	p.tasks.Go(func() {
		timer := time.NewTimer(openAgain)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.ctx.Done():
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.held, class)
		p.balance()
	})
}

// fail tells the first who waits for class that it can't be made. Callers hold mu.
func (p *Pool[C, M]) fail(class C, err error) {
	for i, w := range p.waiting {
		if w.class == class {
			p.waiting = slices.Delete(p.waiting, i, i+1)
			w.fail(err)
			return
		}
	}
}

// settle is called when a member may have become idle: it stops one that is used up or too old, and sets the time when it
// will be stopped otherwise. Callers hold mu.
func (p *Pool[C, M]) settle(place *place[C, M]) {
	if place.state != open || !place.empty() {
		return
	}
	place.since = time.Now()
	wait := time.Duration(-1)
	if age := place.limits.Age; age > 0 {
		wait = max(age-time.Since(place.opened), 0)
	}
	if idle := place.limits.Idle; idle > 0 && (wait < 0 || idle < wait) {
		wait = idle
	}
	switch {
	case place.usedUp():
		p.discard(place, &p.stats.UsedUp)
	case place.tooOld():
		p.discard(place, &p.stats.TooOld)
	case wait < 0:
	case place.timer == nil:
		place.timer = time.AfterFunc(wait, func() { p.expire(place) })
	default:
		place.timer.Reset(wait)
	}
}

// expire stops a member that has been idle for too long or is too old, unless it was leased in this moment.
func (p *Pool[C, M]) expire(place *place[C, M]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || place.state != open || !place.empty() {
		return
	}
	switch {
	case place.limits.Age > 0 && time.Since(place.opened) >= place.limits.Age:
		p.discard(place, &p.stats.TooOld)
	case place.limits.Idle > 0 && time.Since(place.since) >= place.limits.Idle:
		p.discard(place, &p.stats.IdleTooLong)
	}
}

// check asks an idle member whether it is still there. Callers hold mu.
func (p *Pool[C, M]) check(place *place[C, M]) {
	place.state = checking
	p.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, checkTime)
		defer cancel()
		err := place.m.Check(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		place.state = open
		if err != nil || p.closed || isDone(place.m) {
			p.discard(place, &p.stats.Lost)
			return
		}
		place.since = time.Now()
		p.balance()
		p.settle(place)
	})
}

// watch discards an idle member that ended by itself.
func (p *Pool[C, M]) watch(place *place[C, M]) {
	select {
	case <-place.m.Done():
	case <-p.ctx.Done():
		return // Close stops every member
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if place.state == open && place.empty() {
		p.discard(place, &p.stats.Lost)
	}
}

// discard stops an open member; its place is free afterwards. Its leases are of no use from now on. why counts, if it is not
// nil. Callers hold mu.
func (p *Pool[C, M]) discard(place *place[C, M], why *uint64) {
	place.state, place.since = stopping, time.Now()
	if place.timer != nil {
		place.timer.Stop()
	}
	if why != nil {
		*why++
	}
	p.tasks.Go(func() {
		err := p.backend.Stop(place.m)
		for err != nil && p.ctx.Err() == nil {
			// It may still run, so its place is not free: try until it is, or until Close reports it.
			p.mu.Lock()
			place.err = err
			p.balance() // nobody is to wait for this place alone
			p.mu.Unlock()
			select {
			case <-time.After(stopAgain):
			case <-p.ctx.Done():
			}
			err = p.backend.Stop(place.m)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if place.err = err; err != nil {
			return // Close reports it
		}
		p.remove(place)
		p.balance()
	})
}

func (p *Pool[C, M]) remove(gone *place[C, M]) {
	close(gone.gone)
	p.places = slices.DeleteFunc(p.places, func(place *place[C, M]) bool { return place == gone })
}

// Prewarm makes members of class until there are n, and waits until they are there or ctx ends. What is being made then goes
// on. It waits for members that are stopping, and makes no room by stopping others.
func (p *Pool[C, M]) Prewarm(ctx context.Context, class C, n int) error {
	coming, short, err := p.prewarm(ctx, class, n)
	if err != nil {
		return err
	}
	var errs []error
	for _, place := range coming {
		select {
		case <-place.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	for _, place := range coming {
		if place.openErr != nil {
			errs = append(errs, place.openErr)
		}
	}
	if short > 0 {
		errs = append(errs, fmt.Errorf("there is room for %d of %d", n-short, n))
	}
	return errors.Join(errs...)
}

// prewarm begins what Prewarm waits for, and returns how many there is no room for.
func (p *Pool[C, M]) prewarm(ctx context.Context, class C, n int) (coming []*place[C, M], short int, err error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, 0, ErrClosed
		}
		var leaving *place[C, M]
		coming = coming[:0]
		for _, place := range p.places {
			switch {
			case place.state == stopping && place.err == nil:
				leaving = place
			case place.state != stopping && place.class == class:
				coming = append(coming, place)
			}
		}
		for len(coming) < n && len(p.places) < p.maximum {
			coming = append(coming, p.start(class))
		}
		p.mu.Unlock()
		short = max(n-len(coming), 0)
		if short == 0 || leaving == nil {
			return coming, short, nil
		}
		select {
		case <-leaving.gone:
		case <-time.After(stopAgain): // it may not stop
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}
