package sbx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

// hostile is a driver whose worker says what a test has it say about commands.
type hostile struct {
	wirepb.UnimplementedWorkerServer
	wirepb.UnimplementedSandboxServer
	run    func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error
	stderr func(stream grpc.ServerStreamingServer[wirepb.CommandOutput]) error
	signal func(ctx context.Context, message *wirepb.CommandSignal) (*wirepb.Done, error)
	path   func(ctx context.Context, request *wirepb.PathRequest) (*wirepb.PathReply, error)
}

func (*hostile) Name() string { return "hostile" }

func (h *hostile) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return &hostileSession{hostile: h}, nil
}

type hostileSession struct {
	*hostile
	processes sync.WaitGroup
}

func (*hostileSession) Report() driver.Report { return driver.Report{} }

func (s *hostileSession) Close(context.Context) error {
	s.processes.Wait()
	return nil
}

func (s *hostileSession) Create(context.Context, driver.Spec) (driver.Sandbox, error) {
	return &hostileProcess{session: s, done: make(chan struct{})}, nil
}

// hostileProcess is the sandbox and its worker.
type hostileProcess struct {
	session     *hostileSession
	conn, inner net.Conn
	handshake   *io.PipeReader
	done        chan struct{}
}

func (p *hostileProcess) StartWorker(context.Context, driver.WorkerSpec) (driver.Process, error) {
	p.conn, p.inner = net.Pipe()
	from, to := io.Pipe()
	p.handshake = from
	server := grpc.NewServer()
	wirepb.RegisterWorkerServer(server, p.session.hostile)
	wirepb.RegisterSandboxServer(server, p.session.hostile)
	listener := &oneConn{conn: p.inner, ended: make(chan struct{})}
	p.session.processes.Go(func() {
		_, _ = io.WriteString(to, "1|1|unix|sandbox|grpc|\n")
		_ = server.Serve(listener)
	})
	p.session.processes.Go(func() {
		<-p.done
		server.Stop()
		_ = to.Close()
	})
	return p, nil
}

func (p *hostileProcess) Stop(context.Context) error { return p.Kill() }

func (p *hostileProcess) Conn() net.Conn           { return p.conn }
func (p *hostileProcess) Handshake() io.ReadCloser { return p.handshake }
func (*hostileProcess) Stdout() io.ReadCloser      { return io.NopCloser(strings.NewReader("")) }
func (*hostileProcess) Stderr() io.ReadCloser      { return io.NopCloser(strings.NewReader("")) }
func (*hostileProcess) Ledger() *os.File           { return nil }
func (*hostileProcess) Direct() net.Conn           { return nil }

func (p *hostileProcess) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.done:
		return driver.Exit{Code: -1, Signal: syscall.SIGKILL}, nil
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
}

var hostileKills sync.Mutex

func (p *hostileProcess) Kill() error {
	hostileKills.Lock()
	defer hostileKills.Unlock()
	select {
	case <-p.done:
	default:
		close(p.done)
		if p.inner != nil {
			_ = p.inner.Close()
		}
	}
	return nil
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn  net.Conn
	ended chan struct{}
	once  sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.ended) })
	return nil
}

func (*oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// Serve is a worker without functions, which answers every sign of life.
func (h *hostile) Serve(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
	for sequence := uint64(1); ; sequence++ {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		answer := &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}
		if sequence == 1 {
			answer = &wirepb.Message{Kind: &wirepb.Message_Welcome{Welcome: &wirepb.Welcome{SbxVersion: wire.ModuleVersion()}}}
		}
		if err := stream.Send(&wirepb.Frame{Sequence: sequence, Messages: []*wirepb.Message{answer}}); err != nil {
			return err
		}
	}
}

func (h *hostile) Run(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return h.run(stream)
}

func (h *hostile) Stderr(_ *wirepb.CommandName, stream grpc.ServerStreamingServer[wirepb.CommandOutput]) error {
	return h.stderr(stream)
}

func (h *hostile) Signal(ctx context.Context, message *wirepb.CommandSignal) (*wirepb.Done, error) {
	if h.signal == nil {
		return &wirepb.Done{}, nil
	}
	return h.signal(ctx, message)
}

func (h *hostile) Path(ctx context.Context, request *wirepb.PathRequest) (*wirepb.PathReply, error) {
	if request.GetEndFiles() {
		return &wirepb.PathReply{}, nil
	}
	return h.path(ctx, request)
}

var (
	hasStarted = &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Started{Started: &wirepb.Started{Pid: 7}}}
	hasExited  = &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Exited{Exited: &wirepb.Exited{}}}
)

func says(text string) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stdout{Stdout: []byte(text)}}
}

// Acceptance 73: a stream that is closed without an exit status is an error, and so is whatever else is not in the protocol.
func TestAWorkerThatSaysWrongThings(t *testing.T) {
	for name, test := range map[string]struct {
		says   []*wirepb.CommandOutput
		status error
		want   string
	}{
		"nothing":                  {nil, nil, "did not say how the command ended"},
		"no exit status":           {[]*wirepb.CommandOutput{hasStarted, says("x")}, nil, "did not say how the command ended"},
		"a status of its own":      {[]*wirepb.CommandOutput{hasStarted, says("x")}, grpcstatus.Error(codes.Internal, "broken"), "broken"},
		"an exit before the start": {[]*wirepb.CommandOutput{hasExited}, nil, "where a command begins"},
		"output before the start":  {[]*wirepb.CommandOutput{says("x"), hasStarted, hasExited}, nil, "where a command begins"},
		"two starts":               {[]*wirepb.CommandOutput{hasStarted, hasStarted, hasExited}, nil, "while a command ran"},
		"an empty message":         {[]*wirepb.CommandOutput{hasStarted, {}, hasExited}, nil, "while a command ran"},
		"an empty failure":         {[]*wirepb.CommandOutput{hasStarted, {Kind: &wirepb.CommandOutput_Failure{}}}, nil, "did not say why"},
		"a strange signal":         {[]*wirepb.CommandOutput{hasStarted, {Kind: &wirepb.CommandOutput_Exited{Exited: &wirepb.Exited{Signal: -5}}}}, nil, "signal"},
		"too much at once":         {[]*wirepb.CommandOutput{hasStarted, says(strings.Repeat("x", 5<<20)), hasExited}, nil, "message that is too long"},
		"a long failure":           {[]*wirepb.CommandOutput{{Kind: &wirepb.CommandOutput_Failure{Failure: &wirepb.Failure{Text: bytes.Repeat([]byte("y"), 3<<20)}}}}, nil, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hostile{run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
				for _, message := range test.says {
					if err := stream.Send(message); err != nil {
						return err
					}
				}
				return test.status
			}}
			_, err := openHostile(t, h).Command("it").Output()
			require.ErrorContains(t, err, test.want)
			assert.Less(t, len(err.Error()), 10_000)
		})
	}
}

// The same of standard error that comes apart. What is missing of it must not pass for a success.
func TestAWorkerThatSendsWrongStandardError(t *testing.T) {
	errs := func(text string) *wirepb.CommandOutput {
		return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stderr{Stderr: []byte(text)}}
	}
	cut := &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Exited{Exited: &wirepb.Exited{Cut: true}}}
	broken := grpcstatus.Error(codes.Internal, "broken")
	for name, test := range map[string]struct {
		says, apart []*wirepb.CommandOutput
		status      error // of what comes apart
		want        string
	}{
		"as it should be":           {[]*wirepb.CommandOutput{hasStarted, says("x"), hasExited}, []*wirepb.CommandOutput{errs("y")}, nil, ""},
		"a status of its own":       {[]*wirepb.CommandOutput{hasStarted, says("x"), hasExited}, []*wirepb.CommandOutput{errs("y")}, broken, "broken"},
		"which it has cut":          {[]*wirepb.CommandOutput{hasStarted, says("x"), cut}, nil, broken, sbx.ErrWaitDelay.Error()},
		"standard output":           {[]*wirepb.CommandOutput{hasStarted, hasExited}, []*wirepb.CommandOutput{says("x")}, nil, "as standard error"},
		"another end":               {[]*wirepb.CommandOutput{hasStarted, hasExited}, []*wirepb.CommandOutput{hasExited}, nil, "as standard error"},
		"an empty message":          {[]*wirepb.CommandOutput{hasStarted, hasExited}, []*wirepb.CommandOutput{{}}, nil, "as standard error"},
		"too much at once":          {[]*wirepb.CommandOutput{hasStarted, hasExited}, []*wirepb.CommandOutput{errs(strings.Repeat("x", 5<<20))}, nil, "message that is too long"},
		"beside standard output":    {[]*wirepb.CommandOutput{hasStarted, errs("y"), hasExited}, nil, nil, "where standard output comes"},
		"and not how it ended":      {[]*wirepb.CommandOutput{hasStarted}, []*wirepb.CommandOutput{errs("y")}, nil, "did not say how the command ended"},
		"broken, and not its death": {[]*wirepb.CommandOutput{hasStarted, nil}, nil, broken, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait to see whether the sandbox ends
			sb := openHostile(t, &hostile{
				run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
					for _, message := range test.says {
						if message == nil {
							<-stream.Context().Done()
						} else if err := stream.Send(message); err != nil {
							return err
						}
					}
					return nil
				},
				stderr: func(stream grpc.ServerStreamingServer[wirepb.CommandOutput]) error {
					for _, message := range test.apart {
						if err := stream.Send(message); err != nil {
							return err
						}
					}
					return test.status
				},
			})
			cmd := sb.Command("it")
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			stderr, err := cmd.StderrPipe()
			require.NoError(t, err)
			err = cmd.Run()
			if test.want == "" {
				require.NoError(t, err)
				for text, pipe := range map[string]io.Reader{"x": stdout, "y": stderr} {
					all, err := io.ReadAll(pipe)
					require.NoError(t, err)
					assert.Equal(t, text, string(all))
				}
				return
			}
			require.ErrorContains(t, err, test.want)
			assert.Less(t, len(err.Error()), 10_000)
			if cmd.Exit == nil {
				for _, pipe := range []io.Reader{stdout, stderr} {
					_, err := io.ReadAll(pipe)
					require.ErrorContains(t, err, test.want, "a pipe does not end as if all were there")
				}
			}
		})
	}
}

// The stream of standard error ends with its command, also where it was not read to its end: the command's own goes on to other commands.
func TestStandardErrorEndsWithItsCommand(t *testing.T) {
	ended := make(chan struct{})
	sb := openHostile(t, &hostile{
		run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
			cut := &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Exited{Exited: &wirepb.Exited{Cut: true}}}
			for _, message := range []*wirepb.CommandOutput{hasStarted, cut} {
				if err := stream.Send(message); err != nil {
					return err
				}
			}
			<-stream.Context().Done()
			return nil
		},
		stderr: func(stream grpc.ServerStreamingServer[wirepb.CommandOutput]) error {
			defer close(ended)
			err := stream.Send(says("x"))
			<-stream.Context().Done()
			return err
		},
	})
	cmd := sb.Command("it")
	_, err := cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = cmd.StderrPipe()
	require.NoError(t, err)
	require.ErrorIs(t, cmd.Run(), sbx.ErrWaitDelay)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it goes on")
	}
}

func openHostile(t *testing.T, h *hostile) *sbx.Sandbox {
	t.Helper()
	session, err := sbx.Open(t.Context(), sbx.Driver(h))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return session.Sandbox()
}

// What comes after a command's end on its stream is nobody's output, and the end of that stream.
func TestAWorkerThatSaysMoreThanTheEnd(t *testing.T) {
	for name, late := range map[string]*wirepb.CommandOutput{"output": says("late"), "another end": hasExited, "no message, but its end": nil} {
		t.Run(name, func(t *testing.T) {
			var streams atomic.Int64
			sb := openHostile(t, &hostile{run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
				streams.Add(1)
				for _, message := range []*wirepb.CommandOutput{hasStarted, says("mine"), hasExited} {
					_ = stream.Send(message)
				}
				if late != nil {
					_ = stream.Send(late)
					<-stream.Context().Done()
				}
				return nil
			}})
			for range 3 {
				output, err := sb.Command("it").Output()
				require.NoError(t, err)
				assert.Equal(t, "mine", string(output))
				output, err = sb.Command("it").Output()
				require.Error(t, err)
				assert.Empty(t, output)
			}
			assert.EqualValues(t, 3, streams.Load())
		})
	}
}

func TestAWorkerThatSendsWithoutEnd(t *testing.T) {
	stopped := make(chan struct{})
	h := &hostile{
		run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
			err := stream.Send(hasStarted)
			for err == nil {
				err = stream.Send(says(strings.Repeat("x", 128<<10)))
			}
			close(stopped)
			return err
		},
	}
	text, err := openHostile(t, h).Command("it").Output()
	require.ErrorIs(t, err, sbx.ErrOutputTooLong)
	assert.Len(t, text, sbx.MaxOutput)
	<-stopped
}

// A worker that answers nothing is given up.
func TestAWorkerThatSaysNothing(t *testing.T) {
	for name, first := range map[string]*wirepb.CommandOutput{"not that it began": nil, "nor how it ended": hasStarted} {
		t.Run(name, func(t *testing.T) {
			h := &hostile{
				run: func(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
					if first != nil {
						_ = stream.Send(first)
					}
					<-stream.Context().Done()
					return errors.New("over")
				},
				signal: func(ctx context.Context, _ *wirepb.CommandSignal) (*wirepb.Done, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				},
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			cmd := openHostile(t, h).CommandContext(ctx, "it")
			err := cmd.Run()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Nil(t, cmd.Exit)
			if first != nil {
				require.ErrorContains(t, err, "did not say in time that the command is dead")
			}
		})
	}
}

// The worker knows the caller's deadline, and may say that it has passed before the caller's own clock does.
func TestAWorkerWhoseDeadlineIsEarlier(t *testing.T) {
	sandbox := openHostile(t, &hostile{path: func(context.Context, *wirepb.PathRequest) (*wirepb.PathReply, error) {
		return nil, grpcstatus.Error(codes.DeadlineExceeded, "context deadline exceeded")
	}})
	require.NoError(t, sandbox.Start(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := sandbox.Stat(ctx, "file")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 4*time.Second, "nothing waits on for the end of a sandbox")
}
