//go:build linux

package sbx_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openLocal opens a session of local sandboxes, which the test's end closes.
func openLocal(t *testing.T, opts ...sbx.OpenOption) *sbx.Session {
	session, err := sbx.Open(t.Context(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return session
}

func TestASandboxStartsWhenItIsUsed(t *testing.T) {
	session := openLocal(t, sbx.Tags("a"))
	sb := session.Sandbox(sbx.Tags("b"), sbx.Env("GREETING", "hello"))
	assert.Equal(t, sbx.Unstarted, sb.Status())
	assert.Empty(t, sb.ID())
	assert.Equal(t, 1, session.SandboxCount())
	assert.Equal(t, []string{"a", "b"}, sb.Tags())

	output, err := sb.Command("sh", "-c", "echo $GREETING $(pwd) $HOME; echo oops >&2").Output()
	require.NoError(t, err)
	assert.Equal(t, "hello /work /work\n", string(output))
	assert.Equal(t, sbx.Running, sb.Status())
	assert.NotEmpty(t, sb.ID())

	require.NoError(t, sb.Stop(t.Context()))
	require.NoError(t, sb.Stop(t.Context()), "again")
	assert.Equal(t, sbx.Stopped, sb.Status())
	require.NoError(t, sb.Wait(t.Context()))
	assert.Zero(t, session.SandboxCount())
	err = sb.Command("true").Run()
	require.ErrorIs(t, err, sbx.ErrNotRunning)
}

func TestCommandsEndAsTheyDo(t *testing.T) {
	sb := openLocal(t).Sandbox()
	err := sb.Command("sh", "-c", "echo why >&2; exit 7").Run()
	var exit *sbx.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 7, exit.Exit.Code)
	_, err = sb.Command("sh", "-c", "echo why >&2; kill -TERM $$").Output()
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, syscall.SIGTERM, exit.Exit.Signal)
	assert.Equal(t, "why\n", string(exit.Stderr))

	both, err := sb.Command("sh", "-c", "for i in 1 2 3; do echo $i; echo e$i >&2; done").CombinedOutput()
	require.NoError(t, err)
	assert.Equal(t, "1\ne1\n2\ne2\n3\ne3\n", string(both))

	cat := sb.Command("cat")
	cat.Stdin = strings.NewReader(strings.Repeat("0123456789", 100_000))
	output, err := cat.Output()
	require.NoError(t, err)
	assert.Len(t, output, 1_000_000)

	err = sb.Command("no-such-program").Run()
	require.ErrorContains(t, err, "no-such-program")
	missing := sb.Command("true")
	missing.Dir = "/nowhere"
	require.ErrorContains(t, missing.Run(), "/nowhere")
}

func TestACommandIsKilledWithItsGroup(t *testing.T) {
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := sb.CommandContext(ctx, "sh", "-c", "sleep 1000 & sleep 1000; true").Run()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(begin), 30*time.Second)
	output, err := sb.Command("sh", "-c", "ls /proc | grep -c '^[0-9]'; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done").Output()
	require.NoError(t, err)
	assert.NotContains(t, string(output), "sleep 1000")
}

func TestPipesOfACommand(t *testing.T) {
	sb := openLocal(t).Sandbox()
	cmd := sb.Command("sh", "-c", "while read line; do echo got $line; done; echo end >&2")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	for _, word := range []string{"one", "two"} {
		_, err = io.WriteString(stdin, word+"\n")
		require.NoError(t, err)
		answer := make([]byte, len("got \n")+len(word))
		_, err = io.ReadFull(stdout, answer)
		require.NoError(t, err)
		assert.Equal(t, "got "+word+"\n", string(answer))
	}
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	assert.Equal(t, "end\n", stderr.String())
	_, err = stdin.Write([]byte("more"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestFunctionsRunInAGivenSandbox(t *testing.T) {
	session := openLocal(t)
	sb := session.Sandbox()
	double := session.Function(Double).In(sb)
	result, err := double.Call(t.Context(), 21)
	require.NoError(t, err)
	assert.Equal(t, 42, result)
	assert.Equal(t, 1, session.SandboxCount())
	results, err := double.MapSlice(t.Context(), []int{1, 2, 3})
	require.NoError(t, err)
	assert.Equal(t, []int{2, 4, 6}, results)
	require.NoError(t, sb.Stop(t.Context()))
	_, err = double.Call(t.Context(), 21)
	require.ErrorIs(t, err, sbx.ErrNotRunning)
	assert.NotErrorIs(t, err, sbx.ErrClosed)
}

func TestSandboxesAreFoundAndAdopted(t *testing.T) {
	first, second := openLocal(t), openLocal(t)
	sb := first.Sandbox(sbx.Tags("orphan"))
	require.ErrorContains(t, second.Adopt(sb), "unstarted")
	require.NoError(t, sb.Start(t.Context()))
	found, err := second.List(t.Context(), "orphan")
	require.NoError(t, err)
	require.Equal(t, []*sbx.Sandbox{sb}, found)
	assert.Zero(t, second.SandboxCount())
	again, err := second.FromID(t.Context(), sb.ID())
	require.NoError(t, err)
	assert.Same(t, sb, again)
	assert.Equal(t, 1, second.SandboxCount())
	require.NoError(t, second.Close())
	assert.Equal(t, sbx.Stopped, sb.Status())
	assert.Zero(t, first.SandboxCount())
	require.ErrorIs(t, second.Adopt(sb), sbx.ErrClosed)
	require.ErrorIs(t, first.Adopt(sb), sbx.ErrNotRunning)
}

func TestRunIsASandboxOfItsOwn(t *testing.T) {
	sb, err := sbx.Run(t.Context(), sbx.Env("A", "b"))
	require.NoError(t, err)
	output, err := sb.Command("sh", "-c", "echo $A").Output()
	require.NoError(t, err)
	assert.Equal(t, "b\n", string(output))
	require.NoError(t, sb.Close())
	require.NoError(t, sb.Close())
	assert.Equal(t, sbx.Stopped, sb.Status())
}
