package sbx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
)

const (
	// maxResend bounds how often a call is sent again that certainly did not begin.
	maxResend = 100
	// maxArgsAhead is how long the arguments of a call may be that waits in a busy sandbox.
	maxArgsAhead = 64 << 10
	// sendTime is how long a byte of an argument may take on its way, at 10 MB/s, before a timeout is enforced here.
	sendTime = 100 * time.Nanosecond
	// maxRounds is how often more time is given to an argument that is on its way.
	maxRounds = 10
	// arriveTime is how long a byte of a result may take, at 1 MB/s, that is on its way when the timeout is enforced here. It
	// shares the connection with those of other calls.
	arriveTime = time.Microsecond
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
	// Metadata is what the caller gave by [WithMetadata]. Don't change it.
	Metadata map[string]string
}

// Info returns what a function may know of its call. ok is false outside of a call, and under Local.
func Info(ctx context.Context) (info CallInfo, ok bool) {
	inner, ok := callinfo.From(ctx)
	return CallInfo(inner), ok
}

var errNilContext = &OptionError{Option: "the context", Reason: "is nil; give context.Background()"}

// request is one call of a function.
type request struct {
	ctx   context.Context
	index int
	id    string
	args  []byte
	// turn is the request's place in the queue for a sandbox.
	turn pool.Turn[class, *sandbox]
	// flow is what takes turns with other calls for a sandbox: a map's run, or the function.
	flow any
	// passed says that the interceptors let the request pass.
	passed bool
	// class is of the sandbox that the next run wants: the function's own, unless earlier runs have shown that it wants another one.
	class *class
	// calls are those of the request's map; nil if it has none. Who waits for them waits until the sandboxes of cancelled ones are
	// free again, or on their way out.
	calls  *sync.WaitGroup
	budget *budget // of the request's map; nil if it has none
	hedge  *hedge  // of the run that goes on; nil if it must not have one
	// told is where what the function tells of its progress is wanted, too; nil if nowhere.
	told *atomic.Pointer[launch.Progress]

	sentTo   atomic.Pointer[sandbox]
	underway underway
	attempt  int       // counts runs from 1; 0 before the first
	attempts []Attempt // that failed
	delivery Delivery  // the furthest of them
	ranIn    string    // the sandbox in which the function may have begun last; empty if it did not
	endings  int       // how often it ended its sandbox by itself
	cut      bool      // its last error is not what came of it, but of want of time, budget or a sandbox, or of an interceptor
}

// callSerial numbers the calls of this process.
var callSerial atomic.Uint64

func newCallID() string {
	return string(strconv.AppendUint(append(make([]byte, 0, 22), "c-"...), callSerial.Add(1), 10))
}

// prepare checks what can be checked before a sandbox is touched, and encodes the arguments, given by pointers.
func (f *function) prepare(ctx context.Context, index int, args ...any) (*request, error) {
	return f.prepareBy(ctx, index, (*registry.Entry).EncodeArgs, args)
}

// prepareBy is prepare with a way to encode.
func (f *function) prepareBy(ctx context.Context, index int, encode func(*registry.Entry, []byte, ...any) ([]byte, error), args []any) (*request, error) {
	r := &request{ctx: ctx, index: index, id: newCallID(), flow: f, class: &f.class, delivery: NotBegun}
	err := f.resolve()
	switch {
	case err != nil:
	case ctx == nil:
		err = errNilContext
	case isDone(ctx):
		err = contextError(ctx)
	default:
		if err = checkMetadata(metadataOf(ctx)); err != nil {
			break
		}
		r.args, err = encode(f.entry.Load(), nil, args...)
		switch {
		case err != nil:
			err = &ArgumentError{Err: err}
		case len(r.args) > wire.MaxValue:
			err = &ArgumentError{Err: fmt.Errorf("%d bytes encoded; the limit is %d", len(r.args), wire.MaxValue)}
		}
	}
	if err != nil {
		return r, f.fail(r, "", err)
	}
	return r, nil
}

// queue takes the request's place in the queue for a sandbox. run must follow. Long arguments don't wait in a sandbox.
func (f *function) queue(r *request) {
	if len(f.session.config.interceptors) > 0 && !r.passed {
		return // an interceptor may take its time, or refuse the call
	}
	r.turn = f.sandboxes().Queue(*r.class, r.flow, len(r.args) <= maxArgsAhead)
}

// fail is a call's error. sandbox is where it came to that, for a function that did not begin in any.
func (f *function) fail(r *request, sandbox string, err error) error {
	return &CallError{
		Function: f.name(), Index: r.index, Call: r.id, Sandbox: cmp.Or(r.ranIn, sandbox), Attempt: r.attempt,
		Delivery: r.delivery, Attempts: r.attempts, Err: err,
	}
}

// run runs a queued request to its end and returns the encoded result.
func (f *function) run(r *request) ([]byte, error) {
	if len(f.session.config.interceptors) > 0 {
		return f.intercepted(r)
	}
	return f.do(r)
}

// do runs a queued request to its end and returns the encoded result.
func (f *function) do(r *request) ([]byte, error) {
	if f.where != nil && f.where.session != f.session { // Close of this session need not stop that sandbox
		ctx, cancel := context.WithCancelCause(r.ctx)
		defer cancel(nil)
		defer context.AfterFunc(f.session.ctx, func() { cancel(ErrClosed) })()
		r.ctx = ctx
	}
	calls := &f.session.calls
	calls.enter(f, r)
	defer calls.leave(r)
	var none pool.Turn[class, *sandbox]
	for resent, short := 0, 0; ; { // how often no function began, and how often for lack of memory
		lease, err := r.turn.Wait(r.ctx)
		if err != nil {
			r.cut = true
			sandbox := "" // that lost it last
			if n := len(r.attempts); n > 0 {
				sandbox = r.attempts[n-1].Sandbox
			}
			return nil, f.fail(r, sandbox, f.leaseError(r.ctx, err))
		}
		r.attempt++
		data, sandbox, delivery, err := f.runOnce(r, lease)
		turn := r.turn
		r.turn = none // the lease was given back, or is when the function has returned
		if err == nil {
			r.delivery = Failed // should anything fail from here on
			return data, nil
		}
		if err == errSentBack { //nolint:errorlint // nobody wraps it
			r.attempt--
			calls.waits(r)
			r.turn = turn.Again()
			continue
		}
		f.note(r, sandbox, delivery, err)
		if delivery == NotBegun {
			r.attempt--
		}
		calls.waits(r)
		// What send returned, not what that wraps: a function's error may hold anything.
		if cause, ok := err.(*notBegunError); ok { //nolint:errorlint // see above
			resent++
			if f.ranShort(r, cause) {
				short++
				if f.grow(r) || short < maxEndings {
					f.queue(r)
					continue
				}
			} else if resent <= maxResend {
				r.turn = turn.Again()
				continue
			}
			start := startError(fmt.Errorf("%d sandboxes ended before the call began: %w", resent, cause.err))
			start.advice = fmt.Sprintf("its arguments have %d bytes; %s", len(r.args), f.adviseMemory(r.class))
			err = start
		}
		if err = f.again(r, delivery, err); err != nil {
			r.cut = r.cut || delivery == NotBegun
			return nil, f.fail(r, sandbox, err)
		}
		calls.waits(r)
		f.queue(r)
	}
}

type lease = pool.Lease[class, *sandbox]

// send runs the request in its lease's sandbox, or in the one that takes the lease over, and gives the lease back.
func (f *function) send(r *request, l *lease) (data []byte, sandbox string, delivery Delivery, err error) {
	returned := false
	defer func() {
		if !returned { // the caller's context has panicked, or an unmarshaler has ended the goroutine
			l.Release(false)
		}
	}()
	for moved := l.Moved(); ; moved = nil { // at most once
		sb := l.Member()
		remote, ok := sb.worker.Function(f.entry.Load().Name())
		if !ok || remote.Fingerprint != f.entry.Load().Fingerprint() {
			l.Release(true)
			returned = true
			return nil, sb.id, NotBegun, fmt.Errorf("%w in the worker with the types that it has in this program (they were built from different sources, or it is registered after the program became a worker): run \"go tool sbxgen\" and build again", ErrNotRegistered)
		}
		call := &wirepb.Call{
			Attempt: uint32(r.attempt), Function: remote.Index, Name: r.id,
			TimeoutNanos: int64(f.config.timeout), Metadata: metadataOf(r.ctx),
		}
		if deadline, ok := r.ctx.Deadline(); ok {
			// It travels with the call, so that it holds even if this side is stopped.
			call.DeadlineNanos = int64(max(time.Until(deadline), 1))
		}
		r.sentTo.Store(sb)
		pending := sb.worker.Go(call, r.args)
		f.session.calls.sent(r, l, sb, pending)
		data, again, delivery, err := f.await(r, l, sb, pending, moved)
		if !again {
			returned = true
			return data, sb.id, delivery, err
		}
		if l.SentBack() {
			returned = true
			return nil, "", NotBegun, errSentBack
		}
	}
}

// await waits for what comes of a call that was sent, whichever it is, and gives the lease back; unless another sandbox has
// taken that over, or the call was sent back: then again is true.
func (f *function) await(r *request, l *lease, sb *sandbox, pending *launch.Pending, moved <-chan struct{}) (data []byte, again bool, delivery Delivery, err error) {
	var running <-chan struct{} // as long as it matters
	var overdue, slow <-chan time.Time
	arriving, rounds, asked := false, 0, 0
	sent := func() { l.Sent(pending.Withdraw) }
	inOrder := pending.InOrder() // while others can overtake it, none may wait behind it
	if inOrder == nil {
		sent()
	}
	// The worker ends calls by their timeouts. This is for one that does not.
	late := f.config.timeout + 2*wire.Grace + time.Duration(len(r.args))*sendTime
	bounded := f.config.timeout > 0 && late > f.config.timeout // no overflow
	if bounded || r.hedge != nil {
		running = l.Running()
	}
	for {
		select {
		case <-inOrder:
			inOrder = nil
			sent()
		case <-pending.Done():
			sent()
			if suspicious(pending.Result()) {
				l.ReleaseSuspect()
			} else {
				l.Release(!pending.Result().GetTimedOut().GetRunning())
			}
			data, delivery, err = f.outcome(r, pending.Result())
			return data, false, delivery, err
		case <-moved:
			return nil, true, NotBegun, nil
		case <-sb.worker.Done():
			killed := sb.killed.Load() // not by what follows
			if !l.Drop(sb) {
				return nil, true, NotBegun, nil
			}
			data, delivery, err = f.lost(r, sb, pending, killed)
			return data, false, delivery, err
		case <-running:
			running = nil
			if bounded {
				timer := time.NewTimer(late)
				defer timer.Stop()
				overdue = timer.C
			}
			if r.hedge != nil {
				slow = time.After(f.config.hedge)
			}
		case <-slow:
			slow = nil
			if pending.Running() {
				r.hedge.begin(sb)
			} else { // its argument is on its way
				slow = time.After(f.config.hedge)
			}
		case <-overdue:
			if pending.Answered() { // at the same time
				continue
			}
			if !pending.Handed() && rounds < maxRounds { // its argument is on its way
				rounds++
				overdue = time.After(late)
				continue
			}
			size := time.Duration(pending.Arriving())
			if size == 0 && pending.Withdraw() { // the worker begins nothing
				return nil, !l.Drop(sb), NotBegun, &notBegunError{fmt.Errorf("the worker had the call and did not begin it within %v", late)}
			}
			if size == 0 && asked < asks {
				asked++
				overdue = f.ask(sb)
				continue
			}
			if size == 0 {
				return nil, !l.Drop(sb), MayHaveRun, &StuckError{After: f.config.timeout, Err: ErrTimeout}
			}
			if arriving {
				return nil, !l.Drop(sb), MayHaveRun, fmt.Errorf("%w after %v (sbx.Timeout), and its result of %d bytes did not arrive: its sandbox was stopped", ErrTimeout, f.config.timeout, size)
			}
			arriving = true
			overdue = time.After(size*arriveTime + wire.Grace)
		case <-r.ctx.Done():
			if pending.Answered() { // at the same time
				continue
			}
			if pending.Withdraw() {
				l.Release(true)
				return nil, false, NotBegun, contextError(r.ctx)
			}
			sent()
			pending.Cancel()
			settle := func() { settle(l, sb, pending) }
			switch {
			case r.calls != nil:
				r.calls.Go(settle)
			case !f.session.background(settle):
				settle()
			}
			return nil, false, MayHaveRun, contextError(r.ctx)
		}
	}
}

// suspicious reports whether the sandbox, rather than the function, may be the reason for a result: a timeout may mean that the function waits for
// something that an earlier call left there, a lock say. An error or a panic is the function's answer, and the deadline its caller's.
func suspicious(result *wirepb.Result) bool {
	timedOut := result.GetTimedOut()
	return timedOut != nil && !timedOut.GetDeadline() && !timedOut.GetRunning()
}

// asks is how many signs of life a worker gives before a call there is taken for stuck: where this program is crowded with goroutines, a result
// may long be here, and not read yet. The first sign may be older than that, the second one comes after it.
const asks = 2

// ask asks the worker for a sign of life, and tells when it is there, or not coming.
func (f *function) ask(sb *sandbox) <-chan time.Time {
	answered := make(chan time.Time, 1)
	check := func() {
		_ = sb.answers() // whichever it is
		answered <- time.Now()
	}
	if !f.session.background(check) {
		check()
	}
	return answered
}

// answers reports whether the worker gives a sign of life.
func (sb *sandbox) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), wire.Grace)
	defer cancel()
	return sb.Check(ctx) == nil
}

// settle waits until a cancelled function has returned; if it does not, its sandbox is stopped.
func settle(l *lease, sb *sandbox, pending *launch.Pending) {
	timer := time.NewTimer(wire.Grace)
	defer timer.Stop()
	select {
	case <-pending.Done():
		l.Release(!pending.Result().GetTimedOut().GetRunning())
	case <-sb.worker.Done():
		l.Release(false)
	case <-timer.C:
		for asked := 0; asked < asks && !pending.Answered() && sb.answers(); asked++ {
		}
		l.Release(pending.Answered() && !pending.Result().GetTimedOut().GetRunning())
	}
}

// invoke is a whole call: args are pointers to the arguments, out is a pointer to the result or nil.
func (f *function) invoke(ctx context.Context, out any, args ...any) error {
	r, err := f.prepare(ctx, -1, args...)
	if err != nil {
		return err
	}
	if !f.session.enter() {
		return f.fail(r, "", ErrClosed)
	}
	defer f.session.leave()
	ended := false
	defer func() {
		if !ended { // ctx has panicked, perhaps before the request's place was used
			r.turn.Leave()
		}
	}()
	f.queue(r)
	data, err := f.run(r)
	ended = true
	if err != nil || out == nil {
		return err
	}
	return f.decode(r, data, out)
}

// goexitError is the error of a call whose goroutine user code ended: the unmarshaler of its result, or an interceptor.
func (f *function) goexitError(r *request) error {
	if r.delivery == Failed {
		return f.fail(r, "", &ResultError{Err: errors.New("an unmarshaler, an interceptor or a predicate of RetryIf called runtime.Goexit")})
	}
	return f.fail(r, "", errors.New("an interceptor or a predicate of RetryIf called runtime.Goexit"))
}
