package sbx

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

var (
	// ErrClosed is wrapped by the error of every use of a session after Close began, and of calls that Close ended.
	ErrClosed = errors.New("session is closed")

	// ErrTimeout is wrapped by the error of a call that ran longer than its [Timeout] allows, and is the cause of the end of
	// the function's context there. The caller's own deadline is context.DeadlineExceeded instead.
	ErrTimeout = callinfo.ErrTimeout

	// ErrNotRegistered is wrapped by the error of a call of a function that generated code did not register.
	ErrNotRegistered = errors.New("function is not registered")

	// ErrInSandbox is wrapped by the error of Open in a program that runs in a sandbox itself.
	ErrInSandbox = errors.New("a program that runs as a worker can't open sessions")

	// ErrRangedTwice is yielded by a second range over what Map or MapUnordered returned.
	ErrRangedTwice = errors.New("the results can be ranged over once; call Map again")
)

// CallError is the error of a call: which one it was, around what went wrong.
type CallError struct {
	// Function is the function's name, such as "example.com/train.Train".
	Function string
	// Index is the input's place in a map, from 0; -1 for a single call.
	Index int
	// Call is the call's id, as [Info] shows it to the function.
	Call string
	// Sandbox is the id of the sandbox that the call ran in; empty if it did not come to that.
	Sandbox string
	// Attempt counts the runs from 1; 0 if the function was not sent to a sandbox.
	Attempt int
	// Err is the cause.
	Err error
}

func (e *CallError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "sbx: %s", e.Function)
	var at []string
	if e.Index >= 0 {
		at = append(at, fmt.Sprintf("input %d", e.Index))
	}
	if e.Attempt > 1 {
		at = append(at, fmt.Sprintf("attempt %d", e.Attempt))
	}
	if e.Sandbox != "" {
		at = append(at, "sandbox "+e.Sandbox)
	}
	if len(at) > 0 {
		fmt.Fprintf(&text, " (%s)", strings.Join(at, ", "))
	}
	fmt.Fprintf(&text, ": %v", e.Err)
	return text.String()
}

func (e *CallError) Unwrap() error { return e.Err }

// FunctionError is an error that the function returned in the sandbox.
type FunctionError struct {
	// Type is the error's Go type in the sandbox, as %T prints it.
	Type string
	// Err prints as the error did there, and wraps what that wrapped: errors.Is finds in it the sentinels of the standard
	// library and the package-level error variables that sbxgen registered. Error types don't cross: errors.As does not
	// find them.
	Err error
}

func (e *FunctionError) Error() string { return e.Err.Error() }

func (e *FunctionError) Unwrap() error { return e.Err }

// PanicError says that the function panicked in the sandbox. The sandbox lives on.
type PanicError struct {
	// Value is the panic's value, printed; empty if Goexit is true.
	Value string
	// Stack is the stack of the goroutine that panicked, as runtime/debug prints it.
	Stack string
	// Goexit says that the function did not panic but ended its goroutine by runtime.Goexit.
	Goexit bool
}

func (e *PanicError) Error() string {
	what := "panic: " + e.Value
	if e.Goexit {
		what = "the function called runtime.Goexit"
	}
	return what + "\n\n" + strings.TrimRight(e.Stack, "\n")
}

// ArgumentError says that an argument can't be sent. No sandbox was touched; or, where the sandbox's side could not
// decode it, the function did not begin.
type ArgumentError struct{ Err error }

func (e *ArgumentError) Error() string { return "the argument can't be sent: " + e.Err.Error() }

func (e *ArgumentError) Unwrap() error { return e.Err }

// ResultError says that the function returned, but its result can't be sent back.
type ResultError struct{ Err error }

func (e *ResultError) Error() string { return "the function's result can't be sent: " + e.Err.Error() }

func (e *ResultError) Unwrap() error { return e.Err }

// SandboxLostError says that the sandbox ended while the function may have been running in it: the function called
// os.Exit or crashed, or something killed it. Whether the function did its work is not known.
type SandboxLostError struct {
	// Exit is how the worker's process ended; nil if that is not known.
	Exit *driver.Exit
	// LastLines are the last lines that the program printed there or logged through [Log], at most 20 of at most 1 KiB, and
	// before them the first lines of a crash if they are not among these.
	LastLines []string
	// Err is how the loss showed.
	Err error
	// retries says that the function was wrapped with Retries.
	retries bool
}

func (e *SandboxLostError) Error() string {
	text := "the sandbox was lost while the function may have been running: "
	if e.Exit != nil {
		text += e.Exit.String()
	} else {
		text += e.Err.Error()
	}
	if !e.retries {
		text += " (sbx.Retries lets such calls run again, where that does no harm)"
	}
	if len(e.LastLines) > 0 {
		text += "; last output:\n\t" + strings.Join(e.LastLines, "\n\t")
	}
	return text
}

func (e *SandboxLostError) Unwrap() error { return e.Err }

func lostError(lost *launch.LostError, retries bool) *SandboxLostError {
	return &SandboxLostError{Exit: lost.Exit, LastLines: lost.LastLines, Err: lost.Err, retries: retries}
}

// StartError says that no sandbox could be started for a call, so that the function did not begin.
type StartError struct{ Err error }

func (e *StartError) Error() string { return "no sandbox could be started: " + e.Err.Error() }

func (e *StartError) Unwrap() error { return e.Err }

// OptionError says that an option's value makes no sense.
type OptionError struct {
	// Option is the option's name.
	Option string
	// Reason says what is wrong, and what to give.
	Reason string
}

func (e *OptionError) Error() string { return e.Option + " " + e.Reason }
