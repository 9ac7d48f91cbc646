package sbx_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	lowLevel["stderr to /dev/null"] = func() error {
		null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return syscall.Dup3(int(null.Fd()), 2, 0)
	}
	lowLevel["1 GiB"] = func() error {
		return syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: 1 << 30, Max: 1 << 30})
	}
	// The descriptors are the worker's, which user code can find as this does.
	lowLevel["cut"] = func() error {
		for fd := 3; fd < 64; fd++ {
			_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
		}
		return nil
	}
	lowLevel["close"] = func() error {
		for fd := 3; fd < 64; fd++ {
			_ = syscall.Close(fd)
		}
		return nil
	}
	lowLevel["exec"] = func() error { return syscall.Exec("/bin/sleep", []string{"sleep", "3600"}, nil) }
	// A process that outlives the worker and holds all that the worker has.
	lowLevel["leave a child"] = func() error {
		for fd := 3; fd < 64; fd++ {
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, 0)
		}
		child := exec.Command("/bin/sleep", "60")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		return child.Start()
	}
	lowLevel["garbage on the handshake"] = func() error {
		return writeToHandshake(bytes.Repeat([]byte("\xff\x00\x1b[2J garbage "), 100), 1000)
	}
	lowLevel["a forged crash"] = func() error {
		return writeToHandshake([]byte("panic: forged\n\ngoroutine 1 [running]:\nmain.forged()\n\t/forged.go:1 +0x1\n"), 1)
	}
}

// writeToHandshake writes text so many times, or until nobody reads it any more.
func writeToHandshake(text []byte, times int) error {
	for range times {
		if _, err := syscall.Write(4, text); err == syscall.EPIPE {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// What a worker leaves behind and holds its descriptors does not hide its end.
func TestAChildThatHoldsTheDescriptors(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on, sbx.Lease(time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // long before the child ends
		defer cancel()
		_, err := session.Function2(Crash).Call(ctx, "leave a child", "exit 3")
		require.ErrorIs(t, err, sbx.ErrExited)
		assert.ErrorContains(t, err, "exit status 3")
	})
}

func TestTheRuntimeGetsNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector, which gets no memory then either, may end the process first")
	}
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		_, err := session.Function2(Crash).Call(t.Context(), "1 GiB", "hoard")
		require.ErrorIs(t, err, sbx.ErrOutOfMemory)
		var lost *sbx.SandboxLostError
		require.ErrorAs(t, err, &lost)
		assert.Equal(t, 2, lost.Exit.Code)
		assert.False(t, lost.Exit.OutOfMemory, "the kernel killed nobody")
		assert.Contains(t, lost.Crash, "crash_functions_test.go:")
		assert.ErrorContains(t, err, "smaller inputs")
	})
}

// hoardVariable makes the test's process the one that is in a small memory cgroup.
const hoardVariable = "SBX_TEST_HOARD"

// TestTheKernelKills runs a program with its sandboxes in a memory cgroup of 256 MiB.
func TestTheKernelKills(t *testing.T) {
	if name := os.Getenv(hoardVariable); name != "" {
		hoard(t, name)
		return
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	group := smallGroup(t)
	for _, name := range []string{"process", "local"} {
		t.Run(name, func(t *testing.T) {
			// The shell joins the group and becomes the program, which has read its group by then.
			cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, group, "/proc/self/exe", "-test.run=^TestTheKernelKills$", "-test.v")
			executable, err := os.Executable()
			require.NoError(t, err)
			cmd.Args[4] = executable
			cmd.Env = append(os.Environ(), hoardVariable+"="+name)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "--- PASS: TestTheKernelKills")
		})
	}
}

func hoard(t *testing.T, name string) {
	on := sbx.Driver(process.New())
	if name == "local" {
		on = sbx.Driver(local.New(nil))
	}
	session := sbxtest.Open(t, on)
	_, err := session.Function2(Crash).Call(t.Context(), "", "hoard")
	require.ErrorIs(t, err, sbx.ErrOutOfMemory)
	var lost *sbx.SandboxLostError
	require.ErrorAs(t, err, &lost)
	assert.True(t, lost.Exit.OutOfMemory)
	assert.Equal(t, syscall.SIGKILL, lost.Exit.Signal)
	assert.Empty(t, lost.Crash)
	_, err = session.Function2(Crash).Call(t.Context(), "", "SIGKILL")
	require.ErrorAs(t, err, &lost)
	assert.NotErrorIs(t, err, sbx.ErrOutOfMemory, "the same group, the same signal, but another reason")
	n, err := session.Function(Double).Call(t.Context(), 2)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
}

// smallGroup makes a memory cgroup of 256 MiB below this process's own.
func smallGroup(t *testing.T) string {
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	root, limit := "", "memory.limit_in_bytes"
	for line := range strings.Lines(string(own)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(part) == 3 && part[1] == "memory":
			root = filepath.Join("/sys/fs/cgroup/memory", part[2])
		case len(part) == 3 && part[1] == "" && root == "":
			root, limit = filepath.Join("/sys/fs/cgroup", part[2]), "memory.max"
		}
	}
	group := filepath.Join(root, fmt.Sprintf("sbx-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no memory cgroup can be made here: %v", err)
	}
	t.Cleanup(func() { assert.NoError(t, os.Remove(group)) })
	if err := os.WriteFile(filepath.Join(group, limit), []byte("256M"), 0o600); err != nil {
		t.Skipf("no memory cgroup can be limited here: %v", err)
	}
	return group
}

// The launcher is the local driver's; nothing but its death explains that of all sandboxes.
func TestTheLauncherIsKilled(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(local.New(nil)))
	call := session.Function(Wait).Spawn(t.Context(), false)
	require.Eventually(t, func() bool { return session.Stats().Busy == 1 }, 10*time.Second, time.Millisecond)
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	killed := 0
	for _, path := range paths {
		line, _ := os.ReadFile(path)
		if id, _, _ := strings.Cut(session.String()[len("session "):], " "); strings.HasPrefix(string(line), "sbx-launcher\x00"+id) {
			var pid int
			_, err := fmt.Sscanf(path, "/proc/%d", &pid)
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			killed++
		}
	}
	require.Positive(t, killed) // what it has forked bears its name, too, until it executes
	_, err = call.Result(t.Context())
	require.ErrorContains(t, err, "launcher died: signal: killed")
	require.ErrorContains(t, err, "open a new session")
	require.NotContains(t, err.Error(), "Retries", "which would find no sandbox")
	_, err = session.Function(Double).Call(t.Context(), 1)
	require.ErrorContains(t, err, "open a new session")
}

// Which of several functions it was that ended the process nobody can say.
func TestOneOfSeveralExits(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()), sbx.MaxSandboxes(1), sbx.Concurrency(2))
	begin := filepath.Join(t.TempDir(), "begin")
	innocent := session.Function2(Mark).Spawn(t.Context(), begin, begin+"-end")
	require.Eventually(t, exists(begin), 10*time.Second, time.Millisecond)
	_, err := session.Function(Exit).Call(t.Context(), 3)
	require.ErrorIs(t, err, sbx.ErrExited)
	assert.ErrorContains(t, err, "one of the 2 functions that ran there ended its process (os.Exit, log.Fatal or the like: exit status 3)")
	_, err = innocent.Result(t.Context())
	assert.ErrorContains(t, err, "one of the 2 functions that ran there")
}

// A program that is short of something, at Open or after it, is told how to have more of it.
func TestTooFewFiles(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		session := sbxtest.Open(t, on)
		var limit syscall.Rlimit
		require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
		opened, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(len(opened)), Max: limit.Max}))
		_, err = session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		var start *sbx.StartError
		require.ErrorAs(t, err, &start)
		assert.ErrorContains(t, err, "too many open files; allow this program more open files: ulimit -n 4096")

		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Max: limit.Max}))
		_, err = sbx.Open(t.Context(), sbx.Driver(local.New(nil)))
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		require.ErrorContains(t, err, "too many open files; allow this program more open files: ulimit -n 4096")

		n, err := session.Function(Double).Call(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, 2, n)
	})
}
