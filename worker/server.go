package worker

import (
	"context"
	"errors"
	"fmt"
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
	s.opened.Do(func() { first = true })
	if !first {
		return errors.New("a worker has one stream")
	}
	s.handlers.Add(1)
	defer s.handlers.Done()
	ctx, cancel := context.WithCancel(stream.Context())
	conn := wire.NewConn(stream)
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

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

// begin starts a call on a goroutine of its own. How many run at once is the session's to decide.
func (d *dispatch) begin(call *wirepb.Call) {
	ctx, cancel := context.WithCancel(d.ctx)
	d.mu.Lock()
	d.running[call.GetId()] = cancel
	d.mu.Unlock()
	d.server.calls.Go(func() {
		defer cancel()
		result, value := d.run(ctx, call)
		result.Id, result.Attempt = call.GetId(), call.GetAttempt()
		d.mu.Lock()
		delete(d.running, call.GetId())
		d.mu.Unlock()
		d.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Result{Result: result}}, result.GetValue(), value)
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

// run runs a call to its end. value is the body of the result, if that has one.
func (d *dispatch) run(ctx context.Context, call *wirepb.Call) (_ *wirepb.Result, value []byte) {
	if int(call.GetFunction()) >= len(d.server.entries) {
		return refuse(wirepb.Refusal_REASON_UNKNOWN_FUNCTION, fmt.Sprintf("the worker has no function %d", call.GetFunction())), nil
	}
	entry := d.server.entries[call.GetFunction()]
	d.server.ledger.Begin(call.GetId()) // an unmarshaler is user code already
	invocation, err := decodeArgs(entry, call.GetArgument().GetData())
	if err != nil {
		return refuse(wirepb.Refusal_REASON_BAD_ARGUMENT, err.Error()), nil
	}
	info := callinfo.Info{
		Function: entry.Name(), Call: call.GetName(), Attempt: int(call.GetAttempt()),
		Session: d.hello.GetSession(), Sandbox: d.hello.GetSandbox(),
	}
	if timeout := time.Duration(call.GetTimeoutNanos()); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, callinfo.ErrTimeout)
		defer cancel()
		info.Deadline, _ = ctx.Deadline()
	}
	err, crash := protect(func() error { return invocation.Run(callinfo.With(ctx, info)) })
	switch {
	case crash != nil:
		return &wirepb.Result{Outcome: &wirepb.Result_Panic{Panic: crash}}, nil
	case err != nil && errors.Is(context.Cause(ctx), callinfo.ErrTimeout):
		timedOut := &wirepb.TimedOut{}
		if !errors.Is(err, context.DeadlineExceeded) {
			timedOut.Error = wire.EncodeError(err)
		}
		return &wirepb.Result{Outcome: &wirepb.Result_TimedOut{TimedOut: timedOut}}, nil
	case err != nil:
		return &wirepb.Result{Outcome: &wirepb.Result_FunctionError{FunctionError: wire.EncodeError(err)}}, nil
	}
	// A marshaler of the result is user code too.
	err, crash = protect(func() (err error) {
		value, err = invocation.EncodeResult(nil)
		return err
	})
	switch {
	case crash != nil:
		return &wirepb.Result{Outcome: &wirepb.Result_Panic{Panic: crash}}, nil
	case err != nil:
		return resultError(err.Error()), nil
	case len(value) > wire.MaxValue:
		return resultError(fmt.Sprintf("%d bytes encoded; the limit is %d", len(value), wire.MaxValue)), nil
	}
	return &wirepb.Result{Outcome: &wirepb.Result_Value{Value: &wirepb.Body{}}}, value
}

// decodeArgs decodes, where an unmarshaler of user code may panic.
func decodeArgs(entry *registry.Entry, data []byte) (invocation *registry.Invocation, err error) {
	err, crash := protect(func() (err error) {
		invocation, err = entry.DecodeArgs(data)
		return err
	})
	if crash != nil {
		return nil, fmt.Errorf("decoding panicked: %s", crash.GetValue())
	}
	return invocation, err
}

func refuse(reason wirepb.Refusal_Reason, text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_Refused{Refused: &wirepb.Refusal{Reason: reason, Text: wire.Clip(text, maxStack)}}}
}

func resultError(text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_ResultError{ResultError: wire.Clip(text, maxStack)}}
}

// protect runs user code and turns a panic, or the end of the goroutine, into a message. The code runs on a goroutine
// of its own, since runtime.Goexit would take ours.
func protect(run func() error) (err error, crash *wirepb.Panic) { //nolint:staticcheck // the crash is not an error of ours
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if returned {
				return
			}
			p := recover()
			crash = &wirepb.Panic{Stack: wire.Clip(string(debug.Stack()), maxStack)}
			if p == nil {
				crash.Goexit = true
			} else {
				crash.Value = wire.Clip(panicText(p), maxStack)
			}
		}()
		err = run()
		returned = true
	}()
	<-done
	return err, crash
}

// panicText prints a panic's value, whose String or Error method is user code too.
func panicText(p any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(a %T, which panicked when it was printed)", p)
		}
	}()
	switch p := p.(type) {
	case error:
		return p.Error()
	case fmt.Stringer:
		return p.String()
	}
	return fmt.Sprint(p)
}
