package sbx

import "time"

// Stats are a session's numbers.
type Stats struct {
	// MaxSandboxes is the option's value.
	MaxSandboxes int
	// Starting, Idle, Busy and Stopping count the sandboxes by what they are now.
	Starting, Idle, Busy, Stopping int
	// Running are the calls that run, Queued those that wait in a busy sandbox, and Waiting those that wait for a sandbox.
	Running, Queued, Waiting int

	// The rest counts from the session's begin.

	// Started are the sandboxes that were started, and StartsFailed those that could not be. While there are others of the same kind,
	// calls wait for those, and a start is tried again a second later; else a start that fails fails a call.
	Started, StartsFailed uint64
	// Lost are the sandboxes that ended by themselves; Killed were stopped because a function did not obey its context, or
	// for what they sent; UsedUp, TooOld and IdleTooLong were stopped by [MaxUses], [MaxAge] and [IdleTime], and MadeRoom for
	// the sandbox of another kind.
	Lost, Killed, UsedUp, TooOld, IdleTooLong, MadeRoom uint64
	// Sent is how often a call was sent to a sandbox, and Moved how often it was taken back from one that was busy.
	Sent, Moved uint64
	// Waits is how often a call found no sandbox free, and WaitTime how long those that got one had waited in all.
	Waits    uint64
	WaitTime time.Duration
}

// Stats returns the session's numbers as they are now.
func (s *Session) Stats() Stats {
	if !s.opened() {
		return Stats{}
	}
	p := s.pool.Stats()
	return Stats{
		MaxSandboxes: s.config.maxSandboxes,
		Starting:     p.Opening, Idle: p.Idle, Busy: p.Busy, Stopping: p.Stopping,
		Running: p.Running, Queued: p.Ahead, Waiting: p.Waiting,
		Started: p.Opened, StartsFailed: p.OpenFailed,
		Lost: p.Lost, Killed: p.Discarded, UsedUp: p.UsedUp, TooOld: p.TooOld, IdleTooLong: p.IdleTooLong, MadeRoom: p.MadeRoom,
		Sent: p.Leases, Moved: p.TakenOver, Waits: p.Waits, WaitTime: p.WaitTime,
	}
}
