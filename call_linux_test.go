package sbx_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestACallThatDidNotBeginIsSentAgain stops a worker, so that the next call reaches it and does not begin, and kills it.
func TestACallThatDidNotBeginIsSentAgain(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1))
	pid, err := session.Function0(Process).Call(t.Context())
	require.NoError(t, err)
	worker, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, worker.Signal(syscall.SIGSTOP))
	require.Eventually(t, func() bool { // the signal is not obeyed at once
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	}, 10*time.Second, time.Millisecond)
	path := filepath.Join(t.TempDir(), "lines")
	call := session.Function2(Append).Spawn(t.Context(), path, 1)
	<-time.After(100 * time.Millisecond) // nothing tells when the call is in the worker's socket
	require.NoError(t, worker.Kill())
	n, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "x\n", string(content), "it ran once")
}
