package sbx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/registry"
	"github.com/stretchr/testify/assert"
)

// What a worker sends as an error and isn't one is no error of the function.
func TestFunctionErrorThatIsNone(t *testing.T) {
	for _, data := range [][]byte{nil, {0xc0}, {0xff}, append(registry.AppendError(nil, ErrClosed), 0)} {
		err := functionError(data)
		var function *FunctionError
		assert.NotErrorAs(t, err, &function)
		var malformed *registry.DataError
		assert.ErrorAs(t, err, &malformed)
	}
}

// A sandbox whose memory is too little for the program's beginning says so, as one does that runs out of it later.
func TestAStartThatRunsOutOfMemory(t *testing.T) {
	exit := &driver.Exit{Code: -1, Signal: syscall.SIGKILL, OutOfMemory: true}
	for _, err := range []error{
		&launch.StartError{Err: errors.New("Unrecognized remote plugin message: "), Exit: exit},
		fmt.Errorf("100 sandboxes ended before the call began: %w", &launch.LostError{Err: errors.New("receive: EOF"), Exit: exit}),
	} {
		start := startError(err)
		assert.ErrorIs(t, start, ErrOutOfMemory)
		assert.ErrorContains(t, start, "signal: killed (out of memory)")
		assert.ErrorContains(t, start, "allow the sandbox more by MemoryMiB of sbx.Limit")
	}
	killed := startError(&launch.StartError{Err: errors.New("receive: EOF"), Exit: &driver.Exit{Code: -1, Signal: syscall.SIGKILL}})
	assert.NotErrorIs(t, killed, ErrOutOfMemory)
	assert.NotContains(t, killed.Error(), "MemoryMiB")
}

// With GOTRACEBACK=crash the runtime ends a process that crashed by a signal. It was none from elsewhere.
func TestACrashThatEndsByASignal(t *testing.T) {
	lost := &launch.LostError{Err: errors.New("receive: EOF"), Exit: &driver.Exit{Code: -1, Signal: syscall.SIGABRT}}
	assert.ErrorContains(t, lostError(lost, false), "sbx.Retries")
	lost.Crash = &launch.Crash{Kind: launch.CrashStackOverflow, Text: "fatal error: stack overflow"}
	assert.NotContains(t, lostError(lost, false).Error(), "sbx.Retries")
}

// The Go runtime reports none of a fault in a thread that C code started.
func TestAFaultInAThreadOfCCode(t *testing.T) {
	for signal, fault := range map[syscall.Signal]bool{syscall.SIGSEGV: true, syscall.SIGABRT: true, syscall.SIGTERM: false} {
		lost := &launch.LostError{Err: errors.New("receive: EOF"), Exit: &driver.Exit{Code: -1, Signal: signal}}
		assert.Equal(t, fault, strings.Contains(lostError(lost, false).Error(), "fault in C code"), signal)
	}
}

// What to do about a shortage is said once, by the driver or here.
func TestAStartThatIsShortOfDescriptors(t *testing.T) {
	short := fmt.Errorf("socketpair: %w", syscall.EMFILE)
	remedy := driver.ShortageRemedy(short)
	for _, err := range []error{short, &driver.MountError{Err: short, Remedies: []string{remedy}}} {
		assert.Equal(t, 1, strings.Count(startError(err).Error(), remedy))
	}
}

// What a sandbox does not answer while its stop takes long fails because it is being stopped.
func TestNoAnswerOfASandboxThatIsBeingStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cut := errors.New("connection error")
		running := &sandbox{worker: &launch.Worker{}} // which never ends
		sb := &Sandbox{session: &Session{}}
		assert.Equal(t, cut, sb.remoteError(t.Context(), running, cut))
		sb.cause = errStopped
		err := sb.remoteError(t.Context(), running, cut)
		assert.ErrorIs(t, err, ErrNotRunning)
		assert.ErrorIs(t, err, errStopped)
		sb.session.closed = true
		assert.ErrorIs(t, sb.remoteError(t.Context(), running, cut), ErrClosed)
	})
}

func doNothing(context.Context, int) error { return nil }

// A function of package main is main.f for the runtime; its name has the import path, also where an option keeps it from being called.
func TestAFunctionHasOneName(t *testing.T) {
	const name = "example.com/program.doNothing"
	registry.Action(name, doNothing)
	open := &Session{pool: pool.New(1, pool.Backend[class, *sandbox]{})}
	wrong := open.wrap(doNothing, []FunctionOption{Timeout(-1)})
	assert.Equal(t, name, wrong.String())
	_, err := wrong.prepare(t.Context(), -1)
	var call *CallError
	assert.ErrorAs(t, err, &call)
	assert.Equal(t, name, call.Function)
}
