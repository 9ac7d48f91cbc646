package sbx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc"
)

const (
	// MaxOutput is how many bytes [Cmd.Output] and [Cmd.CombinedOutput] take at most: what runs in a sandbox does not get to fill this
	// program's memory. Set Stdout, or use StdoutPipe, for more.
	MaxOutput = 64 << 20
	// maxErrorOutput is how much of standard error's end an ExitError keeps.
	maxErrorOutput = 32 << 10
	// inputPiece is the most that one message of a command's input has.
	inputPiece = 128 << 10
	// inputTime is how long Wait waits for a reader that gives nothing more to a command that has ended.
	inputTime = 100 * time.Millisecond
	// maxArguments bounds a command's arguments and environment, each string with its end: below what Linux allows, and what a message has room for.
	maxArguments = 2 << 20
)

// Terminal is the size of a command's terminal, in characters.
type Terminal struct{ Rows, Columns uint16 }

// ExitError says that a command did not end with exit status 0.
type ExitError struct {
	// Name is the command's name.
	Name string
	// Exit is how it ended. OutOfMemory is not known of a command.
	Exit driver.Exit
	// Stderr is the end of what it wrote to standard error, up to 32 KiB, if [Cmd.Output] ran it and Cmd.Stderr was nil.
	Stderr []byte
}

func (e *ExitError) Error() string { return e.Name + ": " + e.Exit.String() }

// ErrOutputTooLong is wrapped by the error of [Cmd.Output] and [Cmd.CombinedOutput] for a command that wrote more than [MaxOutput].
// The command was killed.
var ErrOutputTooLong = errors.New("the command's output is too long")

// Cmd is a command that runs in a sandbox, in the manner of os/exec: set its fields, then call Run, Output, CombinedOutput, or Start and
// Wait, once. It runs in a session and process group of its own, with the sandbox's environment and user.
//
// Its methods may be called by one goroutine at a time, but Signal, Kill, Resize and what the pipes return by any.
type Cmd struct {
	// Args are the command's name and its arguments. A name without a slash is looked up in the command's PATH, in the sandbox.
	Args []string
	// Env is added to the sandbox's environment, as "KEY=VALUE"; the later of the same key counts. A command that has neither gets
	// PATH with the usual folders, and HOME.
	Env []string
	// Dir is where it starts: empty for the sandbox's work folder, to which a relative path is relative, too.
	Dir string
	// Stdin is what it reads; nil for nothing. When it is at its end, so is the command's input. A reader may be asked for more than the command takes, and
	// one that blocks is left alone when the command has ended.
	Stdin io.Reader
	// Stdout and Stderr take what it writes, called by one goroutine; nil drops it. If they are equal, writes keep their
	// order. A writer that is slow makes the command wait; one that fails has it killed, and Wait returns the error.
	Stdout, Stderr io.Writer
	// Terminal gives it a terminal, through which all input and output go; Stderr must be nil then.
	Terminal *Terminal
	// WaitDelay is how long after the command's own end, or its context's, Wait waits for output that other processes hold open;
	// 0 is until they have closed it.
	WaitDelay time.Duration

	// Pid is the command's process id in the sandbox, set by Start.
	Pid int
	// Exit is how it ended, set by Wait; nil if that is not known.
	Exit *driver.Exit

	sandbox *Sandbox
	ctx     context.Context // bounds the run, as in os/exec
	id      uint64
	running *sandbox
	stream  grpc.BidiStreamingClient[wirepb.CommandInput, wirepb.CommandOutput]
	end     context.CancelFunc // of the stream
	stop    func() bool        // no longer watch ctx
	started bool
	waited  bool
	pipes   []*pipe // to be closed when output has ended
	stdin   *stdinPipe
	stderr  *tail

	sending sync.Mutex    // of stream
	fed     chan struct{} // closed when Stdin is not read any more; nil if there is none
	feedErr error         // read after fed
	done    chan struct{} // closed when the stream has ended; then, as they are:
	exited  *wirepb.Exited
	failure error // of the command, as the sandbox says, or of the stream
	writing error // of a writer
}

// Command returns a command that is not started yet. It does no I/O.
func (sb *Sandbox) Command(name string, args ...string) *Cmd {
	return sb.CommandContext(context.Background(), name, args...)
}

// CommandContext is [Sandbox.Command] for a command that is killed when ctx ends, with all processes of its group. Its error then wraps ctx's.
func (sb *Sandbox) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Args: append([]string{name}, args...), sandbox: sb, ctx: ctx}
}

// String is the command's name and arguments.
func (c *Cmd) String() string { return strings.Join(c.Args, " ") }

func (c *Cmd) op() string {
	if len(c.Args) == 0 {
		return "run a command"
	}
	return fmt.Sprintf("run %.200q", c.Args[0])
}

func (c *Cmd) fail(err error) error { return c.sandbox.fail(c.op(), err) }

// Run starts the command and waits for its end. The error is nil if it ended with exit status 0 and all input and output were copied; an
// [*ExitError] is wrapped if it ended otherwise.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is Run, and returns what the command wrote to standard output, up to [MaxOutput].
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, c.fail(&OptionError{Option: "Cmd.Stdout", Reason: "is set; Output sets it itself"})
	}
	var stdout limited
	c.Stdout = &stdout
	if c.Stderr == nil && c.Terminal == nil {
		c.stderr = &tail{limit: maxErrorOutput}
		c.Stderr = c.stderr
	}
	err := c.Run()
	return stdout.Bytes(), err
}

// CombinedOutput is Run, and returns what the command wrote to standard output and standard error, up to [MaxOutput].
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, c.fail(&OptionError{Option: "Cmd.Stdout or Cmd.Stderr", Reason: "is set; CombinedOutput sets them itself"})
	}
	var output limited
	c.Stdout = &output
	if c.Terminal == nil {
		c.Stderr = &output
	}
	err := c.Run()
	return output.Bytes(), err
}

// check says what is wrong with the fields.
func (c *Cmd) check() error {
	switch {
	case c.started:
		return &OptionError{Option: "the command", Reason: "was started before; make another one"}
	case c.ctx == nil:
		return errNilContext
	case len(c.Args) == 0 || c.Args[0] == "":
		return &OptionError{Option: "the command", Reason: "has no name; give Command a program"}
	case c.Terminal != nil && c.Stderr != nil:
		return &OptionError{Option: "Cmd.Stderr", Reason: "is set for a command with a terminal, which has one output; leave it out"}
	case c.WaitDelay < 0:
		return &OptionError{Option: "Cmd.WaitDelay", Reason: "is negative"}
	case strings.Contains(c.Dir, "\x00"):
		return &OptionError{Option: "Cmd.Dir", Reason: "holds a NUL byte"}
	}
	size := 0
	for _, arg := range c.Args {
		if strings.Contains(arg, "\x00") {
			return &OptionError{Option: "Cmd.Args", Reason: "hold a NUL byte"}
		}
		size += len(arg) + 1
	}
	for _, entry := range c.Env {
		name, _, found := strings.Cut(entry, "=")
		switch {
		case !found || name == "" || strings.Contains(entry, "\x00"): // the value may be secret
			return &OptionError{Option: "Cmd.Env", Reason: fmt.Sprintf("entry of %.50q is not KEY=VALUE without NUL bytes", name)}
		case strings.HasPrefix(name, "SBX_"):
			return &OptionError{Option: "Cmd.Env", Reason: fmt.Sprintf("key %q: names that begin with SBX_ are kept for sbx itself", name)}
		}
		size += len(entry) + 1
	}
	if size > maxArguments {
		return &OptionError{Option: "Cmd.Args and Cmd.Env", Reason: fmt.Sprintf("have %d bytes; give at most %d, and what is longer by Stdin or a file", size, maxArguments)}
	}
	return nil
}

// Start starts the command, and the sandbox if nothing has, and returns when it runs. Wait must follow.
func (c *Cmd) Start() error {
	if err := c.check(); err != nil {
		return c.fail(err)
	}
	c.started = true
	running, err := c.sandbox.started(c.ctx)
	if err != nil {
		return c.fail(err)
	}
	if !c.sandbox.session.enter() {
		return c.fail(ErrClosed)
	}
	c.running, c.id = running, c.sandbox.nextCommand()
	if err := c.begin(); err != nil {
		c.end()
		c.sandbox.session.counts.count(func(_ *OwnStats, commands *CommandStats) { commands.NotStarted++ })
		c.sandbox.session.leave()
		return c.fail(err)
	}
	c.done = make(chan struct{})
	if c.Stdin != nil {
		c.fed = make(chan struct{})
		go c.feed()
	}
	go c.receive()
	c.stop = context.AfterFunc(c.ctx, c.cancelled)
	return nil
}

// begin opens the stream and has the worker start the command.
func (c *Cmd) begin() error {
	var ctx context.Context
	ctx, c.end = context.WithCancel(context.WithoutCancel(c.ctx))
	stop := context.AfterFunc(c.ctx, c.end) // until it runs
	defer stop()
	var err error
	if c.stream, err = c.running.client().Run(ctx); err != nil {
		return c.sandbox.remoteError(c.ctx, c.running, err)
	}
	start := &wirepb.Start{
		Id: c.id, Args: asBytes(c.Args), Env: asBytes(c.Env), Dir: []byte(c.Dir),
		Stdin: c.Stdin != nil || c.stdin != nil, Stdout: c.Stdout != nil, Stderr: c.Stderr != nil,
		WaitDelayNanos: int64(c.WaitDelay),
	}
	if c.Terminal != nil {
		start.Terminal = &wirepb.Size{Rows: uint32(c.Terminal.Rows), Columns: uint32(c.Terminal.Columns)}
	}
	if c.Stderr != nil && sameWriter(c.Stdout, c.Stderr) {
		start.Stderr, start.Merge = false, true
	}
	// What is wrong with the stream, Recv says.
	_ = c.stream.Send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_Start{Start: start}})
	message, err := c.stream.Recv()
	switch {
	case err != nil:
		return c.sandbox.remoteError(c.ctx, c.running, err)
	case message.GetFailure() != nil:
		return remoteFailure(message.GetFailure())
	case message.GetStarted() == nil:
		return fmt.Errorf("the sandbox sent %T where a command begins", message.GetKind())
	}
	c.Pid = int(message.GetStarted().GetPid())
	return nil
}

func asBytes(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, text := range list {
		out[i] = []byte(text)
	}
	return out
}

func sameWriter(a, b io.Writer) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

// receive takes output until the stream ends.
func (c *Cmd) receive() {
	defer close(c.done)
	defer func() { c.sandbox.session.counts.ended(c.exited) }()
	defer func() {
		for _, pipe := range c.pipes {
			pipe.end()
		}
	}()
	defer c.end()
	for {
		message, err := c.stream.Recv()
		if err != nil {
			if c.exited == nil && c.failure == nil { // it must not pass for a success
				c.failure = c.sandbox.remoteError(c.ctx, c.running, err)
			}
			return
		}
		switch kind := message.GetKind().(type) {
		case *wirepb.CommandOutput_Stdout:
			c.write(c.Stdout, kind.Stdout)
		case *wirepb.CommandOutput_Stderr:
			c.write(c.Stderr, kind.Stderr)
		case *wirepb.CommandOutput_Exited:
			c.exited = kind.Exited
			return
		case *wirepb.CommandOutput_Failure:
			c.failure = remoteFailure(kind.Failure)
			return
		default:
			c.failure = fmt.Errorf("the sandbox sent %T while a command ran", kind)
			return
		}
	}
}

// write hands output on. When nobody takes it, the command has nothing to run for.
func (c *Cmd) write(to io.Writer, data []byte) {
	if to == nil || c.writing != nil {
		return
	}
	if _, err := to.Write(data); err != nil {
		c.writing = err
		go func() { _ = c.signal(syscall.SIGKILL) }() // which must not hold up what it waits for; bounded by signalTime
	}
}

// feed sends what Stdin has.
func (c *Cmd) feed() {
	defer close(c.fed)
	buffer := make([]byte, inputPiece)
	for {
		n, err := c.Stdin.Read(buffer)
		if n > 0 && c.send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_Stdin{Stdin: buffer[:n]}}) != nil {
			return // it has ended, and Wait says how
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.feedErr = err
			}
			_ = c.send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_StdinEnd{StdinEnd: true}})
			return
		}
	}
}

func (c *Cmd) send(message *wirepb.CommandInput) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(message)
}

// cancelled kills the command when its context has ended, and gives up on it if that does not end it.
func (c *Cmd) cancelled() {
	_ = c.signal(syscall.SIGKILL)
	timer := time.NewTimer(cmp.Or(c.WaitDelay, wire.Grace))
	defer timer.Stop()
	select {
	case <-timer.C:
		c.end()
	case <-c.done:
	}
}

// Wait waits until the command has ended and its output is copied. See Run for its error.
func (c *Cmd) Wait() error {
	switch {
	case c.done == nil:
		return c.fail(&OptionError{Option: "the command", Reason: "was not started; call Start first"})
	case c.waited:
		return c.fail(&OptionError{Option: "the command", Reason: "was waited for before"})
	}
	c.waited = true
	<-c.done
	defer c.sandbox.session.leave()
	c.stop()
	if c.fed != nil {
		timer := time.NewTimer(inputTime)
		defer timer.Stop()
		select {
		case <-c.fed:
		case <-timer.C:
			c.fed = nil // a reader that blocks
		}
	}
	if err := c.outcome(); err != nil {
		return c.fail(err)
	}
	return nil
}

func (c *Cmd) outcome() error {
	if c.exited != nil {
		c.Exit = &driver.Exit{Code: int(c.exited.GetCode()), Signal: syscall.Signal(c.exited.GetSignal())}
	}
	var err error
	switch {
	case c.failure != nil:
		err = c.failure
	case c.Exit.Code != 0 || c.Exit.Signal != 0:
		exit := &ExitError{Name: c.Args[0], Exit: *c.Exit}
		if c.stderr != nil {
			exit.Stderr = c.stderr.Bytes()
		}
		err = exit
	}
	switch {
	case c.writing != nil:
		return c.writing
	case err != nil && c.ctx.Err() != nil && !errors.Is(err, c.ctx.Err()):
		return fmt.Errorf("%w: %w", contextError(c.ctx), err)
	case err != nil:
		return err
	case c.fed != nil && c.feedErr != nil:
		return fmt.Errorf("read Stdin: %w", c.feedErr)
	case c.exited.GetCut():
		return fmt.Errorf("%w: other processes held the command's output open", ErrWaitDelay)
	}
	return nil
}

// ErrWaitDelay is wrapped by the error of a command that ended well, but whose output other processes held open for longer than [Cmd.WaitDelay].
var ErrWaitDelay = errors.New("the time of Cmd.WaitDelay has passed")

// signalTime bounds how long a signal may take on its way.
const signalTime = 5 * time.Second

// Signal sends a signal to the command's process group: to the command, and what it started that did not leave the group. It is os.ErrProcessDone if the command has ended.
func (c *Cmd) Signal(signal os.Signal) error {
	number, ok := signal.(syscall.Signal)
	if !ok {
		return c.fail(&OptionError{Option: "the signal", Reason: fmt.Sprintf("is %v, which is no signal of the system", signal)})
	}
	if err := c.signal(number); err != nil {
		return c.fail(err)
	}
	return nil
}

// Kill is Signal with SIGKILL, which no process can ignore.
func (c *Cmd) Kill() error { return c.Signal(syscall.SIGKILL) }

func (c *Cmd) signal(number syscall.Signal) error {
	return c.tell(&wirepb.CommandSignal{Id: c.id, Kind: &wirepb.CommandSignal_Signal{Signal: int32(number)}})
}

// Resize tells the command's terminal its new size.
func (c *Cmd) Resize(size Terminal) error {
	if err := c.tell(&wirepb.CommandSignal{Id: c.id, Kind: &wirepb.CommandSignal_Size{Size: &wirepb.Size{Rows: uint32(size.Rows), Columns: uint32(size.Columns)}}}); err != nil {
		return c.fail(err)
	}
	return nil
}

func (c *Cmd) tell(message *wirepb.CommandSignal) error {
	if c.running == nil {
		return &OptionError{Option: "the command", Reason: "was not started; call Start first"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTime)
	defer cancel()
	done, err := c.running.client().Signal(ctx, message)
	if err != nil {
		return c.sandbox.remoteError(ctx, c.running, err)
	}
	return remoteFailure(done.GetFailure())
}

func (sb *Sandbox) nextCommand() uint64 {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	sb.serial++
	return sb.serial
}

// limited is a buffer of MaxOutput.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > MaxOutput {
		n, _ := l.Buffer.Write(p[:MaxOutput-l.Len()])
		return n, fmt.Errorf("%w: more than %d bytes; set Cmd.Stdout for more", ErrOutputTooLong, MaxOutput)
	}
	return l.Buffer.Write(p)
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	data  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.limit; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func (t *tail) Bytes() []byte { return t.data }
