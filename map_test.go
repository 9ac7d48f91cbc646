package sbx_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func numbers(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestMapKeepsTheOrder(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(3))
		var got []int
		for n, err := range session.Function(Double).Map(t.Context(), numbers(50)) {
			require.NoError(t, err)
			got = append(got, n)
		}
		for i, n := range got {
			assert.Equal(t, 2*i, n)
		}
		assert.Len(t, got, 50)
	})
}

func TestMapGoesOnAfterAnError(t *testing.T) {
	session := sbxtest.Open(t)
	i := 0
	for n, err := range session.Function(Half).Map(t.Context(), numbers(10)) {
		if i%2 == 0 {
			require.NoError(t, err)
			assert.Equal(t, i/2, n)
		} else {
			require.ErrorIs(t, err, ErrOdd)
			var call *sbx.CallError
			require.ErrorAs(t, err, &call)
			assert.Equal(t, i, call.Index)
			assert.ErrorContains(t, err, "input ")
		}
		i++
	}
	assert.Equal(t, 10, i)
}

func TestMapUnordered(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(3))
	seen := map[int]bool{}
	for r := range session.Function(Half).MapUnordered(t.Context(), numbers(40)) {
		assert.False(t, seen[r.Index])
		seen[r.Index] = true
		assert.Equal(t, r.Index, r.Input)
		if r.Input%2 == 0 {
			require.NoError(t, r.Err)
			assert.Equal(t, r.Input/2, r.Output)
		} else {
			require.ErrorIs(t, r.Err, ErrOdd)
		}
	}
	assert.Len(t, seen, 40)
}

func TestMapSlice(t *testing.T) {
	session := sbxtest.Open(t)
	got, err := session.Function(Double).MapSlice(t.Context(), []int{3, 1, 2})
	require.NoError(t, err)
	assert.Equal(t, []int{6, 2, 4}, got)
	got, err = session.Function(Double).MapSlice(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, got)

	got, err = session.Function(Half).MapSlice(t.Context(), []int{2, 3, 4, 5})
	assert.Equal(t, []int{1, 0, 2, 0}, got)
	var failed *sbx.MapError
	require.ErrorAs(t, err, &failed)
	assert.Len(t, failed.Errors, 2)
	require.ErrorIs(t, err, ErrOdd)
	assert.ErrorContains(t, err, "a map of inputs (4) had errors (2)")
}

func TestFailFast(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(1))
	count := 0
	var last error
	for _, err := range session.Function(Half).Map(t.Context(), numbers(1000), sbx.FailFast()) {
		count++
		last = err
	}
	assert.Equal(t, 2, count)
	require.ErrorIs(t, last, ErrOdd)
}

func TestMapPullsNoFurtherThanAhead(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	for _, ahead := range []int{1, 3, 10} {
		var pulled, taken atomic.Int32
		input := func(yield func(int) bool) {
			for i := range 100 {
				// One result may be on its way into the loop's body.
				assert.LessOrEqual(t, pulled.Add(1)-taken.Load(), int32(ahead+1))
				if !yield(i) {
					return
				}
			}
		}
		for _, err := range session.Function(Double).Map(t.Context(), input, sbx.Ahead(ahead)) {
			require.NoError(t, err)
			taken.Add(1)
		}
		assert.EqualValues(t, 100, taken.Load())
	}
	var option *sbx.OptionError
	for _, n := range []int{-1, 0, 1 << 40} {
		_, err := session.Function(Double).MapSlice(t.Context(), []int{1}, sbx.Ahead(n))
		require.ErrorAs(t, err, &option)
	}
}

func TestMapIsLazy(t *testing.T) {
	session := sbxtest.Open(t)
	pulled := false
	results := session.Function(Double).Map(t.Context(), func(func(int) bool) { pulled = true })
	assert.False(t, pulled)
	for _, err := range results {
		t.Fatal("there is no input", err)
	}
	assert.True(t, pulled)
	count := 0
	for _, err := range results {
		count++
		require.ErrorIs(t, err, sbx.ErrRangedTwice)
	}
	assert.Equal(t, 1, count)
}

func TestBreakCancelsAndWaits(t *testing.T) {
	everywhere(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(2))
		var ended atomic.Bool
		input := func(yield func(bool) bool) {
			defer ended.Store(true)
			for yield(false) {
			}
		}
		for r := range session.Function(Wait, sbx.Timeout(20*time.Millisecond)).MapUnordered(t.Context(), input) {
			require.ErrorIs(t, r.Err, sbx.ErrTimeout)
			break
		}
		assert.True(t, ended.Load(), "the input has ended when the loop has")
		n, err := session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
	})
}

func TestAPanicOfTheInputIsRaisedInTheLoop(t *testing.T) {
	session := sbxtest.Open(t)
	cause := errors.New("bad input")
	input := func(yield func(int) bool) {
		for i := range 3 {
			if !yield(i) {
				return
			}
		}
		panic(cause)
	}
	var got []int
	assert.PanicsWithValue(t, cause, func() {
		for n, err := range session.Function(Double).Map(t.Context(), input) {
			require.NoError(t, err)
			got = append(got, n)
		}
	})
	assert.Equal(t, []int{0, 2, 4}, got, "what came before it is not lost")
	assert.Panics(t, func() {
		for range session.Function(Double).MapUnordered(t.Context(), func(func(int) bool) { runtime.Goexit() }) {
		}
	})
}

func TestAPanicInTheLoopCleansUp(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	var ended atomic.Bool
	assert.PanicsWithValue(t, "mine", func() {
		input := func(yield func(int) bool) {
			defer ended.Store(true)
			for i := 0; yield(i); i++ {
			}
		}
		for _, err := range session.Function(Double).Map(t.Context(), input) {
			require.NoError(t, err)
			panic("mine")
		}
	})
	assert.True(t, ended.Load())
}

func TestTheContextsEndIsOneError(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs []error
	count := 0
	endless := func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	}
	for _, err := range session.Function(Double).Map(ctx, endless) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if count++; count == 10 {
			cancel()
		}
	}
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], context.Canceled)
	var call *sbx.CallError
	require.ErrorAs(t, errs[0], &call)
	assert.Equal(t, -1, call.Index, "it is no input's")
	for r := range session.Function(Double).MapUnordered(ctx, endless) {
		assert.Equal(t, -1, r.Index)
		require.ErrorIs(t, r.Err, context.Canceled)
	}
}

func TestTheSessionsCloseEndsAMap(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	var errs []error
	for _, err := range session.Function(Wait).Map(t.Context(), func(yield func(bool) bool) {
		yield(false)
		go func() { assert.NoError(t, session.Close()) }()
	}) {
		errs = append(errs, err)
	}
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], sbx.ErrClosed)
}

func TestBreakDoesNotWaitForABlockedInput(t *testing.T) {
	session := sbxtest.Open(t)
	release := make(chan struct{})
	left := make(chan struct{})
	input := func(yield func(int) bool) {
		defer close(left)
		if yield(1) {
			<-release
			assert.False(t, yield(2), "the loop is over")
		}
	}
	for range session.Function(Double).MapUnordered(t.Context(), input) {
		break
	}
	close(release)
	<-left
}

// What a map needs does not grow with its inputs. (bench/calls has ten million of them.)
func TestAMapsMemoryDoesNotGrow(t *testing.T) {
	session := sbxtest.Open(t, sbx.MaxSandboxes(2))
	inUse := func() uint64 {
		var stats runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	inputs := 20_000
	if raceEnabled {
		inputs = 5_000
	}
	var early uint64
	i := 0
	for _, err := range session.Function2(Try, sbx.Retries(2), sbx.Hedge(time.Hour)).Map(t.Context(), tries(inputs, "", "ok"), sbx.RetryBudget(1)) {
		require.NoError(t, err)
		if i++; i == inputs/10 {
			early = inUse()
		}
	}
	assert.Equal(t, inputs, i)
	assert.Less(t, inUse(), early+1<<20, "58 bytes for each input would be more")
}

func TestMapMisuse(t *testing.T) {
	session := sbxtest.Open(t)
	var option *sbx.OptionError
	for _, err := range session.Function(Double).Map(t.Context(), nil) {
		require.ErrorAs(t, err, &option)
	}
	for _, err := range session.Function(Double).Map(nil, numbers(1)) { //nolint:staticcheck // the misuse under test
		require.ErrorAs(t, err, &option)
	}
	outputs, err := session.Function(Pick).MapSlice(t.Context(), []Picky{{"a"}, {"worse"}, {"b"}})
	var argument *sbx.ArgumentError
	require.ErrorAs(t, err, &argument)
	assert.Equal(t, []Picky{{"a"}, {}, {"b"}}, outputs)
}

// A map whose context ends before all inputs were taken says so, whichever it notices first: that, or that no more inputs come.
func TestAMapThatIsCutShortIsNotWhole(t *testing.T) {
	session := sbxtest.Open(t)
	double := session.Function(Double)
	cut := func(ordered bool) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got, gone := make(chan struct{}), make(chan struct{})
		inputs := func(yield func(int) bool) {
			defer close(gone)
			if yield(0) {
				<-got
				cancel()
				_ = yield(1) && yield(2)
			}
		}
		first := func() {
			close(got)
			<-gone
			time.Sleep(time.Millisecond) // now both are there to be noticed
		}
		var last error
		if ordered {
			for n, err := range double.Map(ctx, inputs) {
				if last = err; err == nil && n == 0 {
					first()
				}
			}
			return last
		}
		for result := range double.MapUnordered(ctx, inputs) {
			if last = result.Err; result.Index == 0 {
				first()
			}
		}
		return last
	}
	for range 30 {
		require.ErrorIs(t, cut(true), context.Canceled)
		require.ErrorIs(t, cut(false), context.Canceled)
	}
}
