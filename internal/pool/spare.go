package pool

// Spare returns a lease that runs in a member of class other than m which has nothing else to do, or nil: nobody waits because of it.
// If there is none but room for one more member, it begins to make that, and opening is closed when it is there or could not be
// made: who asks again then gets it, unless somebody else did. The member may have been idle for long, and is not checked.
func (p *Pool[C, M]) Spare(class C, m M) (l *Lease[C, M], opening <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.waiting) > 0 || p.ahead > 0 {
		return nil, nil
	}
	for _, place := range p.places {
		if place.class == class && place.m != m && place.free() > 0 && !isDone(place.m) {
			place.running++
			place.use()
			place.unsent++
			p.stats.Leases++
			return &Lease[C, M]{pool: p, place: place, running: always}, nil
		}
	}
	if len(p.places) == p.maximum || p.held[class] {
		return nil, nil
	}
	return nil, p.start(class).done
}

// CheckTime bounds how long a check of a member takes.
const CheckTime = checkTime
