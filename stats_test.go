package sbx_test

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Acceptance 24: each thing is counted once, when it happens, for the session that made the sandbox.
func TestSandboxesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail atomic.Bool
		d := watch(func(string) error {
			time.Sleep(2 * time.Second)
			if fail.Load() {
				return errors.New("no disk")
			}
			return nil
		}, nil)
		session, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		other, err := sbx.Open(t.Context(), sbx.Driver(d))
		require.NoError(t, err)
		assert.Zero(t, session.Stats().Own)
		sandboxes := []*sbx.Sandbox{session.Sandbox(), session.Sandbox(), session.Sandbox()}
		session.Sandbox(sbx.Env("", "misuse"))
		assert.Equal(t, sbx.OwnStats{Made: 3}, session.Stats().Own)
		for range 2 {
			require.NoError(t, sandboxes[0].Start(t.Context()))
			require.NoError(t, sandboxes[1].Start(t.Context()))
		}
		assert.Equal(t, sbx.OwnStats{Made: 3, Started: 2, StartTime: 4 * time.Second}, session.Stats().Own)
		require.NoError(t, other.Adopt(sandboxes[0]))
		fail.Store(true)
		for range 2 {
			require.Error(t, sandboxes[2].Start(t.Context()))
		}
		go func() { _ = sandboxes[2].Start(t.Context()) }()
		time.Sleep(time.Second)
		require.NoError(t, sandboxes[2].Stop(t.Context())) // which is no failure
		require.NoError(t, other.Close())
		require.NoError(t, session.Close())
		assert.Equal(t, sbx.OwnStats{Made: 3, Started: 2, StartsFailed: 2, StartTime: 4 * time.Second}, session.Stats().Own, "after Close, too")
		assert.Zero(t, other.Stats().Own)
	})
}

func TestStatsAreJSON(t *testing.T) {
	session := sbxtest.Open(t)
	require.NoError(t, session.Sandbox().Start(t.Context()))
	stats := session.Stats()
	text, err := json.Marshal(stats)
	require.NoError(t, err)
	var back sbx.Stats
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, stats, back)
	assert.Contains(t, string(text), `"Own":{"Made":1,"Started":1,"StartsFailed":0,"StartTime":`)
	assert.Contains(t, string(text), `"Commands":{"Succeeded":0,"Failed":0,"Unknown":0,"NotStarted":0}`)
}
