package sbx_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// traceVariable makes this program a debugger of the process with that id.
const traceVariable = "SBX_TEST_TRACE"

// A debugger attaches to a worker and holds it for longer than the time after which functions are given up that don't answer a
// cancellation; with a long Lease, nothing happens to it.
func TestADebuggerCanHoldAWorker(t *testing.T) {
	if pid := os.Getenv(traceVariable); pid != "" {
		holdProcess(t, pid)
		return
	}
	session, err := sbx.Open(t.Context(), sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Lease(24*time.Hour))
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	pid, err := session.Function0(Process).Call(t.Context())
	require.NoError(t, err)

	self, err := os.Executable()
	require.NoError(t, err)
	debugger := exec.CommandContext(t.Context(), self, "-test.run=^TestADebuggerCanHoldAWorker$")
	debugger.Env = append(os.Environ(), traceVariable+"="+strconv.Itoa(pid))
	release, err := debugger.StdinPipe()
	require.NoError(t, err)
	out, err := debugger.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, debugger.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	if line == "not permitted\n" {
		require.NoError(t, debugger.Wait())
		t.Skip("no process may be traced here")
	}
	require.Equal(t, "held\n", line)
	call := session.Function(Double).Spawn(t.Context(), 21)
	select {
	case <-call.Done():
		t.Error("the worker is held, and answers")
	case <-time.After(1500 * time.Millisecond):
	}
	require.NoError(t, release.Close())
	got, err := call.Result(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 42, got)
	again, err := session.Function0(Process).Call(t.Context())
	require.NoError(t, err)
	assert.Equal(t, pid, again, "it is the same worker")
	require.NoError(t, debugger.Wait())
}

// holdProcess attaches to every thread of a process, as a debugger does, says so, and lets go when standard input ends.
func holdProcess(t *testing.T, process string) {
	runtime.LockOSThread() // the thread that attached is the only one that may let go
	held := map[int]bool{}
	for more := true; more; {
		more = false
		entries, err := os.ReadDir("/proc/" + process + "/task")
		require.NoError(t, err)
		for _, entry := range entries {
			thread, err := strconv.Atoi(entry.Name())
			require.NoError(t, err)
			if held[thread] {
				continue
			}
			switch err := syscall.PtraceAttach(thread); {
			case errors.Is(err, syscall.EPERM):
				fmt.Println("not permitted")
				return
			case errors.Is(err, syscall.ESRCH):
				continue // it has ended
			default:
				require.NoError(t, err)
			}
			_, err = syscall.Wait4(thread, nil, syscall.WALL, nil)
			require.NoError(t, err)
			held[thread], more = true, true
		}
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for thread := range held {
		require.NoError(t, syscall.PtraceDetach(thread))
	}
}
