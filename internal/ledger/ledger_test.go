//go:build unix

package ledger

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mapped returns both sides of a ledger.
func mapped(t testing.TB) (session, worker *Ledger) {
	file, err := New()
	require.NoError(t, err)
	session, err = Map(file)
	require.NoError(t, err)
	worker, err = Map(file)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	t.Cleanup(session.Close)
	t.Cleanup(worker.Close)
	return session, worker
}

// Package driver, which imports nothing of ours, says the length to those who write drivers.
func TestTheLengthIsWhatDriversAreTold(t *testing.T) { assert.Equal(t, driver.LedgerSize, Size) }

func TestAClaimIsSeenAndFinal(t *testing.T) {
	session, worker := mapped(t)
	session.Queue(3, 7)
	assert.False(t, worker.Claim(3, 8), "another call's slot")
	assert.False(t, session.Claimed(3, 7))
	assert.True(t, worker.Claim(3, 7))
	assert.True(t, session.Claimed(3, 7))
	assert.False(t, worker.Claim(3, 7), "once")
	assert.False(t, session.Withdraw(3, 7))
	session.Queue(3, 9)
	assert.True(t, worker.Claim(3, 9), "a slot is used again")
}

func TestWhatIsWithdrawnCantBeClaimed(t *testing.T) {
	session, worker := mapped(t)
	session.Queue(0, 1)
	assert.True(t, session.Withdraw(0, 1))
	assert.False(t, session.Withdraw(0, 1))
	assert.False(t, worker.Claim(0, 1))
}

func TestEitherSideWins(t *testing.T) {
	session, worker := mapped(t)
	var claims, withdrawals atomic.Int64
	for id := range uint64(2000) {
		slot := int(id % Slots)
		session.Queue(slot, id)
		var both sync.WaitGroup
		both.Go(func() {
			if worker.Claim(slot, id) {
				claims.Add(1)
			}
		})
		both.Go(func() {
			if session.Withdraw(slot, id) {
				withdrawals.Add(1)
			}
		})
		both.Wait()
	}
	assert.EqualValues(t, 2000, claims.Load()+withdrawals.Load())
}

func TestScribblesCountAsBegun(t *testing.T) {
	session, worker := mapped(t)
	session.Queue(1, 5)
	for _, garbage := range []uint64{0, 5, entry(6, queued), ^uint64(0)} {
		worker.slots[1].Store(garbage)
		assert.False(t, session.Withdraw(1, 5))
	}
	assert.False(t, worker.Claim(Slots, 1), "no such slot")
	assert.False(t, session.Withdraw(Slots, 1))
}

func TestALedgerKeepsItsLength(t *testing.T) {
	file, err := New()
	require.NoError(t, err)
	info, err := file.Stat()
	require.NoError(t, err)
	assert.EqualValues(t, Size, info.Size())
	require.NoError(t, file.Close())

	short, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	_, err = Map(short)
	require.Error(t, err, "an access beyond the end would kill the process")
	require.NoError(t, short.Close())
}

func TestCrowded(t *testing.T) {
	session, worker := mapped(t)
	assert.EqualValues(t, 0, session.SessionCrowded(true))
	assert.EqualValues(t, 1, worker.WorkerCrowded(false))
	assert.EqualValues(t, 0, session.SessionCrowded(false))
	assert.EqualValues(t, 1, worker.WorkerCrowded(true))
	assert.EqualValues(t, 1, session.SessionCrowded(false))
	session.Queue(Slots-1, 1)
	assert.True(t, worker.Claim(Slots-1, 1))
	assert.EqualValues(t, 1, session.SessionCrowded(false), "they are apart from the slots")
}

func TestNoLedger(t *testing.T) {
	var none *Ledger
	none.Queue(0, 1)
	assert.True(t, none.Claim(0, 1))
	assert.False(t, none.Withdraw(0, 1))
	assert.Zero(t, none.SessionCrowded(true))
	assert.Zero(t, none.WorkerCrowded(true))
	none.Close()
}

func BenchmarkClaim(b *testing.B) {
	session, worker := mapped(b)
	id := uint64(0)
	for b.Loop() {
		id++
		session.Queue(0, id)
		worker.Claim(0, id)
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
