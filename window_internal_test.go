//go:build unix

package sbx

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
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

// Through windows a sandbox gives no more than was asked for either, and nothing that was not.
func TestAHostileSandboxsWindows(t *testing.T) {
	memory, err := ledger.New()
	require.NoError(t, err)
	shared, err := ledger.Map(memory)
	require.NoError(t, err)
	require.NoError(t, memory.Close())
	defer shared.Close()
	lent := func(replies ...*wirepb.FileReply) *File {
		f := scriptedFile(replies...)
		f.lent.windows = []*ledger.Window{shared.Take(), shared.Take()}
		t.Cleanup(f.lent.free)
		return f
	}
	piece := func(length int64, data string, more, end bool) *wirepb.FileReply {
		return &wirepb.FileReply{Kind: &wirepb.FileReply_Data{Data: &wirepb.Piece{Length: length, Data: []byte(data), More: more, End: end}}}
	}
	for name, bad := range map[string]*wirepb.FileReply{
		"more than there is room for": piece(ledger.WindowSize+1, "", false, true),
		"less than nothing":           piece(-1, "", false, true),
		"less, and no end":            piece(ledger.WindowSize-1, "", false, false),
		"more to come":                piece(ledger.WindowSize, "", true, false),
		"data beside it":              piece(0, "data", false, true),
	} {
		f := lent(bad)
		_, err := f.next()
		require.ErrorContains(t, err, "not as it was asked for", name)
		require.Error(t, f.Close(), name)
		f.lent.free()
	}
	f := lent(piece(ledger.WindowSize, "", false, false), piece(3, "", false, true), piece(0, "", false, true), closedReply(1, 2))
	data, err := f.next()
	require.NoError(t, err)
	assert.Len(t, data, ledger.WindowSize)
	data, err = f.next()
	require.NoError(t, err)
	assert.Len(t, data, 3)
	assert.True(t, f.atEnd)
	closed, err := f.commit(false)
	require.NoError(t, err, "what was asked for beyond the end is waited for, and dropped")
	assert.EqualValues(t, 1, closed.GetSize())

	f = lent(&wirepb.FileReply{Kind: &wirepb.FileReply_Info{}})
	for range 2 {
		space, err := f.space()
		require.NoError(t, err)
		space[0] = 1
		require.NoError(t, f.extend(space))
	}
	_, err = f.space()
	require.ErrorContains(t, err, "not asked for")
}
