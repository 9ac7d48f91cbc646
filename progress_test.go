package sbx_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
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

func TestProgressArrivesBeforeTheResult(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	for _, steps := range []int{1, 2, 100_000} {
		call := session.Function(Steps).Spawn(t.Context(), steps)
		_, err := call.Result(t.Context())
		require.NoError(t, err)
		p := call.Progress()
		assert.Equal(t, [2]int64{int64(steps), int64(steps)}, [2]int64{p.Done, p.Total})
		assert.Regexp(t, `^step \d+$`, p.Note)
		assert.WithinDuration(t, time.Now(), p.Time, time.Minute)
	}
	call := session.Function(Steps).Spawn(t.Context(), 0)
	_, err = call.Result(t.Context())
	require.NoError(t, err)
	assert.Zero(t, call.Progress(), "it told nothing")

	// What a function tells after its end disturbs nobody.
	for range 20 {
		_, err := session.Function0(TellLate).Call(t.Context())
		require.NoError(t, err)
	}
	_, err = session.Function(Steps).Local(t.Context(), 3)
	require.NoError(t, err, "where nobody listens")
}

func TestNotesAreSafeToShow(t *testing.T) {
	session := sbxtest.Open(t)
	tell := session.Action(Tell)
	for told, want := range map[string]string{
		"epoch 3":                          "epoch 3",
		"\x1b[2Ja\rb\nc\x00\u202ed\u009be": "?[2Ja b c??d?e",
		"\xff":                             "?",
		"":                                 "",
		strings.Repeat("é", 600):           strings.Repeat("é", 512),
		"x" + strings.Repeat("é", 600):     "x" + strings.Repeat("é", 511),
	} {
		call := tell.Spawn(t.Context(), told)
		require.Eventually(t, func() bool { return !call.Progress().Time.IsZero() }, 10*time.Second, time.Millisecond)
		assert.Equal(t, want, call.Progress().Note)
		call.Cancel()
		_, err := call.Result(t.Context())
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestCallsUnderWay(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	assert.Empty(t, session.Calls())
	begin := time.Now()
	running := session.Action(Tell).Spawn(t.Context(), "here")
	require.Eventually(t, func() bool { return running.Progress().Note == "here" }, 10*time.Second, time.Millisecond)
	queued := session.Action(Tell).Spawn(t.Context(), "there")
	other := session.Action(Tell, sbx.Env("KIND", "other")).Spawn(t.Context(), "elsewhere")
	states := map[string]sbx.CallStatus{}
	require.Eventually(t, func() bool {
		for _, status := range session.Calls() {
			states[status.Call] = status
		}
		return states[queued.ID()].State == sbx.CallQueued && len(states) == 3
	}, 10*time.Second, time.Millisecond, "%v", states)
	got := states[running.ID()]
	assert.Equal(t, "here", got.Progress.Note)
	assert.Equal(t, sbx.CallRunning, got.State)
	assert.Equal(t, 1, got.Attempt)
	assert.Equal(t, -1, got.Index)
	assert.Equal(t, running.Sandbox(), got.Sandbox)
	assert.Equal(t, "github.com/sandboxfn/sbx_test.Tell", got.Function)
	assert.WithinRange(t, got.Since, begin, time.Now())
	assert.Equal(t, sbx.CallWaiting, states[other.ID()].State)
	assert.Empty(t, states[other.ID()].Sandbox)
	assert.Zero(t, states[other.ID()].Attempt)

	stacks, err := session.Stacks(t.Context(), running.ID())
	require.NoError(t, err)
	assert.Contains(t, string(stacks), "sbx_test.Tell(")
	_, err = session.Stacks(t.Context(), other.ID())
	require.ErrorContains(t, err, "waits for a sandbox")
	_, err = session.Stacks(t.Context(), "c-0")
	require.ErrorIs(t, err, sbx.ErrNoCall)

	running.Cancel()
	require.Eventually(t, func() bool {
		for _, status := range session.Calls() {
			if status.Call == queued.ID() {
				return status.State == sbx.CallRunning && status.Since.After(states[queued.ID()].Since)
			}
		}
		return false
	}, 10*time.Second, time.Millisecond, "it runs since the other one ended")
	queued.Cancel()
	other.Cancel()
	require.Eventually(t, func() bool { return len(session.Calls()) == 0 }, 10*time.Second, time.Millisecond)
}

// warnings keeps what a session logs.
type warnings struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// of returns the warnings of a call.
func (w *warnings) of(call string) (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.text.String()) {
		if strings.Contains(line, " call="+call+" ") {
			lines = append(lines, line)
		}
	}
	return lines
}

func (w *warnings) logger() sbx.OpenOption {
	return sbx.Logger(slog.New(slog.NewTextHandler(w, nil)))
}

// sourceLine is the line of progress_functions_test.go that a warning names.
func sourceLine(t *testing.T, warning string) string {
	_, after, _ := strings.Cut(warning, "progress_functions_test.go:")
	number, _, _ := strings.Cut(after, " ")
	n, err := strconv.Atoi(number)
	require.NoError(t, err)
	source, err := os.ReadFile("progress_functions_test.go")
	require.NoError(t, err)
	return strings.TrimSpace(strings.Split(string(source), "\n")[n-1])
}

// Each call is warned of by itself, again when twice the time has passed, and the warning says why it does not go on.
func TestWatchdogSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged warnings
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(1), sbx.Watchdog(time.Minute), logged.logger())
		require.NoError(t, err)
		running := session.Action(Tell).Spawn(t.Context(), "epoch 3")
		synctest.Wait()
		queued := session.Action(Tell).Spawn(t.Context(), "")
		other := session.Action(Tell, sbx.Env("KIND", "other")).Spawn(t.Context(), "")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		assert.Empty(t, logged.of(running.ID()))
		time.Sleep(7 * time.Minute) // 1, 2 and 4 minutes; 8 are not there yet
		synctest.Wait()
		for _, call := range []string{running.ID(), queued.ID(), other.ID()} {
			assert.Len(t, logged.of(call), 3, call)
		}
		assert.Contains(t, logged.of(running.ID())[0], `msg="sbx: a call has been running for 1m`)
		assert.Contains(t, logged.of(running.ID())[2], `msg="sbx: a call has been running for 4m`)
		assert.Regexp(t, `at progress_functions_test\.go:\d+ \(sbx_test\.Tell\)"`, logged.of(running.ID())[0])
		assert.Equal(t, "<-ctx.Done()", sourceLine(t, logged.of(running.ID())[0]))
		assert.Contains(t, logged.of(running.ID())[0], `done=3 total=7 note="epoch 3"`)
		assert.Contains(t, logged.of(queued.ID())[0], "queued in a busy sandbox for 1m")
		assert.Contains(t, logged.of(queued.ID())[0], "behind call "+running.ID()+" of github.com/sandboxfn/sbx_test.Tell, which has been running for 1m")
		assert.Contains(t, logged.of(other.ID())[0], "of 1 sandboxes that there may be, 1 are busy, with call "+running.ID()+" of ")

		// In another state the time begins anew.
		running.Cancel()
		synctest.Wait()
		time.Sleep(59 * time.Second)
		assert.Len(t, logged.of(queued.ID()), 3)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Len(t, logged.of(queued.ID()), 4)
		assert.Contains(t, logged.of(queued.ID())[3], "has been running for 1m")
		require.NoError(t, session.Close())
	})
}

// A map whose inputs wait for their turn is told of once a time, and not by each of them.
func TestWatchdogTellsOfACrowdOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged warnings
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(2), sbx.Watchdog(time.Minute), logged.logger())
		require.NoError(t, err)
		waiting := func() (lines []string) {
			logged.mu.Lock()
			defer logged.mu.Unlock()
			for line := range strings.Lines(logged.text.String()) {
				if strings.Contains(line, "waiting") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		for _, err := range session.Function(Seconds).Map(t.Context(), slices.Values(slices.Repeat([]int{10}, 300)), sbx.Ahead(200)) {
			require.NoError(t, err) // it takes 25 minutes
		}
		assert.InDelta(t, 5, len(waiting()), 1) // after 1, 2, 4, 8 and 16 minutes
		assert.Regexp(t, `a call has been waiting for a sandbox for 1m.*; 1\d\d more calls of this function have been waiting`, waiting()[0])
		require.NoError(t, session.Close())
	})
}

// The place of each of several calls in a sandbox is its own, with real processes too; of a crowd, twenty are told.
func TestWatchdogTellsCallsOfASandboxApart(t *testing.T) {
	var logged warnings
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Concurrency(30), sbx.Watchdog(500*time.Millisecond), logged.logger())
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	require.NoError(t, session.Prewarm(t.Context(), 1)) // or a start that takes long is told first
	calls := map[string]string{}
	told := func() int {
		n := 0
		for call := range calls {
			n += min(len(logged.of(call)), 1)
		}
		return n
	}
	tell, seconds := session.Action(Tell).Spawn(t.Context(), ""), session.Function(Seconds).Spawn(t.Context(), 3600)
	calls[tell.ID()], calls[seconds.ID()] = "sbx_test.Tell", "sbx_test.Seconds"
	require.Eventually(t, func() bool { return told() == 2 }, 30*time.Second, 10*time.Millisecond)
	for call, function := range calls {
		assert.Regexp(t, `at progress_functions_test\.go:\d+ \(`+function+`\)"`, logged.of(call)[0])
	}
	clear(calls)
	for range 25 {
		calls[session.Action(Tell).Spawn(t.Context(), "").ID()] = ""
	}
	require.Eventually(t, func() bool {
		logged.mu.Lock()
		defer logged.mu.Unlock()
		return strings.Contains(logged.text.String(), "more calls have been waiting or running for as long")
	}, 30*time.Second, 10*time.Millisecond)
	assert.LessOrEqual(t, told(), 25)
}
