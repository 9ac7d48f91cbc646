package artifact

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFoldersOfKilledBuildsGo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir)
	folder := func(name string, age time.Duration) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Join(path, "inside"), 0o700))
		then := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(path, then, then))
		return path
	}
	old := folder("sbxgen-build-123", 25*time.Hour)
	kept := []string{
		folder("sbxgen-build-456", time.Hour), folder("sbxgen-build-notes", 25*time.Hour), folder("sbxgen-789", 25*time.Hour),
	}
	link := filepath.Join(dir, "sbxgen-build-1")
	require.NoError(t, os.Symlink(kept[2], link))

	made, err := MakeTemp()
	require.NoError(t, err)
	assert.DirExists(t, made)
	assert.Equal(t, dir, filepath.Dir(made))
	assert.NoDirExists(t, old)
	for _, path := range append(kept, link) {
		assert.DirExists(t, filepath.Join(path, "inside"))
	}
}
