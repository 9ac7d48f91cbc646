package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"runtime"
	"sync"
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
)

// bubble runs a test with a session of sandboxes in this process, in time of its own.
func bubble(t *testing.T, opts []sbx.OpenOption, test func(t *testing.T, session *sbx.Session)) {
	synctest.Test(t, func(t *testing.T) {
		session, err := sbx.Open(t.Context(), append([]sbx.OpenOption{sbx.Driver(inprocess.New(nil)), sbx.Lease(1000 * time.Hour)}, opts...)...)
		require.NoError(t, err)
		defer func() { require.NoError(t, session.Close()) }()
		test(t, session)
	})
}

func newKey(t *testing.T) string { return fmt.Sprint(t.Name(), serial.Add(1)) }

func always(error) bool { return true }

func TestRetryIf(t *testing.T) {
	for plan, want := range map[string]struct {
		runs int // 3 at most
		ok   bool
		is   error
	}{
		"ok": {1, true, nil}, "fail ok": {2, true, nil}, "fail panic ok": {3, true, nil}, "panic wait ok": {3, true, nil},
		"fail": {3, false, ErrOdd}, "fail wait": {3, false, sbx.ErrTimeout}, "wait fail": {3, false, ErrOdd},
	} {
		t.Run(plan, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, session *sbx.Session) {
				key := newKey(t)
				var asked []error
				try := session.Function2(Try, sbx.Retries(2), sbx.Timeout(time.Second), sbx.RetryIf(func(err error) bool {
					asked = append(asked, err)
					return true
				}))
				n, err := try.Call(t.Context(), key, plan)
				assert.Equal(t, want.runs, began(key))
				if want.ok {
					require.NoError(t, err)
					assert.Equal(t, want.runs, n)
					assert.Len(t, asked, want.runs-1)
					return
				}
				require.ErrorIs(t, err, want.is)
				call := callError(t, err)
				assert.Equal(t, sbx.Failed, call.Delivery)
				assert.Equal(t, want.runs, call.Attempt)
				require.Len(t, call.Attempts, want.runs)
				require.Len(t, asked, want.runs-1, "nobody is asked about a run that is the last one")
				for i, err := range asked {
					assert.Same(t, call.Attempts[i].Err, err, "what the predicate gets is what the caller would have got")
				}
				assert.Same(t, call.Err, call.Attempts[want.runs-1].Err)
			})
		})
	}
}

func TestRetryIfIsNotAskedInVain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, session *sbx.Session) {
		asked := 0
		opts := []sbx.FunctionOption{sbx.Retries(5), sbx.RetryIf(func(error) bool { asked++; return false })}
		_, err := session.Function2(Try, opts...).Call(t.Context(), newKey(t), "fail ok")
		require.ErrorIs(t, err, ErrOdd)
		assert.Equal(t, 1, asked)
		assert.Equal(t, 1, callError(t, err).Attempt)

		_, err = session.Function(Pick, opts...).Call(t.Context(), Picky{"bad"})
		assert.Equal(t, sbx.NotBegun, delivery(t, err))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = session.Function2(Try, opts...).Call(ctx, newKey(t), "wait")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 1, asked, "neither about what did not begin, nor when the caller's time is up")
	})
}

func TestAPredicateThatPanics(t *testing.T) {
	bubble(t, nil, func(t *testing.T, session *sbx.Session) {
		key := newKey(t)
		panics := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(func(error) bool { panic("who am I") }))
		for _, call := range []func() error{
			func() error { _, err := panics.Call(t.Context(), key, "fail"); return err },
			func() error { _, err := panics.Spawn(t.Context(), key, "fail").Result(t.Context()); return err },
		} {
			err := call()
			require.ErrorContains(t, err, "the predicate of sbx.RetryIf panicked: who am I")
			require.ErrorIs(t, err, ErrOdd)
			assert.Equal(t, 1, callError(t, err).Attempt)
		}
		_, err := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(func(error) bool { runtime.Goexit(); return true })).
			Spawn(t.Context(), key, "fail").Result(t.Context())
		require.ErrorContains(t, err, "a predicate of RetryIf called runtime.Goexit")
		assert.Equal(t, 3, began(key))
	})
}

// What a call waits before its runs is random, and bounded by what doubles.
func TestBackoff(t *testing.T) {
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(2)}, func(t *testing.T, session *sbx.Session) {
		for _, test := range []struct {
			opts  []sbx.FunctionOption
			bound []time.Duration
		}{
			{[]sbx.FunctionOption{sbx.Backoff(time.Second, 3*time.Second)}, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
			{nil, []time.Duration{10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond}},
			{[]sbx.FunctionOption{sbx.Backoff(0, 0)}, []time.Duration{0, 0, 0, 0}},
			{[]sbx.FunctionOption{sbx.Backoff(0, time.Second)}, []time.Duration{0, 0, 0, 0}},
		} {
			longest := make([]time.Duration, len(test.bound))
			for range 50 {
				var asked []time.Time
				opts := append([]sbx.FunctionOption{sbx.Retries(4), sbx.RetryIf(func(error) bool {
					asked = append(asked, time.Now())
					return true
				})}, test.opts...)
				_, err := session.Function2(Try, opts...).Call(t.Context(), "", "fail")
				require.ErrorIs(t, err, ErrOdd)
				asked = append(asked, time.Now())
				for i, bound := range test.bound {
					wait := asked[i+1].Sub(asked[i])
					assert.LessOrEqual(t, wait, bound)
					longest[i] = max(longest[i], wait)
				}
			}
			for i, bound := range test.bound {
				assert.GreaterOrEqual(t, longest[i], bound/2, "of fifty, one is in the upper half")
			}
		}
	})
}

func TestAWaitHoldsNoSandbox(t *testing.T) {
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(1)}, func(t *testing.T, session *sbx.Session) {
		key := newKey(t)
		try := session.Function2(Try, sbx.Retries(1), sbx.RetryIf(always), sbx.Backoff(1e6*time.Hour, 1e6*time.Hour))
		waiting := try.Spawn(t.Context(), key, "fail ok")
		synctest.Wait()
		assert.Equal(t, 1, began(key))
		assert.Equal(t, 1, session.Stats().Idle)
		begin := time.Now()
		n, err := session.Function(Double).Call(t.Context(), 2)
		require.NoError(t, err)
		assert.Equal(t, 4, n)
		assert.Zero(t, time.Since(begin))
		waiting.Cancel()
		_, err = waiting.Result(t.Context())
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, sbx.Failed, delivery(t, err))
		require.Len(t, callError(t, err).Attempts, 1)

		again := try.Spawn(t.Context(), key, "fail ok")
		synctest.Wait()
		require.NoError(t, session.Close())
		_, err = again.Result(t.Context())
		require.ErrorIs(t, err, sbx.ErrClosed)
		assert.Equal(t, 2, began(key))
	})
}

func TestAWaitThatTheDeadlineWouldCutShort(t *testing.T) {
	bubble(t, nil, func(t *testing.T, session *sbx.Session) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := session.Function2(Try, sbx.Retries(1), sbx.RetryIf(always), sbx.Backoff(1e6*time.Hour, 1e6*time.Hour)).Call(ctx, newKey(t), "fail ok")
		assert.Zero(t, time.Since(begin), "it fails at once")
		require.ErrorIs(t, err, ErrOdd)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "the context's deadline comes before the next run would")
		assert.Len(t, callError(t, err).Attempts, 1)
	})
}

func TestOptionsOfRetries(t *testing.T) {
	session := sbxtest.Open(t)
	memory := sbx.Limit(sbx.Resources{MemoryMiB: 64})
	for name, opts := range map[string][]sbx.FunctionOption{
		"RetryIf needs a function that may run again":     {sbx.RetryIf(always)},
		"Backoff needs a function that may run again":     {sbx.Backoff(1, 1), sbx.Retries(0)},
		"Hedge needs a function that may run again":       {sbx.Hedge(1)},
		"RetryMemory needs a function that may run again": {sbx.RetryMemory(1 << 30), memory},
		"RetryMemory needs a memory limit":                {sbx.RetryMemory(1 << 30), sbx.Retries(1), sbx.LimitIfPossible(sbx.Resources{MemoryMiB: 64})},
		"RetryMemory allows 64 MiB, and the limit is 64":  {sbx.RetryMemory(64 << 20), sbx.Retries(1), memory},
		"RetryMemory is 1048575":                          {sbx.RetryMemory(1<<20 - 1), sbx.Retries(1), memory},
		"RetryIf is given nil":                            {sbx.RetryIf(nil), sbx.Retries(1)},
		"Backoff has 2ns and 1ns":                         {sbx.Backoff(2, 1), sbx.Retries(1)},
		"Backoff has -1ns and 1ns":                        {sbx.Backoff(-1, 1), sbx.Retries(1)},
		"Hedge is 0s":                                     {sbx.Hedge(0), sbx.Retries(1)},
		"Retries is -1":                                   {sbx.Retries(-1)},
	} {
		err := session.Function(Double, opts...).Err()
		var option *sbx.OptionError
		require.ErrorAs(t, err, &option, name)
		assert.ErrorContains(t, err, name)
	}
	require.NoError(t, session.Function(Double, sbx.Hedge(1), sbx.Backoff(0, 0), sbx.RetryIf(always), sbx.Retries(1), sbx.RetryMemory(128<<20), memory).Err())
	_, err := session.Function(Double).MapSlice(t.Context(), []int{1}, sbx.RetryBudget(-1))
	require.ErrorContains(t, err, "RetryBudget is -1")
}

// A call that ends its sandbox again and again is given up after three times, whatever Retries says; ends from elsewhere don't count.
func TestPoison(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(2), sbx.Lease(400*time.Millisecond))
	for how, want := range map[string]struct {
		runs   int
		poison bool
	}{"exit": {3, true}, "panic elsewhere": {3, true}, "kill": {6, false}, "cut": {6, false}, "stop": {6, false}} {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lines")
			_, err := session.Function2(End, sbx.Retries(5), sbx.Backoff(0, 0)).Call(t.Context(), path, how)
			assert.Equal(t, want.poison, errors.Is(err, sbx.ErrPoison), "%v", err)
			require.ErrorAs(t, err, new(*sbx.SandboxLostError), "the last one's error is there too")
			assert.Equal(t, want.runs, lines(path))
			call := callError(t, err)
			assert.Equal(t, want.runs, call.Attempt)
			require.Len(t, call.Attempts, want.runs)
			assert.Equal(t, sbx.MayHaveRun, call.Delivery)
			seen := map[string]bool{}
			for _, attempt := range call.Attempts {
				seen[attempt.Sandbox] = true
				require.ErrorAs(t, attempt.Err, new(*sbx.SandboxLostError))
				require.NotErrorIs(t, attempt.Err, sbx.ErrPoison)
			}
			assert.Len(t, seen, want.runs, "each run was in another sandbox")
		})
	}
	for end, runs := range map[string]int{"overflow": 3, "log.Fatal": 3, "exit 0": 3, "SIGABRT": 4, "SIGSEGV": 4, "SIGTERM": 4} {
		_, err := session.Function2(Crash, sbx.Retries(3), sbx.Backoff(0, 0)).Call(t.Context(), "", end)
		assert.Equal(t, runs, callError(t, err).Attempt, end)
		assert.Equal(t, runs == 3, errors.Is(err, sbx.ErrPoison), end)
	}
	// Of mixed ends those count that it made itself, and what it returned does not.
	try := session.Function2(Try, sbx.Retries(9), sbx.RetryIf(always), sbx.Backoff(0, 0))
	_, err := try.Call(t.Context(), "", "exit fail exit panic exit ok")
	require.ErrorIs(t, err, sbx.ErrPoison)
	assert.Equal(t, 5, callError(t, err).Attempt)
	n, err := try.Call(t.Context(), "", "exit fail exit panic ok")
	require.NoError(t, err)
	assert.Equal(t, 5, n)
}

// Calls that share a sandbox with those that end it, at the same time or later, are not taken for them.
func TestPoisonFailsNoInnocents(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(2), sbx.Concurrency(4))
	dir := t.TempDir()
	inputs := func(yield func(string, string) bool) {
		for i := range 80 {
			how := "return"
			if i%8 == 0 {
				how = "exit"
			}
			if !yield(filepath.Join(dir, fmt.Sprint(i)), how) {
				return
			}
		}
	}
	// An innocent one may be lost once; from then on it is on its own.
	end := session.Function2(End, sbx.Retries(3), sbx.Backoff(0, 0))
	guilty := 0
	for r := range end.MapUnordered(t.Context(), inputs) {
		if r.B == "return" {
			require.NoError(t, r.Err)
			continue
		}
		guilty++
		require.ErrorIs(t, r.Err, sbx.ErrPoison)
		n := lines(r.A) // three times on its own, and perhaps once with others
		assert.True(t, n == 3 || n == 4, "%d runs", n)
	}
	assert.Equal(t, 10, guilty)

	for range 5 { // what one call leaves behind ends the sandbox in which another one runs
		require.NoError(t, session.Action(Bomb).Call(t.Context(), 50*time.Millisecond))
	}
	n, err := session.Function2(Try, sbx.Retries(9)).Call(t.Context(), "", "300ms:ok")
	require.NoError(t, err)
	assert.LessOrEqual(t, n, 2)
}

func TestRetryMemory(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.MaxSandboxes(2), sbx.Env("GOMEMLIMIT", "off"))
	if c := session.Report().Capability(driver.LimitMemory); !c.Held {
		t.Skip(c.Why)
	}
	limit := sbx.Limit(sbx.Resources{MemoryMiB: 64})
	size := 160
	if raceEnabled { // which takes several times as much
		size = 32
	}
	allocate := func(mib, retries int, most int64) error {
		n, err := session.Function(Allocate, limit, sbx.Retries(retries), sbx.RetryMemory(most), sbx.Backoff(0, 0)).Call(t.Context(), mib)
		if err == nil {
			assert.Equal(t, mib, n)
		}
		return err
	}
	require.NoError(t, allocate(size, 4, 1<<30), "the third run has 256 MiB")
	err := allocate(600, 1, 256<<20)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	require.NotErrorIs(t, err, sbx.ErrPoison)
	assert.Equal(t, 2, callError(t, err).Attempt)
	err = allocate(600, 9, 100<<20)
	require.ErrorIs(t, err, sbx.ErrPoison)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	assert.Equal(t, 4, callError(t, err).Attempt, "one with 64 MiB, and three with what it may have")
	require.ErrorContains(t, err, "have sbx.RetryMemory allow more")
	results, err := session.Function(Allocate, limit, sbx.Retries(4), sbx.RetryMemory(1<<30)).MapSlice(t.Context(), []int{2, size, 4})
	require.NoError(t, err)
	assert.Equal(t, []int{2, size, 4}, results)
}

// The sandbox ends before the function begins, as often as the call is sent again.
func TestArgumentsThatNeedMoreMemory(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.MaxSandboxes(2))
	if c := session.Report().Capability(driver.LimitMemory); !c.Held {
		t.Skip(c.Why)
	}
	limit, data := sbx.Limit(sbx.Resources{MemoryMiB: 64}), make([]byte, 128<<20)
	n, err := session.Function(Measure, limit, sbx.Retries(1), sbx.RetryMemory(2<<30)).Call(t.Context(), data)
	require.NoError(t, err)
	assert.Equal(t, len(data), n)

	_, err = session.Function(Measure, limit, sbx.Retries(9)).Call(t.Context(), data)
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	require.ErrorContains(t, err, "3 sandboxes ended before the call began")
	require.ErrorContains(t, err, "arguments have 134217733 bytes; allow the sandbox more by MemoryMiB")
	assert.Equal(t, sbx.NotBegun, delivery(t, err))

	// Calls that run beside it are not lost for them more than once.
	ctx, cancel := context.WithCancel(t.Context())
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	shared := sbx.Concurrency(4)
	try := session.Function2(Try, limit, shared)
	for range 6 {
		beside.Go(func() {
			for ctx.Err() == nil {
				_, _ = try.Call(ctx, "", "50ms:ok")
			}
		})
	}
	require.Eventually(t, func() bool { return session.Stats().Running == 6 }, time.Minute, time.Millisecond)
	_, err = session.Function(Measure, limit, shared).Call(t.Context(), data)
	require.ErrorContains(t, err, "3 sandboxes ended before the call began")
}

func TestMemoryThatCantBeHadFailsTheCall(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	_, err := session.Function(Allocate, sbx.Limit(sbx.Resources{MemoryMiB: 64}), sbx.Retries(2), sbx.RetryMemory(1<<30)).Call(t.Context(), 1)
	var refused *driver.LimitError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, sbx.NotBegun, delivery(t, err))
}

func TestRetryBudget(t *testing.T) {
	for _, budget := range []int{0, 7, 1000} {
		bubble(t, nil, func(t *testing.T, session *sbx.Session) {
			key := newKey(t)
			try := session.Function2(Try, sbx.Retries(3), sbx.RetryIf(always))
			refused, failed := 0, 0
			for _, err := range try.Map(t.Context(), tries(10, key, "fail"), sbx.RetryBudget(budget)) {
				require.ErrorIs(t, err, ErrOdd)
				failed++
				if errors.Is(err, sbx.ErrRetryBudget) {
					refused++
				}
			}
			assert.Equal(t, 10, failed)
			assert.Equal(t, 10+min(budget, 30), began(key), "runs")
			if budget == 1000 {
				assert.Zero(t, refused)
			} else {
				assert.GreaterOrEqual(t, refused, 10-budget/3)
			}
			var errs []error
			for _, err := range try.Map(t.Context(), tries(1000, key, "fail"), sbx.RetryBudget(0), sbx.FailFast()) {
				errs = append(errs, err)
			}
			require.Len(t, errs, 1)
			require.ErrorIs(t, errs[0], sbx.ErrRetryBudget)
		})
	}
}

// tries are inputs of Try.
func tries(n int, key, plan string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for range n {
			if !yield(key, plan) {
				return
			}
		}
	}
}

// However a map ends while calls of it run, run twice, and wait to be run again, nothing is left of it. (What is left in a
// bubble fails its test.)
func TestAMapEndsWithRetriesInFlight(t *testing.T) {
	inputs := func(key string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			for i := 0; ; i++ {
				if !yield(key, []string{"ok", "fail", "1h:ok", "panic"}[i%4]) {
					return
				}
			}
		}
	}
	opts := []sbx.FunctionOption{sbx.Retries(100), sbx.RetryIf(always), sbx.Backoff(time.Minute, time.Hour), sbx.Hedge(time.Second)}
	for name, end := range map[string]func(t *testing.T, session *sbx.Session, cancel func()) bool{
		"break":  func(*testing.T, *sbx.Session, func()) bool { return false },
		"panic":  func(*testing.T, *sbx.Session, func()) bool { panic("mine") },
		"cancel": func(_ *testing.T, _ *sbx.Session, cancel func()) bool { cancel(); return true },
		"close": func(t *testing.T, session *sbx.Session, _ func()) bool {
			assert.NoError(t, session.Close())
			return true
		},
	} {
		for _, sandboxes := range []int{2, 8} {
			t.Run(fmt.Sprint(name, " ", sandboxes), func(t *testing.T) {
				bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(sandboxes)}, func(t *testing.T, session *sbx.Session) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var last error
					loop := func() {
						for r := range session.Function2(Try, opts...).MapUnordered(ctx, inputs(newKey(t))) {
							if last = r.Err; r.Err != nil {
								continue
							}
							time.Sleep(5 * time.Second)
							if !end(t, session, cancel) {
								break
							}
						}
					}
					switch name {
					case "panic":
						assert.PanicsWithValue(t, "mine", loop)
					case "break":
						loop()
					default:
						loop()
						require.ErrorIs(t, last, map[string]error{"cancel": context.Canceled, "close": sbx.ErrClosed}[name])
					}
					synctest.Wait()
					s := session.Stats()
					assert.Zero(t, s.Running+s.Queued+s.Waiting)
				})
			})
		}
	}
}

// A sandbox of the program's own is not replaced: what it lost can't run again, and there is no other one for a second run.
func TestRetriesInASandboxOfTheProgramsOwn(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	sandbox := session.Sandbox()
	try := session.Function2(Try, sbx.Retries(2), sbx.RetryIf(always), sbx.Hedge(10*time.Millisecond)).In(sandbox)
	n, err := try.Call(t.Context(), "", "fail 200ms:ok")
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	assert.Zero(t, session.Stats().Hedged)
	_, err = try.Call(t.Context(), "", "exit ok")
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	call := callError(t, err)
	assert.Equal(t, sbx.MayHaveRun, call.Delivery)
	assert.Equal(t, 1, call.Attempt)
	require.Len(t, call.Attempts, 1)
	require.ErrorIs(t, call.Attempts[0].Err, sbx.ErrExited)
}
