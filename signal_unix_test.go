//go:build unix

package sbx_test

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
	"strings"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// signalVariable says to a test binary that it is the program of a test of signals, and which.
const signalVariable = "SBX_TEST_SIGNALS"

var errOwn = errors.New("the test's own")

// closing is a driver that tells when its sessions are closed.
type closing struct {
	driver.Driver
	close func() error
}

func (c closing) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := c.Driver.Open(ctx, spec)
	return closingSession{session, c.close}, err
}

type closingSession struct {
	driver.Session
	close func() error
}

func (s closingSession) Close(ctx context.Context) error {
	return errors.Join(s.close(), s.Session.Close(ctx))
}

// TestProgramOfSignals is no test: it is the program of those below.
func TestProgramOfSignals(t *testing.T) {
	what := os.Getenv(signalVariable)
	if what == "" {
		t.Skip("not on its own")
	}
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelError}))
	open := func(name string, end func() error) *sbx.Session {
		session, err := sbx.Open(t.Context(), sbx.Logger(logger), sbx.Driver(closing{inprocess.New(nil), func() error {
			fmt.Println("closes", name)
			return end()
		}}))
		require.NoError(t, err)
		require.NoError(t, session.Sandbox().Start(t.Context()))
		return session
	}
	fine := func() error { return nil }
	switch what {
	case "close":
		second, called := make(chan struct{}), make(chan struct{})
		go func() { // off the main goroutine
			defer close(called)
			sbx.CloseOnSignal(open("one", func() error { <-second; return nil }), nil)
		}()
		<-called
		stop := sbx.CloseOnSignal(open("failing", func() error { return errOwn }))
		defer stop()
		sbx.CloseOnSignal(open("two", func() error { close(second); return nil })) // one waits for it: they close together
	case "block":
		sbx.CloseOnSignal(open("blocking", func() error { select {} }))
	case "stop":
		sessions := open("one", fine)
		stop := sbx.CloseOnSignal(sessions)
		sbx.CloseOnSignal(sessions)()
		stop()
		stop()
		sbx.CloseOnSignal(open("other", fine))()
	case "again":
		sbx.CloseOnSignal(open("not", fine))()
		sessions := []*sbx.Session{open("one", fine)}
		sbx.CloseOnSignal(sessions...)
		sessions[0] = nil // which is the program's own
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
		sbx.CloseOnSignal(open("one", fine))
	case "nothing":
		open("one", fine)
	}
	fmt.Println("ready")
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		fmt.Println(words.Text())
	}
	select {}
}

// program is a program that waits for signals.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.Writer
	stdout *bufio.Reader
	read   strings.Builder
}

func startProgram(t *testing.T, what string, around ...string) *program {
	t.Helper()
	args := append(around, os.Args[0], "-test.run=^TestProgramOfSignals$")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), signalVariable+"="+what)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	p := &program{t: t, cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	p.await("ready")
	return p
}

func (p *program) await(line string) {
	p.t.Helper()
	for {
		text, err := p.stdout.ReadString('\n')
		p.read.WriteString(text)
		require.NoError(p.t, err, p.read.String())
		if text == line+"\n" {
			return
		}
	}
}

// ends sends a signal and returns how the program ended, and all that it printed.
func (p *program) ends(s syscall.Signal) (how, printed string) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
	rest, err := io.ReadAll(p.stdout)
	require.NoError(p.t, err)
	err = p.cmd.Wait()
	require.Error(p.t, err)
	return err.Error(), p.read.String() + string(rest)
}

// Acceptance 27 to 29.
func TestCloseOnSignal(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		how, printed := startProgram(t, "close").ends(s)
		assert.Equal(t, "signal: "+s.String(), how)
		for _, want := range []string{"closes one", "closes two", "closes failing", "level=ERROR", errOwn.Error()} {
			assert.Equal(t, 1, strings.Count(printed, want), "%s in %s", want, printed)
		}
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	p := startProgram(t, "block")
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	p.await("closes blocking")
	how, printed := p.ends(syscall.SIGTERM)
	assert.Equal(t, "signal: terminated", how)
	assert.NotContains(t, printed, "level=ERROR")
}

func TestASessionThatDoesNotClose(t *testing.T) {
	if testing.Short() {
		t.Skip("takes fifteen seconds")
	}
	how, printed := startProgram(t, "block").ends(syscall.SIGINT)
	assert.Equal(t, "signal: interrupt", how)
	assert.Contains(t, printed, "deadline exceeded")
}

func TestCloseOnSignalIsOptIn(t *testing.T) {
	for _, what := range []string{"nothing", "stop"} {
		how, printed := startProgram(t, what).ends(syscall.SIGTERM)
		assert.Equal(t, "signal: terminated", how)
		assert.NotContains(t, printed, "closes", what)
	}
	_, printed := startProgram(t, "again").ends(syscall.SIGTERM)
	assert.Contains(t, printed, "closes one")
	assert.NotContains(t, printed, "closes not")
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	ignored := func(p *program, s syscall.Signal) {
		require.NoError(t, p.cmd.Process.Signal(s))
		_, err := fmt.Fprintln(p.stdin, "lives")
		require.NoError(t, err)
		p.await("lives")
		assert.NotContains(t, p.read.String(), "closes")
	}
	p := startProgram(t, "close", "sh", "-c", `trap "" INT; exec "$0" "$@"`) // a background job of a script
	ignored(p, syscall.SIGINT)
	how, printed := p.ends(syscall.SIGTERM)
	assert.Equal(t, "signal: terminated", how)
	assert.Contains(t, printed, "closes one")

	p = startProgram(t, "ignore")
	ignored(p, syscall.SIGTERM)
	how, printed = p.ends(syscall.SIGINT)
	assert.Equal(t, "signal: interrupt", how)
	assert.Contains(t, printed, "closes one")
}
