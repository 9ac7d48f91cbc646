package launch

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodLine = "1|1|unix|sandbox|grpc|\n"

// fake is a sandbox whose worker is a script.
type fake struct {
	line   string // of the handshake
	stdout string
	start  error
	script func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error
	killed func() // called when the process was killed, if it is not nil
	wait   error  // of the process's Wait
	env    []string
}

func (f *fake) Stop(context.Context) error { return nil }

func (f *fake) StartWorker(_ context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	if f.start != nil {
		return nil, f.start
	}
	f.env = spec.Env
	outer, inner := net.Pipe()
	reader, writer := io.Pipe()
	server := grpc.NewServer()
	wirepb.RegisterWorkerServer(server, scripted{script: f.script})
	p := &fakeProcess{
		conn: outer, inner: inner, handshake: reader, done: make(chan struct{}),
		stdout: io.NopCloser(strings.NewReader(f.stdout)), killed: f.killed, wait: f.wait,
	}
	p.end = sync.OnceFunc(func() { close(p.done) })
	conns := make(chan net.Conn, 1)
	conns <- inner
	go func() { _, _ = io.WriteString(writer, f.line); _ = writer.Close() }()
	go func() {
		_ = server.Serve(&oneListener{conns, p.done})
		server.Stop()
	}()
	return p, nil
}

type oneListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }

type scripted struct {
	wirepb.UnimplementedWorkerServer
	script func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error
}

func (s scripted) Serve(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
	return s.script(stream)
}

type fakeProcess struct {
	conn, inner net.Conn
	handshake   io.ReadCloser
	stdout      io.ReadCloser
	done        chan struct{}
	end         func()
	killed      func()
	wait        error
	ledger      *os.File
}

func (p *fakeProcess) Conn() net.Conn           { return p.conn }
func (p *fakeProcess) Direct() net.Conn         { return nil }
func (p *fakeProcess) Handshake() io.ReadCloser { return p.handshake }
func (p *fakeProcess) Stdout() io.ReadCloser    { return p.stdout }
func (p *fakeProcess) Stderr() io.ReadCloser    { return io.NopCloser(strings.NewReader("")) }

func (p *fakeProcess) Ledger() *os.File { return p.ledger }

func (p *fakeProcess) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.done:
		return driver.Exit{Code: 3}, p.wait
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

func (p *fakeProcess) Kill() error {
	p.end()
	err := p.inner.Close()
	if p.killed != nil {
		p.killed()
	}
	return err
}

func frame(sequence uint64, messages ...*wirepb.Message) *wirepb.Frame {
	return &wirepb.Frame{Sequence: sequence, Messages: messages}
}

func welcome() *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Welcome{Welcome: &wirepb.Welcome{
		SbxVersion: wire.ModuleVersion(), Functions: []*wirepb.Function{{Name: "f", Fingerprint: "x"}},
	}}}
}

func result(id uint64, attempt uint32) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Result{Result: &wirepb.Result{
		Id: id, Attempt: attempt, Outcome: &wirepb.Result_Value{Value: &wirepb.Body{Data: []byte("v")}},
	}}}
}

// announced is a result whose value is to come in chunks.
func announced(id uint64, attempt uint32, stream uint64) *wirepb.Message {
	message := result(id, attempt)
	body := message.GetResult().GetValue()
	body.Data, body.Stream, body.Size = nil, stream, wire.MaxValue
	return message
}

// welcomed greets as a worker does, waits for the first call, and goes on with then.
func welcomed(then func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error) func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
	return func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(frame(1, welcome())); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		return then(stream)
	}
}

func sends(frames ...*wirepb.Frame) func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
	return func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
		for _, f := range frames {
			if err := stream.Send(f); err != nil {
				return err
			}
		}
		<-stream.Context().Done()
		return nil
	}
}

func start(t *testing.T, f *fake) (*Worker, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	w, err := Start(ctx, f, Config{Session: "s", Sandbox: "s-1", Divert: 1})
	if err == nil {
		t.Cleanup(w.Close)
	}
	return w, err
}

func TestCallAndResult(t *testing.T) {
	f := &fake{line: goodLine, script: welcomed(sends(frame(2, result(1, 1))))}
	t.Setenv("HOST_SECRET", "secret")
	w, err := start(t, f)
	require.NoError(t, err)
	require.Len(t, f.env, 1)
	assert.True(t, strings.HasPrefix(f.env[0], wire.BootVariable+"="))
	assert.NotContains(t, f.env[0], "secret")
	function, ok := w.Function("f")
	require.True(t, ok)
	assert.Equal(t, Function{Index: 0, Fingerprint: "x"}, function)
	_, ok = w.Function("g")
	assert.False(t, ok)
	pending := w.Go(&wirepb.Call{Attempt: 1}, nil)
	assert.Equal(t, "v", string(pending.Result().GetValue().GetData()))
}

// A folder for temporary files that is missing is no reason to fail.
func TestAStartWithoutTMPDIR(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()+"/missing")
	_, err := start(t, &fake{line: goodLine, script: welcomed(sends())})
	assert.NoError(t, err)

	defer func(before []string) { commonFolders = before }(commonFolders)
	commonFolders = nil
	_, err = start(t, &fake{line: goodLine, script: welcomed(sends())})
	assert.ErrorContains(t, err, "make a temporary folder; TMPDIR can name another place: ")
	assert.ErrorContains(t, err, "/missing: no such file or directory")
}

func TestWorkersThatDoNotStart(t *testing.T) {
	refused := errors.New("no room")
	good := welcomed(sends())
	for _, c := range []struct {
		name string
		fake *fake
		want string
	}{
		{"the driver refuses", &fake{start: refused}, "no room"},
		{"no line", &fake{script: good, stdout: "panic: in init\n"}, "last output:\n\tpanic: in init"},
		{"another line", &fake{line: "hello\n", script: good}, `wrote "hello"`},
		{"an endless line", &fake{line: strings.Repeat("x", 1<<20), script: good}, `wrote "xxx`},
		{"another version", &fake{line: "1|7|unix|sandbox|grpc|\n", script: good}, "Plugin version: 7"},
		{"another protocol", &fake{line: "1|1|unix|sandbox|netrpc|\n", script: good}, "unsupported plugin protocol"},
		{"the stream ends", &fake{line: goodLine, script: func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error { return errors.New("not today") }}, "not today"},
		{"no welcome", &fake{line: goodLine, script: sends(frame(1, result(1, 1)))}, "not a welcome"},
		{"a bad frame", &fake{line: goodLine, script: sends(frame(9))}, "frame 9 arrived as number 1"},
		{"another sbx", &fake{line: goodLine, script: sends(frame(1, &wirepb.Message{Kind: &wirepb.Message_Welcome{
			Welcome: &wirepb.Welcome{SbxVersion: "v9.9.9"},
		}}))}, "built with sbx v9.9.9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := start(t, c.fake)
			require.ErrorContains(t, err, c.want)
			if c.fake.start != nil {
				assert.ErrorIs(t, err, refused)
				return
			}
			var failed *StartError
			require.ErrorAs(t, err, &failed)
			require.NotNil(t, failed.Exit)
			assert.Equal(t, driver.Exit{Code: 3}, *failed.Exit)
		})
	}
}

// Where the driver knows that the sandbox was lost, what the user's code does when it starts is not to blame.
func TestADriverKnowsWhyAWorkerDidNotStart(t *testing.T) {
	gone := errors.New("the machine is gone: it burns\nand smokes; make another one")
	for _, c := range []struct{ line, want string }{
		{"", gone.Error()},
		{"hello\n", `instead of its handshake it wrote "hello"`},
		{goodLine, "receive: EOF: " + gone.Error()},
	} {
		ends := func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error { return nil }
		_, err := start(t, &fake{line: c.line, script: ends, wait: gone})
		require.ErrorIs(t, err, gone)
		assert.EqualError(t, err, "the worker did not start: "+c.want)
		var failed *StartError
		require.ErrorAs(t, err, &failed)
		assert.Nil(t, failed.Exit)
	}
}

// endless is a process that does not end, and that the start is given up while it is waited for.
type endless struct {
	*fakeProcess
	giveUp context.CancelCauseFunc
}

func (p endless) Wait(ctx context.Context) (driver.Exit, error) {
	p.giveUp(errors.New("nobody waits any more"))
	<-ctx.Done()
	return driver.Exit{}, context.Cause(ctx)
}

// The end of a context says nothing about the process.
func TestAStartThatIsGivenUpWhileItIsExplained(t *testing.T) {
	ctx, giveUp := context.WithCancelCause(t.Context())
	handshake, writer := io.Pipe()
	require.NoError(t, writer.Close())
	p := endless{&fakeProcess{handshake: handshake, stdout: io.NopCloser(strings.NewReader(""))}, giveUp}
	r := &processRunner{process: p, report: readReport(handshake, maxReport), output: readOutput(p, Config{})}
	cause := errors.New("receive: EOF")
	var failed *StartError
	require.ErrorAs(t, r.explain(ctx, cause), &failed)
	assert.Equal(t, &StartError{Err: cause}, failed)
}

// go-plugin would use the certificate of a configuration that isn't there.
func TestACertificateInTheHandshake(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, public, private)
	require.NoError(t, err)
	line := strings.TrimSpace(goodLine) + base64.RawStdEncoding.EncodeToString(certificate)
	require.Less(t, len(line), maxHandshake)
	for _, line := range []string{line + "\n", line, line + "|true|more\n"} {
		_, err = start(t, &fake{line: line, script: welcomed(sends())})
		require.NoError(t, err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	silent := make(chan struct{})
	f := &fake{line: goodLine, script: func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
		close(silent)
		<-stream.Context().Done()
		return nil
	}}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	go func() {
		<-silent
		cancel(cause)
	}()
	_, err := Start(ctx, f, Config{})
	require.ErrorIs(t, err, cause)
}

func TestHostileWorkersAreLost(t *testing.T) {
	for _, c := range []struct {
		name   string
		script func(grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error
		want   string
	}{
		{"a result of no call", sends(frame(2, result(2, 1))), "call 2, which is not running"},
		{"a result of another attempt", sends(frame(2, result(1, 2))), "attempt 1 is running"},
		{"a result of nothing", sends(frame(2, &wirepb.Message{Kind: &wirepb.Message_Result{Result: &wirepb.Result{Id: 1, Attempt: 1}}})), "does not send this"},
		{"a second welcome", sends(frame(2, welcome())), "does not send this"},
		{"a value of no call", sends(frame(2, announced(2, 1, 1))), "call 2, which is not running"},
		{"a value of another attempt", sends(frame(2, announced(1, 2, 1))), "attempt 1 is running"},
		{"a value too many", sends(frame(2, announced(1, 1, 1), announced(1, 1, 2))), "has one already"},
		{"a frame twice", sends(frame(2), frame(2)), "frame 2 arrived as number 3"},
		{"a frame too long", sends(&wirepb.Frame{Sequence: 2, Messages: []*wirepb.Message{{Kind: &wirepb.Message_Chunk{
			Chunk: &wirepb.Chunk{Stream: 1, Data: make([]byte, wire.MaxFrame+1)},
		}}}}), "larger than max"},
		{"a frame of many messages", sends(frame(2, make([]*wirepb.Message, 1<<20)...)), "a frame of more than 65536 messages"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := start(t, &fake{line: goodLine, script: welcomed(c.script)})
			require.NoError(t, err)
			pending := w.Go(&wirepb.Call{Attempt: 1}, []byte("argument"))
			select {
			case <-w.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the worker was not given up")
			}
			require.ErrorContains(t, w.Lost().Err, c.want)
			assert.True(t, pending.Begun())
			select {
			case <-pending.Done():
				t.Fatal("a call of a lost worker has a result")
			default:
			}
			assert.False(t, pending.Withdraw(), "it is too late")
			late := w.Go(&wirepb.Call{Attempt: 1}, nil)
			assert.False(t, late.Begun(), "what is sent after the end certainly does not begin")
			assert.True(t, late.Withdraw())
		})
	}
}

// A watchdog asks many workers for stacks, and keeps them: none may be longer than a stack is.
func TestStacksOfHostileWorkers(t *testing.T) {
	for _, c := range []struct {
		name, want string
		of         string // name of the profile; the stack of the call if it is empty
		body       *wirepb.Body
	}{
		{"long", "", "", &wirepb.Body{Data: make([]byte, wire.MaxCallStack)}},
		{"too long", "a call of 65537 bytes", "", &wirepb.Body{Data: make([]byte, wire.MaxCallStack+1)}},
		{"in chunks", "a call in chunks", "", &wirepb.Body{Stream: 1, Size: 1}},
		{"a profile", "", "heap", &wirepb.Body{Data: make([]byte, wire.MaxCallStack+1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := start(t, &fake{line: goodLine, script: welcomed(func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
				for {
					f, err := stream.Recv()
					if err != nil {
						return err
					}
					for _, message := range f.GetMessages() {
						if asked := message.GetProfile(); asked != nil {
							profiled := &wirepb.Profiled{Id: asked.GetId(), Profile: c.body}
							return sends(frame(2, &wirepb.Message{Kind: &wirepb.Message_Profiled{Profiled: profiled}}))(stream)
						}
					}
				}
			})})
			require.NoError(t, err)
			pending := w.Go(&wirepb.Call{Attempt: 1}, nil)
			require.Eventually(t, pending.Handed, 10*time.Second, time.Millisecond) // in a frame of its own
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var stack []byte
			if c.of == "" {
				stack, err = pending.Stack(ctx)
			} else {
				stack, err = w.Profile(ctx, c.of, 0, 0)
			}
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			assert.Len(t, stack, len(c.body.GetData()))
		})
	}
}

func TestAResultOnceOnly(t *testing.T) {
	w, err := start(t, &fake{line: goodLine, script: welcomed(sends(frame(2, result(1, 1), result(1, 1))))})
	require.NoError(t, err)
	pending := w.Go(&wirepb.Call{Attempt: 1}, nil)
	assert.Equal(t, "v", string(pending.Result().GetValue().GetData()))
	require.ErrorContains(t, w.Lost().Err, "which is not running")
	assert.False(t, pending.Withdraw(), "it has its result, although the worker has ended")
}

func TestARefusedCallDidNotBegin(t *testing.T) {
	refused := &wirepb.Message{Kind: &wirepb.Message_Result{Result: &wirepb.Result{
		Id: 1, Attempt: 1, Outcome: &wirepb.Result_Refused{Refused: &wirepb.Refusal{Reason: wirepb.Refusal_REASON_CANCELLED}},
	}}}
	w, err := start(t, &fake{line: goodLine, script: welcomed(sends(frame(2, refused)))})
	require.NoError(t, err)
	pending := w.Go(&wirepb.Call{Attempt: 1}, nil)
	<-pending.Done()
	assert.True(t, pending.Withdraw(), "whoever is cancelled at the same moment is told so")
}

func TestASilentWorkerIsCalledSilent(t *testing.T) {
	f := &fake{line: goodLine, script: welcomed(sends())}
	started := make(chan *Worker, 1)
	var once sync.Once
	f.killed = func() { // the receiver sees the end of the stream before the kill returns
		once.Do(func() {
			w := <-started
			for w.conn.Err() == nil {
				runtime.Gosched()
			}
		})
	}
	w, err := Start(t.Context(), f, Config{Session: "s", Sandbox: "s-1", Divert: 1, Lease: 20 * time.Millisecond})
	require.NoError(t, err)
	defer w.Close()
	started <- w
	require.ErrorIs(t, w.Lost().Err, ErrSilent)
}

func TestLongLinesArriveInPieces(t *testing.T) {
	var got []string
	logs := NewLogs(handlerFunc(func(r slog.Record) {
		assert.LessOrEqual(t, len(r.Message), maxLine)
		got = append(got, r.Message)
	}), nil)
	f := &fake{line: goodLine, script: welcomed(sends()), stdout: strings.Repeat("x", 3*maxLine) + "\nlast"}
	w, err := Start(t.Context(), f, Config{Logs: logs})
	require.NoError(t, err)
	w.Close()
	logs.Close()
	assert.Len(t, got, 4)
	assert.Equal(t, strings.Repeat("x", 3*maxLine)+"last", strings.Join(got, ""))
	for _, line := range w.Lost().LastLines {
		assert.LessOrEqual(t, len(line), keptLine+50)
	}
}

func TestLastLinesAreThoseBeforeTheCrash(t *testing.T) {
	o := &output{}
	o.keep("stderr", "panic: forged")
	for i := range 100 {
		o.keep("stdout", fmt.Sprint("line ", i))
	}
	text := "panic: boom\n\ngoroutine 7 [running]:\nmain.f()\n\t/src/main.go:1 +0x1\n"
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		o.keep("stderr", line)
	}
	last := o.last(&Crash{Text: text})
	require.Len(t, last, keptLines)
	assert.Equal(t, "line 80", last[0])
	assert.Equal(t, "line 99", last[keptLines-1])
	assert.Contains(t, o.last(nil), "panic: boom", "without a crash nothing is the runtime's")
	assert.Empty(t, o.fatalError())
	o.keep("stdout", "fatal error: on the wrong stream")
	o.keep("stderr", "fatal error: concurrent map writes")
	assert.Equal(t, "concurrent map writes", o.fatalError())
	for _, line := range []string{
		"runtime/cgo: pthread_create failed: Resource temporarily unavailable", // of the thread that aborts, and of another one:
		"runtime/cgo: goroutine 34 gp=0xc00022dc20 m=pthread_create failed: Resource temporarily unavailable6",
	} {
		o.keep("stderr", line)
		assert.True(t, strings.HasPrefix(o.fatalError(), noThread), line)
	}
	o.keep("stderr", "runtime/cgo: goroutine 34 gp=0xc00022dc20 m=6")
	assert.True(t, strings.HasPrefix(o.fatalError(), noThread), "the last line tells of no other error")
}

func TestAWorkerThatIsReadyHasTheLeaseToGreet(t *testing.T) {
	f := &fake{line: goodLine, script: func(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
		<-stream.Context().Done()
		return nil
	}}
	_, err := Start(t.Context(), f, Config{Lease: 20 * time.Millisecond})
	require.ErrorIs(t, err, ErrSilent)
	var failed *StartError
	require.ErrorAs(t, err, &failed)
}
