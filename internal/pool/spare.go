package pool

// Spare returns a lease that runs in a member of class other than m which has nothing else to do, or nil: nobody waits because of it.
// If there is none but room for one more member, it begins to make that, and opening is closed when it is there or could not be
// made: who asks again then gets it, unless somebody else did. The member may have been idle for long, and is not checked.
func (p *Pool[C, M]) Spare(class C, m M) (l *Lease[C, M], opening <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.excess() > 0 {
		return nil, nil
	}
	for _, g := range p.groups {
		if g.waiting.len()+g.ahead > 0 {
			return nil, nil
		}
	}
	g := p.group(class)
	for _, place := range g.free.h.items {
		if place.m != m && place.empty() && !place.tooOld() && !isDone(place.m) {
			place.running++
			g.running++
			place.unsent++
			place.use()
			p.stats.Leases++
			p.index(place)
			p.keepReady()
			return &Lease[C, M]{pool: p, place: place, running: always}, nil
		}
	}
	if !p.startable() || g.hold != nil {
		p.forget(g)
		return nil, nil
	}
	return nil, p.start(g, false).done
}

// CheckTime bounds how long a check of a member takes.
const CheckTime = checkTime
