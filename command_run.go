package sbx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// inputPiece is the most that one message of a command's input has.
	inputPiece = 128 << 10
	// inputTime is how long Wait waits for a reader that gives nothing more to a command that has ended.
	inputTime = 100 * time.Millisecond
	// signalTime bounds how long a signal may take on its way, and a killed command to die.
	signalTime = 5 * time.Second
)

var (
	// errNoStatus says that a sandbox did not keep to the protocol. It must not pass for a success.
	errNoStatus = errors.New("the sandbox ended the command's stream and did not say how the command ended")
	// errUnanswered is how a command ended whose sandbox did not answer.
	errUnanswered   = errors.New("the sandbox did not say in time that the command is dead; stop the sandbox to be sure")
	errNoAnswer     = fmt.Errorf("the sandbox did not answer within %v, so the command may have got it or not; try again, or stop the sandbox", signalTime)
	errGoexit       = errors.New("the writer ended its goroutine (runtime.Goexit)")
	errStderr       = errors.New("the sandbox sent standard error where standard output comes")
	errReaderGoexit = errors.New("the reader of Stdin ended its goroutine (runtime.Goexit)")
	errReaderCount  = errors.New("the reader of Stdin returned an impossible count")
	errPipeClosed   = fmt.Errorf("%w by its reader", io.ErrClosedPipe)
)

// commandRun is a command that was started. Its goroutines: one takes output, another standard error if that comes apart, one watches for the end of its context, of its sandbox and of writers, and
// one reads Stdin if there is one. They end with the command, unless a reader or writer blocks.
type commandRun struct {
	cmd     *Cmd
	id      uint64
	running *sandbox
	stream  *commandStream
	input   bool          // input may follow the command's start
	deaf    atomic.Bool   // the command takes no more input
	fed     chan struct{} // closed when Stdin is not read any more; nil if there is none
	feedErr error         // read after fed
	stderr  *stderrRun    // nil if standard error comes by stream
	writes  atomic.Int32  // that are under way

	failed chan struct{} // closed when a writer has failed, or what is to be written does not come; by fail
	done   chan struct{} // closed when no more output comes
	over   chan struct{} // closed when Wait need not wait any more

	failing  sync.Once
	mu       sync.Mutex
	left     bool // the stream is not this command's any more
	settled  bool // over is closed
	received result
}

// result is what is known of a command's end.
type result struct {
	exited  *wirepb.Exited // nil if the sandbox did not say
	failure error          // why not
	writing error          // of a writer
}

// begin starts the command in its sandbox.
func (c *Cmd) begin() (*commandRun, error) {
	session := c.sandbox.session
	running, err := c.sandbox.usable(c.ctx)
	switch {
	case err != nil:
		return nil, err
	case !session.enter():
		return nil, ErrClosed
	}
	r := &commandRun{
		cmd: c, id: c.sandbox.nextCommand(), running: running,
		failed: make(chan struct{}), done: make(chan struct{}), over: make(chan struct{}),
	}
	running.note(r, true)
	begun := false
	defer func() {
		if !begun { // also where the context panics
			r.endStream()
			running.note(r, false)
			session.counts.count(func(_ *OwnStats, commands *CommandStats) { commands.NotStarted++ })
			session.leave()
		}
	}()
	if err := r.start(); err != nil {
		return nil, err
	}
	begun = true
	if c.stdin != nil {
		c.stdin.attach(r)
	}
	if c.Stdin != nil {
		r.fed = make(chan struct{})
		go r.feed(c.Stdin)
	}
	if r.stderr != nil {
		go r.receiveStderr()
	}
	go r.receive()
	go r.watch(cmp.Or(c.WaitDelay, wire.Grace))
	return r, nil
}

// start opens the stream and has the worker start the command.
func (r *commandRun) start() error {
	c := r.cmd
	var err error
	if r.stream, err = r.running.commandStream(c.ctx); err != nil {
		return c.sandbox.remoteError(c.ctx, r.running, err)
	}
	begun := make(chan struct{})
	defer close(begun)
	// A command that is about to begin is let, to be killed then: else nobody would know that it is dead.
	stop := context.AfterFunc(c.ctx, func() {
		select {
		case <-begun:
		case <-time.After(wire.Grace):
			r.endStream()
		}
	})
	defer stop()
	start := &wirepb.Start{
		Id: r.id, Args: byteStrings(c.Args), Env: byteStrings(c.Env), Dir: []byte(c.Dir),
		Stdin: c.Stdin != nil || c.stdin != nil, Stdout: c.Stdout != nil, Stderr: c.Stderr != nil,
		WaitDelayNanos: int64(c.WaitDelay),
	}
	if c.Terminal != nil {
		start.Terminal = c.Terminal.message()
	}
	if c.Stderr != nil && sameWriter(c.Stdout, c.Stderr) {
		start.Stderr, start.Merge = false, true
	}
	start.Apart = start.GetStdout() && start.GetStderr() && (mayWait(c.Stdout) || mayWait(c.Stderr))
	r.input = start.Stdin || start.Terminal != nil
	// What is wrong with the stream, Recv says.
	_ = r.stream.Send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_Start{Start: start}})
	message, err := r.stream.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return errNoStatus
	case err != nil:
		return c.sandbox.remoteError(c.ctx, r.running, err)
	case message.GetFailure() != nil:
		return remoteFailure(message.GetFailure())
	case message.GetStarted() == nil:
		return fmt.Errorf("the sandbox sent %T where a command begins", message.GetKind())
	}
	c.Pid = int(message.GetStarted().GetPid())
	if !start.GetApart() {
		return nil
	}
	ctx, end := context.WithCancel(r.stream.ctx)
	stderr, err := r.running.client().Stderr(ctx, &wirepb.CommandName{Id: r.id})
	if err != nil {
		end()
		return c.sandbox.remoteError(c.ctx, r.running, err)
	}
	r.stderr = &stderrRun{stream: stderr, end: end, over: make(chan struct{})}
	return nil
}

func byteStrings(from []string) [][]byte {
	to := make([][]byte, len(from))
	for i, text := range from {
		to[i] = []byte(text)
	}
	return to
}

func sameWriter(a, b io.Writer) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

// note writes down what is known of the end, unless Wait has its result.
func (r *commandRun) note(change func(*result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.settled {
		change(&r.received)
	}
}

func (r *commandRun) result() result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.received
}

// settle has Wait return.
func (r *commandRun) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled {
		return
	}
	r.settled = true
	r.deaf.Store(true) // before Wait returns: the stream takes a piece more for a moment after its end
	r.running.note(r, false)
	r.cmd.sandbox.session.counts.ended(r.received.exited)
	r.endPipes()
	r.cmd.sandbox.session.leave()
	close(r.over)
}

// endPipes ends the reading of pipes. Callers hold mu.
func (r *commandRun) endPipes() {
	var err error
	switch { // where output may be missing
	case r.received.exited == nil:
		err = r.cmd.fail(r.cmd.withContext(cmp.Or(r.received.failure, r.received.writing, errUnanswered)))
	case r.killedWithSandbox(r.received):
		err = r.cmd.fail(r.cmd.sandbox.whyNotRunning())
	}
	for _, pipe := range r.cmd.pipes {
		pipe.end(err)
	}
}

// killedWithSandbox reports whether the command ended because its sandbox was stopped.
func (r *commandRun) killedWithSandbox(received result) bool {
	return syscall.Signal(received.exited.GetSignal()) == syscall.SIGKILL && r.running.killed.Load()
}

// watch kills the command when its context has ended or a writer has failed, and gives up on it when it does not end by that, or with its
// sandbox. It then waits for no writer.
func (r *commandRun) watch(delay time.Duration) {
	var killed error // why nobody knows that it is dead
	select {
	case <-r.done:
		return
	case <-r.running.Done():
		killed = r.cmd.sandbox.whyNotRunning()
	case <-r.cmd.ctx.Done():
		killed = r.kill()
	case <-r.failed:
		killed = r.kill()
	}
	if r.ended(delay) {
		return
	}
	// The worker waits as long for what other processes hold open. What it says then is on its way, unless a writer is what is waited for.
	if killed == nil && r.writes.Load() == 0 && r.ended(wire.Grace) {
		return
	}
	r.mu.Lock()
	r.received.failure = cmp.Or(r.received.failure, killed, fmt.Errorf("%w: its output was not taken, or not at its end", ErrWaitDelay))
	r.endPipes() // whose writer may wait
	r.mu.Unlock()
	r.endStream()
	if !r.ended(wire.Grace) {
		r.settle()
	}
}

// kill kills the command's group and waits for its death.
func (r *commandRun) kill() error {
	err := r.tell(&wirepb.CommandSignal{Kind: &wirepb.CommandSignal_Stop{Stop: true}})
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return errUnanswered
}

// ended reports whether the command's output ends in time.
func (r *commandRun) ended(in time.Duration) bool {
	timer := time.NewTimer(in)
	defer timer.Stop()
	select {
	case <-r.done:
		return true
	case <-timer.C:
		return false
	}
}

// tell sends a signal.
func (r *commandRun) tell(message *wirepb.CommandSignal) error {
	select {
	case <-r.over:
		return os.ErrProcessDone
	default:
	}
	message.Id = r.id
	ctx, cancel := context.WithTimeout(context.Background(), signalTime)
	defer cancel()
	done, err := r.running.client().Signal(ctx, message)
	switch {
	case err == nil:
		return remoteFailure(done.GetFailure())
	case ctx.Err() != nil: // which is no context of the caller's
		return errNoAnswer
	}
	return r.cmd.sandbox.remoteError(ctx, r.running, err)
}

// feed sends what Stdin has.
func (r *commandRun) feed(stdin io.Reader) {
	defer close(r.fed)
	defer func() { _ = r.stream.CloseSend() }()
	r.feedErr = errReaderGoexit // unless the reader returns
	r.feedErr = r.sendAll(stdin)
}

func (r *commandRun) sendAll(stdin io.Reader) error {
	buffer := make([]byte, inputPiece)
	for {
		n, err := stdin.Read(buffer)
		if n < 0 || n > len(buffer) {
			return errReaderCount
		}
		if n > 0 && r.send(buffer[:n]) != nil {
			return nil // it has ended, and Wait says how; or it takes no more
		}
		if err == io.EOF { //nolint:errorlint // an error that wraps it says that the input was cut, as with io.Copy
			return nil
		}
		if err = tame(err); err != nil {
			return err
		}
	}
}

// send sends a piece of input, by one goroutine.
func (r *commandRun) send(piece []byte) error {
	if r.deaf.Load() {
		return io.ErrClosedPipe
	}
	return r.stream.Send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_Stdin{Stdin: piece}})
}

// awaitInput returns the error of Stdin; nil if its reader blocks.
func (r *commandRun) awaitInput() error {
	if r.fed == nil {
		return nil
	}
	timer := time.NewTimer(inputTime)
	defer timer.Stop()
	select {
	case <-r.fed:
		return r.feedErr
	case <-timer.C:
		return nil
	}
}

func (sb *Sandbox) nextCommand() uint64 {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	sb.serial++
	return sb.serial
}
