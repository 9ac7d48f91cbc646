package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
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

// doomTime is how long a worker waits for its end when a function ignores the end of its context.
const doomTime = 2 * wire.Grace

// server serves the one stream of a worker.
type server struct {
	wirepb.UnimplementedWorkerServer
	grpc      *grpc.Server
	attendant *attendant // nil if it neither runs commands nor has files
	entries   []*registry.Entry
	ledger    *ledger.Ledger   // nil if there is none
	exit      func(why string) // ends the worker at once; why is one of package wire's
	wrap      func(wire.Stream) wire.Stream
	meter     *wire.Meter
	direct    net.Conn // nil if there is none
	opened    sync.Once

	handlers sync.WaitGroup // of the stream; they wait for the calls
	calls    sync.WaitGroup
}

// newGRPC makes the gRPC server, with what go-plugin adds to it.
func (s *server) newGRPC(opts []grpc.ServerOption) *grpc.Server {
	s.grpc = grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(wire.MaxFrame), grpc.MaxSendMsgSize(wire.MaxFrame),
		grpc.StaticStreamWindowSize(wire.Window), grpc.StaticConnWindowSize(wire.Window), // or gRPC measures the way with pings, one for each short command
		grpc.WriteBufferSize(wire.WriteBuffer), grpc.ForceServerCodecV2(wire.Codec()))...)
	return s.grpc
}

func (s *server) register(registrar grpc.ServiceRegistrar) {
	wirepb.RegisterWorkerServer(registrar, s)
	if s.attendant != nil {
		wirepb.RegisterSandboxServer(registrar, s.attendant)
	}
}

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
	conn := wire.NewConn(s.wrapped(wire.NewStream(stream, nil)), nil)
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
	welcome := s.welcome()
	welcome.Direct = hello.GetDirect() && s.direct != nil
	conn.Send(&wirepb.Message{Kind: &wirepb.Message_Welcome{Welcome: welcome}}, nil, nil)
	if welcome.GetDirect() {
		stream, err := wire.NewDirect(s.direct)
		if err != nil {
			return err
		}
		// Each of the two connections ends the other.
		defer func() { _ = s.meter.Close() }()
		stop := context.AfterFunc(ctx, func() { _ = s.direct.Close() })
		defer stop()
		conn = wire.NewConn(stream, nil)
		defer func() { <-conn.Stopped() }()
		defer conn.Close()
		defer s.calls.Wait()
		defer cancel()
	}

	d := &dispatch{
		ctx: ctx, conn: conn, hello: hello, server: s, calls: map[uint64]*call{},
		records: &records{conn: conn, level: slog.Level(hello.GetLogLevel())},
	}
	if lease := time.Duration(hello.GetLeaseNanos()); lease > 0 { // nobody waits for the results of a session that is gone
		s.calls.Go(func() { conn.Watch(ctx, lease, func() {}, s.ledger.WorkerCrowded, func() { s.exit(wire.LeaseEnded) }) })
	}
	for {
		message, err := conn.Recv()
		if err != nil {
			return err
		}
		switch kind := message.GetKind().(type) {
		case *wirepb.Message_Call:
			if err := d.accept(kind.Call); err != nil {
				return err
			}
		case *wirepb.Message_Cancel:
			d.cancel(kind.Cancel.GetId())
			d.stopProfile(kind.Cancel.GetId())
		case *wirepb.Message_Profile:
			s.calls.Go(func() { d.profile(kind.Profile) })
		case *wirepb.Message_Ping:
			conn.Send(&wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}, nil, nil)
		default:
			return &wire.ProtocolError{Reason: fmt.Sprintf("a session does not send %T", kind)}
		}
	}
}

func (s *server) wrapped(stream wire.Stream) wire.Stream {
	if s.wrap == nil {
		return stream
	}
	return s.wrap(stream)
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

// dispatch runs the calls of a stream, in order, as many at a time as the session said.
type dispatch struct {
	ctx     context.Context // of the stream
	conn    *wire.Conn
	hello   *wirepb.Hello
	server  *server
	records *records

	mu      sync.Mutex
	calls   map[uint64]*call // that wait or run
	waiting []*call
	running int
	doomed  bool // the sandbox is about to end: nothing begins any more

	recording     uint64             // the profile that takes its time; 0 if there is none
	stopRecording context.CancelFunc // guarded by mu, as it is
}

// call is a call that waits or runs.
type call struct {
	*dispatch
	message   *wirepb.Call
	ctx       context.Context
	cancel    context.CancelFunc
	begun     bool           // the function was called
	goroutine string         // that it runs on, as the runtime names it; empty if its time is not limited
	result    *wirepb.Result // nil if run did not return
	value     []byte         // the body of the result, if that has one
	progress  progress

	answered bool // guarded by mu
}

// accept takes a call into the queue.
func (d *dispatch) accept(message *wirepb.Call) error {
	c := &call{dispatch: d, message: message}
	if deadline := time.Duration(message.GetDeadlineNanos()); deadline > 0 {
		c.ctx, c.cancel = context.WithTimeout(d.ctx, deadline)
	} else {
		c.ctx, c.cancel = context.WithCancel(d.ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.calls) == ledger.Slots || d.calls[message.GetId()] != nil {
		c.cancel()
		return &wire.ProtocolError{Reason: fmt.Sprintf("call %d is one too many", message.GetId())}
	}
	d.calls[message.GetId()] = c
	d.waiting = append(d.waiting, c)
	d.next()
	return nil
}

// next begins what may begin, each on a goroutine of its own. Callers hold mu.
func (d *dispatch) next() {
	for d.running < max(int(d.hello.GetConcurrency()), 1) && len(d.waiting) > 0 && !d.doomed {
		c := d.waiting[0]
		d.waiting[0] = nil
		d.waiting = d.waiting[1:]
		d.running++
		d.server.calls.Go(func() {
			defer c.finish()
			c.result = c.run()
		})
	}
	if len(d.waiting) == 0 {
		d.waiting = nil
	}
}

// cancel refuses a call that waits, and ends the context of one that runs. One that has ended crossed the cancel on its way.
func (d *dispatch) cancel(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.calls[id]
	if c == nil {
		return
	}
	c.cancel()
	if i := slices.Index(d.waiting, c); i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
		c.answers()
		c.send(cancelled(), nil)
	}
}

// finish sends the result. It is deferred by the call's goroutine, so that it runs too when user code panics or ends the
// goroutine by runtime.Goexit.
func (c *call) finish() {
	p := recover()
	defer c.end() // even if what prints a panic's value ends the goroutine
	if c.result == nil {
		c.result = &wirepb.Result{Outcome: &wirepb.Result_Panic{Panic: &wirepb.Panic{Goexit: true}}}
		c.result = c.crash(p)
	}
}

func (c *call) end() {
	c.cancel()
	c.mu.Lock()
	first, alone := c.answers(), c.running == 1
	c.mu.Unlock()
	// The next call may end the process at once, which must not cost this one its result. If that does not arrive, nobody would hear
	// of the next call, and it could run elsewhere: none begins any more.
	switch {
	case !first:
		c.over()
	case c.conn.Direct():
		message, body := c.resultMessage(c.result)
		c.conn.SendThen(message, body, c.value, alone, c.over)
	case c.conn.Flush(c.send(c.result, c.value), c.server.meter):
		c.over()
	}
}

// over begins the next call.
func (c *call) over() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	c.next()
}

// answers notes that a call is answered, and reports whether it was not before. Callers hold mu.
func (c *call) answers() bool {
	if c.answered {
		return false
	}
	c.answered = true
	delete(c.calls, c.message.GetId())
	return true
}

// send sends a result.
func (c *call) send(result *wirepb.Result, value []byte) *wire.Ticket {
	message, body := c.resultMessage(result)
	return c.conn.Send(message, body, value)
}

func (c *call) resultMessage(result *wirepb.Result) (*wirepb.Message, *wirepb.Body) {
	result.Id, result.Attempt = c.message.GetId(), c.message.GetAttempt()
	c.records.report(c.message.GetId())
	c.progress.end(c)
	return &wirepb.Message{Kind: &wirepb.Message_Result{Result: result}}, result.GetValue()
}

// overdue answers for a function that does not return although its time was up a while ago. The session ends the sandbox
// then; should it be unable to, this process ends itself.
func (c *call) overdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.answered && c.ctx.Err() == nil {
		// Where it is crowded, a context can end later than its time. The function does not know yet, and whose time it was shows then.
		context.AfterFunc(c.ctx, func() { time.AfterFunc(wire.Grace, c.overdue) })
		return
	}
	if !c.answers() {
		return
	}
	c.doomed = true
	c.send(&wirepb.Result{Outcome: &wirepb.Result_TimedOut{TimedOut: &wirepb.TimedOut{
		Running: true, Deadline: !c.timedOut(), Stack: stackOf(c.goroutine),
	}}}, nil)
	time.AfterFunc(doomTime, func() { c.server.exit(wire.FunctionHeld) })
}

// timedOut reports whether the function's context ended by its own timeout, and not by the caller's deadline.
func (c *call) timedOut() bool { return errors.Is(context.Cause(c.ctx), callinfo.ErrTimeout) }

// crash is the result of user code that did not return. p is what it panicked with, nil if it ended the goroutine.
func (c *call) crash(p any) *wirepb.Result {
	if !c.begun {
		return refuse(wirepb.Refusal_REASON_BAD_ARGUMENT, fmt.Sprintf("an unmarshaler did not return: %s", wire.PanicText(p)))
	}
	crash := &wirepb.Panic{Stack: wire.Clip(string(debug.Stack()), maxStack), Goexit: p == nil}
	if p != nil {
		crash.Value = wire.Clip(wire.PanicText(p), maxStack)
	}
	if err, ok := p.(error); ok {
		crash.Error = registry.AppendError(nil, err)
	}
	return &wirepb.Result{Outcome: &wirepb.Result_Panic{Panic: crash}}
}

// Logger is the logger of what the function logs.
func (c *call) Logger() *slog.Logger { return c.records.logger(c.message.GetId()) }

// run runs the call to its end.
func (c *call) run() *wirepb.Result {
	if int(c.message.GetFunction()) >= len(c.server.entries) {
		return refuse(wirepb.Refusal_REASON_UNKNOWN_FUNCTION, fmt.Sprintf("the worker has no function %d", c.message.GetFunction()))
	}
	entry := c.server.entries[c.message.GetFunction()]
	// Claimed before an unmarshaler runs, which is user code already.
	if c.ctx.Err() != nil || !c.server.ledger.Claim(int(c.message.GetSlot()), c.message.GetId()) {
		return cancelled()
	}
	// The time of both counts from here: decoding is part of it.
	if timeout := time.Duration(c.message.GetTimeoutNanos()); timeout > 0 {
		ctx, cancel := context.WithTimeoutCause(c.ctx, timeout, callinfo.ErrTimeout)
		defer cancel()
		c.mu.Lock()
		c.ctx = ctx
		c.mu.Unlock()
	}
	deadline, bounded := c.ctx.Deadline()
	if late := max(time.Until(deadline), 0) + wire.Grace; bounded && late > 0 { // no overflow
		c.goroutine = goroutine()
		timer := time.AfterFunc(late, c.overdue)
		defer timer.Stop()
	}
	invocation, err := entry.DecodeArgs(c.message.GetArgument().GetData())
	if err != nil {
		return refuse(wirepb.Refusal_REASON_BAD_ARGUMENT, err.Error())
	}
	info := callinfo.Info{
		Function: entry.Name(), Call: c.message.GetName(), Attempt: int(c.message.GetAttempt()),
		Session: c.hello.GetSession(), Sandbox: c.hello.GetSandbox(), Deadline: deadline, Metadata: c.message.GetMetadata(),
	}
	c.begun = true
	err = callinfo.Run(c.ctx, info, c, invocation.Run)
	switch {
	case err != nil && errors.Is(c.ctx.Err(), context.DeadlineExceeded):
		timedOut := &wirepb.TimedOut{Deadline: !c.timedOut()}
		if !isContexts(c.ctx, err) {
			timedOut.Error = registry.AppendError(nil, err)
		}
		return &wirepb.Result{Outcome: &wirepb.Result_TimedOut{TimedOut: timedOut}}
	case err != nil:
		return &wirepb.Result{Outcome: &wirepb.Result_FunctionError{FunctionError: registry.AppendError(nil, err)}}
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

// isContexts reports whether an error is no more than the end of a context.
func isContexts(ctx context.Context, err error) bool {
	for _, end := range []error{ctx.Err(), context.Cause(ctx), context.DeadlineExceeded} {
		if err == end { //nolint:errorlint // an error that wraps one of them says more
			return true
		}
	}
	return false
}

// cancelled is the result of a call that never begins.
func cancelled() *wirepb.Result {
	return refuse(wirepb.Refusal_REASON_CANCELLED, "the call was cancelled before it began")
}

func refuse(reason wirepb.Refusal_Reason, text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_Refused{Refused: &wirepb.Refusal{Reason: reason, Text: wire.Clip(text, maxStack)}}}
}

func resultError(text string) *wirepb.Result {
	return &wirepb.Result{Outcome: &wirepb.Result_ResultError{ResultError: wire.Clip(text, maxStack)}}
}

// goroutine is the name of the goroutine that calls it, as in "goroutine 7 ".
func goroutine() string {
	var head [64]byte
	name, _, _ := bytes.Cut(head[:runtime.Stack(head[:], false)], []byte("["))
	return string(name)
}

// maxStacks bounds the text in which a goroutine's stack is looked for.
const maxStacks = 1 << 20

// stackOf returns the stack of a goroutine, empty if it is not found.
func stackOf(goroutine string) string {
	return findStack(func(stack []byte) bool { return bytes.HasPrefix(stack, []byte(goroutine)) })
}

// findStack returns the first stack that is the one that is looked for, empty if none is.
func findStack(is func([]byte) bool) string {
	stacks := make([]byte, maxStacks)
	for stack := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if is(stack) {
			return wire.Clip(string(stack), maxStack)
		}
	}
	return ""
}
