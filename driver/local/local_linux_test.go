package local_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// sessionID tells the processes of this test from others.
var sessionID = fmt.Sprint("test-", os.Getpid())

func spec(t testing.TB) driver.SessionSpec {
	self, err := os.Executable()
	require.NoError(t, err)
	return driver.SessionSpec{ID: sessionID, Worker: worker(self), Logger: slog.New(slog.DiscardHandler)}
}

// worker is for a session whose executable is the file at path.
func worker(path string) func(context.Context, driver.Platform) (string, error) {
	return func(context.Context, driver.Platform) (string, error) { return path, nil }
}

func open(t testing.TB) driver.Session {
	session, err := local.New(nil).Open(testContext(t), spec(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
	return session
}

// start runs the named worker in a new sandbox.
func start(t testing.TB, session driver.Session, id, name string, env ...string) (driver.Sandbox, driver.Process) {
	sandbox, err := session.Create(testContext(t), driver.Spec{ID: id, Env: append(env, testWorker+"="+name)})
	require.NoError(t, err)
	process, err := sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	require.NoError(t, err)
	t.Cleanup(func() { closeStreams(process) })
	return sandbox, process
}

func closeStreams(p driver.Process) {
	for _, c := range []io.Closer{p.Conn(), p.Direct(), p.Handshake(), p.Stdout(), p.Stderr(), p.Ledger()} {
		_ = c.Close()
	}
}

// output waits for the process and returns what it wrote.
func output(t testing.TB, p driver.Process) (stdout, stderr string, exit driver.Exit) {
	var streams sync.WaitGroup
	var out, errOut []byte
	streams.Go(func() { out, _ = io.ReadAll(p.Stdout()) })
	streams.Go(func() { errOut, _ = io.ReadAll(p.Stderr()) })
	exit, err := p.Wait(testContext(t))
	require.NoError(t, err)
	streams.Wait()
	return string(out), string(errOut), exit
}

func awaitReady(t testing.TB, p driver.Process) {
	line, err := bufio.NewReader(p.Handshake()).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
}

func TestWorkerStreams(t *testing.T) {
	sandbox, p := start(t, open(t), "one", "echo")
	awaitReady(t, p)
	_, err := fmt.Fprintln(p.Conn(), "hello")
	require.NoError(t, err)
	line, err := bufio.NewReader(p.Conn()).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "hello\n", line)
	require.NoError(t, p.Conn().Close())
	stdout, stderr, exit := output(t, p)
	assert.Equal(t, "to stdout\n", stdout)
	assert.Equal(t, "to stderr\n", stderr)
	assert.Equal(t, driver.Exit{}, exit)
	require.NoError(t, sandbox.Stop(testContext(t)))
}

func TestExit(t *testing.T) {
	session := open(t)
	for i, test := range []struct {
		worker string
		code   int
		want   driver.Exit
	}{
		{"exit", 0, driver.Exit{}},
		{"exit", 7, driver.Exit{Code: 7}},
		{"signal", int(syscall.SIGKILL), driver.Exit{Code: -1, Signal: syscall.SIGKILL}},
		{"signal", int(syscall.SIGTERM), driver.Exit{Code: -1, Signal: syscall.SIGTERM}},
	} {
		t.Run(test.want.String(), func(t *testing.T) {
			_, p := start(t, session, fmt.Sprint("exit-", i), test.worker, fmt.Sprint("CODE=", test.code))
			_, stderr, exit := output(t, p)
			assert.Equal(t, test.want, exit, stderr)
			again, err := p.Wait(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, exit, again)
			assert.NoError(t, p.Kill())
		})
	}
}

func TestWhatAWorkerFinds(t *testing.T) {
	t.Setenv("HOST_SECRET", "secret")
	_, p := start(t, open(t), "one", "look", "A=1", "B=\xff")
	stdout, stderr, exit := output(t, p)
	require.Equal(t, driver.Exit{}, exit, stderr)
	assert.Equal(t, strings.Join([]string{
		"cwd /work", "host sandbox", "uid 1000 1000", "env A=1 B=\xff " + testWorker + "=look", "fds 0 1 2 3 4 5 6",
		"stdin 0 <nil>", "leads its session true <nil>", "core <nil> {1 1}", "mask 022",
		"user_namespaces 0 <nil>", "mnt_namespaces 0 <nil>", "inotify_instances 0 <nil>", "inodes <nil> 16384 <nil> 16384", "work <nil>", "tmp <nil>", "shm <nil>", "",
	}, "\n"), stdout)
}

// Whether the kernel has huge pages to give is its matter, and shows in docs/performance.md: that they are asked for, here.
func TestProgramsLieInHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip(err)
	}
	_, p := start(t, open(t), "one", "root")
	stdout, stderr, exit := output(t, p)
	require.Equal(t, driver.Exit{}, exit, stderr)
	assert.Contains(t, strings.Split(strings.TrimSpace(stdout), ","), "huge=within_size")
}

func TestOrdinaryProgramRuns(t *testing.T) {
	_, p := start(t, open(t), "one", "busy", "PATH=/usr/bin:/bin")
	stdout, stderr, exit := output(t, p)
	assert.Equal(t, driver.Exit{}, exit, stderr)
	assert.Equal(t, "echo hello | tr a-z A-Z: \"HELLO\\n\" <nil>\n"+
		"ls / /etc /proc/self >/dev/null && id -un: \"sandbox\\n\" <nil>\n"+
		"awk 'BEGIN{print 6*7}': \"42\\n\" <nil>\n"+
		"mkfifo p && rm p: \"\" <nil>\n"+
		"interfaces: 1 <nil>\n", stdout)
}

func TestEverythingInASandboxDiesWithIt(t *testing.T) {
	session := open(t)
	for name, end := range map[string]func(driver.Sandbox, driver.Process) error{
		"stop": func(s driver.Sandbox, _ driver.Process) error { return s.Stop(testContext(t)) },
		"kill": func(_ driver.Sandbox, p driver.Process) error { return p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			sandbox, p := start(t, session, name, "family")
			awaitReady(t, p)
			require.NoError(t, end(sandbox, p))
			stdout, stderr, exit := output(t, p) // ends when no descendant holds it any more
			assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
			assert.Empty(t, stdout+stderr)
			require.NoError(t, sandbox.Stop(testContext(t)))
		})
	}
	t.Run("worker's exit", func(t *testing.T) {
		_, p := start(t, session, "exit", "family", "CODE=3")
		stdout, stderr, exit := output(t, p)
		assert.Equal(t, driver.Exit{Code: 3}, exit)
		assert.Empty(t, stdout+stderr)
	})
}

func TestContracts(t *testing.T) {
	session := open(t)
	ctx := testContext(t)

	t.Run("a sandbox without a worker stops", func(t *testing.T) {
		sandbox, err := session.Create(ctx, driver.Spec{ID: "empty"})
		require.NoError(t, err)
		require.NoError(t, sandbox.Stop(ctx))
		require.NoError(t, sandbox.Stop(ctx))
		_, err = sandbox.StartWorker(ctx, driver.WorkerSpec{})
		assert.ErrorIs(t, err, driver.ErrStopped)
	})
	t.Run("a worker starts once", func(t *testing.T) {
		sandbox, _ := start(t, session, "once", "echo")
		_, err := sandbox.StartWorker(ctx, driver.WorkerSpec{})
		assert.ErrorContains(t, err, "started before")
		require.NoError(t, sandbox.Stop(ctx))
	})
	t.Run("ids are unique while they live", func(t *testing.T) {
		sandbox, err := session.Create(ctx, driver.Spec{ID: "twice"})
		require.NoError(t, err)
		_, err = session.Create(ctx, driver.Spec{ID: "twice"})
		assert.ErrorContains(t, err, "taken")
		require.NoError(t, sandbox.Stop(ctx))
		sandbox, err = session.Create(ctx, driver.Spec{ID: "twice"})
		require.NoError(t, err)
		require.NoError(t, sandbox.Stop(ctx))
	})
	t.Run("bad environments are refused", func(t *testing.T) {
		for _, entry := range []string{"novalue", "=x", "A=\x00", "A=" + strings.Repeat("x", 100<<10)} {
			_, err := session.Create(ctx, driver.Spec{ID: "env", Env: []string{entry}})
			assert.ErrorContains(t, err, "environment")
		}
	})
	t.Run("an ended context starts nothing", func(t *testing.T) {
		sandbox, err := session.Create(ctx, driver.Spec{ID: "late"})
		require.NoError(t, err)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err = sandbox.StartWorker(cancelled, driver.WorkerSpec{})
		assert.ErrorIs(t, err, context.Canceled)
		require.NoError(t, sandbox.Stop(ctx))
	})
	t.Run("waiting ends with its context", func(t *testing.T) {
		sandbox, p := start(t, session, "wait", "echo")
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_, err := p.Wait(short)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, sandbox.Stop(ctx))
	})
}

func TestClose(t *testing.T) {
	ctx := testContext(t)
	session, err := local.New(nil).Open(ctx, spec(t))
	require.NoError(t, err)
	var processes []driver.Process
	for i := range 3 {
		_, p := start(t, session, fmt.Sprint(i), "family")
		awaitReady(t, p)
		processes = append(processes, p)
	}
	idle, err := session.Create(ctx, driver.Spec{ID: "idle"})
	require.NoError(t, err)

	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() { assert.NoError(t, session.Close(ctx)) })
	}
	closers.Wait()
	for _, p := range processes {
		_, _, exit := output(t, p)
		assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
	}
	_, err = session.Create(ctx, driver.Spec{ID: "new"})
	assert.ErrorIs(t, err, driver.ErrStopped)
	_, err = idle.StartWorker(ctx, driver.WorkerSpec{})
	assert.ErrorIs(t, err, driver.ErrStopped)
	assert.NoError(t, idle.Stop(ctx))
}

// The session keeps running what it was opened with.
func TestWorkerIsReplacedOnDisk(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(path, self, 0o700))
	s := spec(t)
	s.Worker = worker(path)
	session, err := local.New(nil).Open(testContext(t), s)
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close(testContext(t))) }()
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte("something else"), 0o700))
	_, p := start(t, session, "one", "exit", "CODE=5")
	_, stderr, exit := output(t, p)
	assert.Equal(t, driver.Exit{Code: 5}, exit, stderr)
}

func TestSetupErrorNamesStepAndSandbox(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker")
	require.NoError(t, os.WriteFile(path, []byte("not a program"), 0o700))
	s := spec(t)
	s.Worker = worker(path)
	session, err := local.New(nil).Open(testContext(t), s)
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close(testContext(t))) }()
	sandbox, err := session.Create(testContext(t), driver.Spec{ID: "seven"})
	require.NoError(t, err)
	_, err = sandbox.StartWorker(testContext(t), driver.WorkerSpec{})
	var setup *local.SetupError
	require.ErrorAs(t, err, &setup)
	assert.Equal(t, local.SetupError{Sandbox: "seven", Step: "start the worker", Err: syscall.ENOEXEC}, *setup)
	assert.EqualError(t, err, "set up sandbox seven: start the worker: exec format error")
	assert.NoError(t, sandbox.Stop(testContext(t)))
}

func TestOpenRefuses(t *testing.T) {
	ctx := testContext(t)
	for name, test := range map[string]struct {
		options *local.Options
		worker  string
		want    string
	}{
		"no worker":     {nil, "/nowhere", "no such file"},
		"folder":        {nil, "/", "not a regular file"},
		"negative size": {&local.Options{ScratchMiB: -1}, "/bin/sh", "ScratchMiB"},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t)
			s.Worker = worker(test.worker)
			_, err := local.New(test.options).Open(ctx, s)
			assert.ErrorContains(t, err, test.want)
		})
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := local.New(nil).Open(cancelled, spec(t))
	assert.ErrorIs(t, err, context.Canceled)
}

// Whatever mask the program has, what is made for sandboxes can be read by them.
func TestTheFileModeMaskOfTheProgram(t *testing.T) {
	before := unix.Umask(0o777)
	session, err := local.New(nil).Open(testContext(t), spec(t))
	unix.Umask(before)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
	_, p := start(t, session, "one", "echo")
	awaitReady(t, p)
}

func TestAnEnvironmentThatIsTooLong(t *testing.T) {
	_, err := open(t).Create(testContext(t), driver.Spec{ID: "one", Env: []string{"A=" + strings.Repeat("x", 100_000)}})
	assert.ErrorContains(t, err, "its environment has 100003 bytes, of which 98304 fit; give long values as files")
}
