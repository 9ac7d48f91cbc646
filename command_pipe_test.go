//go:build linux

package sbx_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	random "math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// As with os/exec, of a command's outputs one that nobody takes does not hold up the other.
func TestOneOutputDoesNotHoldUpTheOther(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		sb := openLocal(t, on).Sandbox()
		for name, script := range map[string]string{
			"stdout": "head -c 10000000 /dev/zero >&2 & sleep 0.3; echo line; wait",
			"stderr": "head -c 10000000 /dev/zero & sleep 0.3; echo line >&2; wait",
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), long)
				defer cancel()
				// More than all buffers hold goes one way, and then a line the other.
				cmd := sb.CommandContext(ctx, "sh", "-c", script)
				stdout, err := cmd.StdoutPipe()
				require.NoError(t, err)
				stderr, err := cmd.StderrPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				quiet, flooded := stdout, stderr
				if name == "stderr" {
					quiet, flooded = stderr, stdout
				}
				line, err := bufio.NewReader(quiet).ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, "line\n", line)
				n, err := io.Copy(io.Discard, flooded)
				require.NoError(t, err)
				assert.EqualValues(t, 10_000_000, n)
				require.NoError(t, cmd.Wait())
			})
		}
	})
}

// Nor one that goes to memory.
func TestAPipeDoesNotHoldUpMemory(t *testing.T) {
	sb := openLocal(t).Sandbox()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	cmd := sb.CommandContext(ctx, "sh", "-c", "head -c 10000000 /dev/zero >&2 & sleep 0.3; head -c 3000000 /dev/zero; touch done; wait")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := sb.Stat(ctx, "done")
		return err == nil
	}, long/2, 10*time.Millisecond)
	n, err := io.Copy(io.Discard, stderr)
	require.NoError(t, err)
	assert.EqualValues(t, 10_000_000, n)
	require.NoError(t, cmd.Wait())
	assert.Equal(t, 3_000_000, stdout.Len())
}

// A program that reads its own pipes one after the other works as with os/exec.
func TestWritersThatWaitForEachOther(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sh", "-c", "echo first >&2; sleep 0.1; echo second; exit 3")
	stdout, toStdout := io.Pipe()
	stderr, toStderr := io.Pipe()
	cmd.Stdout, cmd.Stderr = toStdout, toStderr
	require.NoError(t, cmd.Start())
	for _, next := range []struct {
		reader io.Reader
		want   string
	}{{stdout, "second\n"}, {stderr, "first\n"}} {
		text := make([]byte, len(next.want))
		_, err := io.ReadFull(next.reader, text)
		require.NoError(t, err)
		assert.Equal(t, next.want, string(text))
	}
	var exit *sbx.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, 3, exit.Exit.Code)
}

// Acceptance 69.
func TestStdinPipe(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sha256sum")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	hash, data := sha256.New(), make([]byte, 100_000)
	_, _ = random.NewChaCha8([32]byte{2}).Read(data)
	wrote := make(chan error)
	go func() { // before Start, as programs do that use os/exec
		var err error
		for i := 1; i < len(data) && err == nil; i *= 3 {
			hash.Write(data[:i])
			_, err = stdin.Write(data[:i])
		}
		wrote <- errors.Join(err, stdin.Close(), stdin.Close())
	}()
	text, err := cmd.Output()
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	assert.Equal(t, fmt.Sprintf("%x  -\n", hash.Sum(nil)), string(text))

	closed := sb.Command("cat")
	stdin, err = closed.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, stdin.Close(), "before Start")
	require.NoError(t, closed.Run())

	failing := sb.Command("no-such-command")
	stdin, err = failing.StdinPipe()
	require.NoError(t, err)
	stdout, err := failing.StdoutPipe()
	require.NoError(t, err)
	require.Error(t, failing.Run())
	_, err = stdin.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = stdout.Read(make([]byte, 1))
	require.ErrorContains(t, err, "no-such-command")
}

// The stream to the sandbox takes a piece more for a moment after the command's end, and nobody would read it.
func TestStdinPipeTakesNothingAfterWait(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for range 100 {
		cmd := sb.Command("true")
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Run())
		_, err = stdin.Write([]byte("late"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	}
}

func TestStdinPipeCloseDoesNotWait(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Command("mkfifo", "fifo").Run())
	cmd := sb.Command("sh", "-c", "read line <fifo; wc -c")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	written := make(chan int)
	go func() {
		n, _ := stdin.Write(make([]byte, 8<<20)) // more than fits on the way
		written <- n
	}()
	for { // until the write is under way
		if blocked := strings.Contains(stacks(), "(*stdinPipe).Write"); blocked {
			break
		}
		runtime.Gosched()
	}
	require.NoError(t, stdin.Close())
	require.NoError(t, sb.Command("sh", "-c", "echo go >fifo").Run())
	require.NoError(t, cmd.Wait())
	assert.Equal(t, fmt.Sprintf("%d\n", <-written), stdout.String(), "what was written before arrives")
}

func stacks() string {
	buffer := make([]byte, 1<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}

func TestAPipeThatIsClosedEarly(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("yes")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(stdout, make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, stdout.Close())
	var exit *sbx.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	assert.Equal(t, syscall.SIGKILL, exit.Exit.Signal)

	cmd = sb.Command("sh", "-c", "echo whole; exit 0")
	stdout, err = cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Run())
	text, err := io.ReadAll(stdout)
	require.NoError(t, err)
	assert.Equal(t, "whole\n", string(text), "after Wait")
}

// What a command had written before it was killed waits for its reader, and Wait does not.
func TestAPipeOfAKilledCommand(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for name, terminal := range map[string]*sbx.Terminal{"pipes": nil, "terminal": {Rows: 24, Columns: 80}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := sb.CommandContext(ctx, "yes")
			cmd.Terminal = terminal
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			// It is blocked when its processor time stands still for a while, with every buffer full.
			used := func() string {
				stat, err := sb.ReadFile(ctx, fmt.Sprintf("/proc/%d/stat", cmd.Pid))
				require.NoError(t, err)
				return strings.Join(strings.Fields(string(stat))[13:15], " ")
			}
			for before, same := "", 0; same < 5; time.Sleep(100 * time.Millisecond) {
				now := used()
				if same++; now != before {
					before, same = now, 0
				}
			}
			require.NoError(t, cmd.Kill())
			var exit *sbx.ExitError
			require.ErrorAs(t, cmd.Wait(), &exit)
			assert.Equal(t, syscall.SIGKILL, exit.Exit.Signal)
			require.NoError(t, ctx.Err(), "it was not the context that ended it")
			text, err := io.ReadAll(stdout)
			require.NoError(t, err)
			assert.Greater(t, len(text), 256<<10)
			assert.Empty(t, strings.Trim(string(text), "y\r\n"))
		})
	}
}

// A pipe that ends because the command's context has ended, and nobody took the other output, says so, as Wait does.
func TestAPipeEndsWithTheErrorOfWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := openLocal(t).Sandbox().CommandContext(ctx, "sh", "-c", "echo line; yes >&2")
	cmd.WaitDelay = 100 * time.Millisecond
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "line\n", line)
	time.Sleep(time.Second) // by which standard error has more than is kept
	cancel()
	_, readErr := io.ReadAll(stdout)
	waitErr := cmd.Wait()
	for _, err := range []error{readErr, waitErr} {
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, sbx.ErrWaitDelay)
	}
	assert.Equal(t, waitErr.Error(), readErr.Error())
}

// How a command ended is known also where other processes hold its output open, for which worker and session wait equally long.
func TestHowAKilledCommandEndedWhoseOutputIsHeld(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cmd := sb.CommandContext(ctx, "sh", "-c", "(setsid sleep 3 &); echo line; exec sleep 1000")
		cmd.WaitDelay = 10 * time.Millisecond
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line := make([]byte, 5)
		_, err = io.ReadFull(stdout, line)
		require.NoError(t, err)
		cancel()
		rest, err := io.ReadAll(stdout)
		require.NoError(t, err)
		assert.Empty(t, rest)
		err = cmd.Wait()
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, sbx.ErrWaitDelay)
		require.NotNil(t, cmd.Exit)
		assert.Equal(t, syscall.SIGKILL, cmd.Exit.Signal)
	}
}

// Careless: what is set after a pipe was asked for takes its place, and whoever uses the pipe loses bytes or waits.
func TestAPipeAndAFieldAreOneTooMany(t *testing.T) {
	sb := openLocal(t).Sandbox()
	var option *sbx.OptionError
	cmd := sb.Command("cat")
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	cmd.Stdin = strings.NewReader("both")
	require.ErrorAs(t, cmd.Run(), &option)
	assert.Equal(t, "Cmd.Stdin", option.Option)

	cmd = sb.Command("echo", "hello")
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stdout = &strings.Builder{}
	require.ErrorAs(t, cmd.Run(), &option)
	_, err = io.ReadAll(pipe)
	require.ErrorAs(t, err, &option, "who reads learns of it, too")

	cmd = sb.Command("sh", "-c", "echo one; echo two >&2")
	pipe, err = cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout // both through one pipe
	require.NoError(t, cmd.Run())
	text, err := io.ReadAll(pipe)
	require.NoError(t, err)
	assert.Equal(t, "one\ntwo\n", string(text))
}

// What has the pipes of a command that did not start was told so: another Start is refused, and does not panic.
func TestACommandWithPipesIsStartedOnce(t *testing.T) {
	sb := openLocal(t).Sandbox()
	for name, spoil := range map[string]func(*sbx.Cmd){
		"no program": func(c *sbx.Cmd) { c.Args[0] = "nothing-of-that-name" },
		"a field":    func(c *sbx.Cmd) { c.WaitDelay = -1 },
		"nothing":    func(*sbx.Cmd) {},
	} {
		c := sb.Command("cat")
		in, err := c.StdinPipe()
		require.NoError(t, err)
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		spoil(c)
		first := c.Start()
		assert.Equal(t, name == "nothing", first == nil, name)
		c.Args[0], c.WaitDelay = "cat", 0
		require.ErrorContains(t, c.Start(), "was started before", name)
		_, err = in.Write([]byte("input"))
		if first != nil {
			require.ErrorIs(t, err, io.ErrClosedPipe, name)
			_, err = io.ReadAll(out)
			require.EqualError(t, err, first.Error(), name)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, in.Close())
		data, err := io.ReadAll(out)
		require.NoError(t, err)
		assert.Equal(t, "input", string(data))
		require.NoError(t, c.Wait())
	}

	// Without pipes the fields can be mended.
	c := sb.Command("true")
	c.WaitDelay = -1
	require.Error(t, c.Start())
	c.WaitDelay = 0
	require.NoError(t, c.Run())
}
