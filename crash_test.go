package sbx_test

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// firstLine is what a reader of an error sees first.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func TestPanicsInTheCall(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		crash := session.Function2(Crash)
		for how, value := range map[string]string{
			"panic": "boom", "lines": "boom\n\nand more", "error": "about EOF", "nested": "second", "repanic": "first", "wrapped": "again: first",
			"runtime error": "runtime error: index out of range [13] with length 0", "nil": "runtime error: panic called with nil argument",
			"panic in goexit": "after the end", "goexit": "",
		} {
			_, err := crash.Call(t.Context(), "", how)
			var panicked *sbx.PanicError
			require.ErrorAs(t, err, &panicked, how)
			assert.Equal(t, value, panicked.Value, how)
			assert.Equal(t, how == "goexit", panicked.Goexit, how)
			assert.False(t, panicked.Elsewhere)
			assert.Contains(t, panicked.Stack, "sbx_test.misbehave", how)
			assert.Contains(t, panicked.Stack, "crash_functions_test.go:", how)
			assert.NotErrorAs(t, err, new(*sbx.SandboxLostError))
		}
		assert.Equal(t, 1, session.SandboxCount())
	})
}

func TestAPanicElsewhereIsNotBlamedOnItsNeighbour(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Concurrency(2))
	neighbour := session.Function2(Count).Spawn(t.Context(), t.Name(), time.Minute)
	require.Eventually(t, func() bool {
		stacks, _ := neighbour.Stacks(t.Context())
		return strings.Contains(string(stacks), "sbx_test.Count(") // it has begun
	}, 10*time.Second, time.Millisecond)
	_, err := session.Function2(Crash).Call(t.Context(), "", "elsewhere: panic")
	require.ErrorAs(t, err, new(*sbx.PanicError))
	_, err = neighbour.Result(t.Context())
	require.ErrorAs(t, err, new(*sbx.PanicError))
	assert.Contains(t, firstLine(err), "in a goroutine that the function, or another call in its sandbox, started: boom")
}

func TestPanicsElsewhere(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		crash := session.Function2(Crash)
		for how, value := range map[string]string{
			"panic": "boom", "lines": "boom\n\nand more", "error": "about EOF", "nested": "first\npanic: second", "repanic": "first",
			"wrapped": "first [recovered]\npanic: again: first", "runtime error": "runtime error: index out of range [13] with length 0",
			"panic in goexit": "after the end",
		} {
			_, err := crash.Call(t.Context(), "print", "elsewhere: "+how)
			var lost *sbx.SandboxLostError
			require.ErrorAs(t, err, &lost, how)
			var panicked *sbx.PanicError
			require.ErrorAs(t, err, &panicked, how)
			assert.Equal(t, value, panicked.Value, how)
			assert.True(t, panicked.Elsewhere)
			assert.Contains(t, panicked.Stack, "sbx_test.misbehave", how)
			assert.Contains(t, panicked.Stack, "crash_functions_test.go:", how)
			assert.NotContains(t, panicked.Stack, "grpc", "one goroutine's stack")
			assert.Contains(t, firstLine(err), "recover there", how)
			assert.NotContains(t, firstLine(err), "sbx.Retries", how)
			assert.Equal(t, []string{"a word before"}, lost.LastLines, how)
			assert.NotErrorIs(t, err, sbx.ErrExited)
		}
		_, err := crash.Call(t.Context(), "", "elsewhere: nil")
		var panicked *sbx.PanicError
		require.ErrorAs(t, err, &panicked)
		assert.Contains(t, panicked.Value, "panic called with nil argument")
	})
}

func TestEndings(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		testEndings(t, on)
		t.Run("without tracebacks", func(t *testing.T) { testEndings(t, on, sbx.Env("GOTRACEBACK", "none")) })
	})
}

func testEndings(t *testing.T, opts ...sbx.OpenOption) {
	session := sbxtest.Open(t, opts...)
	crash := session.Function2(Crash)
	for _, c := range []struct {
		end   string
		exit  driver.Exit
		first string // in the error's first line
		stack string // in the crash
		is    error
	}{
		{end: "exit 0", first: "exit status 0); return from the function instead", is: sbx.ErrExited},
		{end: "exit 3", exit: driver.Exit{Code: 3}, first: "exit status 3); return an error instead", is: sbx.ErrExited},
		{end: "log.Fatal", exit: driver.Exit{Code: 1}, first: "exit status 1); return an error instead", is: sbx.ErrExited},
		{end: "overflow", exit: driver.Exit{Code: 2}, first: "stack overflow; look for recursion", stack: "sbx_test.recurse(", is: sbx.ErrStackOverflow},
		{end: "elsewhere: overflow", exit: driver.Exit{Code: 2}, first: "stack overflow; look for recursion", stack: "sbx_test.recurse(", is: sbx.ErrStackOverflow},
		{end: "maps", exit: driver.Exit{Code: 2}, first: "concurrent map writes; guard the map", stack: "sbx_test.misbehave"},
		{end: "unlock", exit: driver.Exit{Code: 2}, first: "sync: unlock of unlocked mutex", stack: "sbx_test.misbehave"},
		{end: "SIGKILL", exit: driver.Exit{Code: -1, Signal: syscall.SIGKILL}, first: "signal: killed; something killed it"},
		{end: "SIGTERM", exit: driver.Exit{Code: -1, Signal: syscall.SIGTERM}, first: "signal: terminated"},
		{end: "SIGABRT", exit: driver.Exit{Code: 2}, first: "SIGABRT: abort; a signal", stack: "PC="},
		{end: "SIGSEGV", exit: driver.Exit{Code: 2}, first: "SIGSEGV: segmentation violation; a signal", stack: "PC="},
	} {
		t.Run(c.end, func(t *testing.T) {
			_, err := crash.Call(t.Context(), "print", c.end)
			var lost *sbx.SandboxLostError
			require.ErrorAs(t, err, &lost)
			require.NotNil(t, lost.Exit, "%v", err)
			assert.Equal(t, c.exit, *lost.Exit)
			if raceEnabled && c.end == "maps" { // which is a race, too
				c.first = "fatal error of the Go runtime"
			}
			assert.Contains(t, firstLine(err), c.first)
			assert.NotErrorAs(t, err, new(*sbx.PanicError))
			for _, sentinel := range []error{sbx.ErrExited, sbx.ErrStackOverflow, sbx.ErrOutOfMemory} {
				assert.Equal(t, errors.Is(c.is, sentinel), errors.Is(err, sentinel), "%v", sentinel)
			}
			for _, functions := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
				assert.NotErrorIs(t, err, functions, "who calls may take it for what the function returned")
			}
			assert.Contains(t, lost.Crash, c.stack)
			assert.Equal(t, c.stack == "", lost.Crash == "", lost.Crash)
			if c.end != "maps" { // of which the race detector, if it is there, prints more than is kept
				assert.Contains(t, lost.LastLines, "a word before")
			}
			assert.Less(t, len(err.Error()), 16<<10)
		})
	}
}

// Retries are of no use in a sandbox of the program's own, so nobody is told there to give them.
func TestALossIsToldWithWhatHelps(t *testing.T) {
	crash := sbxtest.Open(t, sbx.Driver(process.New())).Function2(Crash)
	own := sbxtest.Open(t, sbx.Driver(process.New())).Sandbox()
	for _, crash := range []*sbx.Function2[string, string, string]{crash, crash.In(own)} {
		_, err := crash.Call(t.Context(), "", "SIGKILL")
		require.ErrorAs(t, err, new(*sbx.SandboxLostError))
		assert.Equal(t, own.Status() == sbx.Unstarted, strings.Contains(err.Error(), "sbx.Retries"), "%v", err)
	}
}

func TestACrashIsToldWhateverBecameOfStderr(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		crash := session.Function2(Crash)
		for _, prepare := range []string{"forge", "close stderr", "stderr to /dev/null"} {
			_, err := crash.Call(t.Context(), prepare, "elsewhere: panic")
			var panicked *sbx.PanicError
			require.ErrorAs(t, err, &panicked, prepare)
			assert.Equal(t, "boom", panicked.Value, prepare)
			assert.Contains(t, panicked.Stack, "crash_functions_test.go:", prepare)
			_, err = crash.Call(t.Context(), prepare, "overflow")
			require.ErrorIs(t, err, sbx.ErrStackOverflow, prepare)
			_, err = crash.Call(t.Context(), prepare, "elsewhere: maps")
			var lost *sbx.SandboxLostError
			require.ErrorAs(t, err, &lost, prepare)
			assert.Contains(t, lost.Crash, "maps.fatal", prepare)
			if !raceEnabled {
				assert.Contains(t, firstLine(err), ": concurrent ", prepare)
			}
			_, err = crash.Call(t.Context(), prepare, "exit 3")
			require.ErrorIs(t, err, sbx.ErrExited, prepare)
			assert.NotErrorAs(t, err, new(*sbx.PanicError), "what is printed to standard error is no crash")
		}
	})
}

// What user code writes on the protocol's descriptor is only ever said of its own sandbox's end.
func TestUserCodeWritesOnTheHandshake(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		crash := session.Function2(Crash)
		for _, prepare := range []string{"garbage on the handshake", "a forged crash"} {
			for range 2 {
				text, err := crash.Call(t.Context(), prepare, "return")
				require.NoError(t, err, prepare)
				assert.Equal(t, "returned", text, "the call and the sandbox live on")
			}
			_, err := crash.Call(t.Context(), prepare, "exit 3")
			require.ErrorIs(t, err, sbx.ErrExited)
			assert.ErrorContains(t, err, "exit status 3")
			assert.NotErrorAs(t, err, new(*sbx.PanicError), "nothing that exits with 3 has crashed")
		}
		_, err := crash.Call(t.Context(), "garbage on the handshake", "elsewhere: panic")
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost, "there is no room for the crash")
	})
}

func TestUserCodeCutsTheConnection(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function2(Crash).Call(t.Context(), "", "cut")
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		assert.NotErrorIs(t, err, sbx.ErrExited, "it did not")
		assert.Contains(t, firstLine(err), "the worker lost its connection")
	})
}

// The Go runtime can't wait for anything any more, soon or late, nor say so where it tells of crashes.
func TestUserCodeClosesDescriptorsOfOthers(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function2(Crash).Call(t.Context(), "", "close")
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		assert.NotErrorIs(t, err, sbx.ErrExited, "it did not")
		assert.Contains(t, firstLine(err), "descriptors which it did not open", "also if the runtime notices nothing for five seconds")
	})
}

// Its process goes on, and nothing in it can say why the connection has ended.
func TestAFunctionThatRunsAnotherProgramInItsPlace(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function2(Crash).Call(t.Context(), "", "exec")
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		assert.NotErrorIs(t, err, sbx.ErrExited, "it did not")
		assert.Contains(t, firstLine(err), "the connection to its process ended (receive: EOF), and the process did not")
		assert.Contains(t, firstLine(err), "syscall.Exec")
	})
}

// The Go runtime does not see a deadlock in a worker, which waits for its session. The call ends by its Timeout.
func TestADeadlockEndsByItsTimeout(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	_, err := session.Function2(Crash, sbx.Timeout(50*time.Millisecond)).Call(t.Context(), "", "deadlock")
	require.ErrorIs(t, err, sbx.ErrTimeout)
}

func TestACrashBeforeTheStart(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Env("INIT", "panics"))
		_, err := session.Function(Double).Call(t.Context(), 1)
		var start *sbx.StartError
		require.ErrorAs(t, err, &start)
		var panicked *sbx.PanicError
		require.ErrorAs(t, err, &panicked)
		assert.Equal(t, "in init", panicked.Value)
		assert.Contains(t, panicked.Stack, "functions_test.go:")
		assert.Contains(t, firstLine(err), "panic: in init")
		assert.NotErrorAs(t, err, new(*sbx.SandboxLostError))
	})
}
