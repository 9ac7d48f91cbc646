package sbx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
)

// leaseError tells apart why no sandbox could be had. Where the context has ended, err may be its cause, and that anything.
func (f *function) leaseError(ctx context.Context, err error) error {
	switch closed := err == pool.ErrClosed; { //nolint:errorlint // see above
	case closed && f.session.ctx.Err() == nil: // it is the sandbox that is closed
		return f.where.whyNotRunning()
	case closed:
		return ErrClosed
	case isDone(ctx):
		return contextError(ctx)
	case f.where != nil && errors.Is(err, ErrNotRunning): // else it is what a start failed of: of a secret's source, say
		return err
	}
	if start, ok := err.(*StartError); ok { //nolint:errorlint // who has tried to start one has said so
		return start
	}
	return startError(err)
}

func isDone(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// contextError is why ctx ended: the context's own error, and the cause if there is one beside it. A context that is done and
// has no error, against its contract, was cancelled.
func contextError(ctx context.Context) (end error) {
	err, cause := cmp.Or(ctx.Err(), context.Canceled), context.Cause(ctx)
	defer func() {
		if recover() != nil { // in a method of the cause: many panic that are called of a nil pointer
			end = fmt.Errorf("%w: %v", err, cause) //nolint:errorlint // who looks into it would panic, too
		}
	}()
	switch {
	case cause == nil:
		return err
	case errors.Is(cause, err):
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// notBegunError says that a sandbox was lost, or refused the call, before it began.
type notBegunError struct{ err error }

func (e *notBegunError) Error() string {
	return "the sandbox was lost before the function began: " + e.err.Error()
}

func (e *notBegunError) Unwrap() error { return e.err }

// errSentBack says that a call has waited in a busy sandbox for long, and was taken back from it.
var errSentBack = errors.New("the call waited in a busy sandbox for long")

// lost is the end of a call whose sandbox ended.
func (f *function) lost(r *request, sb *sandbox, pending *launch.Pending, killed bool) ([]byte, Delivery, error) {
	lost := sb.worker.Lost()
	if pending.Answered() { // just before the end
		return f.outcome(r, pending.Result())
	}
	switch begun := pending.Begun(); {
	case f.session.ctx.Err() != nil && begun:
		return nil, MayHaveRun, ErrClosed
	case f.session.ctx.Err() != nil:
		return nil, NotBegun, ErrClosed
	case !begun:
		return nil, NotBegun, &notBegunError{lost}
	}
	e := lostError(lost, f.config.retries > 0 || f.where != nil) // which is not replaced
	e.memory = r.class.must.MemoryMiB
	if e.ending.cause == ErrOutOfMemory { //nolint:errorlint // it is this or another one
		e.ending.advice = f.adviseMemory(r.class)
		if f.session.memoryIsHeld(r.class) { // else it may be for what others use
			e.ending.itself = true
		}
	}
	switch {
	case f.where != nil && f.where.wasStopped():
		e.ending = ending{what: "its sandbox was stopped"}
	case killed && lost.Crash == nil:
		e.ending = ending{what: "its sandbox was stopped, because another call in it did not end when its context did"}
	}
	return nil, MayHaveRun, e
}

// outcome reads a result. Errors are read by their own methods, which may end the goroutine: what is known of the call is noted before.
func (f *function) outcome(r *request, result *wirepb.Result) ([]byte, Delivery, error) {
	switch {
	case result.GetRefused() != nil:
	case result.GetTimedOut().GetRunning():
		r.delivery, r.ranIn = MayHaveRun, r.sentTo.Load().id
	default:
		r.delivery, r.ranIn = Failed, r.sentTo.Load().id
	}
	r.cut = result.GetTimedOut().GetDeadline()
	switch outcome := result.GetOutcome().(type) {
	case *wirepb.Result_Value:
		return outcome.Value.GetData(), Failed, nil
	case *wirepb.Result_FunctionError:
		return nil, Failed, functionError(outcome.FunctionError)
	case *wirepb.Result_Panic:
		return nil, Failed, panicError(outcome.Panic)
	case *wirepb.Result_TimedOut:
		return f.timedOut(r.ctx, outcome.TimedOut)
	case *wirepb.Result_ResultError:
		return nil, Failed, &ResultError{Err: errors.New(outcome.ResultError)}
	case *wirepb.Result_Refused:
		return nil, NotBegun, refusedError(r.ctx, outcome.Refused)
	}
	return nil, MayHaveRun, fmt.Errorf("the worker sent a result of unknown kind %T", result.GetOutcome())
}

// timedOut is the result of a function that had not returned when its time was up.
func (f *function) timedOut(ctx context.Context, outcome *wirepb.TimedOut) ([]byte, Delivery, error) {
	if outcome.GetRunning() {
		stuck := &StuckError{After: f.config.timeout, Err: ErrTimeout, Stack: outcome.GetStack()}
		if outcome.GetDeadline() {
			stuck.After, stuck.Err = 0, deadlineError(ctx)
		}
		return nil, MayHaveRun, stuck
	}
	var err error
	if outcome.GetDeadline() {
		err = deadlineError(ctx)
	} else {
		err = fmt.Errorf("%w after %v (sbx.Timeout)", ErrTimeout, f.config.timeout)
	}
	if remote := outcome.GetError(); remote != nil {
		err = fmt.Errorf("%w, and returned: %w", err, functionError(remote))
	}
	return nil, Failed, err
}

// deadlineError is the end of a context whose deadline has passed in the sandbox, and so is about to pass here: with its cause.
func deadlineError(ctx context.Context) error {
	timer := time.NewTimer(wire.Grace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return contextError(ctx)
	case <-timer.C:
		return context.DeadlineExceeded
	}
}

// refusedError is why a call did not begin.
func refusedError(ctx context.Context, refused *wirepb.Refusal) error {
	switch refused.GetReason() {
	case wirepb.Refusal_REASON_BAD_ARGUMENT:
		return &ArgumentError{Err: fmt.Errorf("the sandbox's side could not decode it: %s", refused.GetText())}
	case wirepb.Refusal_REASON_CANCELLED:
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wire.Grace { // it has passed there, and is about to pass here
			return deadlineError(ctx)
		}
		return &notBegunError{errors.New(refused.GetText())}
	}
	return fmt.Errorf("%w: %s", ErrNotRegistered, refused.GetText())
}

// functionError reads the error that a function returned.
func functionError(data []byte) error {
	remote, err := registry.DecodeError(data)
	if err != nil {
		return fmt.Errorf("the worker sent an error that can't be read: %w", err)
	}
	return &FunctionError{Type: wire.Clip(remote.Type, 1<<10), Err: remote}
}

func panicError(remote *wirepb.Panic) error {
	e := &PanicError{Value: remote.GetValue(), Stack: remote.GetStack(), Goexit: remote.GetGoexit()}
	if len(remote.GetError()) > 0 {
		if value, err := registry.DecodeError(remote.GetError()); err == nil {
			e.Err = value
		}
	}
	return e
}

// decode reads the encoded result into out, a pointer. Where that fails, or an unmarshaler ends the goroutine, out is zero.
func (f *function) decode(r *request, data []byte, out any) error {
	whole := false
	defer func() {
		if !whole {
			reflect.ValueOf(out).Elem().SetZero()
		}
	}()
	if err := f.entry.Load().DecodeResult(data, out); err != nil {
		return f.fail(r, "", &ResultError{Err: err})
	}
	whole = true
	return nil
}
