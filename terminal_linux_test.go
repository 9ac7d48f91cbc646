package sbx_test

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// terminal starts a command with a terminal of 10 rows and 40 columns.
func terminal(t *testing.T, sb *sbx.Sandbox, script string) (cmd *sbx.Cmd, stdin io.WriteCloser, line func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)
	cmd = sb.CommandContext(ctx, "sh", "-c", script)
	cmd.Terminal = &sbx.Terminal{Rows: 10, Columns: 40}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(stdout)
	return cmd, stdin, func() string {
		text, err := lines.ReadString('\n')
		if err != nil && text == "" {
			return err.Error()
		}
		return strings.TrimRight(text, "\r\n")
	}
}

func send(t *testing.T, to io.Writer, text string) {
	t.Helper()
	_, err := io.WriteString(to, text)
	require.NoError(t, err)
}

// Acceptance 71.
func TestTerminals(t *testing.T) {
	apart(t, func(t *testing.T, on sbx.OpenOption) {
		sb := openLocal(t, on).Sandbox()
		t.Run("resize", func(t *testing.T) {
			cmd, stdin, line := terminal(t, sb, "stty -echo; trap 'stty size' WINCH; test -t 2 && stty size; while ! read x; do :; done")
			assert.Equal(t, "10 40", line())
			require.NoError(t, cmd.Resize(sbx.Terminal{Rows: 33, Columns: 44}))
			assert.Equal(t, "33 44", line())
			send(t, stdin, "done\n")
			require.NoError(t, cmd.Wait())
		})
		t.Run("interrupt", func(t *testing.T) {
			cmd, stdin, line := terminal(t, sb, "stty -echo; trap 'echo shell; exit 7' INT; sh -c 'trap \"echo child; exit 1\" INT; echo ready; while :; do sleep 0.01; done'")
			assert.Equal(t, "ready", line())
			send(t, stdin, "\x03")
			got := []string{strings.TrimPrefix(line(), "^C"), line()}
			assert.Equal(t, []string{"child", "shell"}, got, "the whole foreground group")
			var exit *sbx.ExitError
			require.ErrorAs(t, cmd.Wait(), &exit)
			assert.Equal(t, 7, exit.Exit.Code)
		})
		t.Run("end of input", func(t *testing.T) {
			for _, text := range []string{"", "whole\n", "half"} {
				cmd, stdin, line := terminal(t, sb, "stty -echo; echo ready; wc -c")
				assert.Equal(t, "ready", line())
				send(t, stdin, text)
				require.NoError(t, stdin.Close())
				assert.Equal(t, map[string]string{"": "0", "whole\n": "6", "half": "4"}[text], line())
				require.NoError(t, cmd.Wait())
			}
		})
		t.Run("closed and opened again", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), long)
			defer cancel()
			cmd := sb.CommandContext(ctx, "sh", "-c", "stty -opost; exec </dev/null >/dev/null 2>&1; sleep 0.1; seq 5000 >/dev/tty")
			cmd.Terminal = &sbx.Terminal{}
			output, err := cmd.Output()
			require.NoError(t, err)
			assert.Equal(t, 5000, strings.Count(string(output), "\n"))
		})
		t.Run("held open", func(t *testing.T) {
			cmd, _, line := terminal(t, sb, "trap '' HUP; stty -echo; (trap '' HUP; exec sleep 1000) & echo $!")
			assert.NotEmpty(t, line())
			ctx, cancel := context.WithCancel(t.Context())
			other := sb.CommandContext(ctx, "sh", "-c", "trap '' HUP; setsid sleep 1000 & echo on; sleep 1000")
			other.Terminal = &sbx.Terminal{}
			stdout, err := other.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, other.Start())
			_, err = io.ReadFull(stdout, make([]byte, 2))
			require.NoError(t, err)
			cancel()
			require.ErrorIs(t, other.Wait(), context.Canceled, "the reading of a terminal can be ended")
			require.NoError(t, cmd.Kill())
			require.NoError(t, cmd.Wait())
		})
		t.Run("none", func(t *testing.T) {
			cmd := sb.Command("cat")
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			require.ErrorContains(t, cmd.Resize(sbx.Terminal{Rows: 1, Columns: 1}), "no terminal")
			require.NoError(t, stdin.Close())
			require.NoError(t, cmd.Wait())
			cmd = sb.Command("true")
			cmd.Terminal, cmd.Stderr = &sbx.Terminal{}, io.Discard
			require.ErrorContains(t, cmd.Run(), "one output")
		})
	})
}
