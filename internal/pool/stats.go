package pool

import "time"

// Stats are a pool's numbers.
type Stats struct {
	// Opening, Idle, Busy and Stopping count members by what they are now.
	Opening, Idle, Busy, Stopping int
	// Running and Ahead are leases; Waiting is who has none yet.
	Running, Ahead, Waiting int

	// The rest counts from the pool's begin. Opened and OpenFailed are members that were made, or were not.
	Opened, OpenFailed uint64
	// Lost ended by themselves; Discarded were given back as of no use; UsedUp, TooOld and IdleTooLong met their limits;
	// MadeRoom were stopped for members of another class.
	Lost, Discarded, UsedUp, TooOld, IdleTooLong, MadeRoom uint64
	// Leases were given, TakenOver of them ahead and taken over by another member, or sent back.
	Leases, TakenOver uint64
	// Waits is how often nothing was free, and WaitTime what those who were served then waited in all.
	Waits    uint64
	WaitTime time.Duration
}

// Stats returns the numbers as they are now.
func (p *Pool[C, M]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting, s.Ahead = len(p.waiting), p.ahead
	for _, place := range p.places {
		s.Running += place.running
		switch {
		case place.state == opening:
			s.Opening++
		case place.state == stopping:
			s.Stopping++
		case place.empty():
			s.Idle++
		default:
			s.Busy++
		}
	}
	return s
}
