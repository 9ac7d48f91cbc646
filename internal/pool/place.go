package pool

import (
	"context"
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
	group *group[C, M]
	state state
	m     M
	slot  int // in the pool's places
	at    [placeIndexes]int

	running int
	ahead   []*Lease[C, M] // in the order in which they will run
	unsent  int            // leases whose holders have not given the member anything yet
	slow    bool           // leases ahead were sent back, and none that ran was released since
	uses    int

	suspects    int  // how many were, in a row
	quarantined bool // too many

	draining bool         // it gets no lease any more for the sake of others
	drained  time.Time    // when that began last
	heir     *group[C, M] // for which its place is being freed
	freeing  bool         // its place is being freed for whoever wants it

	spare  bool      // it was opened when nobody waited for it
	begun  time.Time // to be opened
	opened time.Time
	took   time.Duration // to be opened
	since  time.Time     // of the last change between busy, idle and stopping, or of the last check
	used   uint64        // orders those changes
	timer  *time.Timer   // ends it when it has been idle for too long, or is too old

	done chan struct{} // closed when it is no longer opening
	gone chan struct{} // closed when the place is free again
	err  error         // why it could not be stopped

	openErr error // why it could not be opened
}

// The indexes of members.
const (
	byFree = iota
	byRoom
	byAhead
	byLoad
	byIdle
	byKept
	placeIndexes
)

// leaving reports whether the member gets no lease any more. It is stopped when the ones that it has are given back. One that is too
// old leaves, too, but that comes by itself.
func (pl *place[C, M]) leaving() bool { return pl.draining || pl.quarantined || pl.usedUp() }

func (pl *place[C, M]) usedUp() bool {
	uses := pl.group.limits.Uses
	return uses > 0 && pl.uses >= uses
}

// tooOld is true of no member that was never used: it would have been made in vain.
func (pl *place[C, M]) tooOld() bool {
	age := pl.group.limits.Age
	return age > 0 && pl.uses > 0 && time.Since(pl.opened) >= age
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
		l.setRecall(nil)
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

// settle is called when a member may have become idle: it stops one that is used up or too old, and sets the time when it
// will be stopped otherwise. Callers hold mu.
func (p *Pool[C, M]) settle(place *place[C, M]) {
	if place.state != open || !place.empty() {
		return
	}
	place.since, place.used = time.Now(), p.tick()
	p.index(place)
	wait := time.Duration(-1)
	if age := place.group.limits.Age; age > 0 {
		wait = max(age-time.Since(place.opened), 0)
	}
	if idle := place.group.limits.Idle; idle > 0 && (wait < 0 || idle < wait) {
		wait = idle
	}
	switch {
	case place.draining && place.heir != nil:
		p.discard(place, &p.stats.MadeRoom)
	case place.draining:
		p.discard(place, &p.stats.Surplus)
	case place.quarantined:
		p.discard(place, &p.stats.Quarantined)
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
	g := place.group
	old := time.Since(place.opened)
	switch {
	case g.limits.Age > 0 && old >= g.limits.Age:
		p.discard(place, &p.stats.TooOld)
	case g.limits.Idle > 0 && time.Since(place.since) >= g.limits.Idle && g.holding() > g.minimum:
		p.discard(place, &p.stats.IdleTooLong)
	case g.limits.Age > 0: // it is kept as yet
		place.timer.Reset(g.limits.Age - old)
	}
}

// check asks an idle member whether it is still there. Callers hold mu.
func (p *Pool[C, M]) check(place *place[C, M]) {
	p.become(place, checking)
	p.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, checkTime)
		defer cancel()
		err := place.m.Check(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.become(place, open)
		if err != nil || p.closed || isDone(place.m) {
			p.discard(place, &p.stats.Lost)
		} else {
			place.since = time.Now()
		}
		p.balance(place.group)
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

// discard stops an open member, or what is left of one that could not be opened; its place is free afterwards. Its leases are of no use
// from now on. why counts, if it is not nil. Callers hold mu.
func (p *Pool[C, M]) discard(place *place[C, M], why *uint64) {
	p.drained(place)
	place.since = time.Now()
	place.freeing = place.heir == nil
	if place.freeing {
		p.freeing++
	}
	p.become(place, stopping)
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
			if place.err == nil {
				p.failing++
				p.unclaim(place) // nobody is to wait for this place alone
			}
			place.err = err
			p.balance(place.group)
			p.mu.Unlock()
			select {
			case <-time.After(stopAgain):
			case <-p.ctx.Done():
			}
			err = p.backend.Stop(place.m)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if place.err != nil {
			p.failing--
		}
		if place.err = err; err != nil {
			return // Close reports it
		}
		p.remove(place)
		p.balance(place.group)
	})
}

// unclaim ends what was expected of a place that is being freed.
func (p *Pool[C, M]) unclaim(place *place[C, M]) {
	if place.freeing {
		place.freeing = false
		p.freeing--
	}
	if heir := place.heir; heir != nil {
		place.heir = nil
		heir.heirs--
		p.reckon(heir)
		p.changed = append(p.changed, heir)
	}
}

func (p *Pool[C, M]) remove(gone *place[C, M]) {
	close(gone.gone)
	last := p.places[len(p.places)-1]
	p.places[gone.slot], last.slot = last, gone.slot
	p.places[len(p.places)-1] = nil
	p.places = p.places[:len(p.places)-1]
	p.tally(gone, -1)
	heir := gone.heir
	p.unclaim(gone)
	p.reckon(gone.group)
	if heir != nil && heir.need > 0 && p.startable() && !p.closed {
		p.start(heir, false)
	}
}
