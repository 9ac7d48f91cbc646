package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProfilesOfABusySandbox(t *testing.T) {
	drivers := map[string]driver.Driver{"process": process.New()}
	if runtime.GOOS == "linux" {
		drivers["local"] = local.New(nil)
	}
	for name, d := range drivers {
		t.Run(name, func(t *testing.T) {
			session, err := sbx.Open(t.Context(), sbx.Driver(d), sbx.MaxSandboxes(1))
			require.NoError(t, err)
			defer func() { assert.NoError(t, session.Close()) }()
			call := session.Function(Wait).Spawn(t.Context(), false)
			waiting := session.Function(Wait).Spawn(t.Context(), false)

			var stacks []byte
			require.Eventually(t, func() bool {
				stacks, err = call.Stacks(t.Context())
				return err == nil && bytes.Contains(stacks, []byte("sbx_test.Wait("))
			}, 20*time.Second, 10*time.Millisecond, "the stacks of a call that waits: %v\n%s", err, stacks)
			assert.Contains(t, string(stacks), "functions_test.go:")
			require.NotEmpty(t, call.Sandbox())

			for _, name := range []string{"goroutine", "heap", "allocs", "block", "mutex", "threadcreate", "cpu"} {
				profile, err := session.Profile(t.Context(), call.Sandbox(), name, 20*time.Millisecond)
				require.NoError(t, err, name)
				assert.Equal(t, "\x1f\x8b", string(profile[:2]), "%s: it is compressed, as pprof wants it", name)
			}
			recorded, err := session.Profile(t.Context(), call.Sandbox(), "trace", 20*time.Millisecond)
			require.NoError(t, err)
			assert.True(t, bytes.HasPrefix(recorded, []byte("go 1.")), "it is an execution trace")

			// One at a time; a context ends the wait for it.
			ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("no patience"))
			defer cancel()
			_, err = session.Profile(ctx, call.Sandbox(), "cpu", 10*time.Minute)
			require.ErrorContains(t, err, "no patience")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = call.Stacks(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_, err = session.Profile(t.Context(), call.Sandbox(), "heap", 0)
			require.NoError(t, err)
			require.Eventually(t, func() bool { // the one that nobody waits for ends
				_, err = session.Profile(t.Context(), call.Sandbox(), "cpu", 10*time.Millisecond)
				return err == nil
			}, 10*time.Second, 10*time.Millisecond, "%v", err)

			_, err = session.Profile(t.Context(), call.Sandbox(), "nonsense", 0)
			require.Error(t, err)
			_, err = session.Profile(t.Context(), "s-other-1", "heap", 0)
			require.ErrorIs(t, err, sbx.ErrNoSandbox)
			var option *sbx.OptionError
			for _, name := range []string{"", "\xff", strings.Repeat("x", 1<<20)} {
				_, err = session.Profile(t.Context(), call.Sandbox(), name, 0)
				require.ErrorAs(t, err, &option)
			}
			_, err = session.Profile(t.Context(), call.Sandbox(), "cpu", -1)
			require.ErrorAs(t, err, &option)

			call.Cancel()
			waiting.Cancel()
			_, err = call.Result(t.Context())
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, session.Close())
			_, err = session.Profile(t.Context(), call.Sandbox(), "heap", 0)
			require.ErrorIs(t, err, sbx.ErrClosed)
			_, err = call.Stacks(t.Context())
			require.Error(t, err)
		})
	}
}

func TestProfilesOfALostSandbox(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.MaxSandboxes(1))
		call := session.Function(Wait).Spawn(t.Context(), true)
		require.Eventually(t, func() bool {
			stacks, _ := call.Stacks(t.Context())
			return bytes.Contains(stacks, []byte("sbx_test.Wait("))
		}, 10*time.Second, time.Millisecond)
		call.Cancel() // which ends the sandbox, in a second
		_, err := session.Profile(t.Context(), call.Sandbox(), "cpu", 30*time.Second)
		require.ErrorIs(t, err, sbx.ErrNoSandbox)
		_, err = call.Stacks(t.Context())
		require.ErrorIs(t, err, sbx.ErrNoSandbox)
	})
}

// What stops a sandbox is no signal that came from elsewhere.
func TestProfilesOfASandboxThatIsStopped(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		for _, c := range []struct {
			stop  func(own *sbx.Sandbox) error
			is    error
			while string
		}{
			{func(own *sbx.Sandbox) error { return own.Stop(t.Context()) }, sbx.ErrNoSandbox, "it was stopped"},
			{func(*sbx.Sandbox) error { return session.Close() }, sbx.ErrClosed, "session is closed"},
		} {
			own := session.Sandbox()
			call := session.Function(Wait).In(own).Spawn(t.Context(), false)
			require.Eventually(t, func() bool { return call.Sandbox() != "" }, 10*time.Second, time.Millisecond)
			profiled := make(chan error, 1)
			go func() {
				_, err := session.Profile(t.Context(), own.ID(), "cpu", time.Minute)
				profiled <- err
			}()
			require.Eventually(t, func() bool { // the profile is being taken
				stacks, _ := call.Stacks(t.Context())
				return bytes.Contains(stacks, []byte("pprof.profileWriter"))
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, c.stop(own))
			err := <-profiled
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.while)
			_, stacksErr := call.Stacks(t.Context())
			require.ErrorIs(t, stacksErr, sbx.ErrNoSandbox)
			require.ErrorContains(t, stacksErr, "it was stopped")
			for _, err := range []error{err, stacksErr} {
				require.NotContains(t, err.Error(), "killed")
			}
		}
	})
}

func TestStacksOfACallThatWasNotSent(t *testing.T) {
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	require.NoError(t, err)
	wait := session.Function(Wait, sbx.Fresh()) // so that none waits in the other's sandbox
	running := wait.Spawn(t.Context(), false)
	require.Eventually(t, func() bool { return running.Sandbox() != "" }, 10*time.Second, time.Millisecond)
	call := wait.Spawn(t.Context(), false)
	_, err = call.Stacks(t.Context())
	require.ErrorContains(t, err, "waits for a sandbox")
	require.NoError(t, session.Close())
	for _, call := range []*sbx.Call[string]{call, wait.Spawn(t.Context(), false)} {
		<-call.Done()
		assert.Empty(t, call.Sandbox())
		_, err = call.Stacks(t.Context())
		require.ErrorIs(t, err, sbx.ErrNoCall, "it waits for nothing any more")
	}
}
