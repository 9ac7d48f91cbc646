package pool

import (
	"cmp"
	"context"
	"time"
)

type waiter[C comparable, M Member] struct {
	group *group[C, M]
	flow  any
	at    int
	ahead bool // it takes a lease ahead

	// Those who lost their leases keep what follows.
	round  uint64 // its turn among the flows
	came   uint64 // its turn in that
	queued time.Time

	since time.Time
	ready chan struct{} // closed when it has what follows; nil until it has to wait
	lease *Lease[C, M]
	err   error
}

func (w *waiter[C, M]) before(other *waiter[C, M]) bool {
	return w.round < other.round || w.round == other.round && w.came < other.came
}

// A Turn is a place in the queue for a lease.
type Turn[C comparable, M Member] struct {
	pool *Pool[C, M]
	w    *waiter[C, M]
}

// Queue takes a place in the queue for a lease of class. The flows of a class take turns, and within flow, which any comparable value may stand
// for, those who came first are served first. ahead says that a lease ahead will do. Whoever calls Queue calls Wait.
func (p *Pool[C, M]) Queue(class C, flow any, ahead bool) Turn[C, M] {
	return p.queue(class, &waiter[C, M]{flow: flow, ahead: ahead})
}

// Again is for who lost its lease and did nothing with it: in front of all whose turn was later, and for a place that runs.
func (t Turn[C, M]) Again() Turn[C, M] {
	w := t.w
	if w.group == nil { // it came when the pool was closed
		return t
	}
	return t.pool.queue(w.group.class, &waiter[C, M]{group: w.group, flow: w.flow, round: w.round, came: w.came, queued: w.queued})
}

func (p *Pool[C, M]) queue(class C, w *waiter[C, M]) Turn[C, M] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.err = ErrClosed
		return Turn[C, M]{p, w}
	}
	g := p.group(class)
	if w.came == 0 {
		w.came, w.queued = p.tick(), time.Now()
	} else if w.group != g { // which has begun anew
		w.round = g.round
	}
	w.group = g
	g.enter(w)
	p.reckon(w.group)
	p.balance(w.group)
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
	w := t.w
	if w.ready == nil { // served at once
		if w.err != nil || ctx.Err() == nil {
			return w.lease, w.err
		}
	} else if ctx.Err() == nil {
		select {
		case <-w.ready:
			return w.lease, w.err
		case <-ctx.Done():
		}
	}
	t.Leave()
	return nil, cmp.Or(context.Cause(ctx), context.Canceled)
}

// Leave gives the place in the queue back, or the lease if there is one by now and it was not given back. It is for those who do not come
// to use a lease, because their context panics.
func (t Turn[C, M]) Leave() {
	p, w := t.pool, t.w
	if w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case w.at > 0:
		w.group.leave(w)
		p.reckon(w.group)
		p.balance(w.group) // who waited behind may be served now
	case w.lease != nil: // served at the same moment
		w.lease.release(true)
	}
}

// flow is one of those that share a class's members in turns.
type flow struct {
	last    uint64 // the round of the one that came last
	waiting int
}

// enter queues w. Each in a flow has a round behind the one before it, and behind what is served now: so a flow that has waited for
// nothing until now is not behind one that has thousands who wait.
func (g *group[C, M]) enter(w *waiter[C, M]) {
	f := g.flows[w.flow]
	if f == nil {
		f = &flow{}
		g.flows[w.flow] = f
	}
	if w.round == 0 {
		w.round = max(g.round, f.last) + 1
	}
	f.last = max(f.last, w.round)
	f.waiting++
	g.waiting.set(w, true)
}

// leave takes w out of the queue.
func (g *group[C, M]) leave(w *waiter[C, M]) {
	g.waiting.set(w, false)
	if f := g.flows[w.flow]; f.waiting > 1 {
		f.waiting--
	} else {
		delete(g.flows, w.flow)
	}
}

// serve gives the first who waits its lease. Callers hold mu.
func (p *Pool[C, M]) serve(g *group[C, M], l *Lease[C, M]) {
	w := g.waiting.first()
	g.leave(w)
	g.round = max(g.round, w.round)
	w.lease = l
	p.stats.Leases++
	if !w.since.IsZero() {
		p.stats.WaitTime += time.Since(w.since)
		close(w.ready)
	}
}

// fail tells the first who waits that there is no lease. Callers hold mu.
func (p *Pool[C, M]) fail(g *group[C, M], err error) {
	w := g.waiting.first()
	if w == nil {
		return
	}
	g.leave(w)
	w.err = err
	if w.ready != nil {
		close(w.ready)
	}
}

func (p *Pool[C, M]) failAll(g *group[C, M], err error) {
	for g.waiting.len() > 0 {
		p.fail(g, err)
	}
	p.reckon(g)
}
