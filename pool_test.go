package sbx_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMinSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		fail.Store(true)
		var warned buffer
		session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(3), sbx.MinSandboxes(2), sbx.IdleTime(time.Second),
			sbx.Logger(slog.New(slog.NewTextHandler(&warned, nil))),
			sbx.Driver(watch(func(string) error {
				if fail.Load() {
					return errors.New("no disk")
				}
				return nil
			}, nil)))
		require.NoError(t, err, "starts that fail are not Open's")
		time.Sleep(10 * time.Minute)
		assert.Greater(t, session.Stats().StartsFailed, uint64(20))
		fail.Store(false)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.Equal(t, 2, session.Stats().Idle)
		time.Sleep(time.Minute)
		assert.Equal(t, 2, session.SandboxCount(), "IdleTime does not end them")

		require.NoError(t, session.Close())
		assert.Equal(t, 1, strings.Count(warned.String(), "sbx.MinSandboxes"), "it is said once")
	})
}

func TestMinSandboxesAreReplaced(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(3), sbx.MinSandboxes(2), sbx.MaxUses(1))
	for range 5 {
		_, err := session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return session.Stats().Idle == 2 }, 10*time.Second, time.Millisecond)
}

func TestMinSandboxesThatMakeNoSense(t *testing.T) {
	var option *sbx.OptionError
	_, err := sbx.Open(t.Context(), sbx.MinSandboxes(3), sbx.MaxSandboxes(2))
	require.ErrorAs(t, err, &option)
	assert.ErrorContains(t, err, "MinSandboxes is 3, above the maximum of 2; raise MaxSandboxes")
}

func TestSetMaxSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(1), sbx.Driver(watch(nil, nil)))
		require.NoError(t, err)
		var calls []*sbx.Call[string]
		wait := session.Function(Wait)
		for range 4 {
			calls = append(calls, wait.Spawn(t.Context(), false))
		}
		synctest.Wait()
		assert.Equal(t, 1, session.Stats().Running)
		require.NoError(t, session.SetMaxSandboxes(4))
		synctest.Wait()
		assert.Equal(t, 4, session.Stats().Running)
		assert.Equal(t, 4, session.Stats().MaxSandboxes)
		require.NoError(t, session.SetMaxSandboxes(2))
		synctest.Wait()
		assert.Equal(t, 4, session.Stats().Running, "nothing is cancelled")
		for _, call := range calls {
			call.Cancel()
			<-call.Done()
		}
		synctest.Wait()
		assert.Equal(t, 2, session.SandboxCount())
		assert.EqualValues(t, 2, session.Stats().Surplus)
		var option *sbx.OptionError
		require.ErrorAs(t, session.SetMaxSandboxes(0), &option)
		require.NoError(t, session.Close())
		require.ErrorIs(t, session.SetMaxSandboxes(2), sbx.ErrClosed)
	})
	session := sbxtest.Open(t, sbx.MaxSandboxes(3), sbx.MinSandboxes(2))
	assert.ErrorContains(t, session.SetMaxSandboxes(1), "give 2 or more, the session's MinSandboxes")
	var none *sbx.Session
	require.Error(t, none.SetMaxSandboxes(1))
}

func TestStartsAtOnce(t *testing.T) {
	var starting, most atomic.Int32
	session := sbxtest.Open(t, sbx.MaxSandboxes(10), sbx.StartsAtOnce(2), sbx.Driver(inprocess.New(&inprocess.Options{
		Start: func(string) error {
			most.Store(max(most.Load(), starting.Add(1)))
			time.Sleep(5 * time.Millisecond)
			starting.Add(-1)
			return nil
		},
	})))
	require.NoError(t, session.Prewarm(t.Context(), 10))
	assert.LessOrEqual(t, most.Load(), int32(2))
}

func TestFresh(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(4))
		where := session.Function0(Where, sbx.Fresh())
		var mu sync.Mutex
		seen := map[string]bool{}
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				for range 7 {
					info, err := where.Call(t.Context())
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					assert.False(t, seen[info.Sandbox], "no other call has run there")
					seen[info.Sandbox] = true
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		assert.Len(t, seen, 21)
		require.Eventually(t, func() bool { s := session.Stats(); return s.Idle > 0 && s.Idle == session.SandboxCount() }, 10*time.Second, time.Millisecond, "one is ready")
		before := session.Stats()
		info, err := where.Call(t.Context())
		require.NoError(t, err)
		assert.False(t, seen[info.Sandbox])
		assert.Equal(t, before.Waits, session.Stats().Waits, "it was there")
		// Other calls have sandboxes of theirs.
		_, err = session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
	})
}

func TestFreshContradicts(t *testing.T) {
	session := sbxtest.Open(t, sbx.Concurrency(4))
	var option *sbx.OptionError
	for name, opts := range map[string][]sbx.FunctionOption{
		"the session's concurrency": {sbx.Fresh()},
		"uses":                      {sbx.Fresh(), sbx.Concurrency(1), sbx.MaxUses(2)},
		"the other order":           {sbx.MaxUses(2), sbx.Concurrency(1), sbx.Fresh()},
	} {
		require.ErrorAs(t, session.Function(Double, opts...).Err(), &option, name)
		assert.Equal(t, "Fresh", option.Option, name)
	}
	require.NoError(t, session.Function(Double, sbx.Fresh(), sbx.Concurrency(1), sbx.MaxUses(1)).Err())
	_, err := sbx.Open(t.Context(), sbx.Fresh(), sbx.Concurrency(2))
	require.ErrorAs(t, err, &option)
	require.NoError(t, sbxtest.Open(t, sbx.Fresh()).Sandbox().Start(t.Context()), "it has no meaning there")
}

// A function that hangs in what an earlier call left there does so again and again: its sandbox is replaced.
func TestQuarantine(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	wait := session.Function(Wait, sbx.Timeout(10*time.Millisecond))
	for i := range 6 {
		_, err := wait.Call(t.Context(), false)
		require.ErrorIs(t, err, sbx.ErrTimeout)
		assert.EqualValues(t, (i+1)/3, session.Stats().Quarantined)
	}
	for range 5 { // a function's own errors say nothing of its sandbox
		_, err := session.Function(Half).Call(t.Context(), 1)
		require.Error(t, err)
	}
	assert.EqualValues(t, 2, session.Stats().Quarantined)
}

// The program's own sandbox has what the program put there: it is not replaced.
func TestNoQuarantineOfTheProgramsOwn(t *testing.T) {
	sb := sbxtest.Open(t).Sandbox()
	session := sbxtest.Open(t)
	for range 4 {
		_, err := session.Function(Wait, sbx.Timeout(10*time.Millisecond)).In(sb).Call(t.Context(), false)
		require.ErrorIs(t, err, sbx.ErrTimeout)
	}
	n, err := session.Function(Double).In(sb).Call(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	assert.Equal(t, sbx.Running, sb.Status())
}

// A function with a long queue does not keep another one waiting.
func TestFunctionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(1), sbx.Driver(watch(nil, nil)))
		require.NoError(t, err)
		var many []*sbx.Call[int]
		double, half := session.Function(Double), session.Function(Half)
		blocker := session.Function(Wait).Spawn(t.Context(), false)
		synctest.Wait()
		for i := range 2000 {
			many = append(many, double.Spawn(t.Context(), i))
		}
		few := half.Spawn(t.Context(), 2)
		blocker.Cancel()
		_, err = few.Result(t.Context())
		require.NoError(t, err)
		left := 0
		for _, call := range many {
			select {
			case <-call.Done():
			default:
				left++
			}
		}
		assert.Greater(t, left, 1000)
		require.NoError(t, session.Close())
	})
}

// What Prewarm could not start is told as a call is told of it, with what to do.
func TestPrewarmThatCantStart(t *testing.T) {
	short := fmt.Errorf("pipe2: %w", syscall.EMFILE)
	session := sbxtest.Open(t, sbx.Driver(inprocess.New(&inprocess.Options{Start: func(string) error { return short }})))
	_, callErr := session.Function(Double).Call(t.Context(), 1)
	for _, err := range []error{callErr, session.Prewarm(t.Context(), 1)} {
		var start *sbx.StartError
		require.ErrorAs(t, err, &start)
		assert.Equal(t, short, start.Err)
		assert.ErrorContains(t, err, ": no sandbox could be started: pipe2: too many open files; allow this program more open files: ulimit -n 4096")
	}
}
