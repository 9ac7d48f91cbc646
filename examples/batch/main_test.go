package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompress(t *testing.T) {
	sizes, err := Compress(t.Context(), File{Data: bytes.Repeat([]byte("sandbox "), 1000)})
	require.NoError(t, err)
	assert.Equal(t, 8000, sizes.Raw)
	for _, size := range append(sizes.Flate[:], sizes.LZW) {
		assert.Less(t, size, 2000)
		assert.Positive(t, size)
	}
	assert.Less(t, sizes.Flate[8], sizes.LZW)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Compress(ended, File{})
	require.ErrorIs(t, err, context.Canceled)
}

// The second run has everything from the first one's journal, and says the same.
func TestRunTwice(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	root, journal := t.TempDir(), filepath.Join(t.TempDir(), "journal")
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), bytes.Repeat([]byte(name), 10_000), 0o600))
	}
	require.NoError(t, os.Symlink("a", filepath.Join(root, "link")))
	var first, second bytes.Buffer
	require.NoError(t, run(t.Context(), &first, root, journal, 2))
	assert.Contains(t, first.String(), "3 files, 30000 bytes\n")
	require.NoError(t, run(t.Context(), &second, root, journal, 2))
	assert.Equal(t, first.String(), second.String())

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run(ended, &second, root, journal, 2), context.Canceled)
	require.ErrorContains(t, run(t.Context(), &second, t.TempDir(), journal, 2), "no files")
}
