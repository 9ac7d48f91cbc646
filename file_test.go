//go:build linux

package sbx_test

import (
	"bytes"
	crand "crypto/rand"
	"io"
	"io/fs"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFilesAreWrittenAndRead(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx := t.Context()
	for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 5 << 20} {
		data := make([]byte, size)
		_, _ = crand.Read(data)
		require.NoError(t, sb.WriteFile(ctx, "data", data, 0o640))
		read, err := sb.ReadFile(ctx, "data")
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, read))
		info, err := sb.Stat(ctx, "/work/data")
		require.NoError(t, err)
		assert.EqualValues(t, size, info.Size())
		assert.Equal(t, fs.FileMode(0o640), info.Mode())
	}
	output, err := sb.Command("ls", "-A").Output()
	require.NoError(t, err)
	assert.Equal(t, "data\n", string(output), "nothing else is left")

	_, err = sb.ReadFile(ctx, "missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	var path *fs.PathError
	require.ErrorAs(t, err, &path)
	assert.Equal(t, "missing", path.Path)
	_, err = sb.ReadFile(ctx, "/dev/zero")
	require.ErrorIs(t, err, sbx.ErrRefused)
	require.ErrorIs(t, sb.WriteFile(ctx, "/usr/x", nil, 0o600), syscall.EROFS)
}

func TestAnOpenFile(t *testing.T) {
	sb := openLocal(t).Sandbox()
	f, err := sb.Create(t.Context(), "f")
	require.NoError(t, err)
	_, err = io.WriteString(f, "hello world")
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("W"), 6)
	require.NoError(t, err)
	to, err := f.Seek(-5, io.SeekEnd)
	require.NoError(t, err)
	assert.EqualValues(t, 6, to)
	rest, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "World", string(rest))
	head := make([]byte, 5)
	_, err = f.ReadAt(head, 0)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(head))
	require.NoError(t, f.Truncate(2))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.Close(), fs.ErrClosed)
	data, err := sb.ReadFile(t.Context(), "f")
	require.NoError(t, err)
	assert.Equal(t, "he", string(data))
}

func TestASandboxIsAFileSystem(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.MkdirAll(t.Context(), "tree/a/b", 0o755))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/a/b/c", []byte("c"), 0o644))
	require.NoError(t, sb.WriteFile(t.Context(), "tree/d", nil, 0o644))
	require.NoError(t, sb.Symlink(t.Context(), "d", "tree/link"))
	require.NoError(t, fstest.TestFS(sb.FS(t.Context(), "tree"), "a/b/c", "d", "link"))
}
