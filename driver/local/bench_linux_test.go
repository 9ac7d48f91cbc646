package local_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

// BenchmarkStart measures from the request to the worker's first byte, in a fresh sandbox and as a plain process.
func BenchmarkStart(b *testing.B) {
	b.Run("sandbox", func(b *testing.B) {
		session := open(b)
		for i := 0; b.Loop(); i++ {
			sandbox, err := session.Create(b.Context(), driver.Spec{ID: fmt.Sprint(i), Env: []string{testWorker + "=echo"}})
			require.NoError(b, err)
			p, err := sandbox.StartWorker(b.Context(), driver.WorkerSpec{})
			require.NoError(b, err)
			awaitReady(b, p)
			b.StopTimer()
			require.NoError(b, sandbox.Stop(b.Context()))
			closeStreams(p)
			b.StartTimer()
		}
	})
	b.Run("limited", func(b *testing.B) {
		session := open(b)
		for i := 0; b.Loop(); i++ {
			p, err := begin(b, session, fmt.Sprint(i), driver.Resources{CPUs: 1, MemoryMiB: 100}, "echo")
			require.NoError(b, err)
			awaitReady(b, p)
			b.StopTimer()
			require.NoError(b, p.Kill())
			_, err = p.Wait(b.Context())
			require.NoError(b, err)
			closeStreams(p)
			b.StartTimer()
		}
	})
	b.Run("exec", func(b *testing.B) {
		conn, err := os.Open("/dev/null")
		require.NoError(b, err)
		defer conn.Close()
		for b.Loop() {
			r, w, err := os.Pipe()
			require.NoError(b, err)
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{testWorker + "=echo"}
			cmd.ExtraFiles = []*os.File{conn, w}
			require.NoError(b, cmd.Start())
			_ = w.Close()
			_, err = bufio.NewReader(r).ReadString('\n')
			require.NoError(b, err)
			b.StopTimer()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			_ = r.Close()
			b.StartTimer()
		}
	})
}

// BenchmarkStop measures the end of a sandbox whose worker is up.
func BenchmarkStop(b *testing.B) {
	session := open(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		sandbox, p := start(b, session, fmt.Sprint(i), "echo")
		awaitReady(b, p)
		b.StartTimer()
		require.NoError(b, sandbox.Stop(b.Context()))
	}
}

// BenchmarkOpen measures a session that makes no sandbox but the one it tries.
func BenchmarkOpen(b *testing.B) {
	s := spec(b)
	for b.Loop() {
		session, err := local.New(nil).Open(b.Context(), s)
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, session.Close(b.Context()))
		b.StartTimer()
	}
}
