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
	// MadeRoom were stopped for members of another class, Quarantined for suspicious leases, and Surplus because there were more than the
	// maximum, which had been lowered.
	Lost, Discarded, UsedUp, TooOld, IdleTooLong, MadeRoom, Quarantined, Surplus uint64
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
	s.Opening, s.Stopping = p.count[opening], p.count[stopping]
	s.Idle = p.idle.len() + p.kept.len()
	s.Busy = len(p.places) - s.Opening - s.Stopping - s.Idle
	for _, g := range p.groups {
		s.Running += g.running
		s.Ahead += g.ahead
		s.Waiting += g.waiting.len()
	}
	return s
}
