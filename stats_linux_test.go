package sbx_test

import (
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Acceptance 24.
func TestCommandsAreCounted(t *testing.T) {
	session, other := openLocal(t), openLocal(t)
	sb := session.Sandbox()
	require.Error(t, sb.Command("").Run(), "which is none")
	assert.Zero(t, session.Stats().Commands)
	require.NoError(t, sb.Command("true").Run())
	require.NoError(t, other.Adopt(sb))
	require.NoError(t, sb.Command("true").Run())
	require.Error(t, sb.Command("false").Run())
	require.Error(t, sb.Command("sh", "-c", "kill -9 $$").Run())
	require.Error(t, sb.Command("/no/such/program").Run())
	assert.Equal(t, sbx.CommandStats{Succeeded: 2, Failed: 2, NotStarted: 1}, session.Stats().Commands)

	endless := sb.Command("sleep", "1000")
	require.NoError(t, endless.Start())
	_, err := session.Function(Exit).In(sb).Call(t.Context(), 3)
	require.ErrorIs(t, err, sbx.ErrExited)
	require.Error(t, endless.Wait())
	require.Error(t, sb.Wait(t.Context()))
	assert.Equal(t, sbx.CommandStats{Succeeded: 2, Failed: 2, Unknown: 1, NotStarted: 1}, session.Stats().Commands)
	require.Error(t, sb.Command("true").Run(), "in a sandbox that has ended")
	assert.Equal(t, sbx.CommandStats{Succeeded: 2, Failed: 2, Unknown: 1, NotStarted: 1}, session.Stats().Commands)
	assert.EqualValues(t, 1, session.Stats().Own.Lost)
	assert.Zero(t, other.Stats().Commands)
}
