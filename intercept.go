package sbx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/sandboxfn/sbx/internal/callinfo"
)

// An Interceptor wraps calls, for tracing, metrics or authorisation. It calls next once, with ctx or a context made from
// it, waits for it, and returns its error or another one. An interceptor that does not call next refuses the call by its
// error, and one that returns while next still runs cancels the call. Returning no error where next returned one makes no
// success of it on the caller's side. It is called by many goroutines at the same time.
type Interceptor func(ctx context.Context, call CallInfo, next func(context.Context) error) error

// Intercept wraps every call of the session in this program: from before it takes a place in the queue for a sandbox to its result,
// all attempts included. The argument is encoded before, and the result decoded after. What next returns is a [*CallError]. call has no sandbox and
// no attempt yet. Of several interceptors the first is the outermost. Calls by Local are not wrapped.
func Intercept(interceptors ...Interceptor) OpenOption {
	interceptors = slices.Clone(interceptors)
	return openOption(func(c *openConfig) {
		for _, i := range interceptors {
			if i == nil {
				c.errs = append(c.errs, &OptionError{Option: "Intercept", Reason: "is given nil; leave it out"})
				return
			}
		}
		c.interceptors = append(c.interceptors, interceptors...)
	})
}

// InterceptRemote wraps every run of a function of this program in a sandbox, around the function alone. next returns the
// function's own error, and panics when the function does; an interceptor's error counts as the function's, a refusal too. Call it from
// an init function: those run in sandboxes too, and main does not. Of several interceptors the first is the outermost.
func InterceptRemote(interceptors ...Interceptor) {
	for _, i := range interceptors {
		if i == nil {
			panic("sbx: InterceptRemote is given nil")
		}
		callinfo.Intercept(func(ctx context.Context, info callinfo.Info, next func(context.Context) error) error {
			return i(ctx, CallInfo(info), next)
		})
	}
}

// maxMetadata bounds the bytes of a call's metadata, keys and values together.
const maxMetadata = 64 << 10

type metadataKey struct{}

// WithMetadata returns a context whose calls carry key and value beside their argument, such as the id of a trace. The
// function finds them by [Info]; ordinary values of a context do not cross. Both are UTF-8, and all metadata of a call may
// have 64 KiB; else the call fails.
func WithMetadata(ctx context.Context, key, value string) context.Context {
	metadata := maps.Clone(metadataOf(ctx))
	if metadata == nil {
		metadata = map[string]string{}
	}
	metadata[key] = value
	return context.WithValue(ctx, metadataKey{}, metadata)
}

func metadataOf(ctx context.Context) map[string]string {
	metadata, _ := ctx.Value(metadataKey{}).(map[string]string)
	return metadata
}

func checkMetadata(metadata map[string]string) error {
	size := 0
	for key, value := range metadata {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return &ArgumentError{Err: fmt.Errorf("the metadata of key %q is not UTF-8: encode it, in base64 say", key)}
		}
		size += len(key) + len(value)
	}
	if size > maxMetadata {
		return &ArgumentError{Err: fmt.Errorf("%d bytes of metadata; the limit is %d", size, maxMetadata)}
	}
	return nil
}

// intercepted runs a request within the session's interceptors. It takes its place in the queue when they let it pass.
func (f *function) intercepted(r *request) (data []byte, err error) {
	var gate struct {
		sync.Mutex
		called, closed bool
		cancel         context.CancelCauseFunc
	}
	done := make(chan struct{}) // closed when next is done, if it was called
	var outcome error
	next := func(ctx context.Context) error {
		var err error = errNilContext
		if ctx != nil {
			err = checkMetadata(metadataOf(ctx))
		}
		if err != nil {
			return &CallError{Function: f.name(), Index: r.index, Call: r.id, Delivery: NotBegun, Err: err}
		}
		ctx, cancel := context.WithCancelCause(ctx) // a context that panics does so before it counts
		defer cancel(nil)
		gate.Lock()
		if gate.called || gate.closed {
			gate.Unlock()
			return callinfo.ErrNextTwice
		}
		gate.called, gate.cancel = true, cancel
		gate.Unlock()
		defer close(done)
		r.passed, r.ctx = true, ctx
		outcome = callinfo.ErrNextPanicked // unless it returns
		f.queue(r)
		data, outcome = f.do(r)
		return outcome
	}
	// An interceptor that returns, or panics, while next runs elsewhere ends the call.
	settle := func() (called bool) {
		gate.Lock()
		gate.closed = true
		called = gate.called
		gate.Unlock()
		if called {
			gate.cancel(callinfo.ErrNextRuns)
			<-done
		}
		return called
	}
	defer settle()
	info := CallInfo{Function: f.name(), Call: r.id, Session: f.session.id, Metadata: metadataOf(r.ctx)}
	info.Deadline, _ = r.ctx.Deadline()
	interceptors := f.session.config.interceptors
	for i := len(interceptors) - 1; i >= 0; i-- {
		inner := next
		next = func(ctx context.Context) error {
			err := interceptors[i](ctx, info, inner)
			if own, ok := err.(*CallError); ok && own == nil { //nolint:errorlint // a variable that errors.As found nothing for
				return nil
			}
			return err
		}
	}
	err = next(r.ctx)
	switch called := settle(); {
	case err != nil:
	case !called:
		err = callinfo.ErrNextMissed
	default:
		err = outcome // there is no result that an interceptor could give instead
	}
	r.cut = r.cut || outcome == nil
	if err != nil && !isOf(err, r) { // it may be another call's
		err = f.fail(r, "", tame(err))
		r.cut = true // it is not the function's, whatever that has done
	}
	return data, err
}

// isOf reports whether the error is a request's, or wraps it. Its methods are the program's own, and may panic.
func isOf(err error, r *request) (is bool) {
	defer func() { _ = recover() }()
	var own *CallError
	return errors.As(err, &own) && own != nil && own.Call == r.id
}
