package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// holdAfter is how long a class is served by the members that there are, after one more could not be opened. It doubles with each failure
	// that follows, up to maxHold; a random part of it, less than a half, is left out.
	holdAfter = time.Second
	maxHold   = 30 * time.Second
)

var errGoexit = errors.New("what makes a sandbox called runtime.Goexit")

// start opens a member. spare says that nobody waits for it. Callers hold mu.
func (p *Pool[C, M]) start(g *group[C, M], spare bool) *place[C, M] {
	place := &place[C, M]{
		group: g, slot: len(p.places), spare: spare, begun: time.Now(),
		done: make(chan struct{}), gone: make(chan struct{}),
	}
	p.places = append(p.places, place)
	p.tally(place, 1)
	p.reckon(g)
	p.tasks.Go(func() {
		var m M
		err := errGoexit
		defer func() {
			if p.started(place, m, err) && p.backend.Failed != nil {
				p.backend.Failed(g.class, err)
			}
		}()
		m, err = p.backend.Open(p.ctx, g.class)
	})
	return place
}

// started takes what came of a start. It reports whether to tell of a failure.
func (p *Pool[C, M]) started(place *place[C, M], m M, err error) (tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(place.done)
	g := place.group
	if err != nil {
		return p.notStarted(place, m, err)
	}
	p.stats.Opened++
	place.m, place.opened = m, time.Now()
	place.took = place.opened.Sub(place.begun)
	g.missed, g.told = 0, false
	if !place.begun.Before(g.heldSince) {
		p.unhold(g)
	}
	place.since, place.used = place.opened, p.tick()
	p.become(place, open)
	if p.closed {
		p.discard(place, nil)
		return false
	}
	p.tasks.Go(func() { p.watch(place) })
	p.balance(g)
	p.settle(place)
	return false
}

func (p *Pool[C, M]) notStarted(place *place[C, M], m M, err error) (tell bool) {
	g := place.group
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
	case place.spare:
		p.hold(g)
		tell = !g.told && !p.closed
		g.told = true
	case g.count[open]+g.count[checking] > 0:
		p.hold(g)
	case g.count[opening] > 0: // the others may be luckier
		g.missed++
		p.hold(g)
	default:
		for range 1 + g.missed {
			p.fail(g, err)
		}
		g.missed = 0
		p.unhold(g)
	}
	p.balance(g)
	return tell
}

// hold has those who wait be served by the members that there are, and opens no more for a while: what is short, a
// quota or descriptors, is so for the next one, too. Callers hold mu.
func (p *Pool[C, M]) hold(g *group[C, M]) {
	if g.hold != nil || p.closed {
		return
	}
	wait := maxHold
	if g.failures < 5 {
		wait = min(holdAfter<<g.failures, maxHold)
	}
	g.failures++
	g.heldSince = time.Now()
	g.hold = time.AfterFunc(wait-rand.N(wait/2), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		g.hold = nil
		p.reckon(g)
		p.balance(g)
	})
	p.reckon(g)
}

// unhold ends that. Callers hold mu.
func (p *Pool[C, M]) unhold(g *group[C, M]) {
	g.failures = 0
	if g.hold != nil {
		g.hold.Stop()
		g.hold = nil
	}
	p.reckon(g)
}

// Prewarm makes members of class until there are n, and waits until they are there, or for ctx's end, whose error it returns then. What is being made goes
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
			return cmp.Or(ctx.Err(), context.Canceled)
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
		errs = append(errs, fmt.Errorf("there is room for %d of %d, since sandboxes of other kinds keep their places; allow more by sbx.MaxSandboxes", n-short, n))
	}
	return errors.Join(errs...)
}

// prewarm begins what Prewarm waits for, as fast as members may be started, and returns how many there is no room for.
func (p *Pool[C, M]) prewarm(ctx context.Context, class C, n int) (coming []*place[C, M], short int, err error) {
	var began []*place[C, M]
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, 0, ErrClosed
		}
		g := p.group(class)
		coming = coming[:0]
		for _, place := range began { // one that failed, or has ended since, is not made again: others might end before the last is there
			if place.openErr != nil || place.state == stopping && p.room() > 0 {
				coming = append(coming, place)
			}
		}
		var leaving, starting <-chan struct{}
		for _, place := range p.places {
			switch {
			case place.state == stopping && place.err == nil:
				leaving = place.gone
			case place.state == opening:
				starting = place.done
			}
			if place.state != stopping && place.group == g {
				coming = append(coming, place)
			}
		}
		for len(coming) < n && p.startable() {
			place := p.start(g, false)
			starting = place.done
			began, coming = append(began, place), append(coming, place)
		}
		next := leaving
		if p.room() > 0 {
			next = starting
		}
		p.forget(g)
		p.mu.Unlock()
		short = max(n-len(coming), 0)
		if short == 0 || next == nil {
			return coming, short, nil
		}
		select {
		case <-next:
		case <-time.After(stopAgain): // it may not stop
		case <-ctx.Done():
			return nil, 0, cmp.Or(ctx.Err(), context.Canceled)
		}
	}
}
