//go:build unix

package sbx

import (
	"testing"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
