// sbxgen refuses what this file does, so it is not to see it.

//go:build !sbxgen

package sbx_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func Unregistered(_ context.Context, n int) (int, error) { return n, nil }

// Options hold nothing that is the caller's to change.
func TestSlicesThatAreChangedAfterwards(t *testing.T) {
	tags, joined := []string{"tag"}, []sbx.SandboxOption{sbx.Tags("joined")}
	called := 0
	interceptors := []sbx.Interceptor{func(ctx context.Context, _ sbx.CallInfo, next func(context.Context) error) error {
		called++
		return next(ctx)
	}}
	defaults, join, intercept := sbx.Tags(tags...), sbx.Join(joined...), sbx.Intercept(interceptors...)
	tags[0], joined[0], interceptors[0] = "", nil, nil
	session := sbxtest.Open(t, defaults, join, intercept)
	assert.Equal(t, []string{"tag", "joined"}, session.Sandbox().Tags())
	forMap := []sbx.MapOption{sbx.Ahead(1)}
	results := session.Function(Double).Map(t.Context(), slices.Values([]int{2}), forMap...)
	forMap[0] = nil
	for n, err := range results {
		require.NoError(t, err)
		assert.Equal(t, 4, n)
	}
	assert.Equal(t, 1, called)
}

func TestMisuse(t *testing.T) {
	session := sbxtest.Open(t)
	remote := session.Function(Unregistered)
	require.ErrorIs(t, remote.Err(), sbx.ErrNotRegistered)
	_, err := remote.Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrNotRegistered)
	assert.ErrorContains(t, err, "sbx_test.Unregistered")
	assert.ErrorContains(t, err, "go generate")
	n, err := remote.Local(t.Context(), 1)
	require.NoError(t, err, "Local needs no registration")
	assert.Equal(t, 1, n)

	offset := 1
	_, err = session.Function(func(_ context.Context, n int) (int, error) { return n + offset, nil }).Call(t.Context(), 1)
	require.ErrorIs(t, err, sbx.ErrNotRegistered)

	var option *sbx.OptionError
	var none func(context.Context, int) (int, error)
	_, err = session.Function(none).Call(t.Context(), 1)
	require.ErrorAs(t, err, &option)
	_, err = session.Function(none).Local(t.Context(), 1)
	require.ErrorAs(t, err, &option)
	_, err = session.Function(none).Spawn(t.Context(), 1).Result(t.Context())
	require.ErrorAs(t, err, &option)
	_, err = session.Function(Double).Call(nil, 1) //nolint:staticcheck // the misuse under test
	require.ErrorAs(t, err, &option)
	for _, bad := range []sbx.FunctionOption{
		sbx.Timeout(0), sbx.Timeout(-time.Second), sbx.Retries(-1), nil,
		sbx.Env("", "x"), sbx.Env("A=B", "x"), sbx.Env("SBX_X", "x"), sbx.Env("A", "x\x00"), sbx.Tags(""),
		sbx.Join(sbx.Env("GOOD", "x"), nil),
	} {
		remote := session.Function(Double, bad)
		require.ErrorAs(t, remote.Err(), &option, "%T", bad)
		_, err := remote.Call(t.Context(), 1)
		require.ErrorAs(t, err, &option)
	}
	_, err = remote.MapSlice(t.Context(), []int{1, 2})
	require.ErrorIs(t, err, sbx.ErrNotRegistered)
	assert.Zero(t, session.SandboxCount())
}

func TestASessionThatWasNotOpened(t *testing.T) {
	var none *sbx.Session
	var zero sbx.Session
	var option *sbx.OptionError
	for _, session := range []*sbx.Session{none, &zero} {
		remote := session.Function(Double)
		require.ErrorAs(t, remote.Err(), &option)
		_, err := remote.Call(t.Context(), 1)
		require.ErrorAs(t, err, &option)
		assert.ErrorContains(t, err, "the session was not opened")
		_, err = remote.MapSlice(t.Context(), []int{1})
		require.ErrorAs(t, err, &option)
		_, err = remote.Spawn(t.Context(), 1).Result(t.Context())
		require.ErrorAs(t, err, &option)
		n, err := remote.Local(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
		assert.Zero(t, session.SandboxCount())
		assert.Zero(t, session.Stats())
		assert.Equal(t, sbx.Report{}, session.Report())
		assert.Equal(t, "session that was not opened", session.String())
		assert.Equal(t, "session that was not opened", session.GoString())
		_, profileErr := session.Profile(t.Context(), "s-1", "heap", 0)
		for _, err := range []error{session.Close(), session.Shutdown(t.Context()), session.Prewarm(t.Context(), 1), profileErr} {
			require.ErrorAs(t, err, &option)
			assert.ErrorContains(t, err, "the session was not opened")
		}
	}
}

// A field that was not set, say.
func TestAFunctionThatWasNotWrapped(t *testing.T) {
	var option *sbx.OptionError
	refused := func(err error) {
		t.Helper()
		require.ErrorAs(t, err, &option)
		assert.ErrorContains(t, err, "was not wrapped")
	}
	for _, f := range []*sbx.Function[int, int]{nil, {}} {
		for _, remote := range []*sbx.Function[int, int]{f, f.In(nil)} {
			refused(remote.Err())
			_, err := remote.Call(t.Context(), 1)
			refused(err)
			_, err = remote.Local(t.Context(), 1)
			refused(err)
			_, err = remote.Spawn(t.Context(), 1).Result(t.Context())
			refused(err)
			_, err = remote.MapSlice(t.Context(), []int{1})
			refused(err)
		}
	}
	for _, f := range []*sbx.Action[int]{nil, {}} {
		refused(f.In(nil).Call(t.Context(), 1))
		refused(f.Local(t.Context(), 1))
		_, err := f.Spawn(t.Context(), 1).Result(t.Context())
		refused(err)
		for err := range f.Map(t.Context(), slices.Values([]int{1})) {
			refused(err)
		}
	}
	for _, f := range []*sbx.Function0[int]{nil, {}} {
		refused(f.In(nil).Err())
		_, err := f.Call(t.Context())
		refused(err)
		_, err = f.Local(t.Context())
		refused(err)
		_, err = f.Spawn(t.Context()).Result(t.Context())
		refused(err)
	}
	for _, f := range []*sbx.Function2[int, int, int]{nil, {}} {
		refused(f.In(nil).Err())
		_, err := f.Call(t.Context(), 1, 2)
		refused(err)
		_, err = f.Local(t.Context(), 1, 2)
		refused(err)
		for _, err := range f.Map(t.Context(), maps.All(map[int]int{1: 2})) {
			refused(err)
		}
	}
	for _, call := range []*sbx.Call[int]{nil, {}} {
		_, err := call.Result(t.Context())
		require.ErrorContains(t, err, "use what Spawn returned")
		_, err = call.Stacks(t.Context())
		require.ErrorContains(t, err, "use what Spawn returned")
		call.Cancel()
		<-call.Done()
		require.Empty(t, call.ID()+call.Sandbox())
		require.Zero(t, call.Progress())
	}
	for _, screen := range []*sbx.Screen{nil, {}, sbx.NewScreen(nil)} {
		_, err := screen.Write([]byte("text"))
		require.ErrorContains(t, err, "the screen has no writer")
	}
}
