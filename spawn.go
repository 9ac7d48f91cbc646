package sbx

import (
	"context"
	"errors"
	"fmt"

	"github.com/sandboxfn/sbx/internal/wire/launch"
)

var (
	errNotSent    = errors.New("it waits for a sandbox")
	errNotSpawned = errors.New("sbx: the call was not made; use what Spawn returned")
)

// ended is of calls that were not made, for which nobody is to wait.
var ended = func() chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

// Call is the handle of a call that runs. Its methods may be called at the same time.
type Call[Out any] struct {
	id     string
	where  func() *sandbox         // that the call was sent to last; nil before
	told   func() *launch.Progress // the latest; nil if nothing was
	cancel context.CancelFunc
	done   chan struct{}
	out    Out
	err    error
}

// spawn starts a call. Its goroutine ends with the call, which ends at the latest when the session closes.
func spawn[Out any](ctx context.Context, f *function, args ...any) *Call[Out] {
	c := &Call[Out]{cancel: func() {}, done: make(chan struct{})}
	r, err := f.prepare(ctx, -1, args...)
	c.id, c.where = r.id, r.sentTo.Load
	c.told = func() *launch.Progress { return nil }
	if f.session.opened() {
		c.told = func() *launch.Progress { return f.session.calls.progress(r) }
	}
	if err == nil {
		r.ctx, c.cancel = context.WithCancel(ctx) // a context that panics does so before anything is counted
		if !f.session.enter() {
			c.cancel()
			err = f.fail(r, "", ErrClosed)
		}
	}
	if err != nil {
		c.err = err
		close(c.done)
		return c
	}
	f.queue(r)
	go func() {
		returned := false
		defer func() {
			if !returned {
				c.err = f.goexitError(r)
			}
			close(c.done)
		}()
		defer f.session.leave()
		defer c.cancel()
		data, err := f.run(r)
		if err == nil && f.entry.Load().Result() != nil {
			err = f.decode(r, data, &c.out)
		}
		c.err, returned = err, true
	}()
	return c
}

// ID is the call's id, as [Info] shows it to the function and [CallError] to the caller.
func (c *Call[Out]) ID() string {
	if c == nil {
		return ""
	}
	return c.id
}

// Sandbox is the id of the sandbox that the call was sent to last; empty if it was not sent yet. It is what [Session.Profile]
// takes.
func (c *Call[Out]) Sandbox() string {
	if c == nil || c.where == nil {
		return ""
	}
	if sb := c.where(); sb != nil {
		return sb.id
	}
	return ""
}

// Stacks returns the stacks of all goroutines of the sandbox that the call was sent to, as the runtime prints them, while the
// call goes on: it shows what a call does that has not returned. It fails if the call was not sent yet, or the sandbox is gone; with [ErrNoCall] if it
// has ended and never was.
func (c *Call[Out]) Stacks(ctx context.Context) ([]byte, error) {
	if c == nil || c.where == nil {
		return nil, errNotSpawned
	}
	sb := c.where()
	if sb == nil {
		why := errNotSent
		select {
		case <-c.done:
			why = ErrNoCall
		default:
		}
		return nil, fmt.Errorf("sbx: stacks of call %s: %w", c.id, why)
	}
	return profile(ctx, sb, "goroutine", 0, 2)
}

// Done is closed when the call has ended.
func (c *Call[Out]) Done() <-chan struct{} {
	if c == nil || c.done == nil {
		return ended
	}
	return c.done
}

// Cancel ends the call's context, and with it the call. Cancelling a call that has ended does nothing.
func (c *Call[Out]) Cancel() {
	if c != nil && c.cancel != nil {
		c.cancel()
	}
}

// Result waits for the call's end and returns its result. When ctx ends first Result returns ctx's error, and the call
// runs on.
func (c *Call[Out]) Result(ctx context.Context) (out Out, err error) {
	switch {
	case c == nil || c.done == nil:
		return out, errNotSpawned
	case ctx == nil:
		return out, errNilContext
	}
	select {
	case <-c.done:
		return c.out, c.err
	default:
	}
	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
		return out, contextError(ctx)
	}
}
