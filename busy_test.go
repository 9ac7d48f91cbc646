package sbx_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/require"
)

// tooMany are so many goroutines that, with all of them busy, a message takes longer than the lease until it is read, or even sent.
var tooMany = 4000 * runtime.NumCPU()

func TestBusyFunctionIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)), sbx.Lease(4*time.Second))
	n, err := session.Function2(Spin).Call(t.Context(), tooMany, 10*time.Second)
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestBusyProgramIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.Lease(4*time.Second))
	call := session.Function2(Count).Spawn(t.Context(), "busy", 12*time.Second)
	require.Eventually(t, func() bool { return session.Stats().Running == 1 }, 10*time.Second, time.Millisecond)
	_, err := Spin(t.Context(), tooMany, 10*time.Second)
	require.NoError(t, err)
	_, err = call.Result(t.Context())
	require.NoError(t, err)
}
