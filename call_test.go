package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(tests{m}) }

// tests closes the package's session when all tests have run.
type tests struct{ *testing.M }

func (t tests) Run() int {
	code := t.M.Run()
	if err := earlySession.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// everywhere runs a test on each driver.
func everywhere(t *testing.T, test func(t *testing.T, on sbx.OpenOption)) {
	for _, d := range []driver.Driver{inprocess.New(nil), process.New(), local.New(nil)} {
		t.Run(d.Name(), func(t *testing.T) { test(t, sbx.Driver(d)) })
	}
}

// apart runs a test on each driver whose workers are processes of their own.
func apart(t *testing.T, test func(t *testing.T, on sbx.OpenOption)) {
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		t.Run(d.Name(), func(t *testing.T) { test(t, sbx.Driver(d)) })
	}
}

func TestCall(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		job := Job{Name: "a", Epochs: 3, Rates: map[int]float64{-1: 0.5}, Next: &Job{Name: "b"}}
		report, err := session.Function(Train).Call(t.Context(), job)
		require.NoError(t, err)
		assert.Equal(t, Report{Job: job, Steps: []string{"begin", "end"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}, report)

		require.NoError(t, session.Action(Check).Call(t.Context(), "text"))
		require.ErrorIs(t, session.Action(Check).Call(t.Context(), ""), ErrOdd)

		joined, err := session.Function2(Join).Call(t.Context(), []string{"a", "b"}, "-")
		require.NoError(t, err)
		assert.Equal(t, "a-b", joined)

		s, err := session.Function(Last[string]).Call(t.Context(), []string{"x", "y"})
		require.NoError(t, err)
		assert.Equal(t, "y", s)
		n, err := session.Function(Last[int]).Call(t.Context(), []int{1, 2})
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.Equal(t, 1, session.SandboxCount(), "sandboxes are used again")
	})
}

func TestCallsRunInAnotherProcess(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		pid, err := sbxtest.Open(t, on).Function0(Process).Call(t.Context())
		require.NoError(t, err)
		assert.NotEqual(t, os.Getpid(), pid)
	})
}

func TestLocalRunsHere(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	pid, err := session.Function0(Process).Local(t.Context())
	require.NoError(t, err)
	assert.Equal(t, os.Getpid(), pid)
	assert.Zero(t, session.SandboxCount())
	n, err := session.Function(Half).Local(t.Context(), 8)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
	joined, err := session.Function2(Join).Local(t.Context(), []string{"a"}, "")
	require.NoError(t, err)
	assert.Equal(t, "a", joined)
	require.ErrorIs(t, session.Action(Check).Local(t.Context(), ""), ErrOdd)
}

func TestInfo(t *testing.T) {
	session := sbxtest.Open(t)
	call := session.Function0(Where, sbx.Timeout(time.Minute)).Spawn(t.Context())
	info, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "github.com/sandboxfn/sbx_test.Where", info.Function)
	assert.Equal(t, call.ID(), info.Call)
	assert.Equal(t, 1, info.Attempt)
	assert.True(t, strings.HasPrefix(info.Sandbox, info.Session+"-"), info.Sandbox)
	assert.WithinDuration(t, time.Now().Add(time.Minute), info.Deadline, 10*time.Second)
	_, ok := sbx.Info(t.Context())
	assert.False(t, ok)
}

func TestFunctionError(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function(Half).Call(t.Context(), 3)
		require.Error(t, err)
		for _, sentinel := range []error{ErrOdd, errPrivate, os.ErrInvalid, fs.ErrInvalid} {
			assert.ErrorIs(t, err, sentinel)
		}
		assert.NotErrorIs(t, err, fs.ErrNotExist)
		var function *sbx.FunctionError
		require.ErrorAs(t, err, &function)
		assert.Equal(t, "half of 3: odd\nprivate\ninvalid argument", function.Error())
		assert.Equal(t, "*fmt.wrapError", function.Type)
		var call *sbx.CallError
		require.ErrorAs(t, err, &call)
		assert.Equal(t, "github.com/sandboxfn/sbx_test.Half", call.Function)
		assert.Equal(t, -1, call.Index)
		assert.Equal(t, 1, call.Attempt)
		assert.NotEmpty(t, call.Sandbox)
		n, err := session.Function(Half).Call(t.Context(), 4)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.Equal(t, 1, session.SandboxCount(), "an error costs no sandbox")
	})
}

func TestPanic(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		explode := session.Function(Explode)
		for how, value := range map[string]string{"panic": "boom: panic", "nil": "assignment to entry in nil map"} {
			_, err := explode.Call(t.Context(), how)
			var crash *sbx.PanicError
			require.ErrorAs(t, err, &crash)
			assert.Equal(t, value, crash.Value)
			assert.Contains(t, crash.Stack, "functions_test.go:")
			assert.Contains(t, crash.Stack, "sbx_test.Explode")
			assert.False(t, crash.Goexit)
		}
		_, err := explode.Call(t.Context(), "goexit")
		var crash *sbx.PanicError
		require.ErrorAs(t, err, &crash)
		assert.True(t, crash.Goexit)
		_, err = explode.Call(t.Context(), "")
		require.NoError(t, err)
		assert.Equal(t, 1, session.SandboxCount(), "a panic costs no sandbox")
	})
}

func TestLostSandbox(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function(Exit).Call(t.Context(), 7)
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		require.NotNil(t, lost.Exit, "%v", err)
		assert.Equal(t, driver.Exit{Code: 7}, *lost.Exit)
		assert.ElementsMatch(t, []string{"going", "gone"}, lost.LastLines)
		assert.ErrorContains(t, err, "exit status 7")

		_, err = session.Function(Explode).Call(t.Context(), "elsewhere")
		require.ErrorAs(t, err, &lost)
		assert.Contains(t, lost.Crash, "functions_test.go:")
		assert.Equal(t, 2, lost.Exit.Code)

		n, err := session.Function(Double).Call(t.Context(), 21)
		require.NoError(t, err, "the session goes on")
		assert.Equal(t, 42, n)
	})
}

func TestRetries(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	path := filepath.Join(t.TempDir(), "once")
	_, err := session.Function2(Append).Call(t.Context(), path, 3)
	var lost *sbx.SandboxLostError
	require.ErrorAs(t, err, &lost)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "x\n", string(content), "without Retries a call runs once")

	path = filepath.Join(t.TempDir(), "more")
	n, err := session.Function2(Append, sbx.Retries(2)).Call(t.Context(), path, 3)
	require.NoError(t, err)
	assert.Equal(t, 3, n)

	path = filepath.Join(t.TempDir(), "too few")
	_, err = session.Function2(Append, sbx.Retries(1)).Call(t.Context(), path, 3)
	require.ErrorAs(t, err, &lost)
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, 2, call.Attempt)
}

func TestCancelReachesTheFunction(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	dir := t.TempDir()
	begin, end := filepath.Join(dir, "begin"), filepath.Join(dir, "end")
	ctx, cancel := context.WithCancel(t.Context())
	call := session.Function2(Mark).Spawn(ctx, begin, end)
	require.Eventually(t, exists(begin), 10*time.Second, time.Millisecond)
	cancel()
	_, err := call.Result(t.Context())
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, exists(end), 10*time.Second, time.Millisecond)
	pid, err := session.Function0(Process).Call(t.Context())
	require.NoError(t, err)
	again, err := session.Function0(Process).Call(t.Context())
	require.NoError(t, err)
	assert.Equal(t, pid, again, "a function that obeys keeps its sandbox")
}

func exists(path string) func() bool {
	return func() bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

func TestAFunctionThatIgnoresItsContextLosesItsSandbox(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		sandbox, err := session.Function0(Where).Call(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err = session.Function(Wait).Call(ctx, true)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, sbx.ErrTimeout)
		assert.Less(t, time.Since(begin), 900*time.Millisecond, "the caller does not wait for the grace")
		other, err := session.Function0(Where).Call(t.Context())
		require.NoError(t, err)
		assert.NotEqual(t, sandbox.Sandbox, other.Sandbox)
	})
}

func TestTimeout(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		_, err := session.Function(Wait, sbx.Timeout(30*time.Millisecond)).Call(t.Context(), false)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		assert.NotErrorIs(t, err, context.DeadlineExceeded, "it is not the caller's deadline")
		assert.ErrorContains(t, err, "30ms")
		assert.Equal(t, 1, session.SandboxCount())
	})
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		_, err := session.Function(Wait, sbx.Timeout(30*time.Millisecond)).Call(t.Context(), true)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		n, err := session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
	})
}

func TestCancelledWhileQueued(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	running := session.Function(Wait).Spawn(t.Context(), false)
	cause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	queued := session.Function(Double).Spawn(ctx, 1)
	cancel(cause)
	_, err := queued.Result(t.Context())
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Zero(t, call.Attempt)
	running.Cancel()
	_, err = running.Result(t.Context())
	require.ErrorIs(t, err, context.Canceled)
	<-running.Done()
}

func TestSpawnResult(t *testing.T) {
	session := sbxtest.Open(t)
	call := session.Function(Wait).Spawn(t.Context(), false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := call.Result(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	select {
	case <-call.Done():
		t.Fatal("the call ended with Result's context")
	default:
	}
	call.Cancel()
	<-call.Done()
	_, err = call.Result(ctx)
	require.ErrorIs(t, err, context.Canceled, "an ended call has its result, whatever the context")
	empty, err := session.Action(Check).Spawn(t.Context(), "x").Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, struct{}{}, empty)
}

func TestSpawnEncodesItsArgumentAtOnce(t *testing.T) {
	session := sbxtest.Open(t)
	list := []int{1, 2, 3}
	call := session.Function(Last[int]).Spawn(t.Context(), list)
	list[2] = 0
	n, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 3, n)
}

func TestArgumentsAndResultsThatCantBeSent(t *testing.T) {
	session := sbxtest.Open(t)
	loop := Job{Name: "loop"}
	loop.Next = &loop
	_, err := session.Function(Train).Call(t.Context(), loop)
	var argument *sbx.ArgumentError
	require.ErrorAs(t, err, &argument)
	assert.ErrorContains(t, err, "Job.Next")
	_, err = session.Function(Pick).Call(t.Context(), Picky{"worse"})
	require.ErrorAs(t, err, &argument)
	assert.Zero(t, session.SandboxCount(), "no sandbox was touched")

	_, err = session.Function(Pick).Call(t.Context(), Picky{"bad"})
	require.ErrorAs(t, err, &argument)
	assert.ErrorContains(t, err, "will not")
	_, err = session.Function(Pick).Call(t.Context(), Picky{"make it worse"})
	var result *sbx.ResultError
	require.ErrorAs(t, err, &result)
	assert.ErrorContains(t, err, "not this one")
	assert.Equal(t, 1, session.SandboxCount())
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HOST_SECRET", "secret")
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1), sbx.Env("BOTH", "session"), sbx.Env("SESSION", "s"))
		environ, err := session.Function0(Environ).Call(t.Context())
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"BOTH=session", "SESSION=s"}, environ)
		environ, err = session.Function0(Environ, sbx.Env("BOTH", "function"), sbx.Env("EMPTY", "")).Call(t.Context())
		require.NoError(t, err)
		assert.ElementsMatch(t, []string{"BOTH=function", "SESSION=s", "EMPTY="}, environ)
		value, err := session.Function(Getenv).Call(t.Context(), "BOTH")
		require.NoError(t, err)
		assert.Equal(t, "session", value, "an override does not reach other functions")
		assert.Equal(t, 1, session.SandboxCount(), "sandboxes of another kind make room")
	})
}

func TestOpenInsideASandbox(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		text, err := sbxtest.Open(t, on).Function0(OpenInside).Call(t.Context())
		require.NoError(t, err)
		assert.Contains(t, text, "true sbx: open: ")
	})
}

// buffer is a strings.Builder for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestOutputIsLogged(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		var log buffer
		session, err := sbx.Open(t.Context(), on, sbx.Logger(slog.New(slog.NewTextHandler(&log, nil))))
		require.NoError(t, err)
		require.NoError(t, session.Action(Print).Call(t.Context(), "1|1|unix|forged|grpc|"))
		require.NoError(t, session.Close())
		assert.Contains(t, log.String(), `msg=1|1|unix|forged|grpc| sandbox=`)
		assert.Contains(t, log.String(), "stream=stdout")
		assert.Contains(t, log.String(), "stream=stderr")
	})
}

func TestWhatInitFunctionsDoDoesNotDisturbTheProtocol(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		var log buffer
		logger := sbx.Logger(slog.New(slog.NewTextHandler(&log, nil)))
		session, err := sbx.Open(t.Context(), on, logger)
		require.NoError(t, err)
		for _, what := range []string{"prints", "opens"} {
			n, err := session.Function(Double, sbx.Env("INIT", what)).Call(t.Context(), 2)
			require.NoError(t, err)
			assert.Equal(t, 4, n)
		}
		_, err = session.Function(Double, sbx.Env("INIT", "panics")).Call(t.Context(), 2)
		var start *sbx.StartError
		require.ErrorAs(t, err, &start)
		assert.ErrorContains(t, err, "panic: in init")
		assert.ErrorContains(t, err, "functions_test.go:")
		require.NoError(t, session.Close())
		assert.Contains(t, log.String(), "msg=1|1|unix|forged|grpc|")
		assert.Contains(t, log.String(), `msg="open: true"`)
	})
}

func TestWhateverAFunctionReturnsAfterItsTimeout(t *testing.T) {
	slow := sbxtest.Open(t).Function(Slow, sbx.Timeout(20*time.Millisecond))
	_, err := slow.Call(t.Context(), "own error")
	require.ErrorIs(t, err, sbx.ErrTimeout)
	require.ErrorIs(t, err, ErrOdd)
	assert.ErrorContains(t, err, "and returned: stopped: odd")
	var function *sbx.FunctionError
	for _, how := range []string{"cause", "error of the context"} {
		_, err = slow.Call(t.Context(), how)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		require.NotErrorAs(t, err, &function, "it says nothing more")
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	_, err = slow.Call(t.Context(), "wrapped error of the context")
	require.ErrorIs(t, err, sbx.ErrTimeout)
	require.ErrorIs(t, err, ErrOdd)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the function says so")
	text, err := slow.Call(t.Context(), "result")
	require.NoError(t, err)
	assert.Equal(t, "late", text)
}

func TestErrorsOfSystemCallsCross(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		_, err := sbxtest.Open(t, on).Function(ReadFile).Call(t.Context(), "/no/such/file")
		require.ErrorIs(t, err, fs.ErrNotExist)
		var errno syscall.Errno
		require.ErrorAs(t, err, &errno)
		assert.Equal(t, syscall.ENOENT, errno)
	})
}

// wrappedTooEarly is wrapped before generated code has registered anything.
var (
	earlySession, errEarly = sbx.Open(context.Background(), sbx.Driver(inprocess.New(nil)))
	wrappedTooEarly        = earlySession.Function(Double)
)

func TestAFunctionThatIsWrappedByAPackageVariable(t *testing.T) {
	require.NoError(t, errEarly)
	n, err := wrappedTooEarly.Call(t.Context(), 2)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
}

func TestErrorsThatAreNotWhatTheySeem(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		var crash *sbx.PanicError
		_, err := session.Function(Fail).Call(t.Context(), "quits")
		require.ErrorAs(t, err, &crash)
		assert.True(t, crash.Goexit)
		var function *sbx.FunctionError
		_, err = session.Function(Fail).Call(t.Context(), "panics")
		require.ErrorAs(t, err, &function)
		_, err = session.Function(Fail, sbx.Timeout(10*time.Millisecond)).Call(t.Context(), "panics late")
		require.ErrorIs(t, err, sbx.ErrTimeout)
		require.ErrorAs(t, err, &function)
		_, err = session.Function(Fail).Call(t.Context(), "heavy")
		require.ErrorAs(t, err, &function)
		assert.Equal(t, 1, session.SandboxCount(), "none of them costs a sandbox")
	})
}

func TestMarshalersThatEndTheirGoroutine(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	var result *sbx.ResultError
	out, err := session.Function(Quit).Spawn(t.Context(), "decode").Result(t.Context())
	require.ErrorAs(t, err, &result)
	assert.Zero(t, out, "a result that came with an error is never half-filled")
	_, err = session.Function(Quit).MapSlice(t.Context(), []string{"decode"})
	require.ErrorAs(t, err, &result)
	var crash *sbx.PanicError
	_, err = session.Function(Quit).Call(t.Context(), "encode")
	require.ErrorAs(t, err, &crash)
	assert.True(t, crash.Goexit)
	var argument *sbx.ArgumentError
	_, err = session.Function(Quitting).Call(t.Context(), Quitter{"decode"})
	require.ErrorAs(t, err, &argument)
	assert.PanicsWithValue(t, "sbx: the input of a map, or a marshaler of one, called runtime.Goexit", func() {
		for _, err := range session.Function(Quitting).Map(t.Context(), slices.Values([]Quitter{{"fine"}, {"encode"}})) {
			require.NoError(t, err)
		}
	})
}

func TestTimeoutsOfAnyLength(t *testing.T) {
	session := sbxtest.Open(t)
	n, err := session.Function(Double, sbx.Timeout(math.MaxInt64)).Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	_, err = session.Function(Slow, sbx.Timeout(1)).Call(t.Context(), "")
	require.ErrorIs(t, err, sbx.ErrTimeout)
}

func TestTimeoutsCountDecoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session := sbxtest.Open(t)
		left := session.Function(Left, sbx.Timeout(time.Second))
		d, err := left.Call(t.Context(), Tardy{700 * time.Millisecond})
		require.NoError(t, err)
		assert.Equal(t, 300*time.Millisecond, d)
		_, err = left.Call(t.Context(), Tardy{1500 * time.Millisecond})
		require.ErrorIs(t, err, sbx.ErrTimeout)
		var stuck *sbx.StuckError
		assert.NotErrorAs(t, err, &stuck)
		_, err = left.Call(t.Context(), Tardy{5 * time.Second})
		require.ErrorAs(t, err, &stuck)
		assert.Contains(t, stuck.Stack, "UnmarshalText")
	})
}

func TestAnEndedContextTouchesNothing(t *testing.T) {
	session := sbxtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := session.Function(Pick).Call(ctx, Picky{"worse"})
	require.ErrorIs(t, err, context.Canceled, "the argument is not even encoded")
	assert.Zero(t, session.SandboxCount())
}

// lateContext ends a little after its deadline, as a context does on a busy machine.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// If the sandbox's side is the first to see that the caller's time is up, the caller gets its own cause all the same.
func TestTheCauseOfADeadline(t *testing.T) {
	why := errors.New("the user went home")
	synctest.Test(t, func(t *testing.T) {
		session := sbxtest.Open(t)
		inner, cancel := context.WithTimeoutCause(t.Context(), time.Second+time.Millisecond, why)
		defer cancel()
		ctx := lateContext{inner, time.Now().Add(time.Second)}
		_, err := session.Function(Wait).Call(ctx, false)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, why)
		var call *sbx.CallError
		require.ErrorAs(t, err, &call)
		assert.NotEmpty(t, call.Sandbox)
	})
}

func TestAResultThatCantBeReadNamesItsSandbox(t *testing.T) {
	session := sbxtest.Open(t)
	_, err := session.Function(Quit).Spawn(t.Context(), "decode").Result(t.Context())
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.NotEmpty(t, call.Sandbox)
	assert.Equal(t, sbx.Failed, call.Delivery)
}

// hostileContext panics when it is asked for its deadline, and one without a context inside when it is asked for anything.
type hostileContext struct{ context.Context }

func (hostileContext) Deadline() (time.Time, bool) { panic("no deadline") }

func TestContextsThatPanicCostNothing(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	double := session.Function(Double)
	assert.Panics(t, func() { _, _ = double.Call(hostileContext{t.Context()}, 1) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := session.Function(Size).Call(ctx, strings.Repeat("x", 100<<10)) // which waits for a sandbox that has nothing to do
	require.NoError(t, err)
	assert.Panics(t, func() {
		for _, err := range double.Map(hostileContext{}, slices.Values([]int{1})) {
			t.Errorf("it yields something: %v", err)
		}
	})
	require.NoError(t, session.Shutdown(ctx), "nothing counts as running")
}

// What reads an error on the caller's side may end the goroutine: the function has run all the same, and its sandbox is free.
func TestAnErrorThatEndsTheGoroutineWhereItIsRead(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	_, err := session.Function(Typed).Spawn(t.Context(), "quits").Result(t.Context())
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, sbx.Failed, call.Delivery)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = session.Function(Size).Call(ctx, strings.Repeat("x", 100<<10))
	require.NoError(t, err)
}

// lyingContext is done when it is told so, and never says why.
type lyingContext struct {
	context.Context
	done chan struct{}
}

func (c lyingContext) Done() <-chan struct{} { return c.done }
func (c lyingContext) Err() error            { return nil }

// Package context itself ends the program if another context is made of such a one, as Spawn and Map do.
func TestContextsThatAreDoneForNoReason(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	ctx := lyingContext{context.Background(), make(chan struct{})}
	stop := time.AfterFunc(20*time.Millisecond, func() { close(ctx.done) })
	defer stop.Stop()
	_, err := session.Function(Wait).Call(ctx, false)
	require.ErrorIs(t, err, context.Canceled)
	_, err = session.Function(Wait).Call(ctx, false)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
}

// liar is an error that says of itself that it is any other one.
type liar struct{}

func (liar) Error() string { return "a liar" }

func (liar) Is(error) bool { return true }

// The cause of a context that ends while the call waits for a sandbox is the caller's, and not taken for what became of that.
func TestWhateverTheCauseOfAContext(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	key := fmt.Sprint(t.Name(), serial.Add(1))
	busy := session.Function2(Count).Spawn(t.Context(), key, time.Hour)
	defer func() {
		busy.Cancel()
		<-busy.Done()
	}()
	assert.Eventually(t, func() bool { return began(key) == 1 }, time.Minute, time.Millisecond)
	var none *sbx.CallError
	var noPath *fs.PathError
	var noLoss *sbx.SandboxLostError
	for name, cause := range map[string]error{
		"not running": sbx.ErrNotRunning, "closed": sbx.ErrClosed, "nil pointer": none, "nil pointer that panics": noPath,
		"nil pointer of a tree": noLoss, "anything": liar{},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		call := session.Function(Double, sbx.Env("KIND", "another")).Spawn(ctx, 1)
		cancel(cause)
		_, err := call.Result(t.Context())
		require.ErrorIs(t, err, context.Canceled, name)
		assert.Equal(t, sbx.NotBegun, delivery(t, err), name)
	}
}

// brittle is a context that panics when a method is used for the nth time.
type brittle struct {
	context.Context
	method string
	n      *int
}

func (b brittle) use(method string) {
	if b.method == method {
		if *b.n--; *b.n == 0 {
			panic("brittle")
		}
	}
}

func (b brittle) Done() <-chan struct{} { b.use("Done"); return b.Context.Done() }
func (b brittle) Err() error            { b.use("Err"); return b.Context.Err() }
func (b brittle) Value(key any) any     { b.use("Value"); return b.Context.Value(key) }

// Whoever recovers from the panic of a context of theirs finds the session as it was.
func TestAContextThatPanics(t *testing.T) {
	ways := map[string]func(context.Context, *sbx.Session) error{
		"Call": func(ctx context.Context, session *sbx.Session) error {
			_, err := session.Function(Double).Call(ctx, 2)
			return err
		},
		"Hedge": func(ctx context.Context, session *sbx.Session) error {
			_, err := session.Function(Double, sbx.Retries(1), sbx.Hedge(time.Hour)).Call(ctx, 2)
			return err
		},
		"In": func(ctx context.Context, session *sbx.Session) error {
			own := sbxtest.Open(t).Sandbox()
			defer func() { // it has a queue of its own
				_, err := session.Function(Double).In(own).Call(t.Context(), 2)
				assert.NoError(t, err)
			}()
			_, err := session.Function(Double).In(own).Call(ctx, 2)
			return err
		},
		"Spawn": func(ctx context.Context, session *sbx.Session) error {
			_, err := session.Function(Double).Spawn(ctx, 2).Result(t.Context())
			return err
		},
		"Command": func(ctx context.Context, session *sbx.Session) error {
			session = sbxtest.Open(t, sbx.Driver(process.New()))
			defer func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				assert.NoError(t, session.Shutdown(ctx))
			}()
			return session.Sandbox().CommandContext(ctx, "true").Run()
		},
		"an interceptor": func(ctx context.Context, session *sbx.Session) error {
			_, err := session.Function(Double).Call(context.WithValue(t.Context(), brittle{}, ctx), 2)
			return err
		},
	}
	for name, way := range ways {
		for _, method := range []string{"Done", "Err", "Value"} {
			last := 10
			switch {
			case name == "Command" && method != "Done":
				continue
			case name == "Command" || name == "Spawn" || name == "an interceptor":
				last = 2 // later uses are where nobody could recover
			case name == "In" && method == "Value":
				continue // what panics while the call is sent costs the sandbox
			}
			panicked := true
			for n := 1; panicked && n <= last; n++ {
				opts := []sbx.OpenOption{sbx.MaxSandboxes(1)}
				if name == "an interceptor" {
					opts = append(opts, sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
						if inner, ok := ctx.Value(brittle{}).(context.Context); ok {
							ctx = inner
						}
						return next(ctx)
					}))
				}
				session, left := sbxtest.Open(t, opts...), n
				func() {
					defer func() { panicked = recover() != nil }()
					assert.NoError(t, way(brittle{t.Context(), method, &left}, session))
				}()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := session.Function(Double).Call(ctx, 2)
				require.NoError(t, err, "%s, use %d of %s", name, n, method)
				require.NoError(t, session.Shutdown(ctx), "%s, use %d of %s", name, n, method)
				cancel()
			}
		}
	}
}

// A function that still runs keeps its sandbox from others, wherever a context panics once it has ended.
func TestAContextThatPanicsAtItsEnd(t *testing.T) {
	for n, panicked := 2, true; panicked; n++ { // the first use is before the call is sent
		session, path, left := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1)), filepath.Join(t.TempDir(), "began"), n
		sandbox, err := session.Function0(Where).Call(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			assert.Eventually(t, exists(path), 10*time.Second, time.Millisecond)
		}()
		func() {
			defer func() { panicked = recover() != nil }()
			_, err := session.Function2(End, sbx.Retries(1)).Call(brittle{ctx, "Err", &left}, path, "ignore")
			assert.ErrorIs(t, err, context.Canceled)
		}()
		later, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		other, err := session.Function0(Where).Call(later)
		cancel()
		require.NoError(t, err, "use %d", n)
		assert.NotEqual(t, sandbox.Sandbox, other.Sandbox, "use %d", n)
	}
}
