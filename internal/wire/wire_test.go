package wire

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSocketFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	require.NoError(t, os.Mkdir(long, 0o700))
	last := t.TempDir()
	assert.Equal(t, ".", SocketFolder(long, "/does/not/exist", ".", last), "the others are no place for a socket")
	assert.Equal(t, long, SocketFolder("/does/not/exist", long), "the last, where there is none")
	left, err := os.ReadDir(".")
	require.NoError(t, err)
	assert.Empty(t, left)
}
