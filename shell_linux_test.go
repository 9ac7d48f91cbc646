package sbx

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// shellTest is a Shell on a terminal of the test's own.
type shellTest struct {
	master *os.File
	slave  *os.File
	lines  *bufio.Reader
	ended  chan error
	before *unix.Termios
}

func termios(t *testing.T, file *os.File) *unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return state
}

func startShell(ctx context.Context, t *testing.T, sb *Sandbox, name string, args ...string) *shellTest {
	t.Helper()
	master, slave, err := pty.Open()
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, slave.Close())
		assert.NoError(t, master.Close())
	})
	require.NoError(t, pty.Setsize(master, &pty.Winsize{Rows: 20, Cols: 90}))
	s := &shellTest{master: master, slave: slave, lines: bufio.NewReader(master), ended: make(chan error, 1), before: termios(t, slave)}
	go func() { s.ended <- sb.shell(ctx, slave, slave, name, args...) }()
	return s
}

// await reads lines up to one that ends as text does.
func (s *shellTest) await(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := s.lines.ReadString('\n')
		require.NoError(t, err, "before %q", text)
		if strings.HasSuffix(strings.TrimRight(line, "\r\n"), text) {
			return
		}
	}
}

func (s *shellTest) keys(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(s.master, text)
	require.NoError(t, err)
}

func shellSandbox(t *testing.T) *Sandbox {
	session, err := Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return session.Sandbox()
}

// Acceptance 71.
func TestShell(t *testing.T) {
	sb := shellSandbox(t)
	t.Setenv("TERM", "dumb-as-can-be")
	s := startShell(t.Context(), t, sb, "")
	s.keys(t, "stty size; echo $TERM-here\n")
	s.await(t, "20 90")
	s.await(t, "dumb-as-can-be-here")
	require.NotEqual(t, s.before, termios(t, s.slave), "raw")

	require.NoError(t, pty.Setsize(s.master, &pty.Winsize{Rows: 7, Cols: 70}))
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGWINCH)) // as the system does for a program's own terminal
	s.keys(t, "while [ \"$(stty size)\" != '7 70' ]; do :; done; echo re''sized\n")
	s.await(t, "resized")

	// A shell in which this program was stopped, and goes on, has had the terminal meanwhile.
	isRaw := termios(t, s.slave)
	require.NoError(t, unix.IoctlSetTermios(int(s.slave.Fd()), unix.TCSETS, s.before))
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGCONT))
	require.Eventually(t, func() bool { return *termios(t, s.slave) == *isRaw }, 10*time.Second, time.Millisecond)

	s.keys(t, "sh -c 'trap \"exit 3\" INT; echo sta\"\"rted; while :; do sleep 0.01; done'; echo inter''rupted $?\n")
	s.await(t, "started")
	s.keys(t, "\x03") // Ctrl-C is for what runs in the shell, not for this program
	s.await(t, "interrupted 3")
	s.keys(t, "exit 9\n")
	var exit *ExitError
	require.ErrorAs(t, <-s.ended, &exit)
	assert.Equal(t, 9, exit.Exit.Code)
	assert.Equal(t, s.before, termios(t, s.slave), "restored")

	// What is typed afterwards is not Shell's.
	s.keys(t, "next\n")
	line, err := bufio.NewReader(s.slave).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "next\n", line)
}

func TestShellEndsOtherwise(t *testing.T) {
	sb := shellSandbox(t)
	for name, test := range map[string]struct {
		end  func(t *testing.T, cancel context.CancelFunc)
		want string
	}{
		"context": {func(_ *testing.T, cancel context.CancelFunc) { cancel() }, "context canceled"},
		"signal": {func(t *testing.T, _ context.CancelFunc) {
			require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
		}, "got a signal: terminated"},
	} {
		t.Run(name, func(t *testing.T) { shellEnds(t, sb, test.end, test.want) })
	}
	t.Run("sandbox", func(t *testing.T) {
		shellEnds(t, sb, func(t *testing.T, _ context.CancelFunc) { require.NoError(t, sb.Stop(t.Context())) }, "does not run any more")
	})
}

func shellEnds(t *testing.T, sb *Sandbox, end func(t *testing.T, cancel context.CancelFunc), want string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := startShell(ctx, t, sb, "sh", "-c", "echo ready; exec sleep 1000")
	s.await(t, "ready")
	end(t, cancel)
	require.ErrorContains(t, <-s.ended, want)
	assert.Equal(t, s.before, termios(t, s.slave), "restored")
}

func TestShellThatDoesNotBegin(t *testing.T) {
	sb := shellSandbox(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() {
		assert.NoError(t, r.Close())
		assert.NoError(t, w.Close())
	}()
	require.ErrorContains(t, sb.shell(t.Context(), r, w, ""), "needs a terminal")
	s := startShell(t.Context(), t, sb, "no-such-shell")
	require.ErrorContains(t, <-s.ended, "no-such-shell")
	assert.Equal(t, s.before, termios(t, s.slave), "restored")
}
