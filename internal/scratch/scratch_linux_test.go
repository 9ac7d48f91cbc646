package scratch

import (
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Sessions that open at the same time don't take each other's new folder for one that was left.
func TestFoldersAtTheSameTime(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	const n = 20
	errs := make(chan error, n)
	for range n {
		go func() {
			f, err := Make(t.Context(), "sbx-test-", slog.New(slog.DiscardHandler))
			if err == nil {
				_, err = f.Add("one")
			}
			if err == nil {
				err = f.Close()
			}
			errs <- err
		}()
	}
	for range n {
		assert.NoError(t, <-errs)
	}
	entries, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	assert.Empty(t, entries)
}
