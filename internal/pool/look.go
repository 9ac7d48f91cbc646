package pool

import "time"

// A View is what a class's waiters wait for, as it is now.
type View struct {
	// Maximum is how many members there may be.
	Maximum int
	// Busy, Starting and Stopping count the members of all classes.
	Busy, Starting, Stopping int
	// StartingSince is when the first start of a member of the class began that goes on; zero if none does.
	StartingSince time.Time
	// Held says that a member of the class could not be made, and that none is for now.
	Held bool
}

// View returns what is known of a class, for those who ask why they wait.
func (p *Pool[C, M]) View(class C) View {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[class]
	v := View{Maximum: p.maximum, Held: g != nil && g.held()}
	for _, place := range p.places {
		switch {
		case place.state == opening:
			v.Starting++
			if place.group == g && (v.StartingSince.IsZero() || place.begun.Before(v.StartingSince)) {
				v.StartingSince = place.begun
			}
		case place.state == stopping:
			v.Stopping++
		case !place.empty():
			v.Busy++
		}
	}
	return v
}

// Ahead reports whether the lease is ahead, and if it was one and is not any more, since when.
func (l *Lease[C, M]) Ahead() (ahead bool, until time.Time) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	return l.ahead, l.until
}
