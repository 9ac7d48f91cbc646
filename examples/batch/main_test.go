package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

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

// A run that is interrupted says so, and that nothing is lost.
func TestRunInterrupted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("local sandboxes are a Linux matter")
	}
	root, journal := t.TempDir(), filepath.Join(t.TempDir(), "journal")
	for i := range 300 {
		require.NoError(t, os.WriteFile(filepath.Join(root, strconv.Itoa(i)), bytes.Repeat([]byte("interrupt"), 100_000), 0o600))
	}
	interrupt := errors.New("interrupt signal received") // as signal.NotifyContext has it
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for _, err := os.Stat(journal); err != nil && t.Context().Err() == nil; _, err = os.Stat(journal) {
			time.Sleep(time.Millisecond)
		}
		cancel(interrupt)
	}()
	err := run(ctx, io.Discard, root, journal, 2)
	require.ErrorIs(t, err, interrupt)
	require.ErrorContains(t, err, "the same command goes on from here")
}
