package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/callinfo"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"google.golang.org/grpc"
)

// maxStack bounds the stack of a panic on the wire.
const maxStack = 64 << 10

// server serves the one stream of a worker.
type server struct {
	wirepb.UnimplementedWorkerServer
	grpc    *grpc.Server
	entries []*registry.Entry
	ledger  *ledger.Ledger // nil if there is none
	opened  sync.Once

	handlers sync.WaitGroup // of the stream; they wait for the calls
	calls    sync.WaitGroup
}

func newServer(l *ledger.Ledger) *server { return &server{ledger: l} }

// newGRPC makes the gRPC server, with what go-plugin adds to it.
func (s *server) newGRPC(opts []grpc.ServerOption) *grpc.Server {
	s.grpc = grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(wire.MaxFrame), grpc.MaxSendMsgSize(wire.MaxFrame))...)
	return s.grpc
}

func (s *server) register(registrar grpc.ServiceRegistrar) { wirepb.RegisterWorkerServer(registrar, s) }

// Serve is the stream's handler.
func (s *server) Serve(stream grpc.BidiStreamingServer[wirepb.Frame, wirepb.Frame]) error {
	first := false
	s.opened.Do(func() {
		first = true
		s.handlers.Add(1)
	})
	if !first {
		return errors.New("a worker has one stream")
	}
	defer s.handlers.Done()
	ctx, cancel := context.WithCancel(stream.Context())
	conn := wire.NewConn(stream, nil)
	// The handler must not return while the sender uses the stream.
	defer func() { <-conn.Stopped() }()
	defer conn.Close()
	defer s.calls.Wait()
	defer cancel()

	message, err := conn.Recv()
	if err != nil {
		return err
	}
	hello := message.GetHello()
	if hello == nil {
		return &wire.ProtocolError{Reason: "the first message is not a hello"}
	}
	conn.Send(&wirepb.Message{Kind: &wirepb.Message_Welcome{Welcome: s.welcome()}}, nil, nil)

	d := &dispatch{ctx: ctx, conn: conn, hello: hello, server: s, running: map[uint64]context.CancelFunc{}}
	d.records = &records{conn: conn, level: slog.Level(hello.GetLogLevel())}
	for {
		message, err := conn.Recv()
		if err != nil {
			return err
		}
		switch kind := message.GetKind().(type) {
		case *wirepb.Message_Call:
			d.begin(kind.Call)
		case *wirepb.Message_Cancel:
			d.cancel(kind.Cancel.GetId())
		default:
			return &wire.ProtocolError{Reason: fmt.Sprintf("a session does not send %T", kind)}
		}
	}
}

func (s *server) welcome() *wirepb.Welcome {
	welcome := &wirepb.Welcome{SbxVersion: wire.ModuleVersion(), Ledger: s.ledger != nil}
	for _, function := range registry.CurrentManifest().Functions {
		entry, ok := registry.ByName(function.Name)
		if !ok {
			continue
		}
		s.entries = append(s.entries, entry)
		welcome.Functions = append(welcome.Functions, &wirepb.Function{Name: function.Name, Fingerprint: function.Fingerprint})
	}
	return welcome
}

// dispatch runs the calls of a stream.
type dispatch struct {
	ctx    context.Context // of the stream
	conn   *wire.Conn
	hello  *wirepb.Hello
	server *server

	records *records

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

// begin starts a call on a goroutine of its own. How many run at once is the session's to decide.
func (d *dispatch) begin(message *wirepb.Call) {
	ctx, cancel := context.WithCancel(d.ctx)
	d.mu.Lock()
	d.running[message.GetId()] = cancel
	d.mu.Unlock()
	c := &call{dispatch: d, message: message}
	d.server.calls.Go(func() {
		defer cancel()
		defer c.finish()
		c.result = c.run(ctx)
	})
}

// cancel ends the context of a call. One that has ended crossed the cancel on its way.
func (d *dispatch) cancel(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cancel := d.running[id]; cancel != nil {
		cancel()
	}
}

// call is a call that runs.
type call struct {
	*dispatch
	message *wirepb.Call
	begun   bool           // the function was called
	result  *wirepb.Result // nil if run did not return
	value   []byte         // the body of the result, if that has one
}

// finish sends the result. It is deferred by the call's goroutine, so that it runs too when user code panics or ends the
// goroutine by runtime.Goexit.
func (c *call) finish() {
	if p := recover(); c.result == nil {
		c.result = c.crash(p)
	}
	c.result.Id, c.result.Attempt = c.message.GetId(), c.message.GetAttempt()
	c.mu.Lock()
	delete(c.running, c.message.GetId())
	c.mu.Unlock()
	c.records.report(c.message.GetId())
	c.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Result{Result: c.result}}, c.result.GetValue(), c.value)
}

// crash is the result of user code that did not return. p is what it panicked with, nil if it ended the goroutine.
func (c *call) crash(p any) *wirepb.Result {
	if !c.begun {
		return refuse(wirepb.Refusal_REASON_BAD_ARGUMENT, fmt.Sprintf("an unmarshaler did not return: %s", panicText(p)))
	}
	crash := &wirepb.Panic{Stack: wire.Clip(string(debug.Stack()), maxStack), Goexit: p == nil}
	if p != nil {
		crash.Value = wire.Clip(panicText(p), maxStack)
	}
	return &wirepb.Result{Outcome: &wirepb.Result_Panic{Panic: crash}}
}

// run runs the call to its end.
func (c *call) run(ctx context.Context) *wirepb.Result {
	if int(c.message.GetFunction()) >= len(c.server.entries) {
		return refuse(wirepb.Refusal_REASON_UNKNOWN_FUNCTION, fmt.Sprintf("the worker has no function %d", c.message.GetFunction()))
	}
	entry := c.server.entries[c.message.GetFunction()]
	c.server.ledger.Begin(c.message.GetId()) // an unmarshaler is user code already
	invocation, err := entry.DecodeArgs(c.message.GetArgument().GetData())
	if err != nil {
		return refuse(wirepb.Refusal_REASON_BAD_ARGUMENT, err.Error())
	}
	info := callinfo.Info{
		Function: entry.Name(), Call: c.message.GetName(), Attempt: int(c.message.GetAttempt()),
		Session: c.hello.GetSession(), Sandbox: c.hello.GetSandbox(),
	}
	if timeout := time.Duration(c.message.GetTimeoutNanos()); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, callinfo.ErrTimeout)
		defer cancel()
		info.Deadline, _ = ctx.Deadline()
	}
	c.begun = true
	err = invocation.Run(callinfo.WithLogger(callinfo.With(ctx, info), c.records.logger(c.message.GetId())))
	switch {
	case err != nil && errors.Is(context.Cause(ctx), callinfo.ErrTimeout):
		timedOut := &wirepb.TimedOut{}
		if !errors.Is(err, context.DeadlineExceeded) {
			timedOut.Error = wire.EncodeError(err)
		}
		return &wirepb.Result{Outcome: &wirepb.Result_TimedOut{TimedOut: timedOut}}
	case err != nil:
		return &wirepb.Result{Outcome: &wirepb.Result_FunctionError{FunctionError: wire.EncodeError(err)}}
	}
	c.value, err = invocation.EncodeResult(nil)
	switch {
	case err != nil:
		return resultError(err.Error())
	case len(c.value) > wire.MaxValue:
		return resultError(fmt.Sprintf("%d bytes encoded; the limit is %d", len(c.value), wire.MaxValue))
	}
	return &wirepb.Result{Outcome: &wirepb.Result_Value{Value: &wirepb.Body{}}}
}

func refuse(reason wirepb.Refusal_Reason, text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_Refused{Refused: &wirepb.Refusal{Reason: reason, Text: wire.Clip(text, maxStack)}}}
}

func resultError(text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_ResultError{ResultError: wire.Clip(text, maxStack)}}
}

// panicText prints a panic's value, whose String or Error method is user code too.
func panicText(p any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(a %T, which panicked when it was printed)", p)
		}
	}()
	switch p := p.(type) {
	case nil:
		return "runtime.Goexit was called"
	case error:
		return p.Error()
	case fmt.Stringer:
		return p.String()
	}
	return fmt.Sprint(p)
}
