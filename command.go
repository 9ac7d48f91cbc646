package sbx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

const (
	// MaxOutput is how many bytes [Cmd.Output] and [Cmd.CombinedOutput] take at most: what runs in a sandbox does not get to fill this
	// program's memory. Set Stdout, or use StdoutPipe, for more.
	MaxOutput = 64 << 20
	// maxErrorOutput is how much of standard error's end an ExitError keeps.
	maxErrorOutput = 32 << 10
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
// Its methods may be called by one goroutine at a time, but Signal, Kill and Resize after Start, and what the pipes return, by any. A command
// that nobody waits for ends with its sandbox at the latest; its session's Shutdown waits for it.
type Cmd struct {
	// Args are the command's name and its arguments. A name without a slash is looked up in the command's PATH, in the sandbox.
	Args []string
	// Env is added to the sandbox's environment, as "KEY=VALUE"; the later of the same key counts. A command that has neither gets
	// PATH with the usual folders, and HOME.
	Env []string
	// Dir is where it starts: empty for the sandbox's work folder, to which a relative path is relative, too. If it is not empty, the command's PWD is its
	// absolute path, unless Env has another.
	Dir string
	// Stdin is what it reads; nil for nothing. When it is at its end, so is the command's input. A reader may be asked for more than the command takes, and
	// one that blocks is left alone when the command has ended: what it gives then is lost.
	Stdin io.Reader
	// Stdout and Stderr take what it writes, each called by a goroutine, as with os/exec; nil drops it. If they are equal, they are called by one, and writes
	// keep their order. A writer that is slow makes the command wait when it writes more to that; one that fails has it killed, and Wait returns the
	// error. A panic of one is the program's.
	Stdout, Stderr io.Writer
	// Terminal gives it a terminal, through which all input and output go; Stderr must be nil then.
	Terminal *Terminal
	// WaitDelay is how long after the command's own end Wait waits for output that other processes hold open;
	// 0 is until they have closed it, or for a second if the command was killed because its context ended or a writer failed. Of those two it also bounds how
	// long Wait then waits for a writer that blocks.
	WaitDelay time.Duration

	// Pid is the command's process id in the sandbox, set by Start.
	Pid int
	// Exit is how it ended, set by Wait; nil if that is not known.
	Exit *driver.Exit

	sandbox *Sandbox
	ctx     context.Context // bounds the run, as in os/exec
	started bool
	waited  bool
	pipes   []*pipe // of output
	stdin   *stdinPipe
	stderr  *tail
	run     *commandRun // what runs; nil before Start
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
func (c *Cmd) String() string {
	if c == nil {
		return "command that was not made"
	}
	return strings.Join(c.Args, " ")
}

func (c *Cmd) op() string {
	if c == nil || len(c.Args) == 0 {
		return "run a command"
	}
	return fmt.Sprintf("run %.200q", c.Args[0])
}

func (c *Cmd) fail(err error) error {
	if c == nil || c.sandbox == nil {
		return &SandboxError{Op: c.op(), Err: err}
	}
	return c.sandbox.fail(c.op(), err)
}

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
	if err := c.made(); err != nil {
		return nil, c.fail(err)
	}
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
	if err := c.made(); err != nil {
		return nil, c.fail(err)
	}
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

// made is an error if Sandbox.Command did not make the command.
func (c *Cmd) made() error {
	if c == nil || c.sandbox == nil {
		return &OptionError{Option: "the command", Reason: "has no sandbox; make it by Sandbox.Command"}
	}
	return nil
}

// check says what is wrong with the fields.
func (c *Cmd) check() error {
	switch {
	case c.made() != nil:
		return c.made()
	case c.started:
		return &OptionError{Option: "the command", Reason: "was started before; make another one"}
	case c.ctx == nil:
		return errNilContext
	case len(c.Args) == 0 || c.Args[0] == "":
		return &OptionError{Option: "the command", Reason: "has no name; give Command a program"}
	case c.Stdin != nil && c.stdin != nil:
		return &OptionError{Option: "Cmd.Stdin", Reason: "is set beside StdinPipe; use one of them"}
	case c.Terminal != nil && c.Stderr != nil:
		return &OptionError{Option: "Cmd.Stderr", Reason: "is set for a command with a terminal, which has one output; leave it out"}
	case c.WaitDelay < 0:
		return &OptionError{Option: "Cmd.WaitDelay", Reason: "is negative"}
	case strings.Contains(c.Dir, "\x00"):
		return &OptionError{Option: "Cmd.Dir", Reason: "holds a NUL byte"}
	}
	for _, pipe := range c.pipes {
		if io.Writer(pipe) != c.Stdout && io.Writer(pipe) != c.Stderr {
			return &OptionError{Option: "Cmd.Stdout or Cmd.Stderr", Reason: "was set after StdoutPipe or StderrPipe, whose reader would get nothing; use one of them"}
		}
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

// Start starts the command, and the sandbox if nothing has, and returns when it runs. Wait should follow: it says how the command ended.
func (c *Cmd) Start() error {
	again := c != nil && c.started
	err := c.check()
	if err == nil {
		c.started = true
		c.run, err = c.begin()
	}
	if err == nil {
		return nil
	}
	err = c.fail(err)
	if c == nil || again {
		return err
	}
	for _, pipe := range c.pipes { // nothing comes
		pipe.end(err)
	}
	if c.stdin != nil { // and nothing is taken
		c.stdin.attach(nil)
	}
	c.started = c.started || len(c.pipes) > 0 || c.stdin != nil // its pipes are of no more use
	return err
}

// Wait waits until the command has ended and its output is copied. See Run for its error. When the command's context has ended, every process of its
// group is dead, unless the error says that the sandbox did not answer.
func (c *Cmd) Wait() error {
	switch {
	case c.made() != nil:
		return c.fail(c.made())
	case c.run == nil:
		return c.fail(&OptionError{Option: "the command", Reason: "was not started; call Start first"})
	case c.waited:
		return c.fail(&OptionError{Option: "the command", Reason: "was waited for before"})
	}
	c.waited = true
	<-c.run.over
	readErr := c.run.awaitInput()
	if err := c.outcome(c.run.result(), readErr); err != nil {
		return c.fail(err)
	}
	return nil
}

func (c *Cmd) outcome(r result, readErr error) error {
	var err error
	switch {
	case r.exited == nil:
		err = r.failure
	case r.exited.GetCode() != 0 || r.exited.GetSignal() != 0:
		exit := &ExitError{Name: c.Args[0], Exit: exitOf(r.exited)}
		if c.stderr != nil {
			exit.Stderr = c.stderr.Bytes()
		}
		err = exit
	}
	if r.exited != nil {
		exit := exitOf(r.exited)
		c.Exit = &exit
	}
	killed := r.exited == nil || c.Exit.Signal == syscall.SIGKILL
	switch {
	case r.writing != nil && !errors.Is(r.writing, errPipeClosed):
		return fmt.Errorf("write its output: %w", r.writing) // whose path is of this machine, if it has one
	case err != nil && killed && c.ctx.Err() != nil:
		return c.withContext(err)
	case c.run.killedWithSandbox(r):
		return fmt.Errorf("%w: %w", c.sandbox.whyNotRunning(), err)
	case err != nil:
		return err
	case readErr != nil:
		return fmt.Errorf("read Stdin: %w", readErr)
	case r.exited.GetCut():
		return fmt.Errorf("%w: other processes held the command's output open", ErrWaitDelay)
	}
	return nil
}

// withContext is err and, if the command's context has ended, that.
func (c *Cmd) withContext(err error) error {
	if c.ctx.Err() == nil || errors.Is(err, c.ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", contextError(c.ctx), err)
}

func exitOf(exited *wirepb.Exited) driver.Exit {
	return driver.Exit{Code: int(exited.GetCode()), Signal: syscall.Signal(exited.GetSignal())}
}

// ErrWaitDelay is wrapped by the error of a command that ended well, but whose output other processes held open for longer than [Cmd.WaitDelay].
var ErrWaitDelay = errors.New("the time of Cmd.WaitDelay has passed")

// Signal sends a signal to the command's process group: to the command, and what it started that did not leave the group. It is os.ErrProcessDone if the command has ended.
func (c *Cmd) Signal(signal os.Signal) error {
	number, ok := signal.(syscall.Signal)
	if !ok {
		return c.fail(&OptionError{Option: "the signal", Reason: fmt.Sprintf("is %v, which is no signal of the system", signal)})
	}
	err := c.tell(&wirepb.CommandSignal{Kind: &wirepb.CommandSignal_Signal{Signal: int32(number)}})
	if ends := number == syscall.SIGKILL || number == syscall.SIGTERM || number == syscall.SIGINT; ends && (err == nil || errors.Is(err, os.ErrProcessDone)) {
		for _, pipe := range c.pipes {
			pipe.widen()
		}
	}
	return err
}

// Kill is Signal with SIGKILL, which no process can ignore.
func (c *Cmd) Kill() error { return c.Signal(syscall.SIGKILL) }

// Resize tells the command's terminal its new size.
func (c *Cmd) Resize(size Terminal) error {
	return c.tell(&wirepb.CommandSignal{Kind: &wirepb.CommandSignal_Size{Size: size.message()}})
}

func (t Terminal) message() *wirepb.Size {
	return &wirepb.Size{Rows: uint32(t.Rows), Columns: uint32(t.Columns)}
}

func (c *Cmd) tell(message *wirepb.CommandSignal) error {
	err := c.made()
	switch {
	case err != nil:
	case c.run == nil:
		err = &OptionError{Option: "the command", Reason: "was not started; call Start first"}
	default:
		err = c.run.tell(message)
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
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
