package sbx_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/require"
)

// tooMany are so many goroutines that, with all of them busy, a message takes longer than the lease until it is read, or even sent.
var tooMany = 4000 * runtime.NumCPU()

func TestBusyFunctionIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Lease(2*time.Second))
		n, err := session.Function2(Spin).Call(t.Context(), tooMany, 5*time.Second)
		require.NoError(t, err)
		require.Positive(t, n)
	})
}

func TestBusyProgramIsAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("keeps all processors busy")
	}
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Lease(2*time.Second))
		call := session.Function2(Count).Spawn(t.Context(), "busy", 6*time.Second)
		time.Sleep(time.Second)
		_, err := Spin(t.Context(), tooMany, 5*time.Second)
		require.NoError(t, err)
		_, err = call.Result(t.Context())
		require.NoError(t, err)
	})
}
