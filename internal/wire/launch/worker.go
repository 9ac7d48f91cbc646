package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc"
)

// A Worker is a running worker and its stream. Its methods may be called at the same time.
type Worker struct {
	grpc    *grpc.ClientConn
	guard   *wire.Guard
	process driver.Process
	output  *output
	report  *report
	// coverage is the folder into which the worker's coverage goes; empty if nobody wants it.
	coverage string

	conn      *wire.Conn
	closeConn context.CancelFunc
	functions map[string]Function
	watch     sync.WaitGroup
	names     []string // of functions, by index

	mu        sync.Mutex
	calls     map[uint64]*Pending // nil when the stream has ended
	last      uint64
	ledger    *ledger.Ledger // nil if there is none, or the stream has ended
	slots     []int          // of the ledger, those that are free again
	unused    int            // the first of the ledger's slots that no call had
	withdrawn int            // calls that the worker has not confirmed
	asked     []chan struct{}
	profiles  map[uint64]*profiling // nil when the stream has ended
	silent    bool                  // it was given up
	lost      *LostError
	done      chan struct{}

	beating sync.RWMutex   // that only the begin and the end lock
	beats   *ledger.Ledger // ledger, for who must not wait for mu
}

// Function is one that the worker can run.
type Function struct {
	Index       uint32
	Fingerprint string
}

// ErrSilent says that a worker was given up because it showed no sign of life.
var ErrSilent = errors.New("the worker gave no sign of life")

// LostError says that a worker is no longer there, and how it ended as far as that is known.
type LostError struct {
	// Err is what ended the stream; or, where the driver can't say how the process ended, why not.
	Err error
	// Exit is how the process ended; nil if nobody knows.
	Exit *driver.Exit
	// WentOn says that the process did not end within exitTime of the stream's end, and was killed.
	WentOn bool
	// Crash is what the Go runtime said when it ended the process; nil if that was not how it ended.
	Crash *Crash
	// Decided is why the worker ended itself, one of package wire's reasons; empty if that was not its decision.
	Decided string
	// LastLines are the last lines that it printed.
	LastLines []string
	// Running is how many calls may have been running in it.
	Running int
}

func (e *LostError) Error() string {
	text := "worker lost: "
	if e.Exit != nil {
		text += e.Exit.String()
	} else {
		text += e.Err.Error()
	}
	if e.Crash != nil {
		text += ": " + e.Crash.String()
	}
	return text + printed(e.LastLines)
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
	direct := w.process.Direct()
	w.closeConn = func() {
		cancel()
		if direct != nil {
			_ = direct.Close()
		}
	}
	w.conn = wire.NewConn(wire.NewStream(stream, w.guard), w.returned)
	fail := func(err error) error {
		w.conn.Close()
		w.closeConn()
		<-w.conn.Stopped()
		w.watch.Wait()
		return err
	}
	hello := &wirepb.Hello{
		Sandbox: config.Sandbox, Session: config.Session, LogLevel: config.Logs.lowest(),
		LeaseNanos: int64(config.Lease), Concurrency: uint32(config.Concurrency), Direct: direct != nil,
	}
	w.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Hello{Hello: hello}}, nil, nil)
	// The worker has said that it is ready, so its init functions are done and the lease holds from here on.
	greeted := w.watchOver(ctx, config.Lease)
	message, err := w.conn.Recv()
	if err != nil {
		w.conn.Fail(err)
		return fail(w.conn.Err()) // that it was given up, if so
	}
	welcome := message.GetWelcome()
	if welcome == nil {
		return fail(&wire.ProtocolError{Reason: "the first message is not a welcome"})
	}
	// A worker of another version may differ in ways that the protocol's version does not show.
	if host, theirs := wire.ModuleVersion(), welcome.GetSbxVersion(); host != theirs {
		return fail(fmt.Errorf("the worker was built with sbx %s and this program with %s: build both with the same version", wire.Clip(theirs, 100), host))
	}
	if file := w.process.Ledger(); file != nil && welcome.GetLedger() {
		notes, err := ledger.Map(file)
		if err != nil {
			return fail(err)
		}
		w.ledger = notes
		w.beating.Lock()
		w.beats = notes
		w.beating.Unlock()
		w.output.attribute(w.ledger)
	}
	w.functions = make(map[string]Function, len(welcome.GetFunctions()))
	for i, function := range welcome.GetFunctions() {
		w.names = append(w.names, function.GetName())
		w.functions[function.GetName()] = Function{Index: uint32(i), Fingerprint: function.GetFingerprint()}
	}
	if welcome.GetDirect() {
		if err := w.useDirect(ctx, direct, greeted, config.Lease); err != nil {
			return fail(err)
		}
	}
	go w.receive()
	w.watch.Go(func() { w.followProcess(ctx) })
	return nil
}

// watchOver gives the worker up when nothing is heard of it on the connection for a lease. end ends that.
func (w *Worker) watchOver(ctx context.Context, lease time.Duration) (end func()) {
	if lease <= 0 {
		return func() {}
	}
	ctx, end = context.WithCancel(ctx)
	conn := w.conn
	w.watch.Go(func() { conn.Watch(ctx, lease, func() { ping(conn) }, w.crowded, func() { w.giveUp(conn, lease) }) })
	return end
}

// useDirect lets calls go over a socket of their own.
func (w *Worker) useDirect(ctx context.Context, socket net.Conn, greeted func(), lease time.Duration) error {
	if socket == nil {
		return &wire.ProtocolError{Reason: "a connection that was not offered"}
	}
	stream, err := wire.NewDirect(socket)
	if err != nil {
		return err
	}
	greeted()
	w.conn.Close()
	<-w.conn.Stopped()
	w.conn = wire.NewConn(stream, w.returned)
	w.watchOver(ctx, lease)
	return nil
}

// followProcess ends the stream when the process has ended. As a rule that happens by itself; but something that user code started may
// hold the other end. What the worker sent before is read first.
func (w *Worker) followProcess(ctx context.Context) {
	if _, err := w.process.Wait(ctx); err != nil {
		return // the stream has ended, or nobody knows of the process
	}
	ticker := time.NewTicker(settleTime)
	defer ticker.Stop()
	// Whoever holds the other end may write on: not for ever.
	for end := time.Now().Add(readTime); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if !w.conn.Unread() || time.Now().After(end) { // where the machine is busy, reading may take long
			w.closeConn()
			return
		}
	}
}

// readTime is for how long what a worker sent is read after its end.
const readTime = 30 * time.Second

func ping(conn *wire.Conn) {
	conn.Send(&wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}, nil, nil)
}

// crowded tells the worker if this program is too crowded with goroutines to answer, and returns a count that grows while the
// worker is. It shares no lock with those who wait.
func (w *Worker) crowded(ours bool) uint64 {
	w.beating.RLock()
	defer w.beating.RUnlock()
	return w.beats.SessionCrowded(ours)
}

// giveUp ends a worker that shows no sign of life.
func (w *Worker) giveUp(conn *wire.Conn, lease time.Duration) {
	w.mu.Lock()
	w.silent = true
	w.mu.Unlock()
	// Before the kill, by which the stream ends too.
	conn.Fail(fmt.Errorf("%w for %v", ErrSilent, lease))
	_ = w.process.Kill()
	w.closeConn()
}

// Check asks the worker for a sign of life. It returns an error if there is none before ctx ends.
func (w *Worker) Check(ctx context.Context) error {
	answer := make(chan struct{})
	w.mu.Lock()
	w.asked = append(w.asked, answer)
	w.mu.Unlock()
	ping(w.conn)
	select {
	case <-answer:
		return nil
	case <-w.done:
		return w.lost
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) && w.answersLate(answer) {
			return nil
		}
		w.mu.Lock()
		w.asked = slices.DeleteFunc(w.asked, func(other chan struct{}) bool { return other == answer })
		w.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
	}
}

// lateTurns is half as many turns as a sign of life may have to wait for on its way, and some more.
const lateTurns = 5

// answersLate gives an answer the time that it needs in a program which is crowded with goroutines: there it waits its turn, several
// times. Elsewhere a turn takes no time.
func (w *Worker) answersLate(answer <-chan struct{}) bool {
	for range lateTurns {
		sent := time.Now()
		runtime.Gosched()
		select {
		case <-answer:
			return true
		case <-w.done:
			return false
		case <-time.After(time.Since(sent)):
		}
	}
	return false
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

// Sandbox is the worker's service for commands and files.
func (w *Worker) Sandbox() wirepb.SandboxClient { return wirepb.NewSandboxClient(bounded{w.grpc}) }

// bounded is a connection that takes no longer messages than the service for commands and files sends: decoded they may take many times their length.
type bounded struct{ grpc.ClientConnInterface }

func (b bounded) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return b.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, grpc.MaxCallRecvMsgSize(wire.MaxSandboxMessage))...)
}

func (b bounded) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.ClientConnInterface.NewStream(ctx, desc, method, append(opts, grpc.MaxCallRecvMsgSize(wire.MaxSandboxMessage))...)
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
	w.conn.Fail(err)
	w.closeConn()
	w.mu.Lock()
	ours := w.silent || errors.As(err, new(*wire.ProtocolError))
	w.mu.Unlock()
	if ours {
		_ = w.process.Kill()
	}
	<-w.conn.Stopped()
	lost := &LostError{Err: w.conn.Err()}
	exit, err := w.waitProcess()
	switch {
	case exit != nil:
	case !errors.Is(err, context.DeadlineExceeded): // the driver knows better than the stream
		_ = w.process.Kill() // it may not know that it has ended
		if !ours {
			lost.Err = err
		}
	default:
		// User code cut the stream and runs on; or it has ended, and on a busy machine that takes long to show.
		_ = w.process.Kill()
		if late, _ := w.waitProcess(); late != nil && late.Signal != syscall.SIGKILL { // which is ours
			exit = late
		} else {
			lost.WentOn = !ours
		}
	}
	if !ours {
		lost.Exit = exit // else the end says nothing about the worker
	}
	w.output.settle()
	lost.Crash = w.report.crash(exit, w.output.fatalError())
	if !ours {
		lost.Decided = w.report.decided()
	}
	lost.LastLines = w.output.last(lost.Crash)
	w.keepCoverage()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = lost
	for _, call := range w.calls {
		call.begun = !call.withdrawn && w.conn.Handed(call.ticket) && !w.ledger.Withdraw(call.slot, call.id)
		if call.begun {
			lost.Running++
		}
	}
	w.output.attribute(nil)
	w.beating.Lock()
	w.beats = nil
	w.beating.Unlock()
	w.ledger.Close()
	w.ledger, w.calls, w.profiles = nil, nil, nil
	close(w.done)
}

// Window returns memory that is shared with the worker and that nobody uses; nil if there is none.
func (w *Worker) Window() *ledger.Window {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ledger.Take()
}

// returned notes that a call's function has returned, when its result begins to arrive in chunks. A worker has to have a call for every
// value that it sends, or it could fill this side's memory with a thousand of them.
func (w *Worker) returned(message *wirepb.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if profiled := message.GetProfiled(); profiled != nil {
		return w.profileArrives(profiled)
	}
	call, err := w.answered(message.GetResult())
	if err != nil {
		return err
	}
	if call.withdrawn || call.arriving.Swap(message.GetResult().GetValue().GetSize()) > 0 {
		return &wire.ProtocolError{Reason: fmt.Sprintf("a value for call %d, which can't have one or has one already", call.id)}
	}
	return nil
}

// answered finds the call of a result. Callers hold mu.
func (w *Worker) answered(result *wirepb.Result) (*Pending, error) {
	call := w.calls[result.GetId()]
	switch {
	case call == nil:
		return nil, &wire.ProtocolError{Reason: fmt.Sprintf("a result of call %d, which is not running", result.GetId())}
	case result.GetAttempt() != call.attempt:
		return nil, &wire.ProtocolError{Reason: fmt.Sprintf("a result of attempt %d of call %d; attempt %d is running", result.GetAttempt(), result.GetId(), call.attempt)}
	}
	return call, nil
}

// exitTime is how long a process may take to end whose stream has ended.
const exitTime = 5 * time.Second

// waitProcess waits for the process's end, but not long, and returns how it ended; or an error if that is not known.
func (w *Worker) waitProcess() (*driver.Exit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), exitTime)
	defer cancel()
	exit, err := w.process.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &exit, nil
}

// deliver takes what the worker sends.
func (w *Worker) deliver(message *wirepb.Message) error {
	if log := message.GetLog(); log != nil {
		w.output.log(log)
		return nil
	}
	if progress := message.GetProgress(); progress != nil {
		w.progress(progress)
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if message.GetPing() != nil {
		for _, answer := range w.asked {
			close(answer)
		}
		w.asked = nil
		return nil
	}
	if profiled := message.GetProfiled(); profiled != nil {
		return w.profiled(profiled)
	}
	result := message.GetResult()
	if result == nil || result.GetOutcome() == nil {
		return &wire.ProtocolError{Reason: "a worker does not send this"}
	}
	call, err := w.answered(result)
	if err != nil {
		return err
	}
	w.forget(call)
	if call.withdrawn {
		w.withdrawn--
		if result.GetRefused() == nil {
			return &wire.ProtocolError{Reason: fmt.Sprintf("a result of call %d, which was withdrawn", result.GetId())}
		}
		return nil
	}
	call.result = result
	close(call.done)
	return nil
}

// Drain lets the worker end by itself if its coverage is wanted, which is there only then, and waits for that, but not long. Calls
// that run are lost.
func (w *Worker) Drain() {
	if w.coverage == "" {
		return
	}
	w.conn.Close()
	w.closeConn()
	_ = w.grpc.Close()
	<-w.done
}

// keepCoverage keeps the coverage that came from the worker, if any did.
func (w *Worker) keepCoverage() {
	counters := w.report.coverage()
	if w.coverage == "" || counters == "" {
		return
	}
	if err := keepCoverage(w.coverage, []byte(counters)); err != nil {
		w.output.source.warn("sbx: what ran in a sandbox is missing in the coverage", slog.Any("error", err))
	}
}

// Close ends the stream and waits until nothing of the worker is left on this side. Stop the sandbox first; a process
// that still runs is killed.
func (w *Worker) Close() {
	_ = w.process.Kill()
	w.conn.Close()
	w.closeConn()
	<-w.done
	w.watch.Wait()
	_ = w.grpc.Close()
	w.report.close()
	if file := w.process.Ledger(); file != nil {
		_ = file.Close()
	}
	w.output.close()
}
