package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// workerClosed has no descriptor left.
func workerClosed() int {
	handshake := os.NewFile(driver.HandshakeFD, "handshake")
	fmt.Fprintln(handshake, "ready")
	_ = unix.CloseRange(0, ^uint(0)>>1, 0)
	for {
		_ = unix.Pause()
	}
}

// workerFull leaves no room in any folder that it can write to.
func workerFull() int {
	for _, folder := range []string{"/tmp", "/work", "/dev/shm"} {
		file, err := os.Create(folder + "/full")
		for block := make([]byte, 1<<20); err == nil; {
			_, err = file.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			fmt.Fprintln(os.NewFile(driver.HandshakeFD, "handshake"), err)
			return 1
		}
	}
	ready()
	return forever()
}

// workerZombies has as many dead children as it may have, or 10,000, and reaps none.
func workerZombies() int {
	count := 0
	for ; count < 10_000; count++ {
		child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			break
		}
		if child == 0 { // a copy without a runtime
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	fmt.Fprintln(os.NewFile(driver.HandshakeFD, "handshake"), count)
	return forever()
}

// Whatever a worker has done to its sandbox, it is stopped at once.
func TestStoppable(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // other programs use the common one
	session := open(t)
	first, p := start(t, session, "first", "echo")
	awaitReady(t, p)
	require.NoError(t, first.Stop(t.Context()))
	closeStreams(p)
	before := settled(t)
	for _, name := range []string{"closed", "full", "zombies"} {
		t.Run(name, func(t *testing.T) {
			sandbox, p := start(t, session, name, name)
			line, err := bufio.NewReader(p.Handshake()).ReadString('\n')
			require.NoError(t, err)
			if name == "zombies" {
				var zombies int
				_, err := fmt.Sscan(line, &zombies)
				require.NoError(t, err, line)
				assert.Greater(t, zombies, 3000)
				t.Logf("%d zombies", zombies)
			} else {
				require.Equal(t, "ready\n", line)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			assert.NoError(t, sandbox.Stop(ctx))
		})
	}
	assert.Equal(t, before, settled(t))
}
