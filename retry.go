package sbx

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// maxEndings is how often a call may end its sandbox by itself.
const maxEndings = 3

// Retries lets a call run again, up to n times, when its sandbox was lost while it may have been running; it then runs in another
// sandbox. The function runs at least once then, and perhaps more often: use it for functions for which that does no harm. Errors
// that the function returns, its panics and its timeouts are not tried again, unless [RetryIf] says so. n must not be negative;
// without it, or with 0, a call runs at most once. Before each further run there is a wait, see [Backoff]. A sandbox of the program's own
// (In) is not replaced: what it lost fails with [ErrNotRunning] then, and the loss is in [CallError].Attempts.
//
// A call that ended its sandbox by itself (by os.Exit, a panic in another goroutine, a fatal error of the Go runtime, a stack
// overflow, or for lack of memory within a limit of its own) runs in a sandbox of its own from then on, so that it harms no other
// call and none harms it; so does one that ran beside it, where [Concurrency] is above one, since which of them it was is not known.
// When a call has ended its sandbox three times while it ran there alone, whatever n is, it is not run again, and its error wraps
// [ErrPoison] beside the last one. The end by a signal does not count, whoever sent it, nor does silence.
func Retries(n int) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if n < 0 {
			c.errs = append(c.errs, &OptionError{Option: "Retries", Reason: fmt.Sprintf("is %d; give 0 or more", n)})
		}
		c.retries = n
	})
}

// RetryIf also lets a call run again, within the n times of [Retries], when the function has failed otherwise, if again says so: it
// returned an error, panicked, ran into its [Timeout] or returned what can't be sent. again gets what would be [CallError].Err, and is
// not asked about losses, which Retries covers, nor when the caller's context has ended or the function did not begin. It is called by many
// goroutines at the same time, and should return soon. If it panics, the call fails with an error that says so and wraps the one that again was asked about.
// again must not be nil, and Retries must be 1 or more.
func RetryIf(again func(err error) bool) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if again == nil {
			c.errs = append(c.errs, &OptionError{Option: "RetryIf", Reason: "is given nil; leave it out"})
		}
		c.retryIf = again
	})
}

// backoff is how long calls wait before they run again.
type backoff struct {
	first, most time.Duration
	given       bool // by an option
}

// defaultBackoff begins with about the time of a local sandbox's start, which a call whose sandbox was lost waits for anyway, and ends
// where a wait costs little beside what a dozen failures have cost.
var defaultBackoff = backoff{first: 10 * time.Millisecond, most: time.Second}

// Backoff sets how long a call waits before it runs again: before its second run from 0 to first, at random, before its third from 0 to
// twice as long, and so on, up to most. While it waits it holds no place in a sandbox. If the context's deadline comes before
// the wait's end, the call fails at once, with its last error, which says so. first and most must not be negative, and most not below
// first; with 0 for both there is no wait. [Retries] must be 1 or more. Without Backoff they are 10 milliseconds and a second.
func Backoff(first, most time.Duration) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if first < 0 || most < first {
			c.errs = append(c.errs, &OptionError{Option: "Backoff", Reason: fmt.Sprintf("has %v and %v; give 0 or more, and the longer one as second", first, most)})
		}
		c.backoff = backoff{first, most, true}
	})
}

// RetryMemory has a call that ran out of memory ([ErrOutOfMemory]) run again, within the n times of [Retries], in a sandbox with twice the memory, up to most
// bytes; that is, whole MiB of them. The function must have a memory limit ([Limit], not LimitIfPossible) below most. Where the
// larger limit can't be held, the call fails as it does with any other. Such a run does not count for [ErrPoison], but one that had most
// bytes does. Where there is not even room for the arguments, the function does not begin, and that counts for no run. It has no effect in
// a sandbox of the program's own (In).
func RetryMemory(most int64) FunctionOption {
	return functionOption(func(c *functionConfig) {
		if most < 1<<20 || most>>20 > 1<<30 {
			c.errs = append(c.errs, &OptionError{Option: "RetryMemory", Reason: fmt.Sprintf("is %d; give bytes, from 1 MiB to 1 PiB", most)})
			return
		}
		c.memory = int(most >> 20)
	})
}

// checkRetries says what is wrong with options that need others.
func (c *functionConfig) checkRetries() (errs []error) {
	needs := func(given bool, option, reason string) {
		if given {
			errs = append(errs, &OptionError{Option: option, Reason: reason})
		}
	}
	if c.retries == 0 {
		const reason = "needs a function that may run again; give sbx.Retries(1) or more too, if that does no harm"
		needs(c.retryIf != nil, "RetryIf", reason)
		needs(c.backoff.given, "Backoff", reason)
		needs(c.memory > 0, "RetryMemory", reason)
		needs(c.hedge > 0, "Hedge", reason)
	}
	switch limit := c.spec.limits.MemoryMiB; {
	case c.memory == 0:
	case limit == 0:
		needs(true, "RetryMemory", "needs a memory limit to begin with; give sbx.Limit(sbx.Resources{MemoryMiB: …}) too")
	case limit >= c.memory:
		needs(true, "RetryMemory", fmt.Sprintf("allows %d MiB, and the limit is %d MiB already; give more", c.memory, limit))
	}
	return errs
}

// RetryBudget bounds how often calls of the run are run again, all together, by n, second runs of [Hedge] included. When it is used
// up, a call that would be run again fails with an error that wraps [ErrRetryBudget] beside the last one. n must not be negative. Without it each call has what [Retries] allows.
func RetryBudget(n int) MapOption {
	return mapOption(func(c *mapConfig) {
		if n < 0 {
			c.errs = append(c.errs, &OptionError{Option: "RetryBudget", Reason: fmt.Sprintf("is %d; give 0 or more", n)})
		}
		c.budget = &budget{}
		c.budget.left.Store(int64(n))
	})
}

// budget counts the further runs that a map has left. A nil one has no end.
type budget struct{ left atomic.Int64 }

func (b *budget) take() bool {
	if b == nil {
		return true
	}
	for {
		left := b.left.Load()
		if left <= 0 {
			return false
		}
		if b.left.CompareAndSwap(left, left-1) {
			return true
		}
	}
}

// giveBack gives back what was taken for a run that did not begin.
func (b *budget) giveBack() {
	if b != nil {
		b.left.Add(1)
	}
}

// again returns nil when the request is to run again, after the wait for it; else it returns the call's error. err is the last run's, as send
// returned it.
func (f *function) again(r *request, delivery Delivery, err error) error {
	if f.config.retries == 0 || r.ctx.Err() != nil || f.session.ctx.Err() != nil {
		return err
	}
	if r.endings >= maxEndings {
		return fmt.Errorf("%w: %w", ErrPoison, err)
	}
	if r.attempt > f.config.retries {
		return err
	}
	if _, lost := err.(*SandboxLostError); !lost { //nolint:errorlint // see do
		if delivery == NotBegun || f.config.retryIf == nil {
			return err
		}
		if err := f.judge(err); err != nil {
			return err
		}
	}
	wait := f.config.backoff.wait(r.attempt)
	if deadline, ok := r.ctx.Deadline(); ok && time.Until(deadline) <= wait {
		r.cut = true
		return fmt.Errorf("the context's deadline comes before the next run would, in %v (sbx.Backoff), so this was the last one: %w", wait, err)
	}
	if !r.budget.take() {
		r.cut = true
		return fmt.Errorf("%w: %w", ErrRetryBudget, err)
	}
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		r.cut = true
		return contextError(r.ctx)
	case <-f.session.ctx.Done():
		return ErrClosed
	}
}

// judge asks the predicate of RetryIf. It returns nil if the call is to be run again, else the call's error.
func (f *function) judge(err error) (final error) {
	defer func() {
		if crash := recover(); crash != nil {
			final = fmt.Errorf("the predicate of sbx.RetryIf panicked: %v\n\n%s\nit was asked about: %w", crash, debug.Stack(), err)
		}
	}()
	if f.config.retryIf(err) {
		return nil
	}
	return err
}

// wait is for how long a call waits that ran n times.
func (b backoff) wait(n int) time.Duration {
	most := b.first
	for range n - 1 {
		if most > b.most/2 {
			most = b.most
			break
		}
		most *= 2
	}
	if most == 0 {
		return 0
	}
	return rand.N(most) + 1
}

// learn draws from the error of a run what sandbox the next one wants.
func (f *function) learn(r *request, err error) {
	lost, ok := err.(*SandboxLostError) //nolint:errorlint // see do
	if !ok || f.where != nil {
		return
	}
	next := *r.class
	switch outOfMemory := lost.ending.cause == ErrOutOfMemory; { //nolint:errorlint // it is this or another one
	case outOfMemory && lost.memory < f.config.memory:
		next.must.MemoryMiB = min(2*lost.memory, f.config.memory)
	case lost.ending.itself:
		if lost.alone {
			r.endings++
		}
		next.alone()
	default:
		return
	}
	r.class = &next
}

// ranShort reports whether what a sandbox may have may not have done for the request's arguments: it ran out of memory before the
// function began. Short ones are not the reason: they may have waited there.
func (f *function) ranShort(r *request, cause *notBegunError) bool {
	lost, ok := cause.err.(*launch.LostError) //nolint:errorlint // nobody wraps it
	if !ok || f.where != nil || len(r.args) <= maxArgsAhead || !f.session.memoryIsHeld(r.class) {
		return false
	}
	return endingOf(lost).cause == ErrOutOfMemory //nolint:errorlint // see learn
}

// grow has the request want a sandbox with twice the memory, and reports whether it may. In any case it is one of its own: what ran in the
// last one, or was left there, may have taken the memory, and must not be lost again for these arguments.
func (f *function) grow(r *request) (grown bool) {
	next := *r.class
	next.alone()
	if memory := next.must.MemoryMiB; memory < f.config.memory {
		next.must.MemoryMiB = min(2*memory, f.config.memory)
		grown = true
	}
	r.class = &next
	return grown
}

// alone makes the class one of sandboxes for one call each.
func (c *class) alone() { c.limits.Concurrency, c.limits.Ahead, c.limits.Uses = 1, 0, 1 }

// memoryIsHeld reports whether the memory of sandboxes of a class is bounded for each of them.
func (s *Session) memoryIsHeld(c *class) bool {
	return c.must.MemoryMiB > 0 || c.should.MemoryMiB > 0 && s.backend.Report().Capability(driver.LimitMemory).Held
}

// adviseMemory says what to do about a call that ran out of memory in a sandbox of a class.
func (f *function) adviseMemory(c *class) string {
	switch {
	case !f.session.memoryIsHeld(c): // it may be for what others use
		return moreMemory
	case f.where != nil:
		return moreLimitOfOwn
	case f.config.memory > 0 && c.must.MemoryMiB >= f.config.memory:
		return moreThanMost
	default:
		return moreLimit
	}
}
