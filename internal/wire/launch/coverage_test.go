package launch

import (
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counters is the least that can pass for a file of counters.
func counters(hash string) string {
	header := counterMagic + "\x01\x00\x00\x00" + hash
	return header + strings.Repeat("\x00", counterHeader-len(header)) + counterMagic + strings.Repeat("\x00", counterFooter-len(counterMagic))
}

func TestKeepCoverage(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for range 2 {
		require.NoError(t, keepCoverage(folder, []byte(counters("../../etc/passwd"))))
	}
	names, err := filepath.Glob(filepath.Join(folder, "covcounters."+hex.EncodeToString([]byte("../../etc/passwd"))+".*.*"))
	require.NoError(t, err)
	assert.Len(t, names, 2, "each has a name of its own")
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "nothing else is left")
}

func TestKeepNoCoverage(t *testing.T) {
	t.Parallel()
	whole := counters("0123456789abcdef")
	for name, content := range map[string]string{
		"short": whole[:counterHeader], "cut off": whole[:len(whole)-1], "something else": strings.Repeat("x", 1000),
	} {
		folder := t.TempDir()
		require.Error(t, keepCoverage(folder, []byte(content)), name)
		entries, err := os.ReadDir(folder)
		require.NoError(t, err)
		assert.Empty(t, entries, name)
	}
	require.ErrorContains(t, keepCoverage(filepath.Join(t.TempDir(), "missing"), []byte(whole)), "missing")
}

func TestReportWithCoverage(t *testing.T) {
	t.Parallel()
	from, to := io.Pipe()
	r := readReport(from, maxReport+maxCoverage)
	defer r.close()
	long := strings.Repeat("c", 2*maxReport)
	_, err := io.WriteString(to, "line\n"+wire.StreamEnded+wire.CoverageMark+long)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	<-r.ended
	assert.Equal(t, long, r.coverage())
	assert.Equal(t, wire.StreamEnded, r.decided(), "the coverage hides nothing")
}

func TestReportWithTooMuchCoverage(t *testing.T) {
	t.Parallel()
	from, to := io.Pipe()
	r := readReport(from, 1000)
	defer r.close()
	_, err := io.WriteString(to, "line\n"+wire.CoverageMark+strings.Repeat("c", 10_000))
	require.Error(t, err, "nobody reads on")
	assert.Len(t, r.kept.String(), 1000)
}
