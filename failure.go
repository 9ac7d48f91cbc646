package sbx

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/registry"
)

// What follows is how a journal keeps the errors of calls. Their types are not registered as error types, with which they would
// cross by themselves: code in a sandbox could then return what looks like an error of the system's here.

// failure is a [*CallError].
type failure struct {
	Call, Sandbox string
	Attempt       int
	Delivery      Delivery
	Attempts      []failedAttempt
	Cause         cause
}

type failedAttempt struct {
	Sandbox  string
	Delivery Delivery
	Cause    cause
}

// cause is an error in the tree of a failure. Which fields it has depends on Kind.
type cause struct {
	Kind causeKind
	// Text is what the error prints, or its name if it is one of sentinels.
	Text string
	// Causes are what it wraps.
	Causes []cause
	// Remote is an error of the function's, as it arrived; Type its type.
	Remote error
	Type   string

	Panic *panicState
	Stuck *stuckState
	Lost  *lostState
}

type causeKind int

const (
	otherCause causeKind = iota
	leafCause            // Remote is the error itself, or what can be kept of it
	sentinelCause
	functionCause
	panicCause
	resultCause
	argumentCause
	stuckCause
	lostCause
	startCause
)

type panicState struct {
	Value, Stack      string
	Goexit, Elsewhere bool
}

type stuckState struct {
	After time.Duration
	Stack string
}

type lostState struct {
	Exit                *driver.Exit
	Crash               string
	LastLines           []string
	What, Advice, Stack string
	Retries             bool
}

// sentinels are the error variables that errors of calls wrap.
var sentinels = map[string]error{
	"ErrTimeout": ErrTimeout, "ErrExited": ErrExited, "ErrOutOfMemory": ErrOutOfMemory, "ErrStackOverflow": ErrStackOverflow,
	"ErrSilent": ErrSilent, "ErrNotRegistered": ErrNotRegistered, "ErrNotRunning": ErrNotRunning, "ErrPoison": ErrPoison, "ErrRetryBudget": ErrRetryBudget,
}

var failureCodec = sync.OnceValues(func() (*registry.Codec, error) { return registry.CodecOf(reflect.TypeFor[failure]()) })

// encodeFailure encodes an error of a call.
func encodeFailure(err error) ([]byte, error) {
	var call *CallError
	if !errors.As(err, &call) {
		call = &CallError{Err: err}
	}
	past := failure{Call: call.Call, Sandbox: call.Sandbox, Attempt: call.Attempt, Delivery: call.Delivery, Cause: causeOf(call.Err, 0)}
	for _, attempt := range call.Attempts {
		past.Attempts = append(past.Attempts, failedAttempt{attempt.Sandbox, attempt.Delivery, causeOf(attempt.Err, 0)})
	}
	codec, err := failureCodec()
	if err != nil {
		return nil, err
	}
	return codec.Append(nil, reflect.ValueOf(&past).Elem())
}

// decodeFailure is the error of the call of one input.
func (f *function) decodeFailure(data []byte, index int) (*CallError, error) {
	var past failure
	codec, err := failureCodec()
	if err == nil {
		err = codec.Decode(data, reflect.ValueOf(&past).Elem())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the error of input %d: %w", ErrJournalDamaged, index, err)
	}
	call := &CallError{
		Function: f.name(), Index: index, Call: past.Call, Sandbox: past.Sandbox, Attempt: past.Attempt, Delivery: past.Delivery, Err: past.Cause.error(),
	}
	for _, attempt := range past.Attempts {
		call.Attempts = append(call.Attempts, Attempt{attempt.Sandbox, attempt.Delivery, attempt.Cause.error()})
	}
	return call, nil
}

// maxCauses bounds the depth of a tree of causes.
const maxCauses = 16

// causeOf describes an error. What is of the function's side is left to package registry.
func causeOf(err error, depth int) cause {
	if depth == maxCauses {
		return cause{Text: err.Error()}
	}
	for name, sentinel := range sentinels {
		if err == sentinel { //nolint:errorlint // which one it is itself
			return cause{Kind: sentinelCause, Text: name}
		}
	}
	wrapped := func(errs ...error) (causes []cause) {
		for _, err := range errs {
			if err != nil {
				causes = append(causes, causeOf(err, depth+1))
			}
		}
		return causes
	}
	switch e := err.(type) { //nolint:errorlint // what it wraps is looked at on its own
	case *FunctionError:
		return cause{Kind: functionCause, Type: e.Type, Remote: e.Err}
	case *PanicError:
		return cause{Kind: panicCause, Remote: e.Err, Panic: &panicState{e.Value, e.Stack, e.Goexit, e.Elsewhere}}
	case *ResultError:
		return cause{Kind: resultCause, Causes: wrapped(e.Err)}
	case *ArgumentError:
		return cause{Kind: argumentCause, Causes: wrapped(e.Err)}
	case *StartError:
		return cause{Kind: startCause, Causes: wrapped(e.Err, e.cause)}
	case *StuckError:
		return cause{Kind: stuckCause, Stuck: &stuckState{e.After, e.Stack}, Causes: wrapped(e.Err)}
	case *SandboxLostError:
		return cause{
			Kind: lostCause, Causes: wrapped(e.Err, e.ending.cause),
			Lost: &lostState{e.Exit, e.Crash, e.LastLines, e.ending.what, e.ending.advice, e.ending.stack, e.retries},
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return cause{Text: err.Error(), Causes: wrapped(inner)}
		}
	case interface{ Unwrap() []error }:
		if inner := e.Unwrap(); len(inner) > 0 {
			return cause{Text: err.Error(), Causes: wrapped(inner...)}
		}
	}
	return cause{Kind: leafCause, Remote: err}
}

// error is the error that a cause describes.
func (c cause) error() error {
	var causes []error
	for _, inner := range c.Causes {
		causes = append(causes, inner.error())
	}
	first := errors.Join(causes...)
	if len(causes) == 1 {
		first = causes[0]
	}
	switch {
	case c.Kind == sentinelCause && sentinels[c.Text] != nil:
		return sentinels[c.Text]
	case c.Kind == leafCause && c.Remote != nil:
		return c.Remote
	case c.Kind == functionCause && c.Remote != nil:
		return &FunctionError{Type: c.Type, Err: c.Remote}
	case c.Kind == panicCause && c.Panic != nil:
		return &PanicError{Value: c.Panic.Value, Err: c.Remote, Stack: c.Panic.Stack, Goexit: c.Panic.Goexit, Elsewhere: c.Panic.Elsewhere}
	case c.Kind == resultCause && first != nil:
		return &ResultError{Err: first}
	case c.Kind == argumentCause && first != nil:
		return &ArgumentError{Err: first}
	case c.Kind == startCause && first != nil:
		e := &StartError{Err: causes[0]}
		if len(causes) > 1 {
			e.cause = causes[1]
		}
		return e
	case c.Kind == stuckCause && c.Stuck != nil && first != nil:
		return &StuckError{After: c.Stuck.After, Stack: c.Stuck.Stack, Err: first}
	case c.Kind == lostCause && c.Lost != nil && first != nil:
		e := &SandboxLostError{Exit: c.Lost.Exit, Crash: c.Lost.Crash, LastLines: c.Lost.LastLines, Err: causes[0], retries: c.Lost.Retries}
		e.ending = ending{what: c.Lost.What, advice: c.Lost.Advice, stack: c.Lost.Stack}
		if len(causes) > 1 {
			e.ending.cause = causes[1]
		}
		return e
	}
	return &otherError{c.Text, causes}
}

// otherError is an error of a type that isn't kept.
type otherError struct {
	text   string
	causes []error
}

func (e *otherError) Error() string { return e.text }

func (e *otherError) Unwrap() []error { return e.causes }
