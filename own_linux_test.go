package sbx_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Nobody reaps what a killed command has started, where process 1 is a program that does not know of it.
func TestAKilledCommandWhoseChildrenNobodyReaps(t *testing.T) {
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer func() { assert.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)) }()
	sb := sbxtest.Open(t, sbx.Driver(process.New())).Sandbox()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := sb.CommandContext(ctx, "/bin/sh", "-c", "sleep 1000 & echo $!; wait")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	orphan, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	cancel()
	err = cmd.Wait()
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, sbx.ErrWaitDelay)
	require.NotNil(t, cmd.Exit, err)
	assert.Equal(t, syscall.SIGKILL, cmd.Exit.Signal)
	var status unix.WaitStatus
	_, err = unix.Wait4(orphan, &status, 0, nil)
	require.NoError(t, err)
	assert.Equal(t, unix.SIGKILL, status.Signal())
}

// No context of the caller's has ended then.
func TestASignalThatASilentSandboxDoesNotTake(t *testing.T) {
	session := sbxtest.Open(t, sbx.Driver(process.New()))
	sb := session.Sandbox()
	pid, err := session.Function0(Process).In(sb).Call(t.Context())
	require.NoError(t, err)
	cmd := sb.Command("/bin/sleep", "1000")
	require.NoError(t, cmd.Start())
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool { // the signal is not obeyed at once
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	}, 10*time.Second, time.Millisecond)
	err = cmd.Kill()
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.ErrorContains(t, err, "did not answer")
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	if err = cmd.Kill(); err != nil { // it may have got the first one
		require.ErrorIs(t, err, os.ErrProcessDone)
	}
	require.ErrorContains(t, cmd.Wait(), "killed")
}

// Acceptance 3, 30.
func TestASandboxOverridesByKey(t *testing.T) {
	session := openLocal(t, sbx.Env("A", "session"), sbx.Env("B", "session"), sbx.Limit(sbx.Resources{OpenFiles: 100, Processes: 100}), sbx.Secret("C", constant("session")))
	environ := func(sb *sbx.Sandbox) string {
		output, err := sb.Command("sh", "-c", "echo $A $B $C $D $(ulimit -n)").Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(output))
	}
	assert.Equal(t, "session session session 100", environ(session.Sandbox()))
	other := session.Sandbox(sbx.Env("B", "own"), sbx.Secret("D", constant("own")), sbx.Limit(sbx.Resources{OpenFiles: 200}))
	assert.Equal(t, "session own session own 200", environ(other))
	assert.Equal(t, "session session session 100", environ(session.Sandbox()), "and changes no other's")
}

// Whichever notices the end of a sandbox first, the call that ends it or who watches it, it is told as what it was.
func TestTheEndOfAnOwnSandboxIsTold(t *testing.T) {
	session := openLocal(t, sbx.Driver(process.New()))
	for range 20 {
		sb := session.Sandbox()
		_, err := session.Function(Exit).In(sb).Call(t.Context(), 3)
		require.ErrorIs(t, err, sbx.ErrExited)
		require.ErrorIs(t, sb.Wait(t.Context()), sbx.ErrExited)
		_, err = session.Function(Double).In(sb).Call(t.Context(), 1)
		require.ErrorIs(t, err, sbx.ErrNotRunning)
		require.ErrorIs(t, err, sbx.ErrExited)
	}
}

// Acceptance 57.
func TestAShortCommandIsNoticedAtOnce(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	fastest := time.Hour
	for range 20 {
		begin := time.Now()
		require.NoError(t, sb.Command("true").Run())
		fastest = min(fastest, time.Since(begin))
	}
	assert.Less(t, fastest, 200*time.Millisecond)
}

// TestSignalHelper is a program with a session, for the test below.
func TestSignalHelper(t *testing.T) {
	how := os.Getenv("SIGNAL_HELPER")
	if how == "" {
		t.Skip("it is run by TestSignals")
	}
	ctx := context.Background()
	if how != "no handler" { // as in the guide
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
	}
	session, err := sbx.Open(ctx, sbx.Logger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	if how == "slow" {
		session, err = sbx.Open(ctx, sbx.Driver(watch(nil, func(ctx context.Context, _ string) error {
			fmt.Println("stopping")
			<-ctx.Done() // after ten seconds
			return ctx.Err()
		})))
		require.NoError(t, err)
		require.NoError(t, session.Sandbox().Start(ctx))
		fmt.Println("running")
		<-ctx.Done()
	} else {
		cmd := session.Sandbox().CommandContext(ctx, "sh", "-c", "setsid sleep $1 & echo running; exec sleep $1", "sh", os.Getenv("SIGNAL_HELPER_TIME"))
		cmd.Stdout = os.Stdout
		require.ErrorIs(t, cmd.Run(), context.Canceled)
	}
	assert.NoError(t, session.Close())
	fmt.Println("closed")
}

// Acceptance 27, 28, 29: sbx installs no handler, and the guide's lines end a program in order by the first signal and at once by the second. Whatever ends it,
// nothing that its commands started is left.
func TestSignals(t *testing.T) {
	for _, number := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for how, want := range map[string]struct {
			lines  []string // the signal is sent after each
			killed bool
		}{
			"first":      {[]string{"running"}, false},
			"slow":       {[]string{"running", "stopping"}, true},
			"no handler": {[]string{"running"}, true},
		} {
			if number == syscall.SIGKILL && how != "no handler" {
				continue
			}
			t.Run(number.String()+", "+how, func(t *testing.T) {
				mark := fmt.Sprintf("%d.%d%d", 86400, os.Getpid(), number) // seconds, by which its commands are known
				program := exec.Command(os.Args[0], "-test.run=^TestSignalHelper$")
				program.Env = append(os.Environ(), "SIGNAL_HELPER="+how, "SIGNAL_HELPER_TIME="+mark)
				stdout, err := program.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, program.Start())
				lines := bufio.NewScanner(stdout)
				for _, line := range want.lines {
					require.True(t, lines.Scan())
					assert.Equal(t, line, lines.Text())
					if how != "slow" {
						require.Eventually(t, func() bool { return countProcesses(t, mark) == 2 }, 10*time.Second, time.Millisecond, "the check sees both")
					}
					require.NoError(t, program.Process.Signal(number))
				}
				begin, rest := time.Now(), ""
				ended, again := make(chan struct{}), sync.WaitGroup{}
				again.Go(func() { // for the handler is gone a moment later
					for want.killed {
						select {
						case <-ended:
							return
						case <-time.After(20 * time.Millisecond):
							_ = program.Process.Signal(number)
						}
					}
				})
				for lines.Scan() {
					rest += lines.Text() + "\n"
				}
				close(ended)
				again.Wait()
				err = program.Wait()
				assert.Less(t, time.Since(begin), 9*time.Second)
				status, ok := program.ProcessState.Sys().(syscall.WaitStatus)
				require.True(t, ok)
				assert.Eventually(t, func() bool { return countProcesses(t, mark) == 0 }, 10*time.Second, time.Millisecond, "nothing is left")
				if want.killed {
					assert.Equal(t, number, status.Signal(), "%v", status)
					assert.NotContains(t, rest, "closed")
				} else {
					require.NoError(t, err, rest)
					assert.Contains(t, rest, "closed")
				}
			})
		}
	}
}

// countProcesses counts the processes that have an argument.
func countProcesses(t *testing.T, argument string) (n int) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil && slices.Contains(strings.Split(string(data), "\x00"), argument) {
			n++
		}
	}
	return n
}

// Whatever a start made among the temporary files of the machine would be left there if the program were killed at that moment. Not
// even for a moment does it make any.
func TestAStartMakesNoTemporaryFiles(t *testing.T) {
	folder, past := t.TempDir(), time.Unix(1_000_000_000, 0)
	t.Setenv("TMPDIR", folder)
	require.NoError(t, os.Chtimes(folder, past, past))
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("true").Run())
	require.NoError(t, sb.Close())
	info, err := os.Stat(folder)
	require.NoError(t, err)
	assert.Equal(t, past, info.ModTime())
}

// The worker needs threads of the same number that a command's processes are of.
func TestTooManyProcessesAreNamed(t *testing.T) {
	session := openLocal(t)
	sb := session.Sandbox(sbx.Limit(sbx.Resources{Processes: 64}))
	require.NoError(t, sb.Command("sh", "-c", "(while :; do sleep 60 & done) >/dev/null 2>&1 &").Run())
	_, err := session.Function(HoldThreads).In(sb).Call(t.Context(), 64)
	assert.ErrorContains(t, err, "the sandbox's processes and threads were used up")
	assert.ErrorContains(t, sb.Wait(t.Context()), "the sandbox's processes and threads were used up")
	err = sb.Command("true").Run()
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	assert.ErrorContains(t, err, "the sandbox's processes and threads were used up")
}
