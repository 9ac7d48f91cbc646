package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hedged is what is to come of one call of Try with a second run after ten seconds.
type hedged struct {
	took        time.Duration
	output      int // the run whose result it is; 0 if the call fails
	runs        int
	hedged, won uint64
	cancelled   int
	attempts    int   // in the error, if it fails
	is          error // nil for a panic
	mustStart   bool
}

func TestHedge(t *testing.T) {
	for plan, want := range map[string]hedged{
		"9s:ok":                {took: 9 * time.Second, output: 1, runs: 1},
		"1h:ok ok":             {took: 10 * time.Second, output: 2, runs: 2, hedged: 1, won: 1, cancelled: 1},
		"12s:ok 1h:ok":         {took: 12 * time.Second, output: 1, runs: 2, hedged: 1, cancelled: 1},
		"1h:ok 5s:ok":          {took: 15 * time.Second, output: 2, runs: 2, hedged: 1, won: 1, cancelled: 1, mustStart: true},
		"12s:fail 5s:ok":       {took: 15 * time.Second, output: 2, runs: 2, hedged: 1, won: 1},
		"1m:ok fail":           {took: time.Minute, output: 1, runs: 2, hedged: 1},
		"12s:fail 5s:fail":     {took: 15 * time.Second, runs: 2, hedged: 1, attempts: 2, is: ErrOdd},
		"1m:fail 5s:fail":      {took: time.Minute, runs: 2, hedged: 1, attempts: 2, is: ErrOdd},
		"fail":                 {runs: 1, attempts: 1, is: ErrOdd},
		"1h:fail 5s:panic":     {took: time.Hour, runs: 2, hedged: 1, attempts: 2, is: ErrOdd},
		"1m:fail 2m:panic":     {took: 2*time.Minute + 10*time.Second, runs: 2, hedged: 1, attempts: 2},
		"1m:panic 1h:ok ok ok": {took: time.Hour + 10*time.Second, output: 2, runs: 2, hedged: 1, won: 1},
	} {
		t.Run(plan, func(t *testing.T) {
			bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(3)}, func(t *testing.T, session *sbx.Session) {
				if !want.mustStart {
					require.NoError(t, session.Prewarm(t.Context(), 2))
				}
				key := newKey(t)
				begin := time.Now()
				n, err := session.Function2(Try, sbx.Retries(1), sbx.Hedge(10*time.Second)).Call(t.Context(), key, plan)
				assert.Equal(t, want.took, time.Since(begin))
				assert.Equal(t, want.output, n)
				assert.Equal(t, want.runs, began(key))
				for run := 1; run <= want.runs; run++ {
					assert.Equal(t, 1, began(fmt.Sprint(key, " run ", run)), "each run has its own number")
				}
				synctest.Wait()
				assert.Equal(t, want.cancelled, began(key+" cancelled"))
				s := session.Stats()
				assert.Equal(t, want.hedged, s.Hedged)
				assert.Equal(t, want.won, s.HedgesWon)
				assert.Equal(t, 2, s.Idle, "sandboxes of cancelled runs are used again")
				if want.output > 0 {
					require.NoError(t, err)
					return
				}
				call := callError(t, err)
				if want.is != nil {
					require.ErrorIs(t, err, want.is, "the error is of the run that ended last")
				} else {
					require.ErrorAs(t, err, new(*sbx.PanicError))
				}
				assert.Equal(t, sbx.Failed, call.Delivery)
				assert.Equal(t, want.runs, call.Attempt)
				require.Len(t, call.Attempts, want.attempts)
				assert.Same(t, call.Err, call.Attempts[want.attempts-1].Err)
				assert.Equal(t, call.Sandbox, call.Attempts[want.attempts-1].Sandbox)
				if want.attempts == 2 {
					assert.NotEqual(t, call.Attempts[0].Sandbox, call.Attempts[1].Sandbox)
				}
			})
		})
	}
}

// Further runs, after both have failed, may be hedged themselves, as long as Retries allows.
func TestHedgesCountAsRuns(t *testing.T) {
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(3)}, func(t *testing.T, session *sbx.Session) {
		try := session.Function2(Try, sbx.Retries(4), sbx.RetryIf(always), sbx.Backoff(0, 0), sbx.Hedge(10*time.Second))
		key := newKey(t)
		_, err := try.Call(t.Context(), key, "15s:fail")
		require.ErrorIs(t, err, ErrOdd)
		assert.Equal(t, 5, began(key))
		assert.Equal(t, 5, callError(t, err).Attempt)
		assert.Len(t, callError(t, err).Attempts, 5)
		assert.EqualValues(t, 2, session.Stats().Hedged)
		// So they do for the budget of a map.
		for r := range try.MapUnordered(t.Context(), tries(1, key, "15s:fail"), sbx.RetryBudget(2)) {
			require.ErrorIs(t, r.Err, sbx.ErrRetryBudget)
			assert.Equal(t, 3, callError(t, r.Err).Attempt)
		}
	})
}

// A second run keeps nobody waiting: it takes what is free while nobody waits, and else looks again.
func TestAHedgeTakesOnlyWhatIsFree(t *testing.T) {
	opts := []sbx.FunctionOption{sbx.Retries(1), sbx.Hedge(time.Second)}
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(1)}, func(t *testing.T, session *sbx.Session) {
		key := newKey(t)
		n, err := session.Function2(Try, opts...).Call(t.Context(), key, "1m:ok")
		require.NoError(t, err)
		assert.Equal(t, 1, n)
		assert.Zero(t, session.Stats().Hedged)
	})
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(2)}, func(t *testing.T, session *sbx.Session) {
		key := newKey(t)
		slow := session.Function2(Try, opts...).Spawn(t.Context(), key, "1h:ok ok")
		synctest.Wait()
		var others []*sbx.Call[int]
		begin := time.Now()
		for range 10 {
			others = append(others, session.Function2(Try).Spawn(t.Context(), newKey(t), "1m:ok"))
		}
		for _, other := range others {
			_, err := other.Result(t.Context())
			require.NoError(t, err)
			assert.Zero(t, session.Stats().Hedged)
		}
		assert.Equal(t, 10*time.Minute, time.Since(begin), "nobody had to wait for it")
		n, err := slow.Result(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.LessOrEqual(t, time.Since(begin), 10*time.Minute+2*time.Second)
	})
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(2), sbx.Concurrency(4)}, func(t *testing.T, session *sbx.Session) {
		call := session.Function2(Try, opts...).Spawn(t.Context(), newKey(t), "1h:ok ok")
		time.Sleep(500 * time.Millisecond)
		first := call.Sandbox()
		n, err := call.Result(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.NotEqual(t, first, call.Sandbox(), "another sandbox, though the first has room")
	})
}

// The time in a queue, and that of a wait, is none in which the call runs.
func TestTimeInAQueueDoesNotHedge(t *testing.T) {
	bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(2)}, func(t *testing.T, session *sbx.Session) {
		long := session.Function2(Try).Spawn(t.Context(), newKey(t), "1m:ok")
		other := session.Function2(Try).Spawn(t.Context(), newKey(t), "1m:ok")
		synctest.Wait()
		queued := session.Function2(Try, sbx.Retries(1), sbx.Hedge(time.Second)).Spawn(t.Context(), newKey(t), "900ms:ok")
		_, err := queued.Result(t.Context())
		require.NoError(t, err)
		<-long.Done()
		<-other.Done()
		assert.Zero(t, session.Stats().Hedged)
	})
}

// How far a call came is said of both runs, whatever ends them.
func TestTheEndOfAHedgedCall(t *testing.T) {
	for name, end := range map[string]func(*sbx.Session, *sbx.Call[int]) error{
		"cancel": func(_ *sbx.Session, call *sbx.Call[int]) error { call.Cancel(); return context.Canceled },
		"close":  func(session *sbx.Session, _ *sbx.Call[int]) error { _ = session.Close(); return sbx.ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []sbx.OpenOption{sbx.MaxSandboxes(2)}, func(t *testing.T, session *sbx.Session) {
				call := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(always), sbx.Hedge(time.Second)).Spawn(t.Context(), newKey(t), "wait")
				time.Sleep(10 * time.Second)
				want := end(session, call)
				_, err := call.Result(t.Context())
				require.ErrorIs(t, err, want)
				failed := callError(t, err)
				assert.Equal(t, sbx.MayHaveRun, failed.Delivery)
				assert.Equal(t, 2, failed.Attempt)
				require.Len(t, failed.Attempts, 2)
				for _, attempt := range failed.Attempts {
					assert.Equal(t, sbx.MayHaveRun, attempt.Delivery)
				}
				assert.NotEqual(t, failed.Attempts[0].Sandbox, failed.Attempts[1].Sandbox)
			})
		})
	}
}

// A run whose sandbox is lost while the other one goes on is no failure.
func TestALossOfOneOfTwoRuns(t *testing.T) {
	for _, lost := range []int{1, 2} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			on := sbx.Driver(inprocess.New(&inprocess.Options{Fault: func(m inprocess.Message) inprocess.Fault {
				if m.FromWorker && slices.Contains(m.Kinds, "result") && strings.HasSuffix(m.Sandbox, fmt.Sprint("-", lost)) {
					return inprocess.Cut
				}
				return inprocess.Fault{}
			}}))
			bubble(t, []sbx.OpenOption{on, sbx.MaxSandboxes(2)}, func(t *testing.T, session *sbx.Session) {
				begin := time.Now()
				n, err := session.Function2(Try, sbx.Retries(1), sbx.Hedge(time.Second)).Call(t.Context(), newKey(t), map[int]string{1: "5s:ok 10s:ok", 2: "10s:ok 5s:ok"}[lost])
				require.NoError(t, err)
				assert.Equal(t, 3-lost, n)
				// The second one's answer would have been first.
				assert.Equal(t, map[int]time.Duration{1: 11 * time.Second, 2: 10 * time.Second}[lost], time.Since(begin))
			})
		})
	}
}

// In real sandboxes the slow run is cancelled, and its sandbox used again.
func TestAHedgeWonInAMap(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.MaxSandboxes(4))
	slow := session.Function2(Try, sbx.Retries(1), sbx.Hedge(200*time.Millisecond))
	for range 2 {
		n := 0
		for output, err := range slow.Map(t.Context(), tries(3, "", "1h:ok ok")) {
			require.NoError(t, err)
			assert.Equal(t, 2, output)
			n++
		}
		assert.Equal(t, 3, n)
	}
	s := session.Stats()
	assert.EqualValues(t, 6, s.HedgesWon)
	assert.Zero(t, s.Lost+s.Killed)
	_, err := session.Function2(Try, sbx.Retries(1), sbx.Hedge(50*time.Millisecond), sbx.Timeout(time.Second)).Call(t.Context(), "", "1h:ok exit")
	require.ErrorIs(t, err, sbx.ErrTimeout)
	assert.Equal(t, sbx.Failed, delivery(t, err))
	require.Len(t, callError(t, err).Attempts, 2)
}

// TestFaultsOfTwoRuns lets each fault happen to each message of the first or the second sandbox, and looks whether what the caller is
// told of a call with two runs is true.
func TestFaultsOfTwoRuns(t *testing.T) {
	faults := []inprocess.Fault{inprocess.Drop, inprocess.Duplicate, inprocess.Cut, inprocess.Freeze, inprocess.Delay(50 * time.Millisecond), inprocess.Delay(time.Hour)}
	for _, ledger := range []bool{true, false} {
		for _, fault := range faults {
			for _, sandbox := range []string{"-1", "-2"} {
				for number := range 12 {
					fromWorker := number%2 == 0
					t.Run(fmt.Sprintf("%v, ledger %v, sandbox %s, from worker %v, message %d", fault, ledger, sandbox, fromWorker, number/2+1), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							session, err := sbx.Open(t.Context(), sbx.MaxSandboxes(2), sbx.Lease(time.Minute), sbx.Driver(inprocess.New(&inprocess.Options{
								NoLedger: !ledger,
								Fault: func(m inprocess.Message) inprocess.Fault {
									if m.FromWorker == fromWorker && m.Number == number/2+1 && strings.HasSuffix(m.Sandbox, sandbox) {
										return fault
									}
									return inprocess.Fault{}
								},
							})))
							require.NoError(t, err)
							defer func() { require.NoError(t, session.Close()) }()
							for _, plan := range []string{"5s:ok", "5s:fail", "20s:ok 5s:fail"} {
								hedgedCallUnderFaults(t, session, plan)
							}
						})
					})
				}
			}
		}
	}
}

func hedgedCallUnderFaults(t *testing.T, session *sbx.Session, plan string) {
	key := newKey(t)
	n, err := session.Function2(Try, sbx.Retries(1), sbx.Hedge(time.Second)).Call(t.Context(), key, plan)
	runs := began(key)
	assert.LessOrEqual(t, runs, 2, "%v", err)
	for run := 1; run <= 2; run++ {
		assert.LessOrEqual(t, began(fmt.Sprint(key, " run ", run)), 1)
	}
	if err == nil {
		assert.Equal(t, 1, began(fmt.Sprint(key, " run ", n)))
		return
	}
	call := callError(t, err)
	assert.GreaterOrEqual(t, call.Attempt, runs, "%v", err)
	begun := 0
	for _, attempt := range call.Attempts {
		if attempt.Delivery != sbx.NotBegun {
			begun++
		}
	}
	assert.Equal(t, call.Attempt, begun, "each run is among the attempts: %+v", call.Attempts)
	switch call.Delivery {
	case sbx.NotBegun:
		assert.Zero(t, runs)
	case sbx.Failed:
		assert.NotZero(t, runs)
		require.ErrorIs(t, errors.Join(errorsOf(call.Attempts)...), ErrOdd)
	case sbx.MayHaveRun:
	}
}

func errorsOf(attempts []sbx.Attempt) (errs []error) {
	for _, attempt := range attempts {
		errs = append(errs, attempt.Err)
	}
	return errs
}

// Each input has one result, however many runs it took, and each run is counted.
func TestManyHedges(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(8))
	const inputs = 600
	key := newKey(t)
	try := session.Function2(Try, sbx.Retries(2), sbx.RetryIf(always), sbx.Backoff(0, time.Millisecond), sbx.Hedge(time.Millisecond))
	seen := map[int]bool{}
	plans := func(yield func(string, string) bool) {
		for i := range inputs {
			if !yield(key, []string{"ok", "3ms:ok 1ms:ok", "2ms:fail 2ms:panic ok", "2ms:ok", "3ms:ok 3ms:ok"}[i%5]) {
				return
			}
		}
	}
	for r := range try.MapUnordered(t.Context(), plans, sbx.Ahead(4)) {
		require.NoError(t, r.Err)
		require.False(t, seen[r.Index])
		seen[r.Index] = true
	}
	assert.Len(t, seen, inputs)
	hedged := int(session.Stats().Hedged)
	assert.NotZero(t, hedged)
	assert.LessOrEqual(t, began(key), inputs+inputs/5*2+hedged)
	require.Eventually(t, func() bool { return session.Stats().Busy == 0 }, 10*time.Second, time.Millisecond)
	assert.Zero(t, session.Stats().Lost+session.Stats().Killed)
}
