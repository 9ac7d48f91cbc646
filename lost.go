package sbx

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
)

// SandboxLostError says that the sandbox ended while the function may have been running in it. Whether the function did
// its work is not known. What ended the sandbox is wrapped, as far as it is known: a [*PanicError] with Elsewhere for a
// panic in a goroutine that it, or another call in the sandbox, started, or [ErrExited], [ErrOutOfMemory] or [ErrStackOverflow].
type SandboxLostError struct {
	// Exit is how the worker's process ended; nil if that is not known.
	Exit *driver.Exit
	// Crash is what the Go runtime printed when it ended the process, at most 64 KiB; empty if that was not how it ended. User
	// code that calls debug.SetCrashOutput gets it instead, and its crash is taken for an exit with status 2. Code in the sandbox can forge it.
	Crash string
	// LastLines are the last lines that the program printed there before the crash if there was one, at most 20.
	LastLines []string
	// Err is how the loss showed.
	Err error

	ending ending
	alone  bool // no other call ran in the sandbox
	memory int  // the sandbox's limit in MiB; 0 if it had none that must be held
	// retries says that the function was wrapped with Retries, or that they would be of no use.
	retries bool
}

func (e *SandboxLostError) Error() string {
	text := "the sandbox was lost while the function may have been running: " + e.ending.what
	if e.ending.advice != "" {
		text += "; " + e.ending.advice
	}
	if !e.retries && e.Crash == "" && (e.Exit == nil || e.Exit.Signal != 0) { // what it does itself it will do again
		text += " (sbx.Retries lets such calls run again, where that does no harm)"
	}
	if e.ending.stack != "" {
		text += "\n\n" + e.ending.stack
	}
	if len(e.LastLines) > 0 {
		text += "\n\nlast output:\n\t" + strings.Join(e.LastLines, "\n\t")
	}
	return text
}

// Unwrap returns how the loss showed, and what ended the sandbox.
func (e *SandboxLostError) Unwrap() []error { return withCause(e.Err, e.ending.cause) }

func withCause(err, cause error) []error {
	if cause == nil {
		return []error{err}
	}
	return []error{err, cause}
}

func lostError(lost *launch.LostError, retries bool) *SandboxLostError {
	var over interface{ SessionIsOver() } // a driver's word
	retries = retries || errors.As(lost.Err, &over)
	e := &SandboxLostError{Exit: lost.Exit, LastLines: lost.LastLines, Err: lost.Err, retries: retries, ending: endingOf(lost), alone: lost.Running == 1}
	if lost.Crash != nil {
		e.Crash = lost.Crash.Text
	}
	return e
}

// StartError says that no sandbox could be started for a call, so that the function did not begin; or for [Session.Prewarm]. If the program
// crashed in the sandbox before it could serve calls, what it crashed from is wrapped as in a [SandboxLostError].
type StartError struct {
	Err error

	cause  error
	advice string // for lack of memory, if it isn't the usual one
}

func (e *StartError) Error() string {
	text := "no sandbox could be started: " + e.Err.Error()
	if remedy := driver.ShortageRemedy(e.Err); remedy != "" && !strings.Contains(text, remedy) { // as a driver may have said
		text += "; " + remedy
	}
	if e.cause == ErrOutOfMemory { //nolint:errorlint // it is this or another one
		text += "; " + cmp.Or(e.advice, moreForStart)
	}
	return text
}

// Unwrap returns Err, and what the program crashed from.
func (e *StartError) Unwrap() []error { return withCause(e.Err, e.cause) }

func startError(err error) *StartError {
	e := &StartError{Err: err}
	var start *launch.StartError
	var lost *launch.LostError
	switch {
	case errors.As(err, &start) && start.Crash != nil:
		e.cause = crashed(start.Crash).cause
	case errors.As(err, &lost) && lost.Crash != nil:
		e.cause = crashed(lost.Crash).cause
	case start != nil && start.Exit != nil && start.Exit.OutOfMemory, lost != nil && lost.Exit != nil && lost.Exit.OutOfMemory:
		e.cause = ErrOutOfMemory
	}
	return e
}

// An ending says what ended a sandbox, for a caller who wants to know what to do.
type ending struct {
	// what happened, and what to do about it: a phrase each. There is not always something to do.
	what, advice string
	stack        string
	cause        error
	// itself says that what ran in the sandbox ended it, and nothing from elsewhere.
	itself bool
}

// endedError is an ending as the reason why a sandbox is of no use.
type endedError struct{ ending }

func (e *endedError) Error() string {
	if e.advice == "" {
		return e.what
	}
	return e.what + "; " + e.advice
}

func (e *endedError) Unwrap() error { return e.cause }

const (
	// maxHeadline bounds a text of the sandbox's in an error's first line.
	maxHeadline = 1 << 10
	// maxShownStack bounds a stack in an error's text; that of a deep recursion has a hundred frames.
	maxShownStack = 8 << 10

	moreMemory     = "give the function smaller inputs, or let fewer calls run at a time"
	moreLimit      = "allow the sandbox more by MemoryMiB of sbx.Limit (sbx.RetryMemory does so for the calls that need it), " + moreMemory
	moreForStart   = "allow the sandbox more by MemoryMiB of sbx.Limit, if it has one, or let package variables and init functions take less"
	moreThanMost   = "have sbx.RetryMemory allow more, " + moreMemory
	moreLimitOfOwn = "allow the sandbox more by MemoryMiB of sbx.Limit, " + moreMemory

	foreignDescriptors = "this happens to user code that closes or uses descriptors which it did not open"

	faultOrSignal = "a signal that was sent to the process, or a fault in C code"
)

func isFault(signal syscall.Signal) bool {
	switch signal {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGABRT, syscall.SIGTRAP:
		return true
	}
	return false
}

func endingOf(lost *launch.LostError) ending {
	exit := lost.Exit
	switch {
	case exit != nil && exit.OutOfMemory:
		return ending{what: "the kernel killed its process because memory ran out (signal: killed)", advice: moreMemory, cause: ErrOutOfMemory}
	case lost.Crash != nil:
		return crashed(lost.Crash)
	case lost.Decided == wire.LeaseEnded:
		return ending{
			what:   "the worker ended itself, because this program gave no sign of life for as long as sbx.Lease says",
			advice: "this happens when the program is stopped, or it or the worker gets no time to run",
		}
	case lost.Decided == wire.FunctionHeld:
		return ending{what: "the worker ended itself, because a function in it did not return when its context ended"}
	case lost.Decided == wire.StreamEnded:
		return ending{
			what:   "the worker lost its connection, and ended",
			advice: foreignDescriptors,
		}
	case exit == nil && errors.Is(lost.Err, ErrSilent):
		return ending{what: lost.Err.Error(), cause: ErrSilent}
	case lost.WentOn:
		return ending{
			what:   fmt.Sprintf("the connection to its process ended (%v), and the process did not within five seconds", lost.Err),
			advice: "this happens where user code closes descriptors which it did not open, or runs another program in its place (syscall.Exec), or a network fails",
		}
	case exit == nil:
		return ending{what: lost.Err.Error()}
	case exit.Signal == syscall.SIGKILL:
		return ending{what: exit.String(), advice: "something killed it, and not for lack of memory as far as is known"}
	case isFault(exit.Signal): // in a thread that the Go runtime does not know, or whose handlers were replaced
		return ending{what: exit.String(), advice: faultOrSignal}
	case exit.Signal != 0:
		return ending{what: exit.String()}
	}
	who := "the function"
	if lost.Running > 1 {
		who = fmt.Sprintf("one of the %d functions that ran there", lost.Running)
	}
	if exit.Code == 0 {
		return ending{what: who + " ended its process (os.Exit: exit status 0)", advice: "return from the function instead", cause: ErrExited, itself: true}
	}
	return ending{
		what:   fmt.Sprintf("%s ended its process (os.Exit, log.Fatal or the like: %s)", who, exit),
		advice: "return an error instead", cause: ErrExited, itself: true,
	}
}

func crashed(crash *launch.Crash) ending {
	e := ending{stack: wire.Clip(crash.Stack, maxShownStack)}
	// Anybody may have sent a signal, and others may have the threads.
	e.itself = crash.Kind != launch.CrashSignal && crash.Kind != launch.CrashNoThread
	message := wire.Clip(crash.Message, maxHeadline)
	switch crash.Kind {
	case launch.CrashPanic:
		headline, more, _ := strings.Cut(message, "\n")
		e.what = "panic in a goroutine that the function, or another call in its sandbox, started: " + headline
		if more != "" {
			e.stack = strings.Trim(more, "\n") + "\n\n" + e.stack
		}
		e.advice = "recover there and hand the function an error: a panic in such a goroutine ends the process"
		e.cause = &PanicError{Value: crash.Message, Stack: crash.Stack, Elsewhere: true}
	case launch.CrashStackOverflow:
		e.what = "stack overflow"
		e.advice = "look for recursion without an end: a goroutine's stack may have 1 GB on 64-bit systems (see runtime/debug.SetMaxStack)"
		e.cause = ErrStackOverflow
	case launch.CrashOutOfMemory:
		e.what, e.cause = "the system refused its process more memory ("+message+")", ErrOutOfMemory
		e.advice = moreMemory
	case launch.CrashNoThread:
		e.what = "the system refused its process another thread (" + message + "): the sandbox's processes and threads were used up"
		e.advice = "start fewer, or allow more by Processes of sbx.Limit"
		e.stack = "" // whoever needed the thread did nothing wrong
	case launch.CrashSignal:
		e.what = message
		e.advice = faultOrSignal
	default:
		e.what = "fatal error of the Go runtime"
		if message != "" {
			e.what += ": " + message
		}
		switch {
		case strings.HasPrefix(message, launch.NoPoll):
			e.advice = foreignDescriptors
		case strings.HasPrefix(message, "concurrent "):
			e.advice = "guard the map with a mutex; go test -race finds such places"
		case e.stack != "":
			e.advice = "see the stack"
		}
	}
	return e
}
