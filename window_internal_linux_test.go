package sbx

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Long files pass through windows, and leave them free.
func TestLongFilesUseWindows(t *testing.T) {
	session, err := Open(t.Context())
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	sb := session.Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	loans := func() uint64 {
		var windows []*ledger.Window
		for range ledger.Windows {
			window := sb.running.worker.Window()
			require.NotNil(t, window, "all are free")
			windows = append(windows, window)
		}
		_, loan := windows[0].Lend()
		for _, window := range windows {
			window.Free()
		}
		return loan
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	content := bytes.Repeat([]byte("content "), 512<<10)
	require.NoError(t, os.WriteFile(from, content, 0o600))
	before := loans()
	require.NoError(t, sb.CopyTo(t.Context(), from, "file"))
	assert.EqualValues(t, len(content)/ledger.WindowSize+1, loans()-before, "one for each piece")
	before = loans()
	require.NoError(t, sb.CopyFrom(t.Context(), "file", to))
	assert.GreaterOrEqual(t, loans()-before, uint64(len(content)/ledger.WindowSize+1))
	arrived, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, arrived))
}
