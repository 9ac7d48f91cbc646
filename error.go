package sbx

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

var (
	// ErrClosed is wrapped by the error of every use of a session after Close began, and of calls that Close ended.
	ErrClosed = errors.New("session is closed; open another one")

	// ErrTimeout is wrapped by the error of a call that ran longer than its [Timeout] allows, and is the cause of the end of
	// the function's context there. The caller's own deadline is context.DeadlineExceeded instead.
	ErrTimeout = callinfo.ErrTimeout

	// ErrExited is wrapped by a [*SandboxLostError] if the function ended its process: by os.Exit, log.Fatal or the like.
	ErrExited = errors.New("the function ended its process")

	// ErrOutOfMemory is wrapped by a [*SandboxLostError], or by a [*StartError], if the process got no more memory: the Go runtime gave
	// up, or the kernel killed it, as far as the driver can tell (see driver.Exit).
	ErrOutOfMemory = errors.New("out of memory")

	// ErrStackOverflow is wrapped by a [*SandboxLostError] if a goroutine's stack outgrew the limit of runtime/debug.SetMaxStack.
	ErrStackOverflow = errors.New("stack overflow")

	// ErrPoison is wrapped, beside the last error, by the error of a call that is not run again because it ended its sandbox by
	// itself three times; see [Retries].
	ErrPoison = errors.New("the call ended its sandbox three times, and is not run again")

	// ErrRetryBudget is wrapped, beside the last error, by the error of a call that would have been run again if its map's
	// [RetryBudget] had allowed it.
	ErrRetryBudget = errors.New("the map's budget of further runs is used up")

	// ErrNotRegistered is wrapped by the error of a call of a function that generated code did not register.
	ErrNotRegistered = errors.New("function is not registered")

	// ErrNoWorker is wrapped by the error of Open where sandboxes need a worker that sbxgen builds (see [BuiltWorker]), and there is
	// none that they could run. The message says which command makes one.
	ErrNoWorker = errors.New("no worker")

	// ErrStaleWorker is wrapped by the error of Open if the built worker is not of the source as it is now, or of another
	// version of sbx. The message says what has changed, and which command builds it anew; [AutoBuild] has Open do it.
	ErrStaleWorker = errors.New("the worker is stale")

	// ErrSilent is wrapped by the error of a call whose sandbox gave no sign of life for as long as [Lease] says.
	ErrSilent = launch.ErrSilent

	// ErrInSandbox is wrapped by the error of Open in a program that runs in a sandbox itself.
	ErrInSandbox = errors.New("a program that runs as a worker can't open sessions")

	// ErrRangedTwice is yielded by a second range over what Map or MapUnordered returned.
	ErrRangedTwice = errors.New("the results can be ranged over once; call Map again")
)

// CallError is the error of a call: which one it was, around what went wrong.
type CallError struct {
	// Function is the function's name, such as "example.com/train.Train".
	Function string
	// Index is the input's place in a map, from 0; -1 for a single call, and for what ended a whole map.
	Index int
	// Call is the call's id, as [Info] shows it to the function.
	Call string
	// Sandbox is the id of the sandbox that the call ran in, the last one if there were several. If the function certainly did not
	// begin, it is the sandbox that refused the call or lost it; empty if it did not come to that.
	Sandbox string
	// Attempt counts the runs from 1; 0 if the function certainly did not begin.
	Attempt int
	// Delivery is how far the call came, over all attempts.
	Delivery Delivery
	// Attempts are what became of each sandbox that the call was sent to, in order; of many, the last 32.
	Attempts []Attempt
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

// Unwrap returns Err. Of a nil pointer that is nil: one that an errors.As left as it was may be the cause of a context.
func (e *CallError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// FunctionError is an error that the function returned in the sandbox.
type FunctionError struct {
	// Type is the error's Go type in the sandbox, as %T prints it.
	Type string
	// Err prints as the error did there, and wraps what that wrapped. errors.Is finds in it the error variables of the
	// standard library and those that sbxgen registered; errors.As finds the error types of the standard library and those
	// that sbxgen registered, with all their state, and calls their Is and As methods as ever. An error of another type, or
	// whose state can't be sent, is text: a *registry.RemoteError, which has its type's name. So is a nil pointer.
	Err error
}

func (e *FunctionError) Error() string { return e.Err.Error() }

func (e *FunctionError) Unwrap() error { return e.Err }

// PanicError says that the function panicked in the sandbox. The sandbox lives on, unless Elsewhere is true.
type PanicError struct {
	// Value is the panic's value, printed; empty if Goexit is true. One that holds itself, or very many values, is told by its type.
	Value string
	// Err is the panic's value if that was an error, as [FunctionError] has it; else nil. It is not known of a panic elsewhere.
	Err error
	// Stack is the stack of the goroutine that panicked, as runtime/debug prints it.
	Stack string
	// Goexit says that the function did not panic but ended its goroutine by runtime.Goexit.
	Goexit bool
	// Elsewhere says that it was not the call's goroutine that panicked but another one, which ends the process. The error is
	// within a [*SandboxLostError] then, or within a [*StartError] if an init function panicked, and Value and Stack are
	// read from what the Go runtime printed: Value is as it prints values, with nested panics below it.
	Elsewhere bool
}

func (e *PanicError) Error() string {
	what := "panic: " + e.Value
	if e.Goexit {
		what = "the function called runtime.Goexit"
	}
	return what + "\n\n" + strings.TrimRight(e.Stack, "\n")
}

func (e *PanicError) Unwrap() error { return e.Err }

// StuckError says that a function had not returned a second after its context had ended, and was stopped with its sandbox.
type StuckError struct {
	// After is the function's [Timeout]; 0 if it was the caller's deadline that passed.
	After time.Duration
	// Stack is where the function was; empty if its sandbox could not tell.
	Stack string
	// Err is [ErrTimeout], or wraps context.DeadlineExceeded and the cause of the caller's context.
	Err error
}

func (e *StuckError) Error() string {
	text := e.Err.Error()
	if e.After > 0 {
		text += fmt.Sprintf(" after %v (sbx.Timeout)", e.After)
	}
	text += ", and the function did not return when its context ended: its sandbox was stopped; let it look at its context, in loops above all"
	if e.Stack != "" {
		text += "; it was here:\n\n" + e.Stack
	}
	return text
}

func (e *StuckError) Unwrap() error { return e.Err }

// ArgumentError says that an argument can't be sent. No sandbox was touched; or, where the sandbox's side could not
// decode it, the function did not begin.
type ArgumentError struct{ Err error }

func (e *ArgumentError) Error() string { return "the argument can't be sent: " + e.Err.Error() }

func (e *ArgumentError) Unwrap() error { return e.Err }

// ResultError says that the function returned, but its result can't be sent back.
type ResultError struct{ Err error }

func (e *ResultError) Error() string { return "the function's result can't be sent: " + e.Err.Error() }

func (e *ResultError) Unwrap() error { return e.Err }

// OptionError says that an option's value makes no sense.
type OptionError struct {
	// Option is the option's name.
	Option string
	// Reason says what is wrong, and what to give.
	Reason string
}

func (e *OptionError) Error() string { return e.Option + " " + e.Reason }

// nobodys is an error that nobody else has.
type nobodys struct{}

func (*nobodys) Error() string { return "nobody's" }

// tame returns an error of the program's own code as it is; one whose methods panic, as those of a nil pointer in an error that is not nil do, or answer
// to anything, as text: this package looks into errors on goroutines where nobody could recover.
func tame(err error) (tamed error) {
	if err == nil {
		return nil
	}
	tamed = fmt.Errorf("an error of type %T, whose methods can't be called: %v", err, err) //nolint:errorlint // they can't
	defer func() { _ = recover() }()
	_ = err.Error()
	if nobody := new(nobodys); errors.Is(err, nobody) || errors.As(err, &nobody) { // which look at all of it
		return tamed
	}
	return err
}
