package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// worthStarts is how many times as long as its start took a member serves before it makes room for another class although its own has
// work for it: so restarts take at most about a tenth of the time, however many classes want a place.
const worthStarts = 10

// balance serves who waits for g, has members opened and make room, and gives members that have nothing to do what waits elsewhere.
// Callers hold mu.
func (p *Pool[C, M]) balance(g *group[C, M]) {
	if p.closed {
		return
	}
	if err := p.stuck(); err != nil {
		for _, g := range p.groups {
			p.failAll(g, err)
		}
		return
	}
	p.shrink()
	p.changed = append(p.changed, g)
	for len(p.changed) > 0 {
		last := len(p.changed) - 1
		g := p.changed[last]
		p.changed = p.changed[:last]
		p.lease(g)
		p.share()
		p.leaseAhead(g)
		p.takeOver(g)
		p.sendBack()
		p.forget(g)
	}
	p.keepReady()
}

// stuck is an error if no place will be free as far as anybody knows: all are taken by members that can't be stopped.
func (p *Pool[C, M]) stuck() error {
	if len(p.places) < p.maximum || p.failing < len(p.places) {
		return nil
	}
	for _, place := range p.places {
		if time.Since(place.since) < stuckAfter {
			return nil
		}
	}
	return fmt.Errorf("there is room for %d, taken by what can't be stopped: %v: %w", p.maximum, p.places[0].m, p.places[0].err)
}

// room is how many members there may be beside those that there are.
func (p *Pool[C, M]) room() int { return max(p.maximum-len(p.places), 0) }

// startable reports whether a member may be opened now.
func (p *Pool[C, M]) startable() bool {
	return p.room() > 0 && (p.backend.StartsAtOnce == 0 || p.count[opening] < p.backend.StartsAtOnce)
}

// excess is how many members there are too many, beside those that are about to end.
func (p *Pool[C, M]) excess() int {
	return len(p.places) - p.count[stopping] - len(p.shrinks) - p.maximum
}

// shrink ends members if there are too many. A member that runs one lease at a time is free by itself when that is done; the leases of others
// overlap, so that they might never have nothing to do.
func (p *Pool[C, M]) shrink() {
	for p.excess() < 0 && len(p.shrinks) > 0 { // others have ended meanwhile, or there may be more again
		p.undrain(p.shrinks[len(p.shrinks)-1])
	}
	for p.excess() > 0 {
		place := p.idle.first()
		if place == nil {
			place = p.kept.first()
		}
		if place != nil {
			p.discard(place, &p.stats.Surplus)
			continue
		}
		g := p.several.first()
		if g == nil {
			return
		}
		p.drain(g.load.first(), nil)
	}
}

// vacant is the member of g for the next lease that runs: the least busy one, and of those the one that was used last; nil if there is
// none. It stops those on its way that are of no use, or on whose place others have a claim.
func (p *Pool[C, M]) vacant(g *group[C, M]) *place[C, M] {
	for {
		place := g.free.first()
		switch {
		case place == nil:
			return nil
		case isDone(place.m):
			p.discard(place, &p.stats.Lost)
		case place.tooOld() && place.empty():
			p.discard(place, &p.stats.TooOld)
		case place.tooOld():
			g.free.set(place, false)
		default:
			heir := (*group[C, M])(nil)
			if place.empty() {
				heir = p.claim(place)
			}
			if heir == nil {
				return place
			}
			p.makeRoom(place, heir)
		}
	}
}

// lease gives those who wait leases that run. A member that was idle for long is checked first, and counts as coming until then.
func (p *Pool[C, M]) lease(g *group[C, M]) {
	for g.waiting.len() > 0 {
		place := p.vacant(g)
		switch {
		case place == nil:
			return
		case place.running == 0 && !g.limits.Own && time.Since(place.since) >= checkAfter:
			if g.waiting.len() <= g.limits.Concurrency*g.count[checking] {
				return
			}
			p.check(place)
		default:
			p.serve(g, &Lease[C, M]{pool: p, place: place, running: always})
			place.running++
			g.running++
			place.unsent++
			place.use()
			p.index(place)
		}
	}
}

// leaseAhead gives leases ahead, in the busy members that have the fewest of them, to those who wait and for whom no place can be had.
func (p *Pool[C, M]) leaseAhead(g *group[C, M]) {
	for g.waiting.len() > 0 && g.waiting.first().ahead && p.excess() <= 0 {
		places := g.coming()
		if !g.held() {
			places += p.room() + p.freeing
		}
		place := g.roomy.first()
		switch {
		case place == nil || g.waiting.len() <= g.limits.Concurrency*places || p.claim(place) != nil:
			return
		case place.tooOld() || !place.m.Queues():
			g.roomy.set(place, false)
		default:
			l := &Lease[C, M]{pool: p, place: place, ahead: true, since: time.Now(), running: make(chan struct{}), moved: make(chan struct{})}
			p.serve(g, l)
			place.ahead = append(place.ahead, l)
			g.ahead++
			place.unsent++
			place.use()
			p.index(place)
		}
	}
}

// takeOver gives leases ahead of the busiest members to those that have nothing to do.
func (p *Pool[C, M]) takeOver(g *group[C, M]) {
	for g.loaded.len() > 0 {
		to := p.vacant(g)
		if to == nil {
			return
		}
		from := g.loaded.first()
		l := from.recallable()
		recall := l.recall
		l.setRecall(nil)
		p.index(from)
		if recall() {
			p.run(l, to)
			p.index(to)
			p.stats.TakenOver++
		}
	}
}

// sendBack takes leases ahead back that have waited for long: those who came later have been served meanwhile, and would be as long as there are any.
// Their holders wait in the queue again, in front of these.
func (p *Pool[C, M]) sendBack() {
	now := time.Now()
	if now.Sub(p.looked) < patience/4 {
		return
	}
	p.looked = now
	somebody := false
	for _, g := range p.groups {
		somebody = somebody || g.waiting.len() > 0
	}
	if !somebody {
		return
	}
	for _, place := range p.places {
		if len(place.ahead) == 0 || now.Sub(place.ahead[0].since) < patience {
			continue // the others came later
		}
		for _, l := range slices.Clone(place.ahead) {
			recall := l.recall
			if recall == nil || now.Sub(l.since) < patience {
				continue
			}
			l.setRecall(nil)
			if !recall() {
				p.index(place)
				continue
			}
			place.dropAhead(l)
			place.uses--
			place.group.ahead--
			place.slow = true
			p.stats.TakenOver++
			l.released, l.sentBack = true, true
			p.index(place)
			close(l.moved)
		}
	}
}

// share gives the groups that want a place what there is: room, or the places of others.
func (p *Pool[C, M]) share() {
	for g := p.next(); g != nil && p.startable(); g = p.next() {
		p.spareDrain(g)
		p.start(g, false)
	}
	for g := p.wanting.first(); g != nil; g = p.wanting.first() {
		place := p.claimable(g)
		if place == nil {
			break
		}
		if place.empty() {
			p.makeRoom(place, g)
		} else {
			p.drain(place, g)
		}
	}
	for g := p.waits.first(); g != nil; g = p.waits.first() {
		place := p.claimable(g)
		if place == nil || !place.empty() {
			p.waitElsewhere(g)
			return
		}
		p.makeRoom(place, g)
	}
}

// waitElsewhere has a group that waits for a member's leases wait for those of another one, the one that was drained least recently, when it has
// waited for that one for as long as for all before it: nobody knows which leases last.
func (p *Pool[C, M]) waitElsewhere(g *group[C, M]) {
	last, w := g.drains[0], g.waiting.first()
	if w == nil {
		return
	}
	if wait := max(patience, last.drained.Sub(w.queued)) - time.Since(last.drained); wait > 0 {
		p.later(wait)
		return
	}
	p.undrain(last)
	p.reckon(g)
	var other *place[C, M]
	for _, from := range p.several.h.items {
		if from == g {
			continue
		}
		for _, m := range from.load.h.items {
			if m != last && (other == nil || m.drained.Before(other.drained)) && p.claim(m) == g {
				other = m
			}
		}
	}
	switch {
	case other == nil: // for as long again
		p.drain(last, g)
	case other.empty():
		p.makeRoom(other, g)
	default:
		p.drain(other, g)
	}
}

// next is the group that is to have the next place that is free; nil if there is none. A place whose leases a group waits for does not count: they may last.
func (p *Pool[C, M]) next() *group[C, M] {
	wants, waits := p.wanting.first(), p.waits.first()
	switch {
	case wants == nil:
		return waits
	case waits == nil, cmp.Or(cmp.Compare(wants.serving(), waits.serving()), cmp.Compare(wants.firstCame(), waits.firstCame())) < 0:
		return wants
	}
	return waits
}

// spareDrain has a group that gets another place not wait for leases any more if it wants no more than that one.
func (p *Pool[C, M]) spareDrain(g *group[C, M]) {
	if g.need == 0 {
		p.undrain(g.drains[len(g.drains)-1])
	}
}

// claimable is a member that is to make room for g: an idle one, or one that will have to be kept from new leases.
func (p *Pool[C, M]) claimable(g *group[C, M]) *place[C, M] {
	candidates := [3]*place[C, M]{p.idle.first(), p.kept.first()}
	if from := p.several.first(); from != nil {
		candidates[2] = from.load.first()
	}
	for _, place := range candidates {
		if place != nil && p.claim(place) == g {
			return place
		}
	}
	return nil
}

// claim is the group that is to have the member's place when the member has nothing to do; nil if there is none.
//
// The group that wants a place most gets those of members that nobody needs, and those of groups that have two more than it has, or that would
// pass who has waited for long. One that has
// none gets any, in its turn: each member serves for a while first, unless it has been idle for as long as its start took, when nobody is likely
// to come at once. One that waits for the leases of a member takes another one's place that is free earlier.
func (p *Pool[C, M]) claim(place *place[C, M]) *group[C, M] {
	has, wants, holds := place.group, p.wanting.first(), (*group[C, M]).holding
	if place.empty() || has.limits.Concurrency == 1 { // which is empty soon, if it gets no leases ahead
		wants, holds = p.next(), (*group[C, M]).serving
	}
	if wants == nil || wants == has {
		return nil
	}
	need, holding := p.need-has.need, holds(wants)
	if wants.need == 0 {
		need++
	}
	if need <= p.room()+p.freeing {
		return nil
	}
	idle := place.empty() && has.waiting.len()+has.movable == 0
	switch {
	case !idle && place.uses == 0: // it would have been made in vain
		return nil
	case holding == 0:
	case has.holding() <= has.minimum, !idle && has.holding() < holding+2 && !wants.passed(has):
		return nil
	}
	wait := time.Until(place.opened.Add(worthStarts * place.took))
	if idle && holding == 0 {
		wait = min(wait, time.Until(place.since.Add(place.took)))
	}
	if wait > 0 {
		p.later(wait)
		return nil
	}
	return wants
}

// later balances again when a member may make room.
func (p *Pool[C, M]) later(wait time.Duration) {
	at := time.Now().Add(wait)
	switch {
	case !p.wakeAt.IsZero() && !at.Before(p.wakeAt):
		return
	case p.wake == nil:
		p.wake = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.wakeAt = time.Time{}
			if g := cmp.Or(p.wanting.first(), p.waits.first()); g != nil {
				p.balance(g)
			}
		})
	default:
		p.wake.Reset(wait)
	}
	p.wakeAt = at
}

// makeRoom stops a member with nothing to do for a group that wants its place.
func (p *Pool[C, M]) makeRoom(place *place[C, M], heir *group[C, M]) {
	p.spareDrain(heir)
	place.heir = heir
	heir.heirs++
	p.discard(place, &p.stats.MadeRoom)
	p.reckon(heir)
}

// drain keeps new leases from a member, for a group that wants its place, or because there are too many members if heir is nil.
func (p *Pool[C, M]) drain(place *place[C, M], heir *group[C, M]) {
	place.draining, place.drained = true, time.Now()
	place.group.draining++
	if heir == nil {
		p.shrinks = append(p.shrinks, place)
	} else {
		place.heir = heir
		heir.heirs++
		heir.drains = append(heir.drains, place)
	}
	p.index(place)
	if heir != nil {
		p.reckon(heir)
	}
}

// undrain takes that back. Callers reckon the heir.
func (p *Pool[C, M]) undrain(place *place[C, M]) {
	p.drained(place)
	if place.heir != nil {
		place.heir.heirs--
		place.heir = nil
	}
	p.index(place)
	p.changed = append(p.changed, place.group)
}

// drained ends a member's draining.
func (p *Pool[C, M]) drained(place *place[C, M]) {
	if !place.draining {
		return
	}
	list := &p.shrinks
	if place.heir != nil {
		list = &place.heir.drains
	}
	if i := slices.Index(*list, place); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
	if place.heir != nil {
		p.waits.set(place.heir, len(place.heir.drains) > 0)
	}
	place.draining = false
	place.group.draining--
}

// keepReady opens members that nobody waits for yet.
func (p *Pool[C, M]) keepReady() {
	for g := p.lacking.first(); g != nil && p.startable(); g = p.lacking.first() {
		p.start(g, true)
	}
}
