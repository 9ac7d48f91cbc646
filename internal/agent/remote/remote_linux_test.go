package remote_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/internal/agent/remote"
)

// roleVariable makes this test binary a worker of the tests.
const roleVariable = "SBX_TEST_ROLE"

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleVariable); ok {
		work(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// work is a worker. It answers on its connections what it reads there, in capitals, until the first one ends.
func work(role string) {
	conn, handshake := os.NewFile(driver.ConnFD, "conn"), os.NewFile(driver.HandshakeFD, "handshake")
	fmt.Fprintln(handshake, "ready", strings.Join(os.Environ(), " "))
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	switch role {
	case "exit":
		os.Exit(7)
	case "orphan":
		cmd := exec.Command("/bin/sleep", "3600")
		cmd.Stdout = os.Stdout
		_ = cmd.Start()
		os.Exit(0)
	case "limits":
		for _, limit := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC, unix.RLIMIT_CORE} {
			var l unix.Rlimit
			_ = unix.Getrlimit(limit, &l)
			fmt.Println(l.Cur, l.Max)
		}
		os.Exit(0)
	case "signal":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	go answer(os.NewFile(driver.DirectFD, "direct"))
	answer(conn)
}

func answer(conn io.ReadWriter) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		fmt.Fprintln(conn, strings.ToUpper(lines.Text()))
	}
}

var errLost = errors.New("nobody knows")

func lost(context.Context) (driver.Exit, error) { return driver.Exit{}, errLost }

// ways are how an agent is reached. Each starts one and returns it with its process.
var ways = map[string]func(t *testing.T) (*remote.Agent, *exec.Cmd){"socket": bySocket, "stream": byStream, "connection": byConnection}

func each(t *testing.T, run func(t *testing.T, a *remote.Agent, process *exec.Cmd)) {
	for name, start := range ways {
		t.Run(name, func(t *testing.T) {
			a, process := start(t)
			t.Cleanup(func() {
				_ = a.Close()
				_ = process.Wait()
			})
			run(t, a, process)
		})
	}
}

func command(t *testing.T, boot agent.Boot) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{agent.Variable + "=" + boot.Encode()}
	cmd.Stderr = t.Output()
	return cmd
}

func listen(t *testing.T) (*net.UnixListener, string) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	return listener, path
}

func bySocket(t *testing.T) (*remote.Agent, *exec.Cmd) {
	listener, path := listen(t)
	cmd := command(t, agent.Boot{Token: "secret", Socket: path})
	require.NoError(t, cmd.Start())
	a, err := remote.Accept(t.Context(), listener, "secret")
	require.NoError(t, err)
	return a, cmd
}

func byConnection(t *testing.T) (*remote.Agent, *exec.Cmd) {
	own, cmd, address, key := listening(t)
	conn, err := (&tls.Dialer{Config: own.TLS(key)}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	a, err := remote.Over(t.Context(), conn, "public")
	require.NoError(t, err)
	return a, cmd
}

// listening starts an agent that waits for the identity that it returns, and says where and what the agent's key is.
func listening(t *testing.T) (own agent.Identity, cmd *exec.Cmd, address, key string) {
	own, err := agent.NewIdentity()
	require.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = free.Addr().String()
	require.NoError(t, free.Close())
	cmd = command(t, agent.Boot{Token: "public", Listen: &agent.Listen{Port: free.Addr().(*net.TCPAddr).Port, Client: own.Key}})
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	key, ok := strings.CutPrefix(strings.TrimSpace(line), agent.ListensPrefix)
	require.True(t, ok, line)
	return own, cmd, address, key
}

func TestOnlyTheDriverIsLetIn(t *testing.T) {
	own, cmd, address, key := listening(t)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	stranger, err := agent.NewIdentity()
	require.NoError(t, err)
	// A client learns that its certificate was refused when it reads.
	conn, err := (&tls.Dialer{Config: stranger.TLS(key)}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	_, err = remote.Over(t.Context(), conn, "public")
	require.Error(t, err, "a stranger")
	conn, err = (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	_, err = remote.Over(t.Context(), conn, "public")
	require.Error(t, err, "somebody without a key")
	idle, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = idle.Close() })
	_, err = (&tls.Dialer{Config: own.TLS(stranger.Key)}).DialContext(t.Context(), "tcp", address)
	require.ErrorContains(t, err, key, "another agent than the driver looks for")

	conn, err = (&tls.Dialer{Config: own.TLS(key)}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	a, err := remote.Over(t.Context(), conn, "public")
	require.NoError(t, err, "the driver comes in after them all")
	require.NoError(t, a.Close())
}

// pipes are the other ends of a process's standard input and output.
type pipes struct {
	io.Reader
	io.WriteCloser
}

func byStream(t *testing.T) (*remote.Agent, *exec.Cmd) {
	cmd := command(t, agent.Boot{Token: "secret", Socket: "/no/such/socket"})
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	a, err := remote.Over(t.Context(), pipes{out, in}, "secret")
	require.NoError(t, err)
	return a, cmd
}

// start starts a worker in a role.
func start(t *testing.T, a *remote.Agent, role string) driver.Process {
	p, err := a.Start(t.Context(), remote.Start{Env: []string{roleVariable + "=" + role}, Lost: lost})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, _, _, _ = p.Conn().Close(), p.Handshake().Close(), p.Stdout().Close(), p.Stderr().Close()
		if p.Direct() != nil {
			_, _ = p.Direct().Close(), p.Ledger().Close()
		}
	})
	return p
}

// ends waits for the end of a worker, but not for ever.
func ends(t *testing.T, p driver.Process) (driver.Exit, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return p.Wait(ctx)
}

func TestWorkerHasItsStreams(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		p := start(t, a, "echo")
		line, err := bufio.NewReader(p.Handshake()).ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "ready "+roleVariable+"=echo\n", line, "its environment is what it was given")
		for want, from := range map[string]io.Reader{"to stdout\n": p.Stdout(), "to stderr\n": p.Stderr()} {
			line, err := bufio.NewReader(from).ReadString('\n')
			require.NoError(t, err)
			assert.Equal(t, want, line)
		}
		for _, stream := range []net.Conn{p.Conn(), p.Direct()} {
			conn := bufio.NewReader(stream)
			for range 3 {
				_, err := io.WriteString(stream, "hello\n")
				require.NoError(t, err)
				line, err := conn.ReadString('\n')
				require.NoError(t, err)
				assert.Equal(t, "HELLO\n", line)
			}
		}
		require.NoError(t, p.Conn().Close())
		exit, err := ends(t, p)
		require.NoError(t, err)
		assert.Equal(t, driver.Exit{}, exit, "it ends with its connection")
	})
}

// A session gives up a worker that nothing is heard of: reads and writes of its direct connection end then, whatever the agent does.
func TestADirectStreamEndsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, process *exec.Cmd) {
		p := start(t, a, "echo")
		require.NoError(t, process.Process.Signal(syscall.SIGSTOP))
		defer func() { _ = process.Process.Signal(syscall.SIGCONT) }()
		read := make(chan error, 1)
		go func() {
			_, err := p.Direct().Read(make([]byte, 1))
			read <- err
		}()
		written := make(chan error, 1)
		go func() {
			_, err := p.Direct().Write(make([]byte, 8<<20))
			written <- err
		}()
		time.Sleep(100 * time.Millisecond) // they wait, as a rule
		require.NoError(t, p.Direct().Close())
		late := time.After(10 * time.Second)
		for what, end := range map[string]chan error{"read": read, "write": written} {
			select {
			case err := <-end:
				require.Error(t, err, what)
			case <-late:
				t.Error("waits on: " + what)
			}
		}
	})
}

func TestExitIsReported(t *testing.T) {
	for role, want := range map[string]driver.Exit{"exit": {Code: 7}, "signal": {Code: -1, Signal: syscall.SIGKILL}, "orphan": {}} {
		each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
			p := start(t, a, role)
			exit, err := ends(t, p)
			require.NoError(t, err)
			assert.Equal(t, want, exit)
			output, err := io.ReadAll(p.Stdout())
			require.NoError(t, err, "nothing holds its output")
			assert.Equal(t, "to stdout\n", string(output))
			require.NoError(t, p.Kill(), "a worker that has ended is no error")
		})
	}
}

func TestLimits(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		p, err := a.Start(t.Context(), remote.Start{Env: []string{roleVariable + "=limits"}, OpenFiles: 123, Processes: 456, Lost: lost})
		require.NoError(t, err)
		output, err := io.ReadAll(p.Stdout())
		require.NoError(t, err)
		assert.Equal(t, "to stdout\n123 123\n456 456\n1 1\n", string(output))
	})
	// What the container has less of stays as it is, and does not keep the worker from starting.
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		var has unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &has))
		p, err := a.Start(t.Context(), remote.Start{Env: []string{roleVariable + "=limits"}, OpenFiles: 1 << 40, Lost: lost})
		require.NoError(t, err)
		output, err := io.ReadAll(p.Stdout())
		require.NoError(t, err)
		assert.Contains(t, string(output), fmt.Sprintf("to stdout\n%d %d\n", has.Max, has.Max))
	})
}

func TestKill(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		p := start(t, a, "echo")
		require.NoError(t, p.Kill())
		exit, err := ends(t, p)
		require.NoError(t, err)
		assert.Equal(t, driver.Exit{Code: -1, Signal: syscall.SIGKILL}, exit)
	})
}

func TestWorkerEndsWithItsDriver(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, process *exec.Cmd) {
		p := start(t, a, "echo")
		require.NoError(t, a.Close())
		_, err := ends(t, p)
		require.ErrorIs(t, err, errLost, "the driver hung up, so nobody told")
		require.NoError(t, process.Wait(), "the agent ends")
		_, err = io.ReadAll(p.Conn())
		require.NoError(t, err, "and so has the worker")
	})
}

func TestAgentThatIsKilled(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, process *exec.Cmd) {
		p := start(t, a, "echo")
		require.NoError(t, process.Process.Kill())
		_, err := ends(t, p)
		require.ErrorIs(t, err, errLost)
		require.NoError(t, p.Kill())
	})
}

func TestOneWorker(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		start(t, a, "echo")
		_, err := a.Start(t.Context(), remote.Start{Lost: lost})
		require.ErrorContains(t, err, "started a worker before")
	})
}

func TestAgentWithoutWorkerEndsWithItsDriver(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, process *exec.Cmd) {
		require.NoError(t, a.Close())
		_ = process.Wait() // whether that is an error depends on how far they had come
		_, err := a.Start(t.Context(), remote.Start{Lost: lost})
		require.Error(t, err)
	})
}

func TestLifetime(t *testing.T) {
	listener, path := listen(t)
	cmd := command(t, agent.Boot{Token: "secret", Socket: path, Lifetime: 200 * time.Millisecond})
	var said strings.Builder
	cmd.Stderr = &said
	require.NoError(t, cmd.Start())
	a, err := remote.Accept(t.Context(), listener, "secret")
	require.NoError(t, err)
	defer func() { _ = a.Close() }()
	p := start(t, a, "echo")
	_, err = ends(t, p)
	require.ErrorIs(t, err, errLost)
	require.Error(t, cmd.Wait())
	assert.Contains(t, said.String(), "lifetime of 200ms is over")
}

func TestStrangersAreSentAway(t *testing.T) {
	listener, path := listen(t)
	stranger, err := net.Dial("unix", path)
	require.NoError(t, err)
	_, err = io.WriteString(stranger, agent.Hello("guess"))
	require.NoError(t, err)
	cmd := command(t, agent.Boot{Token: "secret", Socket: path})
	require.NoError(t, cmd.Start())
	a, err := remote.Accept(t.Context(), listener, "secret")
	require.NoError(t, err)
	rest, _ := io.ReadAll(stranger)
	assert.Empty(t, rest)
	_ = stranger.Close()
	start(t, a, "echo")
	require.NoError(t, a.Close())
	require.NoError(t, cmd.Wait())
	_, err = net.Dial("unix", path)
	require.Error(t, err, "there is one agent")
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	listener, _ := listen(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errLost)
	defer cancel()
	_, err := remote.Accept(ctx, listener, "secret")
	require.ErrorIs(t, err, errLost)
}

func TestOverFindsTheHello(t *testing.T) {
	for name, before := range map[string]string{"nothing": "", "a line": "init says hello\n", "half a line": "init says", "another's": agent.Hello("other")} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			served := make(chan *yamux.Session, 1)
			go func() {
				_, _ = io.WriteString(theirs, before+agent.Hello("secret"))
				session, err := yamux.Server(theirs, agent.Multiplexing())
				assert.NoError(t, err)
				served <- session
			}()
			a, err := remote.Over(t.Context(), ours, "secret")
			require.NoError(t, err)
			session := <-served
			require.NoError(t, a.Close())
			require.NoError(t, session.Close())
		})
	}
}

func TestOverRefusesNoise(t *testing.T) {
	ours, theirs := net.Pipe()
	go func(conn net.Conn) {
		_, _ = conn.Write([]byte(strings.Repeat("noise\n", 1<<20)))
		_ = conn.Close()
	}(theirs)
	_, err := remote.Over(t.Context(), ours, "secret")
	require.ErrorContains(t, err, "something else answers")

	ours, theirs = net.Pipe()
	_ = theirs.Close()
	_, err = remote.Over(t.Context(), ours, "secret")
	require.ErrorIs(t, err, io.EOF)

	ours, theirs = net.Pipe()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errLost)
	defer cancel()
	_, err = remote.Over(ctx, ours, "secret")
	require.ErrorIs(t, err, errLost)
	_ = theirs.Close()
}

// forged is an agent of the test's own, over a stream.
func forged(t *testing.T) (*remote.Agent, *yamux.Session, net.Conn) {
	ours, theirs := net.Pipe()
	served := make(chan *yamux.Session, 1)
	go func() {
		_, _ = io.WriteString(theirs, agent.Hello("secret"))
		session, err := yamux.Server(theirs, agent.Multiplexing())
		assert.NoError(t, err)
		served <- session
	}()
	a, err := remote.Over(t.Context(), ours, "secret")
	require.NoError(t, err)
	session := <-served
	t.Cleanup(func() {
		_ = a.Close()
		_ = session.Close()
	})
	control, err := session.Accept()
	require.NoError(t, err)
	return a, session, control
}

func TestAgentMayOpenNothing(t *testing.T) {
	_, session, control := forged(t)
	_, _ = session.Open()
	_ = control.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := control.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the driver hangs up")
}

// An agent that wants answers and reads none must not have the driver keep them.
func TestAgentMayNotFlood(t *testing.T) {
	ours, theirs := net.Pipe()
	flooded := make(chan int)
	go func() {
		_, _ = io.WriteString(theirs, agent.Hello("secret"))
		go func() { _, _ = io.CopyN(io.Discard, theirs, 5*12) }() // five streams are opened
		ping := []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
		n := 0
		for ; n < 1000; n++ {
			if _, err := theirs.Write(ping); err != nil {
				break
			}
		}
		_ = theirs.Close()
		flooded <- n
	}()
	a, err := remote.Over(t.Context(), ours, "secret")
	if err == nil {
		assert.Less(t, <-flooded, 100)
		_ = a.Close()
		return
	}
	assert.Less(t, <-flooded, 100)
}

// However the bytes come, what yamux reads is what the agent wrote.
func TestGuardPassesAllOn(t *testing.T) {
	each(t, func(t *testing.T, a *remote.Agent, _ *exec.Cmd) {
		p := start(t, a, "echo")
		long := strings.Repeat("x", 60<<10) + "\n"
		conn := bufio.NewReader(p.Conn())
		for range 20 {
			go func() { _, _ = io.WriteString(p.Conn(), long) }()
			line, err := conn.ReadString('\n')
			require.NoError(t, err)
			assert.Equal(t, strings.ToUpper(long), line)
		}
	})
}

func TestAgentThatLies(t *testing.T) {
	for name, answer := range map[string]string{
		"a long message": "\xff\xff\xff\xff", "no JSON": "\x00\x00\x00\x01{", "cut off": "\x00\x00\x00\x09{}", "no start": "\x00\x00\x00\x02{}",
		"an error": "\x00\x00\x00\x0f{\"error\":\"odd\"}",
	} {
		t.Run(name, func(t *testing.T) {
			a, _, control := forged(t)
			go func() {
				var request agent.Request
				assert.NoError(t, agent.Read(control, agent.MaxRequest, &request))
				_, _ = io.WriteString(control, answer)
				_ = control.Close()
			}()
			_, err := a.Start(t.Context(), remote.Start{Lost: lost})
			require.Error(t, err)
		})
	}
}
