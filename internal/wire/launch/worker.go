package launch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc"
)

// A Worker is a running worker and its stream. Its methods may be called at the same time.
type Worker struct {
	grpc    *grpc.ClientConn
	process driver.Process
	output  *output

	conn      *wire.Conn
	closeConn context.CancelFunc
	functions map[string]Function
	names     []string // of functions, by index

	mu    sync.Mutex
	calls map[uint64]*Pending // nil when the stream has ended
	last  uint64
	lost  *LostError
	done  chan struct{}

	notes bool   // the worker writes the ledger
	begun uint64 // the highest id that has begun; set before done is closed
}

// Function is one that the worker can run.
type Function struct {
	Index       uint32
	Fingerprint string
}

// LostError says that a worker is no longer there, and how it ended as far as that is known.
type LostError struct {
	// Err is what ended the stream.
	Err error
	// Exit is how the process ended; nil if nobody knows.
	Exit *driver.Exit
	// LastLines are the last lines that it printed.
	LastLines []string
}

func (e *LostError) Error() string {
	text := "worker lost: "
	if e.Exit != nil {
		text += e.Exit.String()
	} else {
		text += e.Err.Error()
	}
	if len(e.LastLines) > 0 {
		text += "; last output:\n\t" + strings.Join(e.LastLines, "\n\t")
	}
	return text
}

func (e *LostError) Unwrap() error { return e.Err }

// open begins the stream and reads the worker's welcome.
func (w *Worker) open(config Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := wirepb.NewWorkerClient(w.grpc).Serve(ctx)
	if err != nil {
		cancel()
		return fmt.Errorf("open the stream: %w", err)
	}
	w.closeConn = cancel
	w.conn = wire.NewConn(stream, w.returned)
	fail := func(err error) error {
		w.conn.Close()
		cancel()
		<-w.conn.Stopped()
		return err
	}
	hello := &wirepb.Hello{Sandbox: config.Sandbox, Session: config.Session, LogLevel: config.Logs.lowest()}
	w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Hello{Hello: hello}}, nil, nil)
	message, err := w.conn.Recv()
	if err != nil {
		return fail(err)
	}
	welcome := message.GetWelcome()
	if welcome == nil {
		return fail(&wire.ProtocolError{Reason: "the first message is not a welcome"})
	}
	// A worker of another version may differ in ways that the protocol's version does not show.
	if host, theirs := wire.ModuleVersion(), welcome.GetSbxVersion(); host != theirs {
		return fail(fmt.Errorf("the worker was built with sbx %s and this program with %s: build both with the same version", wire.Clip(theirs, 100), host))
	}
	w.notes = welcome.GetLedger()
	w.functions = make(map[string]Function, len(welcome.GetFunctions()))
	for i, function := range welcome.GetFunctions() {
		w.names = append(w.names, function.GetName())
		w.functions[function.GetName()] = Function{Index: uint32(i), Fingerprint: function.GetFingerprint()}
	}
	go w.receive()
	return nil
}

// Function returns the worker's function of that name.
func (w *Worker) Function(name string) (Function, bool) {
	f, ok := w.functions[name]
	return f, ok
}

func (w *Worker) nameOf(function uint32) string {
	if int(function) < len(w.names) {
		return w.names[function]
	}
	return ""
}

// Done is closed when the worker is lost; then Lost says why.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Lost returns why the worker is no longer there. Call it after Done is closed.
func (w *Worker) Lost() *LostError {
	<-w.done
	return w.lost
}

// receive hands results to those who wait, until the stream ends.
func (w *Worker) receive() {
	var err error
	for err == nil {
		var message *wirepb.Message
		if message, err = w.conn.Recv(); err == nil {
			err = w.deliver(message)
		}
	}
	// Whatever ended the stream, nothing more is heard of this worker: let it end, and see how it did.
	w.conn.Close()
	w.closeConn()
	broken := errors.As(err, new(*wire.ProtocolError))
	if broken {
		_ = w.process.Kill()
	}
	<-w.conn.Stopped()
	lost := &LostError{Err: err}
	exit := w.waitProcess()
	ended := exit != nil
	if !ended {
		// User code cut the stream and runs on.
		_ = w.process.Kill()
		ended = w.waitProcess() != nil
	}
	if !broken {
		lost.Exit = exit // else the end is ours
	}
	begun := w.readLedger(ended)
	w.output.settle()
	lost.LastLines = w.output.last()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = lost
	w.begun = begun
	w.calls = nil
	close(w.done)
}

// returned notes that a call's function has returned, when its result begins to arrive.
func (w *Worker) returned(message *wirepb.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call := w.calls[message.GetResult().GetId()]; call != nil {
		call.returned.Store(true)
	}
}

// waitProcess waits for the process's end, but not long, and returns how it ended; nil if that is not known.
func (w *Worker) waitProcess() *driver.Exit {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	exit, err := w.process.Wait(ctx)
	if err != nil {
		return nil
	}
	return &exit
}

// readLedger returns the highest id of a call that may have begun. Nothing but a whole ledger of a process that has ended
// proves that a call did not begin.
func (w *Worker) readLedger(ended bool) uint64 {
	file := w.process.Ledger()
	if !ended || !w.notes || file == nil {
		return math.MaxUint64
	}
	begun, err := ledger.Read(file)
	if err != nil {
		return math.MaxUint64
	}
	return begun
}

func (w *Worker) deliver(message *wirepb.Message) error {
	if log := message.GetLog(); log != nil {
		w.output.log(log)
		return nil
	}
	result := message.GetResult()
	if result == nil || result.GetOutcome() == nil {
		return &wire.ProtocolError{Reason: "a worker sends results and logs only"}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	call := w.calls[result.GetId()]
	if call == nil {
		return &wire.ProtocolError{Reason: fmt.Sprintf("a result of call %d, which is not running", result.GetId())}
	}
	if result.GetAttempt() != call.attempt {
		return &wire.ProtocolError{Reason: fmt.Sprintf("a result of attempt %d of call %d; attempt %d is running", result.GetAttempt(), result.GetId(), call.attempt)}
	}
	delete(w.calls, result.GetId())
	w.output.returned(result.GetId())
	call.result = result
	close(call.done)
	return nil
}

// Pending is a call that was sent.
type Pending struct {
	worker  *Worker
	id      uint64
	attempt uint32
	ticket  *wire.Ticket
	done    chan struct{}
	result  *wirepb.Result

	returned atomic.Bool
}

// Go sends a call with its encoded argument. The id is chosen here. It does not wait.
func (w *Worker) Go(call *wirepb.Call, argument []byte) *Pending {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	call.Id = w.last
	call.Argument = &wirepb.Body{}
	p := &Pending{worker: w, id: call.GetId(), attempt: call.GetAttempt(), done: make(chan struct{})}
	w.output.began(p.id, w.nameOf(call.GetFunction()), call.GetName())
	p.ticket = w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Call{Call: call}}, call.GetArgument(), argument)
	if w.calls != nil {
		w.calls[p.id] = p
	}
	return p
}

// Done is closed when the result is there. It stays open if the worker is lost first: select on Worker.Done too.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Returned reports whether the function is known to have returned, although its result may not be there yet.
func (p *Pending) Returned() bool { return p.returned.Load() }

// Result returns the result. Call it after Done is closed.
func (p *Pending) Result() *wirepb.Result {
	<-p.done
	return p.result
}

// Begun reports whether user code of the call may have begun. It waits for the worker's end; false is certain.
func (p *Pending) Begun() bool {
	<-p.worker.done
	return p.worker.conn.Handed(p.ticket) && p.id <= p.worker.begun
}

// Cancel ends the call's context. It reports whether the call was withdrawn before the worker had all of it: then the
// function never begins, and no result comes.
func (p *Pending) Cancel() (withdrawn bool) {
	w := p.worker
	if w.conn.Abort(p.ticket) {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, p.id)
		w.output.returned(p.id)
		return true
	}
	w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Cancel{Cancel: &wirepb.Cancel{Id: p.id}}}, nil, nil)
	return false
}

// Close ends the stream and waits until nothing of the worker is left on this side. Stop the sandbox first; a process
// that still runs is killed.
func (w *Worker) Close() {
	_ = w.process.Kill()
	w.conn.Close()
	w.closeConn()
	<-w.done
	_ = w.grpc.Close()
	_ = w.process.Handshake().Close()
	if file := w.process.Ledger(); file != nil {
		_ = file.Close()
	}
	w.output.close()
}
