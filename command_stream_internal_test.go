//go:build unix

package sbx

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver/process"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever became of the commands before it on a stream, a command has its own output and its own end.
func TestCommandsShareStreams(t *testing.T) {
	session, err := Open(t.Context(), Driver(process.New()))
	require.NoError(t, err)
	defer func() { assert.NoError(t, session.Close()) }()
	sb := session.Sandbox()
	running, err := sb.started(t.Context())
	require.NoError(t, err)
	idle := func() int {
		running.mu.Lock()
		defer running.mu.Unlock()
		return len(running.streams)
	}
	echo := func(ctx context.Context, n int) {
		cmd := sb.CommandContext(ctx, "sh", "-c", "echo $0; exit $0", strconv.Itoa(n))
		var output strings.Builder
		cmd.Stdout = &output
		var exit *ExitError
		if err := cmd.Run(); n == 0 {
			assert.NoError(t, err)
		} else if assert.ErrorAs(t, err, &exit) {
			assert.Equal(t, n, exit.Exit.Code)
		}
		assert.Equal(t, strconv.Itoa(n)+"\n", output.String())
	}
	for n := range 50 {
		echo(t.Context(), n)
		require.Equal(t, 1, idle(), "one after another on one stream")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, sb.CommandContext(ctx, "sleep", "60").Run(), context.DeadlineExceeded)
	echo(t.Context(), 1)

	input := sb.Command("cat")
	input.Stdin = strings.NewReader("input")
	output, err := input.Output()
	require.NoError(t, err)
	assert.Equal(t, "input", string(output))
	terminal := sb.Command("sh", "-c", "tty >/dev/null && echo yes")
	terminal.Terminal = &Terminal{Rows: 10, Columns: 10}
	output, err = terminal.Output()
	require.NoError(t, err)
	assert.Equal(t, "yes\r\n", string(output))
	assert.Zero(t, idle(), "whose commands took input are of no more use")
	require.Error(t, sb.Command("/no/such/command").Run())
	echo(t.Context(), 2)

	var commands sync.WaitGroup
	for n := range 3 * maxIdleStreams {
		commands.Go(func() { echo(t.Context(), n) })
	}
	commands.Wait()
	assert.LessOrEqual(t, idle(), maxIdleStreams)
}
