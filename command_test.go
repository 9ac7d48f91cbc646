//go:build linux

package sbx_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	random "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var (
	pipeMiB       = flag.Int64("pipe-mib", 64, "how much goes through a command's pipes")
	shortCommands = flag.Int("short-commands", 500, "how many short commands are run one after the other")
)

// long is a time that no test should take.
const long = time.Minute

func output(t *testing.T, sb *sbx.Sandbox, name string, args ...string) string {
	t.Helper()
	text, err := sb.Command(name, args...).Output()
	require.NoError(t, err)
	return string(text)
}

// Acceptance 65 and 69: no byte is lost or reordered, in either direction.
func TestWhatGoesThroughPipesIsWhole(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		size := *pipeMiB << 20
		cmd := openLocal(t, on).Sandbox().Command("cat")
		sent, received := sha256.New(), sha256.New()
		cmd.Stdin = io.TeeReader(io.LimitReader(random.NewChaCha8([32]byte{1}), size), sent)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		n, err := io.Copy(received, stdout)
		require.NoError(t, err)
		require.NoError(t, cmd.Wait())
		assert.Equal(t, size, n)
		assert.Equal(t, sent.Sum(nil), received.Sum(nil))
	})
}

// Acceptance 65: 2000 lines of each, in order and apart.
func TestOutputsAreApartAndInOrder(t *testing.T) {
	cmd := openLocal(t).Sandbox().Command("sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done; exit 3")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *sbx.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	assert.Equal(t, 3, exit.Exit.Code)
	var o, e strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&o, "o%d\n", i)
		fmt.Fprintf(&e, "e%d\n", i)
	}
	assert.Equal(t, o.String(), stdout.String())
	assert.Equal(t, e.String(), stderr.String())
}

// census counts what a leak would add to: goroutines and descriptors of this program; descriptors of the worker and processes
// in the sandbox, without those that count.
func census(t *testing.T, sb *sbx.Sandbox) (counts [4]int) {
	counts[0] = runtime.NumGoroutine()
	own, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	counts[1] = len(own)
	text := output(t, sb, "sh", "-c", "set -- /proc/$PPID/fd/*; echo $#; set -- /proc/[0-9]*; echo $#")
	_, err = fmt.Sscan(text, &counts[2], &counts[3])
	require.NoError(t, err)
	return counts
}

// What a command leaves behind would add up. Zombies are among the processes.
func TestShortCommandsLeaveNothing(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for range 5 {
		require.NoError(t, sb.Command("true").Run())
	}
	before := census(t, sb)
	for i := range *shortCommands {
		text, err := sb.Command("echo", strconv.Itoa(i)).Output()
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i)+"\n", string(text))
	}
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		for i, count := range census(t, sb) {
			assert.LessOrEqual(c, count, before[i]+2, "%d", i)
		}
	}, long, 100*time.Millisecond)
}

func TestOrphansAreReaped(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("sh", "-c", "for i in 1 2 3 4 5; do (sh -c 'true & true' &); done").Run())
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		text, err := sb.Command("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; true").Output()
		require.NoError(c, err)
		assert.Equal(c, "0\n", string(text))
	}, long, 50*time.Millisecond)
}

func TestConcurrentCommands(t *testing.T) {
	sb := openLocal(t).Sandbox()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			want := strings.Repeat(fmt.Sprintf("line of %d\n", i), 2000)
			cmd := sb.Command("cat")
			cmd.Stdin = strings.NewReader(want)
			text, err := cmd.Output()
			assert.NoError(t, err)
			assert.Equal(t, want, string(text))
		})
	}
	all.Wait()
}

// Acceptance 65.
func TestExitCodesAndSignals(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for _, test := range []struct {
		script string
		code   int
		signal syscall.Signal
	}{
		{"exit 1", 1, 0}, {"exit 255", 255, 0}, {"no-such-command", 127, 0}, {"/etc/passwd", 126, 0},
		{"kill -TERM $$", -1, syscall.SIGTERM}, {"kill -KILL $$", -1, syscall.SIGKILL}, {"kill -USR1 $$", -1, syscall.SIGUSR1},
		{"exec 2>&-; trap '' TERM; kill -TERM $$; exit 9", 9, 0},
	} {
		cmd := sb.Command("sh", "-c", test.script)
		var exit *sbx.ExitError
		require.ErrorAs(t, cmd.Run(), &exit, test.script)
		assert.Equal(t, test.code, exit.Exit.Code, test.script)
		assert.Equal(t, test.signal, exit.Exit.Signal, test.script)
		assert.Equal(t, exit.Exit, *cmd.Exit, test.script)
	}
}

// Acceptance 66.
func TestWhereACommandStarts(t *testing.T) {
	session := openLocal(t)
	sb := session.Sandbox()
	require.ErrorContains(t, sb.Command("").Run(), "has no name")
	assert.Equal(t, sbx.Unstarted, sb.Status())
	name := `it's a "folder" $HOME`
	require.NoError(t, sb.Command("mkdir", name).Run())
	cmd := sb.Command("pwd")
	cmd.Dir = name
	text, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "/work/"+name+"\n", string(text))
	require.NoError(t, sb.Symlink(t.Context(), name, "link"))
	for _, own := range [][]string{nil, {"PWD=/own"}} { // as with os/exec a link stays one
		cmd = sb.Command("printenv", "PWD")
		cmd.Dir, cmd.Env = "link/", own
		text, err = cmd.Output()
		require.NoError(t, err)
		assert.Equal(t, strings.TrimPrefix(append(own, "PWD=/work/link")[0], "PWD=")+"\n", string(text))
	}
	cmd = sb.Command("true")
	cmd.Dir = "/etc/passwd"
	require.ErrorContains(t, cmd.Run(), "/etc/passwd")
	require.NoError(t, sb.Mkdir(t.Context(), "closed", 0))
	cmd = sb.Command("true")
	cmd.Dir = "closed"
	err = cmd.Run()
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "chdir /work/closed: permission denied")
}

// Process 1 of a local sandbox has timers that may be late. Its sandbox's processes have not.
func TestTimersInASandboxAreAsOutside(t *testing.T) {
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	require.NoError(t, err)
	require.Equal(t, 50_000, own, "the kernel's default, which the tests have")
	assert.Equal(t, "50000\n", output(t, openLocal(t).Sandbox(), "cat", "/proc/self/timerslack_ns"))
}

func TestAScriptWithoutItsInterpreter(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.WriteFile(t.Context(), "script", []byte("#!/bin/sh\r\necho\r\n"), 0o755))
	err := sb.Command("./script").Run()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "/work/script: no such file or directory: not of this file, but of the interpreter")
	err = sb.Command("./nothing").Run()
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.NotContains(t, err.Error(), "interpreter")
}

func TestStringsOfACommandNeedNotBeUTF8(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("mkdir", "d\xff").Run())
	cmd := sb.Command("sh", "-c", `printf %s "$1$X"; pwd`, "sh", "\xfe")
	cmd.Env = []string{"X=\xfd"}
	cmd.Dir = "d\xff"
	text, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "\xfe\xfd/work/d\xff\n", string(text))
	begin := time.Now()
	require.ErrorContains(t, sb.Command("no\xff").Run(), "does not exist in PATH")
	require.ErrorContains(t, sb.Command("/no\xff").Run(), "no such file")
	assert.Less(t, time.Since(begin), 4*time.Second, "the stream broke")
}

// Acceptance 73: a writer that is blocked when the process exits is released.
func TestWritersAreReleased(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for _, script := range []string{"head -c 1 >one", "exec 0<&-; sleep 0.2"} {
		cmd := sb.Command("sh", "-c", script)
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		written := make(chan error)
		go func() {
			_, err := stdin.Write(make([]byte, 64<<20))
			written <- err
		}()
		require.ErrorIs(t, <-written, io.ErrClosedPipe)
		require.NoError(t, cmd.Wait())
		_, err = stdin.Write([]byte("more"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NoError(t, stdin.Close())
	}
}

// endless is a reader that counts.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read += int64(len(p))
	return len(p), nil
}

func TestInputThatNobodyTakesIsNotRead(t *testing.T) {
	cmd := openLocal(t).Sandbox().Command("sh", "-c", "exec 0<&-; sleep 1")
	stdin := &endless{}
	cmd.Stdin = stdin
	require.NoError(t, cmd.Run())
	assert.Less(t, stdin.read, int64(64<<20))
}

// faulty fails, or does worse.
type faulty struct{ what func() error }

func (f faulty) Write(p []byte) (int, error) { return 0, f.what() }
func (f faulty) Read(p []byte) (int, error)  { return 0, f.what() }

// tooMuch says that it read more than there was room for.
type tooMuch struct{}

func (tooMuch) Read(p []byte) (int, error) { return len(p) + 1, nil }

// What was written can be executed, also while other commands are being started, whose processes have what the worker has open.
func TestWhatWasWrittenCanBeExecuted(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	writers := map[string]func(name string, data []byte) error{
		"WriteFile": func(name string, data []byte) error { return sb.WriteFile(t.Context(), name, data, 0o755) },
		"File": func(name string, data []byte) error {
			f, err := sb.OpenFile(t.Context(), name, os.O_CREATE|os.O_WRONLY, 0o755)
			if err != nil {
				return err
			}
			_, err = f.Write(data)
			return errors.Join(err, f.Close())
		},
		"Chmod": func(name string, data []byte) error {
			return errors.Join(sb.WriteFile(t.Context(), name, data, 0o644), sb.Chmod(t.Context(), name, 0o755))
		},
	}
	var group errgroup.Group
	for kind, write := range writers {
		for g := range 4 {
			group.Go(func() error {
				for i := range 100 {
					name := fmt.Sprintf("./%s-%d-%d", kind, g, i)
					if err := write(name, []byte("#!/bin/sh\n")); err != nil {
						return err
					}
					if err := sb.Command(name).Run(); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	require.NoError(t, group.Wait())
}

func TestWritersAndReadersThatFail(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sh", "-c", "echo; sleep 1000")
	cmd.Stdout = faulty{func() error { return errOwn }}
	require.ErrorIs(t, cmd.Run(), errOwn)

	cmd = sb.Command("echo", "more than nothing")
	cmd.Stdout = faulty{func() error { return nil }}
	require.ErrorIs(t, cmd.Run(), io.ErrShortWrite, "a writer that takes less than it was given, and does not say so")

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	cmd = sb.Command("echo")
	cmd.Stdout = full
	err = cmd.Run()
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, `run "echo": write its output: write /dev/full`, "not as if it were the sandbox that has no space left")

	cmd = sb.Command("sh", "-c", "setsid sleep 1000 & echo; sleep 1000")
	cmd.Stdout = faulty{func() error { return errOwn }}
	require.ErrorIs(t, cmd.Run(), errOwn, "another process holds the output open, for ever")

	cmd = sb.Command("sh", "-c", "echo; sleep 1000")
	cmd.Stdout = faulty{func() error { runtime.Goexit(); return nil }}
	require.ErrorContains(t, cmd.Run(), "Goexit")

	cmd = sb.Command("sh", "-c", "head -c 10000000 /dev/zero >&2 & sleep 0.3; echo; wait")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	cmd.Stdout = faulty{func() error {
		time.AfterFunc(100*time.Millisecond, func() { _ = stderr.Close() }) // which has a write under way
		return errOwn
	}}
	require.ErrorIs(t, cmd.Run(), errOwn, "that of the other one is not why")

	cmd = sb.Command("cat")
	cmd.Stdin = faulty{func() error { return errOwn }}
	require.ErrorIs(t, cmd.Run(), errOwn)

	cmd = sb.Command("cat")
	cmd.Stdin = faulty{func() error { runtime.Goexit(); return nil }}
	require.ErrorContains(t, cmd.Run(), "Goexit", "the command had only a part of its input")

	cmd = sb.Command("cat")
	cmd.Stdin = faulty{func() error { return fmt.Errorf("the connection was cut: %w", io.EOF) }}
	require.ErrorContains(t, cmd.Run(), "the connection was cut", "which is no end of the input")

	// An error that is not nil, but holds a nil pointer: its methods panic.
	null := faulty{func() error { var none *fs.PathError; return none }}
	cmd = sb.Command("cat")
	cmd.Stdin = null
	require.ErrorContains(t, cmd.Run(), "*fs.PathError")
	cmd = sb.Command("echo")
	cmd.Stdout = null
	require.ErrorContains(t, cmd.Run(), "*fs.PathError")

	cmd = sb.Command("cat")
	cmd.Stdin = tooMuch{}
	require.ErrorContains(t, cmd.Run(), "impossible count")

	cmd = sb.Command("true")
	block := make(chan struct{})
	defer close(block)
	cmd.Stdin = faulty{func() error { <-block; return io.EOF }}
	require.NoError(t, cmd.Run(), "a reader that blocks")
}

// Acceptance 67 and 73: the process is gone after a cancel, whatever else holds things up.
func TestACommandEndsWithItsContext(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		sb := openLocal(t, on).Sandbox()
		require.NoError(t, sb.Start(t.Context()))
		block := make(chan struct{})
		defer close(block)
		for name, change := range map[string]func(t *testing.T, cmd *sbx.Cmd){
			"plain":         func(*testing.T, *sbx.Cmd) {},
			"blocked stdin": func(_ *testing.T, cmd *sbx.Cmd) { cmd.Stdin = faulty{func() error { <-block; return io.EOF }} },
			"open stdin": func(t *testing.T, cmd *sbx.Cmd) {
				_, err := cmd.StdinPipe()
				require.NoError(t, err)
			},
			"output that nobody reads": func(t *testing.T, cmd *sbx.Cmd) {
				_, err := cmd.StderrPipe()
				require.NoError(t, err)
				cmd.Args[2] = "yes >&2 & sleep 0.3; " + cmd.Args[2] + "; wait"
			},
			"output held open": func(_ *testing.T, cmd *sbx.Cmd) {
				cmd.Stderr = io.Discard
				cmd.Args[2] += "; setsid sleep 3 & sleep 1000"
			},
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				cmd := sb.CommandContext(ctx, "sh", "-c", "sleep 1000 & echo $$")
				if !strings.Contains(name, "output") {
					cmd.Args[2] += "; sleep 1000; true"
				}
				change(t, cmd)
				stdout, err := cmd.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				var group int
				_, err = fmt.Fscanln(stdout, &group)
				require.NoError(t, err)
				assert.Equal(t, cmd.Pid, group)
				cancel()
				begin := time.Now()
				require.ErrorIs(t, cmd.Wait(), context.Canceled)
				assert.Less(t, time.Since(begin), 20*time.Second)
				err = sb.Command("sh", "-c", fmt.Sprintf("! kill -0 -- -%d", group)).Run()
				require.NoError(t, err, "the group lives")
			})
		}
	})
}

func TestAWriterThatBlocksDoesNotHoldUpCancellation(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx, cancel := context.WithCancel(t.Context())
	blocked, release := make(chan struct{}), make(chan struct{})
	cmd := sb.CommandContext(ctx, "yes")
	var once sync.Once
	cmd.Stdout = faulty{func() error { once.Do(func() { close(blocked) }); <-release; return nil }}
	require.NoError(t, cmd.Start())
	<-blocked
	cancel()
	err := cmd.Wait()
	close(release)
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, output(t, sb, "sh", "-c", "cat /proc/[0-9]*/comm"), "yes")
}

// Acceptance 67: with each step of a command's life, its context may end before or at it.
func TestContextsThatEndAtAnyTime(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, sb.CommandContext(ctx, "true").Run(), context.Canceled)
	assert.Equal(t, sbx.Unstarted, sb.Status())
	require.NoError(t, sb.Start(t.Context()))
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
		cmd := sb.CommandContext(ctx, "sleep", "1000.5")
		require.ErrorIs(t, cmd.Run(), context.DeadlineExceeded)
		cancel()
	}
	assert.NotContains(t, output(t, sb, "sh", "-c", "cat /proc/[0-9]*/cmdline"), "1000.5")
	ctx, cancel = context.WithCancel(t.Context())
	cmd := sb.CommandContext(ctx, "true")
	require.NoError(t, cmd.Start())
	require.NoError(t, sb.Command("sh", "-c", fmt.Sprintf("while kill -0 %d; do :; done", cmd.Pid)).Run())
	cancel()
	require.NoError(t, cmd.Wait(), "it had ended")
}

func TestWaitDelay(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sh", "-c", "sleep 1000 & echo mine")
	cmd.WaitDelay = 50 * time.Millisecond
	text, err := cmd.Output()
	require.ErrorIs(t, err, sbx.ErrWaitDelay)
	assert.Equal(t, "mine\n", string(text))
	assert.Equal(t, 0, cmd.Exit.Code)

	cmd = sb.Command("sh", "-c", "(sleep 0.3; echo late) & echo early")
	text, err = cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "early\nlate\n", string(text))

	cmd = sb.Command("sh", "-c", "sleep 1000 & echo mine")
	require.NoError(t, cmd.Start())
	require.NoError(t, cmd.Wait(), "nobody wants the output")
}

// Acceptance 67: the life cycle.
func TestSignalsOfACommand(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sh", "-c", "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done")
	require.ErrorContains(t, cmd.Signal(syscall.SIGUSR1), "not started")
	require.ErrorContains(t, cmd.Wait(), "not started")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.ErrorContains(t, cmd.Start(), "before")
	var word string
	_, err = fmt.Fscanln(stdout, &word)
	require.NoError(t, err)
	require.NoError(t, cmd.Signal(syscall.Signal(0)))
	require.NoError(t, sb.Command("kill", "-USR1", strconv.Itoa(cmd.Pid)).Run())
	_, err = fmt.Fscanln(stdout, &word)
	require.NoError(t, err)
	assert.Equal(t, "usr1", word)
	require.Error(t, cmd.Signal(syscall.Signal(1000)))
	require.NoError(t, cmd.Signal(os.Interrupt))
	var exit *sbx.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, syscall.SIGINT, exit.Exit.Signal)
	require.ErrorContains(t, cmd.Wait(), "before")
	require.ErrorIs(t, cmd.Signal(os.Interrupt), os.ErrProcessDone)
	require.ErrorIs(t, cmd.Kill(), os.ErrProcessDone)
	require.NoError(t, sb.Close())
	require.ErrorIs(t, cmd.Kill(), os.ErrProcessDone)
	require.Error(t, (&sbx.Cmd{Args: []string{"true"}}).Run(), "of no sandbox")
}

// Acceptance 70, and a sandbox that is lost in the middle.
func TestASandboxEndsWithCommandsInIt(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, session *sbx.Session, sb *sbx.Sandbox){
		"stop":  func(t *testing.T, _ *sbx.Session, sb *sbx.Sandbox) { require.NoError(t, sb.Stop(t.Context())) },
		"close": func(t *testing.T, session *sbx.Session, _ *sbx.Sandbox) { require.NoError(t, session.Close()) },
		"lost": func(t *testing.T, _ *sbx.Session, sb *sbx.Sandbox) {
			require.ErrorIs(t, sb.Command("sh", "-c", "kill -9 $PPID; sleep 1000").Run(), sbx.ErrNotRunning)
		},
	} {
		t.Run(name, func(t *testing.T) {
			session := openLocal(t)
			sb := session.Sandbox()
			waiting := sb.Command("cat")
			stdin, err := waiting.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, waiting.Start())
			full := sb.Command("yes")
			unread, err := full.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, full.Start())
			forgotten := sb.Command("yes")
			_, err = forgotten.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, forgotten.Start())
			written := make(chan error)
			stuck := sb.Command("sleep", "1000")
			stuckStdin, err := stuck.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, stuck.Start())
			go func() {
				_, err := stuckStdin.Write(make([]byte, 64<<20))
				written <- err
			}()
			end(t, session, sb)
			for _, cmd := range []*sbx.Cmd{waiting, full, stuck} {
				require.ErrorIs(t, cmd.Wait(), sbx.ErrNotRunning)
			}
			require.ErrorIs(t, <-written, io.ErrClosedPipe)
			_, err = stdin.Write([]byte("x"))
			require.ErrorIs(t, err, io.ErrClosedPipe)
			// Acceptance 72: a terminal error is delivered even when the bounded queue is full.
			_, err = io.Copy(io.Discard, unread)
			require.ErrorIs(t, err, sbx.ErrNotRunning)
			require.ErrorIs(t, sb.Command("true").Run(), sbx.ErrNotRunning)
		})
	}
}

// A command that nobody waits for does not keep Shutdown waiting once it has ended.
func TestACommandThatNobodyWaitsFor(t *testing.T) {
	session := openLocal(t)
	sb := session.Sandbox()
	require.NoError(t, sb.Command("true").Start())
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	require.NoError(t, session.Shutdown(ctx))
}

// The process driver knows of the worker alone.
func TestCommandsEndWithTheirSandbox(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		sb := openLocal(t, on).Sandbox()
		mark := filepath.Join(t.TempDir(), "mark") // in the command line of what is looked for
		cmd := sb.Command("sh", "-c", "sh -c 'echo on; while :; do sleep 0.01; done' $0 & wait", mark)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = io.ReadFull(stdout, make([]byte, 2))
		require.NoError(t, err)
		require.NotEmpty(t, processesWith(t, mark))
		require.NoError(t, sb.Stop(t.Context()))
		// Of a plain process's group some are the machine's process 1's to wait for.
		assert.Eventually(t, func() bool { return len(processesWith(t, mark)) == 0 }, 10*time.Second, time.Millisecond)
		require.ErrorIs(t, cmd.Wait(), sbx.ErrNotRunning)
	})
}

// processesWith finds the machine's processes with a text in their command lines.
func processesWith(t *testing.T, text string) (found []string) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && strings.Contains(string(line), text) {
			found = append(found, path)
		}
	}
	return found
}

func TestACommandWithoutATerminalHasNoSize(t *testing.T) {
	cmd := openLocal(t).Sandbox().Command("sleep", "60")
	require.NoError(t, cmd.Start())
	assert.ErrorContains(t, cmd.Resize(sbx.Terminal{Rows: 1, Columns: 1}), `run "sleep": the command has no terminal`)
	require.NoError(t, cmd.Kill())
	require.Error(t, cmd.Wait())
}
