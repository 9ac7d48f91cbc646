package sbx_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tooMany are so many goroutines that, with all of them busy, a message takes longer than the lease until it is read, or even sent.
var tooMany = 4000 * runtime.NumCPU()

// busyLease is far below what a message takes then, and above what other programs on the machine may take from this one.
const busyLease = 8 * time.Second

func TestBusyFunctionIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.Lease(busyLease))
	n, err := session.Function2(Spin).Call(t.Context(), tooMany, 2*busyLease+4*time.Second)
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestBusyProgramIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Lease(busyLease))
	call := session.Function2(Count).Spawn(t.Context(), "busy", 2*busyLease+6*time.Second)
	require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
	_, err := Spin(t.Context(), tooMany, 2*busyLease+4*time.Second)
	require.NoError(t, err)
	_, err = call.Result(t.Context())
	require.NoError(t, err)
}

func TestAnIdleSandboxOfABusyProgramIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	double := session.Function(Double)
	_, err := double.Call(t.Context(), 1)
	require.NoError(t, err)
	time.Sleep(1100 * time.Millisecond) // it is asked for a sign of life before it is used again
	call := make(chan error)
	time.AfterFunc(time.Second, func() {
		_, err := double.Call(t.Context(), 1)
		call <- err
	})
	_, err = Spin(t.Context(), tooMany, 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, <-call)
	assert.Zero(t, session.Stats().Lost)
}

func TestAResultThatWaitsInABusyProgramIsInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	const timeout = 4 * time.Second
	call := session.Function2(Count, sbx.Timeout(timeout)).Spawn(t.Context(), "", time.Second)
	require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
	_, err := Spin(t.Context(), tooMany, timeout+4*time.Second)
	require.NoError(t, err)
	_, err = call.Result(t.Context())
	require.NoError(t, err, "it returned long before its time was up")
	assert.Zero(t, session.Stats().Killed)
}

func TestACancelledCallOfABusyProgramCostsNoNeighbour(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Concurrency(2))
	count := session.Function2(Count)
	cancelled, neighbour := count.Spawn(t.Context(), "", time.Hour), count.Spawn(t.Context(), "", 6*time.Second)
	require.Eventually(t, func() bool { return session.Stats().Running == 2 }, 10*time.Second, time.Millisecond)
	time.AfterFunc(time.Second, cancelled.Cancel)
	_, err := Spin(t.Context(), tooMany, 8*time.Second)
	require.NoError(t, err)
	_, err = neighbour.Result(t.Context())
	require.NoError(t, err, "the other function obeyed its context")
	assert.Zero(t, session.Stats().Killed)
}
