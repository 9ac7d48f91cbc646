//go:build unix

package ledger

import (
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mapped returns both sides of a ledger.
func mapped(t testing.TB) (*os.File, *Ledger) {
	file, err := New()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, file.Close()) })
	fd, err := syscall.Dup(int(file.Fd()))
	require.NoError(t, err)
	l, err := Map(fd)
	require.NoError(t, err)
	return file, l
}

func TestTheHighestIDCounts(t *testing.T) {
	file, l := mapped(t)
	highest, err := Read(file)
	require.NoError(t, err)
	assert.Zero(t, highest, "nothing has begun")
	for _, c := range []struct{ begin, want uint64 }{{1, 1}, {3, 3}, {2, 3}, {1 << 63, 1 << 63}} {
		l.Begin(c.begin)
		highest, err := Read(file)
		require.NoError(t, err)
		assert.Equal(t, c.want, highest)
	}
}

func TestBeginAtTheSameTime(t *testing.T) {
	file, l := mapped(t)
	var begins sync.WaitGroup
	for g := range uint64(8) {
		begins.Go(func() {
			for i := range uint64(1000) {
				l.Begin(i*8 + g)
			}
		})
	}
	begins.Wait()
	highest, err := Read(file)
	require.NoError(t, err)
	assert.EqualValues(t, 7999, highest)
}

func TestALedgerKeepsItsLength(t *testing.T) {
	file, err := New()
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	info, err := file.Stat()
	require.NoError(t, err)
	assert.EqualValues(t, Size, info.Size())
}

func TestNoLedgerNotesNothing(t *testing.T) {
	var none *Ledger
	none.Begin(1)
	_, err := Map(-1)
	require.Error(t, err)
}

func BenchmarkBegin(b *testing.B) {
	_, l := mapped(b)
	id := uint64(0)
	for b.Loop() {
		id++
		l.Begin(id)
	}
}

// BenchmarkPipe is the alternative: a note for each call through a pipe.
func BenchmarkPipe(b *testing.B) {
	r, w, err := os.Pipe()
	require.NoError(b, err)
	note, drain := make([]byte, 8), make([]byte, 64<<10)
	for i := 0; b.Loop(); i++ {
		if _, err := w.Write(note); err != nil {
			b.Fatal(err)
		}
		if i%4096 == 4095 { // before the pipe is full
			if _, err := r.Read(drain); err != nil {
				b.Fatal(err)
			}
		}
	}
	require.NoError(b, r.Close())
	require.NoError(b, w.Close())
}
