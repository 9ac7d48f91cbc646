package sbx

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
)

const (
	// maxResend bounds how often a call is sent again that certainly did not begin.
	maxResend = 10
	// sendTime is how long a byte of an argument may take on its way, at 10 MB/s, before a timeout is enforced here.
	sendTime = 100 * time.Nanosecond
)

// CallInfo describes the call in which a function runs.
type CallInfo struct {
	// Function is the function's name, such as "example.com/train.Train".
	Function string
	// Call is the call's id, the same in all attempts.
	Call string
	// Attempt counts the runs of the call from 1.
	Attempt int
	// Session and Sandbox are ids.
	Session, Sandbox string
	// Deadline is when the function's context ends by itself; zero if it doesn't.
	Deadline time.Time
}

// Info returns what a function may know of its call. ok is false outside of a call, and under Local.
func Info(ctx context.Context) (info CallInfo, ok bool) {
	inner, ok := callinfo.From(ctx)
	return CallInfo(inner), ok
}

var errNilContext = &OptionError{Option: "the context", Reason: "is nil; give context.Background()"}

// function is what wrapped functions of all types have in common.
type function struct {
	session *Session
	fn      any
	config  functionConfig
	class   string
	misuse  error // found when the function was wrapped

	entry atomic.Pointer[registry.Entry] // set when it was found
}

// wrap notes what is wrapped and how. What is wrong is reported by the first call, and by Err.
func (s *Session) wrap(fn any, opts []FunctionOption) *function {
	f := &function{session: s, fn: fn}
	switch {
	case s == nil || s.pool == nil:
		f.misuse = &OptionError{Option: "the session", Reason: "was not opened; use what sbx.Open returned, and look at its error first"}
	case reflect.ValueOf(fn).IsNil():
		f.misuse = &OptionError{Option: "the function", Reason: "is nil; give a declared function"}
	default:
		f.config, f.misuse = newFunctionConfig(s.config.spec, opts)
		f.class = f.config.spec.class()
	}
	return f
}

// resolve looks the function up, and returns what is wrong with it or with how it was wrapped. A function that was wrapped
// before it was registered, by a package variable say, is found later.
func (f *function) resolve() error {
	if f.misuse != nil || f.entry.Load() != nil {
		return f.misuse
	}
	entry, ok := registry.Lookup(f.fn)
	switch {
	case !ok:
		return fmt.Errorf("%w: run \"go generate ./...\" (with //go:generate go tool sbxgen in a file of the module) or \"go tool sbxgen\", and build the whole package again (go run . and not go run main.go); closures and method values can't be registered", ErrNotRegistered)
	case worker.Diverts() == 0:
		return fmt.Errorf("%w for this program: its main package lacks the generated file that makes it a worker: run \"go tool sbxgen\" in the module of the main package, and build the whole package again (go run . and not go run main.go)", ErrNotRegistered)
	case entry.Err() != nil:
		return &ArgumentError{Err: entry.Err()}
	}
	f.entry.Store(entry)
	return nil
}

// name is the function's registered name, or what the runtime calls it.
func (f *function) name() string {
	if entry := f.entry.Load(); entry != nil {
		return entry.Name()
	}
	return nameOf(f.fn)
}

// String is the function's name. What the function is wrapped with may be secret, and is not for fmt to print.
func (f *function) String() string { return f.name() }

// GoString is String, for %#v.
func (f *function) GoString() string { return f.name() }

// nameOf names a function that is not registered, for messages only.
func nameOf(fn any) string {
	if v := reflect.ValueOf(fn); !v.IsNil() {
		if f := runtime.FuncForPC(v.Pointer()); f != nil {
			return f.Name()
		}
	}
	return "(no function)"
}

// request is one call of a function.
type request struct {
	ctx   context.Context
	index int
	id    string
	args  []byte
	// turn is the request's place in the queue for a sandbox.
	turn pool.Turn[string, *sandbox]
	// linger makes a cancelled call wait until its sandbox is free again or on its way out.
	linger bool
}

// callSerial numbers the calls of this process.
var callSerial atomic.Uint64

func newCallID() string { return "c-" + strconv.FormatUint(callSerial.Add(1), 10) }

// prepare checks what can be checked before a sandbox is touched, and encodes the arguments, given by pointers.
func (f *function) prepare(ctx context.Context, index int, args ...any) (*request, error) {
	r := &request{ctx: ctx, index: index, id: newCallID()}
	err := f.resolve()
	switch {
	case err != nil:
	case ctx == nil:
		err = errNilContext
	case ctx.Err() != nil:
		err = contextError(ctx)
	default:
		r.args, err = f.entry.Load().EncodeArgs(nil, args...)
		switch {
		case err != nil:
			err = &ArgumentError{Err: err}
		case len(r.args) > wire.MaxValue:
			err = &ArgumentError{Err: fmt.Errorf("%d bytes encoded; the limit is %d", len(r.args), wire.MaxValue)}
		}
	}
	if err != nil {
		return r, f.fail(r, "", 0, err)
	}
	return r, nil
}

// queue takes the request's place in the queue for a sandbox. do must follow.
func (f *function) queue(r *request) { r.turn = f.session.pool.Queue(f.class) }

func (f *function) fail(r *request, sandbox string, attempt int, err error) error {
	return &CallError{Function: f.name(), Index: r.index, Call: r.id, Sandbox: sandbox, Attempt: attempt, Err: err}
}

// do runs a queued request to its end and returns the encoded result.
func (f *function) do(r *request) ([]byte, error) {
	resent := 0
	for attempt := 1; ; f.queue(r) {
		sb, err := r.turn.Wait(r.ctx)
		if err != nil {
			return nil, f.fail(r, "", attempt-1, leaseError(r.ctx, err))
		}
		data, err := f.attempt(r, sb, attempt)
		if err == nil {
			return data, nil
		}
		var notBegun *notBegunError
		var lost *SandboxLostError
		switch {
		case errors.As(err, &notBegun):
			if resent++; resent <= maxResend {
				continue
			}
			err = &StartError{Err: fmt.Errorf("%d sandboxes ended before the call began: %w", resent, notBegun.lost)}
		case errors.As(err, &lost) && attempt <= f.config.retries && r.ctx.Err() == nil:
			attempt++
			continue
		}
		return nil, f.fail(r, sb.id, attempt, err)
	}
}

// leaseError tells apart why no sandbox could be had.
func leaseError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, pool.ErrClosed):
		return ErrClosed
	case ctx.Err() != nil:
		return contextError(ctx)
	default:
		return &StartError{Err: err}
	}
}

// contextError is why ctx ended: the context's own error, and the cause if there is one beside it.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// notBegunError says that a sandbox was lost before it had the call.
type notBegunError struct{ lost *launch.LostError }

func (e *notBegunError) Error() string { return e.lost.Error() }

// attempt runs the request once in a leased sandbox, and gives the sandbox back.
func (f *function) attempt(r *request, sb *sandbox, attempt int) ([]byte, error) {
	entry := f.entry.Load()
	remote, ok := sb.worker.Function(entry.Name())
	if !ok || remote.Fingerprint != entry.Fingerprint() {
		f.release(sb, true)
		return nil, fmt.Errorf("%w in the worker with the types that it has in this program (they were built from different sources, or it is registered after the program became a worker): run \"go tool sbxgen\" and build again", ErrNotRegistered)
	}
	limit, ours := f.config.timeout, true
	if deadline, ok := r.ctx.Deadline(); ok {
		// The deadline travels with the call, so that it holds even if this side is stopped.
		if left := max(time.Until(deadline), 1); limit == 0 || left < limit {
			limit, ours = left, false
		}
	}
	pending := sb.worker.Go(&wirepb.Call{
		Attempt: uint32(attempt), Function: remote.Index, Name: r.id, TimeoutNanos: int64(limit),
	}, r.args)

	var overdue <-chan time.Time
	if late := limit + grace + time.Duration(len(r.args))*sendTime; ours && limit > 0 && late > limit { // no overflow
		timer := time.NewTimer(late)
		defer timer.Stop()
		overdue = timer.C
	}
	return f.await(r, sb, pending, limit, ours, overdue)
}

// await waits for the end of an attempt, whichever it is.
func (f *function) await(r *request, sb *sandbox, pending *launch.Pending, limit time.Duration, ours bool, overdue <-chan time.Time) ([]byte, error) {
	select {
	case <-pending.Done():
		f.release(sb, true)
		return f.outcome(pending.Result(), ours)
	case <-sb.worker.Done():
		return f.lost(sb, pending, ours)
	case <-overdue:
		if pending.Returned() { // a large result is on its way
			return f.await(r, sb, pending, limit, ours, nil)
		}
		f.release(sb, false)
		return nil, fmt.Errorf("%w after %v, and did not return when its context ended: its sandbox was stopped", ErrTimeout, limit)
	case <-r.ctx.Done():
		if pending.Cancel() {
			f.release(sb, true) // the function never begins
			return nil, contextError(r.ctx)
		}
		settle := func() { f.settle(sb, pending) }
		if r.linger || !f.session.background(settle) {
			settle()
		}
		return nil, contextError(r.ctx)
	}
}

func (f *function) release(sb *sandbox, reuse bool) { f.session.pool.Release(sb, reuse) }

// settle waits until a cancelled function has returned; if it does not, its sandbox is stopped.
func (f *function) settle(sb *sandbox, pending *launch.Pending) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-pending.Done():
		f.release(sb, true)
	case <-sb.worker.Done():
		f.release(sb, false)
	case <-timer.C:
		f.release(sb, false)
	}
}

// lost is the end of an attempt whose sandbox ended.
func (f *function) lost(sb *sandbox, pending *launch.Pending, ours bool) ([]byte, error) {
	f.release(sb, false)
	select {
	case <-pending.Done(): // the result came just before the end
		return f.outcome(pending.Result(), ours)
	default:
	}
	lost := sb.worker.Lost()
	switch {
	case f.session.ctx.Err() != nil:
		return nil, ErrClosed
	case !pending.Begun():
		return nil, &notBegunError{lost}
	}
	return nil, lostError(lost, f.config.retries > 0)
}

// outcome reads a result. ours tells whose time limit the worker was given: this function's, or the caller's.
func (f *function) outcome(result *wirepb.Result, ours bool) ([]byte, error) {
	switch outcome := result.GetOutcome().(type) {
	case *wirepb.Result_Value:
		return outcome.Value.GetData(), nil
	case *wirepb.Result_FunctionError:
		return nil, functionError(outcome.FunctionError)
	case *wirepb.Result_Panic:
		return nil, &PanicError{Value: outcome.Panic.GetValue(), Stack: outcome.Panic.GetStack(), Goexit: outcome.Panic.GetGoexit()}
	case *wirepb.Result_TimedOut:
		if !ours {
			return nil, context.DeadlineExceeded
		}
		err := fmt.Errorf("%w after %v (sbx.Timeout)", ErrTimeout, f.config.timeout)
		if remote := outcome.TimedOut.GetError(); remote != nil {
			err = fmt.Errorf("%w, and returned: %w", err, functionError(remote))
		}
		return nil, err
	case *wirepb.Result_ResultError:
		return nil, &ResultError{Err: errors.New(outcome.ResultError)}
	case *wirepb.Result_Refused:
		if outcome.Refused.GetReason() == wirepb.Refusal_REASON_BAD_ARGUMENT {
			return nil, &ArgumentError{Err: fmt.Errorf("the sandbox's side could not decode it: %s", outcome.Refused.GetText())}
		}
		return nil, fmt.Errorf("%w: %s", ErrNotRegistered, outcome.Refused.GetText())
	}
	return nil, fmt.Errorf("the worker sent a result of unknown kind %T", result.GetOutcome())
}

func functionError(remote *wirepb.Error) *FunctionError {
	return &FunctionError{Type: wire.Clip(remote.GetType(), 1<<10), Err: wire.DecodeError(remote)}
}

// decode reads the encoded result into out, a pointer.
func (f *function) decode(r *request, data []byte, out any) error {
	if err := f.entry.Load().DecodeResult(data, out); err != nil {
		return f.fail(r, "", 0, &ResultError{Err: err})
	}
	return nil
}

// invoke is a whole call: args are pointers to the arguments, out is a pointer to the result or nil.
func (f *function) invoke(ctx context.Context, out any, args ...any) error {
	r, err := f.prepare(ctx, -1, args...)
	if err != nil {
		return err
	}
	f.queue(r)
	data, err := f.do(r)
	if err != nil || out == nil {
		return err
	}
	return f.decode(r, data, out)
}

// errGoexit is the error of a call whose result's unmarshaler did not return.
var errGoexit = &ResultError{Err: errors.New("an unmarshaler called runtime.Goexit")}
