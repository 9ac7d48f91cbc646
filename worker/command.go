package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// outputPiece is the most that one message of a command's output has: what a pipe holds on Linux.
const outputPiece = 64 << 10

// attendant runs commands in the sandbox, and reads and writes its files.
type attendant struct {
	wirepb.UnimplementedSandboxServer
	// folder and env are the worker's as it began. Functions may change theirs.
	folder string
	env    []string
	ledger *ledger.Ledger // whose windows contents of files pass through; nil if there is none

	changes changes
	starts  starts
	drafts  drafts

	mu       sync.Mutex
	commands map[uint64]*command
}

func newAttendant(l *ledger.Ledger) (*attendant, error) {
	folder, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return &attendant{folder: folder, env: os.Environ(), ledger: l, changes: changes{under: map[*change]struct{}{}}, starts: starts{under: map[chan struct{}]time.Time{}}, commands: map[uint64]*command{}}, nil
}

// path is a path of the sandbox as the session means it. A separator at its end stays, by which the system takes it for a folder's; one with a dot behind it
// means the same.
func (a *attendant) path(named []byte) string {
	path := string(named)
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	joined := filepath.Join(a.folder, path)
	if endsInSeparator(strings.TrimSuffix(path, ".")) && !endsInSeparator(joined) {
		joined += string(filepath.Separator)
	}
	return joined
}

func endsInSeparator(path string) bool { return path != "" && os.IsPathSeparator(path[len(path)-1]) }

// command is a process that runs for the session.
type command struct {
	cmd     *exec.Cmd
	streams *commandStreams
	exited  chan struct{} // closed when the process has ended
	apart   *apart        // for standard error; nil if it takes the way of standard output

	mu       sync.Mutex
	reaped   bool // its process id may be another's
	waitErr  error
	stopped  bool
	stopping chan struct{} // closed when stopped is set
}

// reap takes the exit status of a command that has ended, or waits for its end.
func (c *command) reap() {
	if !c.reaped {
		c.waitErr = c.cmd.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reaped = true
}

// kill signals every process of the command's group.
func (c *command) kill(signal syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return signalGroup(c.cmd.Process, signal)
}

// stop kills the group, and bounds how long its output may stay open.
func (c *command) stop() error {
	err := c.kill(syscall.SIGKILL)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.stopped = true
		close(c.stopping)
	}
	return err
}

// outputs sends what a command prints, from several goroutines.
type outputs struct {
	mu     sync.Mutex
	stream interface {
		Send(message *wirepb.CommandOutput) error
	}
}

func (o *outputs) send(message *wirepb.CommandOutput) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(message)
}

// buffers are for copy. gRPC has encoded a message when Send returns.
var buffers = sync.Pool{New: func() any { return new([outputPiece]byte) }}

// copy sends what it reads, until the end or until the stream has ended, and so the command. A terminal ends with EIO, and the kernel may say so a moment
// before what was written last can be read: it is the end when it is said twice.
func (o *outputs) copy(from io.Reader, wrap func([]byte) *wirepb.CommandOutput) {
	buffer := buffers.Get().(*[outputPiece]byte)
	defer buffers.Put(buffer)
	said := false
	for {
		n, err := from.Read(buffer[:])
		if n > 0 && o.send(wrap(buffer[:n])) != nil || err != nil && (said || !errors.Is(err, syscall.EIO)) {
			return
		}
		said = err != nil
	}
}

func asStdout(data []byte) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stdout{Stdout: data}}
}

func asStderr(data []byte) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stderr{Stderr: data}}
}

func asFailure(err error) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Failure{Failure: failure(err)}}
}

// apart is the way of a command's standard error, if that has one of its own.
type apart struct {
	streams chan grpc.ServerStreamingServer[wirepb.CommandOutput] // takes one
	taken   chan struct{}                                         // closed when it has it
	copied  chan struct{}                                         // closed when nothing more is sent
}

// copyStderr sends the command's standard error, by its own way, for which it waits, or by that of standard output.
func (c *command) copyStderr(ctx context.Context, to *outputs) {
	if c.apart != nil {
		defer close(c.apart.copied)
		select {
		case stream := <-c.apart.streams:
			close(c.apart.taken)
			to = &outputs{stream: stream}
		case <-ctx.Done():
			return
		}
	}
	to.copy(c.streams.stderr, asStderr)
}

// Stderr is the handler of a command's standard error, if that is sent apart.
func (a *attendant) Stderr(name *wirepb.CommandName, stream grpc.ServerStreamingServer[wirepb.CommandOutput]) error {
	a.mu.Lock()
	c := a.commands[name.GetId()]
	a.mu.Unlock()
	if c == nil || c.apart == nil {
		return status.Errorf(codes.NotFound, "there is no command %d whose standard error is sent apart", name.GetId())
	}
	select {
	case c.apart.streams <- stream:
	case <-c.apart.copied:
		return status.Errorf(codes.NotFound, "standard error of command %d is taken, or was cut off", name.GetId())
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	<-c.apart.copied // also when the stream has ended: nothing can be sent then
	return nil
}

// Run is the handler of commands, one after another.
func (a *attendant) Run(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
	for {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		start := first.GetStart()
		if start == nil {
			return status.Error(codes.InvalidArgument, "the first message of a command is its start")
		}
		if err := a.run(stream, start); err != nil || takesInput(start) {
			return err // the input's end is the stream's
		}
	}
}

// takesInput reports whether messages may follow the one that starts a command. A goroutine waits for them until the stream ends.
func takesInput(start *wirepb.Start) bool { return start.GetStdin() || start.GetTerminal() != nil }

// run runs a command.
func (a *attendant) run(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput], start *wirepb.Start) error {
	to := &outputs{stream: stream}
	if err := a.changes.settle(stream.Context()); err != nil {
		return tell(err, func(*wirepb.Failure) error { return to.send(asFailure(err)) })
	}
	// The kernel takes the end of the thread that starts the command for the worker's (see dieWithWorker), and user code may end threads.
	// The thread is needed anyway, to wait for the command's end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := a.start(start)
	if err != nil {
		return to.send(asFailure(err))
	}
	defer c.streams.close()
	defer a.forget(start.GetId())
	// Whoever does not want to hear of the command any more wants it gone, with all that it started in its group.
	unwatch := context.AfterFunc(stream.Context(), func() { _ = c.stop() })
	defer unwatch()
	copyCtx, interrupt := context.WithCancel(stream.Context())
	defer interrupt()
	defer context.AfterFunc(copyCtx, c.streams.interrupt)()
	_ = to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Started{Started: &wirepb.Started{Pid: int64(c.cmd.Process.Pid)}}})
	if c.streams.stdin != nil {
		go c.streams.feed(stream, to)
	}
	var copying sync.WaitGroup
	if c.streams.stdout != nil {
		copying.Go(func() { to.copy(c.streams.stdout, asStdout) })
	}
	if c.streams.stderr != nil {
		copying.Go(func() { c.copyStderr(copyCtx, to) })
	}
	awaitExit(c)
	close(c.exited)
	switch {
	case c.streams.terminal:
		_ = c.streams.held.Close() // the output ends when nobody else has it
	case c.streams.stdin != nil:
		_ = c.streams.stdin.Close() // who writes there waits for nobody
	}
	if c.apart != nil { // the session is about to ask for it, which is not to count as a delay of the output's
		select {
		case <-c.apart.taken:
		case <-copyCtx.Done():
		}
	}
	cut := c.drain(&copying, interrupt, time.Duration(start.GetWaitDelayNanos()))
	group := c.cmd.Process.Pid
	c.reap()
	select {
	case <-c.stopping:
		awaitGroup(group)
	default:
	}
	if c.cmd.ProcessState == nil {
		return to.send(asFailure(fmt.Errorf("how the command ended is not known: %w", c.waitErr)))
	}
	return to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Exited{Exited: exited(c.cmd.ProcessState, cut)}})
}

// drain waits for the copying of output, which other processes than the command may hold open: for delay, if that is not 0, and not for
// ever if the command was stopped. It reports whether it had to interrupt it.
func (c *command) drain(copying *sync.WaitGroup, interrupt func(), delay time.Duration) (cut bool) {
	if c.streams.stdout == nil && c.streams.stderr == nil {
		return false
	}
	copied := make(chan struct{})
	go func() {
		copying.Wait()
		close(copied)
	}()
	var late <-chan time.Time
	if delay > 0 {
		late = time.After(delay)
	}
	stopping := c.stopping
	for {
		select {
		case <-copied:
			return cut
		case <-late:
			cut = true
			interrupt()
		case <-stopping:
			stopping = nil
			if delay == 0 {
				late = time.After(wire.Grace)
			}
		}
	}
}

// groupPause is between two looks at whether a group is dead.
const groupPause = 5 * time.Millisecond

// awaitGroup waits until no process of a group lives that was killed, but not for ever: one may be stuck in the system.
func awaitGroup(group int) {
	begun, next := time.Now(), groupPause
	for groupLives(group) && time.Since(begun) < wire.Grace {
		time.Sleep(groupPause)
		if waited := time.Since(begun); waited >= next { // this look costs more
			if onlyZombies(group) {
				return
			}
			next = 2 * waited
		}
	}
}

func exited(state *os.ProcessState, cut bool) *wirepb.Exited {
	e := &wirepb.Exited{Code: int32(state.ExitCode()), Cut: cut}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = int32(status.Signal())
	}
	return e
}

func (a *attendant) forget(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.commands, id)
}

// Signal is the handler of a signal for a command, of its end, or of a new size of its terminal.
func (a *attendant) Signal(ctx context.Context, message *wirepb.CommandSignal) (*wirepb.Done, error) {
	a.mu.Lock()
	c := a.commands[message.GetId()]
	a.mu.Unlock()
	if c == nil {
		return &wirepb.Done{Failure: failure(os.ErrProcessDone)}, nil
	}
	var err error
	switch kind := message.GetKind().(type) {
	case *wirepb.CommandSignal_Signal:
		err = c.kill(syscall.Signal(kind.Signal))
	case *wirepb.CommandSignal_Size:
		if c.streams.terminal {
			err = resize(c.streams.stdin, kind.Size)
		} else {
			err = refusal("the command has no terminal")
		}
	case *wirepb.CommandSignal_Stop:
		err = c.stop()
		select {
		case <-c.exited:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	default:
		err = refusal("the message has no signal")
	}
	return &wirepb.Done{Failure: failure(err)}, nil
}
