package sbx

import (
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Stats are a session's numbers. As JSON, by package expvar say, they have the names that they have here, and times are in nanoseconds.
//
// For OpenTelemetry make an observable instrument of each number that is wanted, with a callback that observes what Stats returns.
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
	// Hedged is how often a call was sent to a second sandbox, by [Hedge], and HedgesWon how often that run's result was the call's.
	Hedged, HedgesWon uint64

	// Own and Commands are about the sandboxes of [Session.Sandbox], of which the numbers above know nothing.
	Own      OwnStats
	Commands CommandStats
}

// OwnStats count the sandboxes that [Session.Sandbox] returned, from the session's begin. Sandboxes count for the session that made them, and not for one that
// adopted them.
type OwnStats struct {
	// Made were returned by Session.Sandbox. Those of which Session.Sandbox knew that they can't be started are left out.
	Made uint64
	// Started were started, and StartsFailed is how often a start failed; starts that were stopped are neither.
	Started, StartsFailed uint64
	// StartTime is how long the starts of those took that were started, in all.
	StartTime time.Duration
	// Lost ended by themselves, or because a function in them did not obey its context.
	Lost uint64
}

// CommandStats count the commands that ended in sandboxes which [Session.Sandbox] returned, from the session's begin: each once, whether
// anybody waits for it or not.
type CommandStats struct {
	// Succeeded ended with exit status 0, and Failed with another, or by a signal.
	Succeeded, Failed uint64
	// Unknown are those of which it is not known how they ended: their sandbox ended first, say.
	Unknown uint64
	// NotStarted could not be started in a sandbox that runs.
	NotStarted uint64
}

// counts keep OwnStats and CommandStats.
type counts struct {
	mu       sync.Mutex
	own      OwnStats
	commands CommandStats
}

func (c *counts) count(change func(*OwnStats, *CommandStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.own, &c.commands)
}

// ended counts a command that was started; exited is nil if it is not known how it ended.
func (c *counts) ended(exited *wirepb.Exited) {
	c.count(func(_ *OwnStats, commands *CommandStats) {
		switch {
		case exited == nil:
			commands.Unknown++
		case exited.GetCode() != 0 || exited.GetSignal() != 0:
			commands.Failed++
		default:
			commands.Succeeded++
		}
	})
}

// Stats returns the session's numbers as they are now.
func (s *Session) Stats() Stats {
	if !s.opened() {
		return Stats{}
	}
	p := s.pool.Stats()
	s.counts.mu.Lock()
	own, commands := s.counts.own, s.counts.commands
	s.counts.mu.Unlock()
	return Stats{
		MaxSandboxes: s.config.maxSandboxes,
		Starting:     p.Opening, Idle: p.Idle, Busy: p.Busy, Stopping: p.Stopping,
		Running: p.Running, Queued: p.Ahead, Waiting: p.Waiting,
		Started: p.Opened, StartsFailed: p.OpenFailed,
		Lost: p.Lost, Killed: p.Discarded, UsedUp: p.UsedUp, TooOld: p.TooOld, IdleTooLong: p.IdleTooLong, MadeRoom: p.MadeRoom,
		Sent: p.Leases, Moved: p.TakenOver, Waits: p.Waits, WaitTime: p.WaitTime,
		Hedged: s.hedged.Load(), HedgesWon: s.hedgesWon.Load(),
		Own: own, Commands: commands,
	}
}
