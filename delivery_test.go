package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// delivery returns what the caller is told of a call that failed.
func delivery(t *testing.T, err error) sbx.Delivery {
	t.Helper()
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	return call.Delivery
}

// callError is the call's error that err is.
func callError(t *testing.T, err error) *sbx.CallError {
	t.Helper()
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	return call
}

// ways are what a function may do after it has begun, and what its caller must be told.
var ways = map[string]struct {
	delivery sbx.Delivery
	lost     bool
}{
	"fail":            {sbx.Failed, false},
	"panic":           {sbx.Failed, false},
	"exit":            {sbx.MayHaveRun, true},
	"panic elsewhere": {sbx.MayHaveRun, true},
	"kill":            {sbx.MayHaveRun, true},
	"stop":            {sbx.MayHaveRun, true},
	"cut":             {sbx.MayHaveRun, true},
}

func TestTheErrorSaysHowFarTheCallCame(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(2), sbx.Lease(time.Second))
	end := session.Function2(End)
	for how, want := range ways {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lines")
			_, err := end.Call(t.Context(), path, how)
			assert.Equal(t, want.delivery, delivery(t, err), "%v", err)
			assert.Equal(t, want.lost, errors.As(err, new(*sbx.SandboxLostError)), "%v", err)
			assert.Equal(t, how == "stop", errors.Is(err, sbx.ErrSilent))
			assert.Equal(t, 1, lines(path))
			var call *sbx.CallError
			require.ErrorAs(t, err, &call)
			require.Len(t, call.Attempts, 1)
			assert.Equal(t, call.Sandbox, call.Attempts[0].Sandbox)
			assert.Equal(t, call.Err, call.Attempts[0].Err)
		})
	}
}

func TestNotBegun(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := session.Function(Double).Call(cancelled, 1)
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	_, err = session.Function(Pick).Call(t.Context(), Picky{"worse"})
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	_, err = session.Function(Pick).Call(t.Context(), Picky{"bad"})
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	require.NoError(t, session.Close())
	_, err = session.Function(Double).Call(t.Context(), 1)
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	assert.Equal(t, "not begun, may have run, failed", fmt.Sprintf("%v, %v, %v", sbx.NotBegun, sbx.MayHaveRun, sbx.Failed))
}

func TestAttemptsAreKept(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	_, err := session.Function2(End, sbx.Retries(2)).Call(t.Context(), filepath.Join(t.TempDir(), "lines"), "exit")
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, 3, call.Attempt)
	require.Len(t, call.Attempts, 3)
	seen := map[string]bool{}
	for _, attempt := range call.Attempts {
		seen[attempt.Sandbox] = true
		assert.ErrorContains(t, attempt.Err, "exit status 3")
		assert.Equal(t, sbx.MayHaveRun, attempt.Delivery)
	}
	assert.Len(t, seen, 3)
}

func TestTheErrorNamesTheSandboxThatTheCallRanIn(t *testing.T) {
	sent := make(chan struct{})
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Driver(inprocess.New(&inprocess.Options{
		Fault: func(m inprocess.Message) inprocess.Fault {
			first := strings.HasSuffix(m.Sandbox, "-1")
			switch {
			case first && m.FromWorker && slices.Contains(m.Kinds, "result"):
				return inprocess.Cut // after the function has run
			case !first && !m.FromWorker && slices.Contains(m.Kinds, "call"):
				close(sent)
				return inprocess.Freeze // it never arrives
			}
			return inprocess.Fault{}
		},
	})))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-sent
		cancel()
	}()
	_, err := session.Function(Double, sbx.Retries(1)).Call(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, sbx.MayHaveRun, call.Delivery)
	assert.Equal(t, 1, call.Attempt)
	require.Len(t, call.Attempts, 2)
	assert.Equal(t, sbx.NotBegun, call.Attempts[1].Delivery)
	assert.Equal(t, call.Attempts[0].Sandbox, call.Sandbox, "in the second one it did not begin")
}

// There is no other one in which the call could begin.
func TestTheErrorNamesTheSandboxThatLostTheCall(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(inprocess.New(&inprocess.Options{
		Fault: func(m inprocess.Message) inprocess.Fault {
			if !m.FromWorker && slices.Contains(m.Kinds, "call") {
				return inprocess.Cut
			}
			return inprocess.Fault{}
		},
	})))
	sb := session.Sandbox()
	_, err := session.Function(Double).In(sb).Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	var call *sbx.CallError
	require.ErrorAs(t, err, &call)
	assert.Equal(t, sbx.NotBegun, call.Delivery)
	require.Len(t, call.Attempts, 1)
	assert.Equal(t, sb.ID(), call.Sandbox)
}

func TestConcurrency(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1), sbx.Concurrency(8))
		outputs, err := session.Function(Meet).MapSlice(t.Context(), slices.Repeat([]int{8}, 8))
		require.NoError(t, err)
		assert.Len(t, outputs, 8)
		assert.Equal(t, 1, session.SandboxCount())
	})
}

func TestACallThatWaitsInABusySandboxAndIsCancelledNeverRuns(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	count := session.Function2(Count)
	first := count.Spawn(t.Context(), t.Name(), time.Hour)
	require.Eventually(t, func() bool { return began(t.Name()) == 1 }, 10*time.Second, time.Millisecond)
	for range 1000 {
		second := count.Spawn(t.Context(), t.Name(), 0)
		// It waits in the sandbox, unless that has many to confirm which were withdrawn from there.
		require.Eventually(t, func() bool { s := session.Stats(); return s.Queued+s.Waiting == 1 }, 10*time.Second, 10*time.Microsecond)
		second.Cancel()
		_, err := second.Result(t.Context())
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, sbx.NotBegun, delivery(t, err))
	}
	first.Cancel()
	<-first.Done()
	n, err := count.Call(t.Context(), t.Name(), 0)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
}

func TestACallThatWaitsInABusySandboxMovesToAFreeOne(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(2))
		require.NoError(t, session.Prewarm(t.Context(), 2))
		long := session.Function2(Count).Spawn(t.Context(), "", time.Hour)
		require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
		var others []*sbx.Call[int]
		for range 20 {
			others = append(others, session.Function2(Count).Spawn(t.Context(), "", time.Millisecond))
		}
		for _, call := range others {
			_, err := call.Result(t.Context())
			require.NoError(t, err, "none waits for the long one")
		}
		assert.NotZero(t, session.Stats().Moved)
		long.Cancel()
		<-long.Done()
	})
}

// One sandbox is busy for long, and callers that never end keep the other one busy.
func TestACallBehindALongOneIsNotPassedForEver(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(2))
		require.NoError(t, session.Prewarm(t.Context(), 2))
		count := session.Function2(Count)
		long := count.Spawn(t.Context(), "", time.Hour)
		require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var served atomic.Int64
		var callers sync.WaitGroup
		for range 30 {
			callers.Go(func() {
				for range 3 {
					if _, err := count.Call(ctx, "", time.Millisecond); err == nil {
						served.Add(1)
					}
				}
				for served.Load() < 90 && ctx.Err() == nil {
					_, _ = count.Call(ctx, "", time.Millisecond)
				}
			})
		}
		callers.Wait()
		assert.EqualValues(t, 90, served.Load(), "of 30 callers each had three calls served")
		long.Cancel()
		<-long.Done()
	})
}

func TestCallsBehindOneThatEndsTheSandboxRunOnce(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(2))
	dir := t.TempDir()
	end := session.Function2(End)
	var calls []*sbx.Call[int]
	for i := range 120 {
		how := "return"
		if i%3 == 0 {
			how = []string{"exit", "kill"}[i%2]
		}
		calls = append(calls, end.Spawn(t.Context(), filepath.Join(dir, fmt.Sprint(i)), how))
	}
	for i, call := range calls {
		_, err := call.Result(t.Context())
		if i%3 == 0 {
			assert.Equal(t, sbx.MayHaveRun, delivery(t, err), "%v", err)
		} else {
			require.NoError(t, err)
		}
		assert.Equal(t, 1, lines(filepath.Join(dir, fmt.Sprint(i))))
	}
}

func TestASandboxThatWasStoppedKeepsNoCallWaiting(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1), sbx.Lease(500*time.Millisecond))
		_, err := session.Function2(End).Call(t.Context(), "/tmp/"+rand(t), "stop")
		require.ErrorIs(t, err, sbx.ErrSilent)
		assert.ErrorContains(t, err, "no sign of life for 500ms")
		n, err := session.Function(Double).Call(t.Context(), 2)
		require.NoError(t, err)
		assert.Equal(t, 4, n)
	})
}

// What else is done with a sandbox that was silent knows why it has ended, too.
func TestASandboxThatWasStoppedIsKnownAsSilent(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Lease(500*time.Millisecond))
	own := session.Sandbox()
	_, err := session.Function2(End, sbx.Retries(1)).In(own).Call(t.Context(), "/tmp/"+rand(t), "stop")
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	require.ErrorIs(t, err, sbx.ErrSilent)
	require.ErrorIs(t, own.Wait(t.Context()), sbx.ErrSilent)
	_, err = session.Function(Double).In(own).Call(t.Context(), 2)
	require.ErrorIs(t, err, sbx.ErrSilent)
	require.ErrorIs(t, own.Command("/bin/true").Run(), sbx.ErrSilent)
	_, err = own.ReadFile(t.Context(), "file")
	require.ErrorIs(t, err, sbx.ErrSilent)
}

// rand names a file that no other test has, in a folder that exists in sandboxes too.
func rand(t *testing.T) string {
	name := fmt.Sprintf("sbx-test-%d-%d", os.Getpid(), serial.Add(1))
	t.Cleanup(func() { _ = os.Remove("/tmp/" + name) })
	return name
}

var serial atomic.Int64

func TestMaxUses(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2), sbx.MaxUses(1))
	seen := map[string]bool{}
	for range 5 {
		info, err := session.Function0(Where).Call(t.Context())
		require.NoError(t, err)
		seen[info.Sandbox] = true
	}
	assert.Len(t, seen, 5)
	infos := session.Function0(Where, sbx.MaxUses(3))
	for range 3 {
		_, err := infos.Call(t.Context())
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return session.SandboxCount() == 0 }, 10*time.Second, time.Millisecond)
	assert.EqualValues(t, 6, session.Stats().UsedUp)
}

func TestPrewarmAndStats(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(3))
	require.NoError(t, session.Prewarm(t.Context(), 2, sbx.Tags("a")))
	assert.Equal(t, sbx.Stats{MaxSandboxes: 3, Idle: 2, Started: 2}, session.Stats())
	_, err := session.Function(Double, sbx.Tags("a")).Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, sbx.Stats{MaxSandboxes: 3, Idle: 2, Started: 2, Sent: 1}, session.Stats())
	var option *sbx.OptionError
	require.ErrorAs(t, session.Prewarm(t.Context(), 4), &option)
	require.ErrorContains(t, session.Prewarm(t.Context(), 3, sbx.Tags("b")), "since sandboxes of other kinds keep their places; allow more by sbx.MaxSandboxes")
	require.ErrorAs(t, session.Prewarm(t.Context(), 1, sbx.Concurrency(0)), &option)
	require.NoError(t, session.Close())
	require.ErrorIs(t, session.Prewarm(t.Context(), 1), sbx.ErrClosed)
}

func TestPrewarmEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	session := sbxtest.Open(t, sbx.MaxSandboxes(2), sbx.StartsAtOnce(1), sbx.Driver(watch(func(string) error {
		<-release
		return nil
	}, nil)))
	defer close(release)
	for _, n := range []int{1, 2} { // the second one waits for its turn to be started
		for _, cause := range []error{errors.New("no patience"), sbx.ErrClosed} {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, cause)
			err := session.Prewarm(ctx, n)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, cause)
		}
	}
}

func TestShutdownDrains(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(2))
	require.NoError(t, err)
	count := session.Function2(Count)
	var calls []*sbx.Call[int]
	for range 6 {
		calls = append(calls, count.Spawn(t.Context(), t.Name(), 20*time.Millisecond))
	}
	mapped := make(chan int, 1)
	started := make(chan struct{})
	go func() {
		n := 0
		inputs := func(yield func(string) bool) {
			for i := range 100 {
				if i == 1 {
					close(started)
				}
				if !yield("text") {
					return
				}
			}
		}
		for _, err := range session.Function(Size).Map(t.Context(), inputs) {
			if assert.NoError(t, err) {
				n++
			}
		}
		mapped <- n
	}()
	<-started
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- session.Shutdown(t.Context()) }()
	}
	require.Eventually(t, func() bool {
		_, err := session.Function(Double).Call(t.Context(), 1)
		return errors.Is(err, sbx.ErrClosed)
	}, 10*time.Second, time.Millisecond, "new calls are refused")
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	assert.Equal(t, 100, <-mapped, "a map that has begun is done to its end")
	for _, call := range calls {
		_, err := call.Result(t.Context())
		require.NoError(t, err)
	}
	assert.Zero(t, session.SandboxCount())
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)))
	require.NoError(t, err)
	call := session.Function2(Count).Spawn(t.Context(), t.Name(), time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = session.Shutdown(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "not done (1)")
	_, err = call.Result(t.Context())
	require.ErrorIs(t, err, sbx.ErrClosed)
	assert.Zero(t, session.SandboxCount())
}

// With nothing to wait for there is nothing to complain of.
func TestShutdownOfAnIdleSessionWhenItsContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)))
		require.NoError(t, err)
		require.NoError(t, session.Shutdown(ctx))
	}
}

func TestInterceptors(t *testing.T) {
	var log []string
	var mu sync.Mutex
	note := func(name string) sbx.Interceptor {
		return func(ctx context.Context, call sbx.CallInfo, next func(context.Context) error) error {
			mu.Lock()
			log = append(log, name+" "+call.Function[strings.LastIndex(call.Function, ".")+1:])
			mu.Unlock()
			err := next(sbx.WithMetadata(ctx, name, "seen"))
			mu.Lock()
			defer mu.Unlock()
			log = append(log, fmt.Sprint(name, " ", err != nil))
			return err
		}
	}
	refusal := errors.New("not today")
	guard := func(ctx context.Context, call sbx.CallInfo, next func(context.Context) error) error {
		switch call.Metadata["guard"] {
		case "refuse":
			return refusal
		case "nothing":
			return nil
		case "twice":
			_ = next(ctx)
			return next(ctx)
		case "panic":
			panic("in an interceptor")
		case "swallow":
			_ = next(ctx)
			return nil
		}
		return next(ctx)
	}
	session := sbxtest.Open(t, sbx.Intercept(note("outer"), note("inner")), sbx.Intercept(guard), sbx.MaxSandboxes(1))
	text, err := session.Function(Meta).Call(t.Context(), "inner")
	require.NoError(t, err)
	assert.Equal(t, "seen", text)
	assert.Equal(t, []string{"outer Meta", "inner Meta", "inner false", "outer false"}, log)

	_, err = session.Function(Meta).Call(t.Context(), "none")
	require.ErrorContains(t, err, "no such metadata")
	assert.Equal(t, []string{"inner true", "outer true"}, log[len(log)-2:])
	for what, want := range map[string]string{"refuse": "not today", "nothing": "did not call next", "twice": "called next twice"} {
		_, err := session.Function(Size).Spawn(sbx.WithMetadata(t.Context(), "guard", what), "x").Result(t.Context())
		require.ErrorContains(t, err, want)
		assert.Equal(t, what == "twice", delivery(t, err) == sbx.Failed)
		assert.Equal(t, what == "refuse", errors.Is(err, refusal))
	}
	for range 3 {
		assert.PanicsWithValue(t, "in an interceptor", func() {
			_, _ = session.Function(Size).Call(sbx.WithMetadata(t.Context(), "guard", "panic"), "x")
		})
	}
	_, err = session.Function(Size).Call(sbx.WithMetadata(t.Context(), "guard", "\xff"), "x")
	require.ErrorContains(t, err, "not UTF-8")
	_, err = session.Function(Half).Call(sbx.WithMetadata(t.Context(), "guard", "swallow"), 1)
	require.ErrorIs(t, err, ErrOdd, "no success can be made of a failure")
	outputs, err := session.Function(Size).MapSlice(t.Context(), []string{"a", "bb"})
	require.NoError(t, err)
	assert.Equal(t, []int{1, 2}, outputs)
	assert.Zero(t, session.Stats().Waiting, "who was refused does not wait")
}

// A variable of type *CallError in which errors.As found nothing is an error that is not nil.
func TestAnInterceptorThatReturnsANilPointer(t *testing.T) {
	for _, format := range []string{"", "wrapped: %w"} {
		outer := sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			err := next(ctx)
			if err != nil {
				assert.NotEmpty(t, err.Error(), "one that is not nil is there")
			}
			return err
		})
		session := sbxtest.Open(t, outer, sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
			var failed *sbx.CallError
			errors.As(next(ctx), &failed)
			if format != "" {
				failed = nil
				return fmt.Errorf(format, failed)
			}
			return failed
		}))
		half := session.Function(Half)
		_, err := half.Call(t.Context(), 2)
		if format != "" {
			require.ErrorContains(t, err, "wrapped: ")
			continue
		}
		require.NoError(t, err)
		_, err = half.Call(t.Context(), 1)
		require.ErrorIs(t, err, ErrOdd)
	}
}

// An error that is not nil, but holds a nil pointer, is a mistake of many; its methods panic.
func TestAnInterceptorThatReturnsANilPointerOfItsOwn(t *testing.T) {
	session := sbxtest.Open(t, sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
		_ = next(ctx)
		var none *fs.PathError
		return none
	}))
	for _, err := range session.Function(Half).Map(t.Context(), slices.Values([]int{1, 2})) {
		var failed *sbx.CallError
		require.ErrorAs(t, err, &failed)
		assert.ErrorContains(t, err, "*fs.PathError")
		assert.Equal(t, sbx.Failed, failed.Delivery)
	}
}

// What panics in next is code of the caller's, as a context's. That makes no success, either.
func TestAnInterceptorThatRecoversAndReturnsNoError(t *testing.T) {
	session := sbxtest.Open(t, sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
		defer func() { _ = recover() }()
		uses := 3 // the third one is when the call is sent
		return next(brittle{ctx, "Value", &uses})
	}))
	err := session.Action(Check).Call(t.Context(), "no number")
	require.ErrorContains(t, err, "next had panicked")
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
}

// An interceptor that gives up waits for what it has begun, and can't begin it later.
func TestAnInterceptorThatReturnsBeforeNext(t *testing.T) {
	var late func(context.Context) error
	key := fmt.Sprint(t.Name(), serial.Add(1))
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Intercept(func(ctx context.Context, call sbx.CallInfo, next func(context.Context) error) error {
		if call.Metadata["late"] != "" {
			late = next
			return ErrOdd
		}
		go func() { _ = next(ctx) }()
		for began(key) == 0 {
			time.Sleep(time.Millisecond)
		}
		if call.Metadata["nil"] != "" {
			return nil
		}
		return ErrOdd
	}))
	_, err := session.Function2(Count).Call(t.Context(), key, time.Hour)
	require.ErrorIs(t, err, ErrOdd)
	assert.Equal(t, sbx.MayHaveRun, delivery(t, err))
	key = fmt.Sprint(t.Name(), serial.Add(1))
	_, err = session.Function2(Count).Call(sbx.WithMetadata(t.Context(), "nil", "yes"), key, time.Hour)
	require.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "an interceptor returned before next had", "the caller cancelled nothing")
	other := fmt.Sprint(t.Name(), serial.Add(1))
	_, err = session.Function2(Count).Call(sbx.WithMetadata(t.Context(), "late", "yes"), other, 0)
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	require.ErrorContains(t, late(t.Context()), "after it had returned")
	assert.Zero(t, began(other))
}

func TestAnInterceptorThatEndsItsGoroutine(t *testing.T) {
	after := false
	session := sbxtest.Open(t, sbx.Intercept(func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
		if after {
			_ = next(ctx)
		}
		runtime.Goexit()
		return nil
	}))
	_, err := session.Function(Double).Spawn(t.Context(), 1).Result(t.Context())
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
	after = true
	_, err = session.Function(Double).Spawn(t.Context(), 1).Result(t.Context())
	assert.Equal(t, sbx.Failed, delivery(t, err))
}

func TestTheLastErrorOfAMapClaimsNothing(t *testing.T) {
	session := sbxtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	key := fmt.Sprint(t.Name(), serial.Add(1))
	inputs := func(yield func(bool) bool) {
		yield(false)
		cancel()
	}
	var last error
	for _, err := range session.Function(Wait).Map(ctx, inputs) {
		last = err
	}
	require.ErrorIs(t, last, context.Canceled, key)
	assert.Equal(t, sbx.MayHaveRun, delivery(t, last))
}

func TestTheNeighbourOfAStuckCallIsToldSo(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Concurrency(2))
	neighbour := session.Function(Wait).Spawn(t.Context(), false)
	require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
	_, err := session.Function(Wait, sbx.Timeout(10*time.Millisecond)).Call(t.Context(), true)
	require.ErrorAs(t, err, new(*sbx.StuckError))
	_, err = neighbour.Result(t.Context())
	require.ErrorContains(t, err, "another call in it")
	assert.Equal(t, sbx.MayHaveRun, delivery(t, err))
}

func TestCallsBeginInTheirOrder(t *testing.T) {
	for range 5 {
		session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1))
		short := session.Function2(Count, sbx.Timeout(200*time.Millisecond)).Spawn(t.Context(), "", 0)
		long := session.Function2(Count).Spawn(t.Context(), "", 3*time.Second)
		_, err := short.Result(t.Context())
		require.NoError(t, err)
		long.Cancel()
		<-long.Done()
	}
}

func TestMaxUsesUnderLoad(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2), sbx.MaxUses(2))
	seen := map[string]int{}
	for info, err := range session.Function(WhereAmI).Map(t.Context(), numbers(100)) {
		require.NoError(t, err)
		seen[info.Sandbox]++
	}
	for _, n := range seen {
		assert.LessOrEqual(t, n, 2)
	}
}

func TestInterceptorsInTheSandbox(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function(Meta).Call(sbx.WithMetadata(t.Context(), "refuse", "yes"), "refuse")
		require.ErrorIs(t, err, ErrOdd)
		assert.Equal(t, sbx.Failed, delivery(t, err))
		text, err := session.Function(Meta).Call(sbx.WithMetadata(t.Context(), "deeper", "yes"), "deeper")
		require.NoError(t, err)
		assert.Equal(t, "yes!", text)
		for what, want := range map[string]string{"twice": "called next twice", "nothing": "did not call next"} {
			_, err = session.Function(Size).Call(sbx.WithMetadata(t.Context(), "remote", what), "x")
			require.ErrorContains(t, err, want)
		}
		_, err = session.Function(Meta).Call(sbx.WithMetadata(t.Context(), "k", strings.Repeat("x", 64<<10)), "k")
		require.ErrorContains(t, err, "the limit is 65536")
	})
}

func TestAThousandCallsAtOnce(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(3), sbx.Concurrency(3))
	size := session.Function(Size)
	var calls sync.WaitGroup
	for i := range 1000 {
		calls.Go(func() {
			n, err := size.Call(t.Context(), strings.Repeat("x", i))
			assert.NoError(t, err)
			assert.Equal(t, i, n)
		})
	}
	calls.Wait()
	s := session.Stats()
	assert.EqualValues(t, 1000, s.Sent)
	assert.Zero(t, s.Running+s.Queued+s.Waiting)
}

// TestFaults lets each fault happen to each message in turn, and looks whether what the caller is told is true.
func TestFaults(t *testing.T) {
	const key = "TestFaults"
	faults := []inprocess.Fault{inprocess.Drop, inprocess.Duplicate, inprocess.Cut, inprocess.Freeze, inprocess.Delay(50 * time.Millisecond), inprocess.Delay(time.Hour)}
	for _, ledger := range []bool{true, false} {
		for _, fault := range faults {
			for _, fromWorker := range []bool{false, true} {
				for number := 1; number <= 8; number++ {
					t.Run(fmt.Sprintf("%v, ledger %v, from worker %v, message %d", fault, ledger, fromWorker, number), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							var once atomic.Bool
							var kinds []string
							session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(1), sbx.Lease(time.Minute), sbx.Driver(inprocess.New(&inprocess.Options{
								NoLedger: !ledger,
								Fault: func(m inprocess.Message) inprocess.Fault {
									if m.FromWorker == fromWorker && m.Number == number && !once.Swap(true) {
										kinds = m.Kinds
										return fault
									}
									return inprocess.Fault{}
								},
							})))
							require.NoError(t, err)
							defer func() { require.NoError(t, session.Close()) }()
							failed := faultyCalls(t, session, key)
							if number <= 4 { // how many more there are depends on what goes into one frame
								assert.True(t, once.Load(), "there was such a message")
							}
							if fault == inprocess.Cut && 2 <= number && number <= 4 {
								// It is certain that a call did not begin which did not arrive, if there is a ledger: it is sent again.
								assert.Equal(t, fromWorker || !ledger, failed > 0, "%v", kinds)
							}
						})
					})
				}
			}
		}
	}
}

// A worker in this process ends with its connection, as others do, and not as if a function had ended it.
func TestACutConnectionIsNoExit(t *testing.T) {
	cuts := 0
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Driver(inprocess.New(&inprocess.Options{Fault: func(m inprocess.Message) inprocess.Fault {
		if cuts < 5 && m.FromWorker && slices.Contains(m.Kinds, "result") {
			cuts++
			return inprocess.Cut
		}
		return inprocess.Fault{}
	}})))
	_, err := session.Function(Double).Call(t.Context(), 1)
	var lost *sbx.SandboxLostError
	require.ErrorAs(t, err, &lost)
	require.NotErrorIs(t, err, sbx.ErrExited)
	assert.ErrorContains(t, err, "lost its connection")
	n, err := session.Function(Double, sbx.Retries(4)).Call(t.Context(), 1)
	require.NoError(t, err, "it is nobody's fault")
	assert.Equal(t, 2, n)
	assert.Equal(t, 5, cuts)
}

// faultyCalls makes calls one after the other, and then some at once, and returns how many failed that should not.
func faultyCalls(t *testing.T, session *sbx.Session, key string) int {
	count := session.Function2(Count)
	large := strings.Repeat("x", 100<<10)
	var failed atomic.Int32
	check := func(key string, n int, err error) {
		if err == nil {
			assert.Equal(t, 1, n, "a call whose result is there ran once")
			assert.Equal(t, 1, began(key))
			return
		}
		failed.Add(1)
		switch d := delivery(t, err); d {
		case sbx.NotBegun:
			assert.Zero(t, began(key), "%v", err)
		case sbx.MayHaveRun:
			assert.LessOrEqual(t, began(key), 1)
		case sbx.Failed:
			t.Errorf("no function failed: %v", err)
		}
	}
	fresh := func() string { return fmt.Sprint(key, serial.Add(1)) }
	for range 2 {
		key := fresh()
		n, err := count.Call(t.Context(), key, 0)
		check(key, n, err)
	}
	n, err := session.Function(Size).Call(t.Context(), large)
	if err == nil {
		assert.Equal(t, len(large), n)
	} else {
		failed.Add(1)
	}
	var calls sync.WaitGroup
	for range 3 {
		key := fresh()
		call := count.Spawn(t.Context(), key, time.Second)
		calls.Go(func() {
			n, err := call.Result(t.Context())
			check(key, n, err)
		})
	}
	key2 := fresh()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = count.Call(ctx, key2, time.Hour)
	require.Error(t, err)
	assert.LessOrEqual(t, began(key2), 1)
	calls.Wait()
	assert.LessOrEqual(t, failed.Load(), int32(2), "one fault costs at most what was in the sandbox")
	for range 2 { // the fault may have waited for the first of them
		key3 := fresh()
		n, err = count.Call(t.Context(), key3, 0)
		check(key3, n, err)
	}
	require.NoError(t, err, "the session is whole again")
	return int(failed.Load())
}

func TestAFunctionThatIsStuckSaysWhere(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		_, err := session.Function2(End, sbx.Timeout(10*time.Millisecond)).Call(t.Context(), "/tmp/"+rand(t), "ignore")
		var stuck *sbx.StuckError
		require.ErrorAs(t, err, &stuck)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		assert.Contains(t, stuck.Stack, "sbx_test.End(")
		assert.Contains(t, stuck.Stack, "delivery_functions_test.go:")
		assert.Equal(t, sbx.MayHaveRun, delivery(t, err))
		require.Eventually(t, func() bool { return session.Stats().Killed == 1 }, 10*time.Second, time.Millisecond)
	})
}

func TestAPanicWithAnErrorWrapsIt(t *testing.T) {
	session := sbxtest.Open(t)
	_, err := session.Function(PanicWith).Call(t.Context(), "odd")
	require.ErrorIs(t, err, ErrOdd)
	var crash *sbx.PanicError
	require.ErrorAs(t, err, &crash)
	assert.Equal(t, "wrapped: odd", crash.Value)
	_, err = session.Function(PanicWith).Call(t.Context(), "quits")
	require.ErrorAs(t, err, &crash)
	assert.True(t, crash.Goexit, "an error whose text ends the goroutine")
}

// A worker that sends the rest of a result never, or too late, does not hold the caller.
func TestAResultThatDoesNotArriveEndsByTheTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	for delay, arrives := range map[time.Duration]bool{3 * time.Second: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			session := sbxtest.Open(t, sbx.Lease(100*time.Hour), sbx.Driver(inprocess.New(&inprocess.Options{
				Fault: func(m inprocess.Message) inprocess.Fault {
					if slices.Equal(m.Kinds, []string{"chunk"}) { // the first one is in a frame with the result
						return inprocess.Delay(delay / 3)
					}
					return inprocess.Fault{}
				},
			})))
			data, err := session.Function(ReadFile, sbx.Timeout(time.Second)).Call(t.Context(), path)
			if arrives {
				require.NoError(t, err)
				assert.Len(t, data, 1<<20)
				return
			}
			require.ErrorIs(t, err, sbx.ErrTimeout)
			assert.ErrorContains(t, err, "its result of 1048")
			assert.Equal(t, sbx.MayHaveRun, delivery(t, err))
		})
	}
}

// While a long argument is on its way no other call may overtake it: the worker would begin that one, and the session would wait for the wrong one.
func TestALongArgumentIsNotOvertaken(t *testing.T) {
	var held atomic.Bool
	session := sbxtest.Open(t, sbx.MaxSandboxes(1), sbx.Driver(inprocess.New(&inprocess.Options{
		Fault: func(m inprocess.Message) inprocess.Fault {
			if !m.FromWorker && slices.Contains(m.Kinds, "chunk") && !held.Swap(true) {
				return inprocess.Delay(200 * time.Millisecond)
			}
			return inprocess.Fault{}
		},
	})))
	long := session.Function(Size, sbx.Timeout(100*time.Millisecond)).Spawn(t.Context(), strings.Repeat("x", 4<<20))
	require.Eventually(t, held.Load, 10*time.Second, time.Millisecond)
	other := session.Function2(Count).Spawn(t.Context(), fmt.Sprint(t.Name(), serial.Add(1)), 4*time.Second)
	_, err := long.Result(t.Context())
	require.NoError(t, err)
	_, err = other.Result(t.Context())
	require.NoError(t, err, "it did nothing wrong")
	assert.Zero(t, session.Stats().Killed)
}
