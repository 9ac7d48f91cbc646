package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testRole makes this program a worker that does nothing; "parent", one that leaves a child behind; "program", the program of a session; "daemon", that of one
// that gives up root's rights; or, given a process id, one that traces that process.
const testRole = "SBX_TEST_ROLE"

func init() {
	role := os.Getenv(testRole)
	if role == "" {
		return
	}
	switch role {
	case "program":
		runProgram()
	case "daemon":
		runDaemon()
	}
	if pid, err := strconv.Atoi(role); err == nil {
		runtime.LockOSThread()
		if err := unix.PtraceSeize(pid); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	if role == "parent" {
		child := exec.Command("sleep", "3600")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	if role == "parent" {
		os.Exit(3)
	}
	_, _ = io.Copy(io.Discard, os.NewFile(driver.ConnFD, "until the session or the test has gone"))
	os.Exit(0)
}

// runProgram opens a session, prints a worker's folder, and goes on until it is killed or has no more input.
func runProgram() {
	ctx := context.Background()
	session, err := New().Open(ctx, sessionSpec())
	if err == nil {
		var sb driver.Sandbox
		if sb, err = session.Create(ctx, driver.Spec{ID: "one"}); err == nil {
			fmt.Println(sb.(*sandbox).folder)
			_, _ = io.Copy(io.Discard, os.Stdin)
			err = session.Close(ctx)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runDaemon starts a worker, gives up root's rights, and prints what comes of the worker's stop.
func runDaemon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	session, err := New().Open(ctx, sessionSpec())
	if err == nil {
		var sb driver.Sandbox
		if sb, err = session.Create(ctx, driver.Spec{ID: "one", Env: []string{testRole + "=worker"}}); err == nil {
			if _, err = sb.StartWorker(ctx, driver.WorkerSpec{}); err == nil {
				err = errors.Join(unix.Setuid(65534), sb.Stop(ctx))
			}
		}
	}
	fmt.Println(err)
	os.Exit(0)
}

// A worker that the program may not kill any more is said to be one.
func TestAWorkerThatCantBeKilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give up its rights")
	}
	daemon := exec.Command("/proc/self/exe")
	daemon.Env = []string{testRole + "=daemon", "TMPDIR=" + t.TempDir()}
	output, err := daemon.Output()
	require.NoError(t, err)
	assert.Regexp(t, `^process: stop sandbox one: its worker, process \d+, can't be killed: operation not permitted \(context deadline exceeded\)\n$`, string(output))
}

func sessionSpec() driver.SessionSpec {
	return driver.SessionSpec{
		ID: "one", Logger: slog.New(slog.DiscardHandler),
		Worker: func(context.Context, driver.Platform) (string, error) { return "/proc/self/exe", nil },
	}
}

// startRole starts this program as a worker in a session and a sandbox of its own.
func startRole(ctx context.Context, t *testing.T, role string) (driver.Session, driver.Sandbox, driver.Process) {
	session, err := New().Open(ctx, sessionSpec())
	require.NoError(t, err)
	sandbox, err := session.Create(ctx, driver.Spec{ID: "one", Env: []string{testRole + "=" + role, "PATH=" + os.Getenv("PATH")}})
	require.NoError(t, err)
	worker, err := sandbox.StartWorker(ctx, driver.WorkerSpec{})
	require.NoError(t, err)
	return session, sandbox, worker
}

// A worker that another process traces is not reaped before that one has looked, which it never does.
func TestAWorkerThatCantBeReaped(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	session, sandbox, worker := startRole(ctx, t, "worker")
	line, err := bufio.NewReader(worker.Stdout()).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	until, end, err := os.Pipe()
	require.NoError(t, err)
	tracer := exec.Command("/proc/self/exe")
	tracer.Env = []string{fmt.Sprintf("%s=%d", testRole, worker.(*process).cmd.Process.Pid)}
	tracer.ExtraFiles = []*os.File{until}
	output, err := tracer.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tracer.Start())
	line, err = bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	if line == unix.EPERM.Error()+"\n" {
		t.Skip("this system lets nobody trace a process that is not its child")
	}
	require.Equal(t, "ready\n", line)

	require.NoError(t, sandbox.Stop(ctx))
	select {
	case <-worker.(*process).done:
		t.Error("it was reaped: this shows nothing")
	default:
	}
	require.NoError(t, session.Close(ctx))
	require.NoError(t, end.Close())
	require.NoError(t, tracer.Wait())
	exit, err := worker.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, driver.Exit{Code: -1, Signal: unix.SIGKILL}, exit)
	for _, stream := range []io.Closer{worker.Conn(), worker.Direct(), worker.Handshake(), worker.Stdout(), worker.Stderr(), worker.Ledger(), until} {
		assert.NoError(t, stream.Close())
	}
}

// In a program that takes no note of its children the exit status is lost, and nothing else: the worker's group ends with it.
func TestIgnoredSIGCHLD(t *testing.T) {
	signal.Ignore(unix.SIGCHLD)
	defer signal.Notify(make(chan os.Signal, 1), unix.SIGCHLD) // Reset would leave it ignored
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	session, sandbox, worker := startRole(ctx, t, "parent")
	printed, err := io.ReadAll(worker.Stdout()) // ends when the child, which has it too, is dead
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(printed))
	_, err = worker.Wait(ctx)
	assert.ErrorIs(t, err, unix.ECHILD)
	assert.ErrorContains(t, err, "ignoring SIGCHLD")
	for _, stream := range []io.Closer{worker.Conn(), worker.Direct(), worker.Handshake(), worker.Stdout(), worker.Stderr(), worker.Ledger()} {
		assert.NoError(t, stream.Close())
	}
	assert.NoError(t, sandbox.Stop(ctx))
	assert.NoError(t, session.Close(ctx))
}
