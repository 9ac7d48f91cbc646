package worker

import (
	"context"
	"fmt"
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

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// outputPiece is the most that one message of a command's output has.
const outputPiece = 128 << 10

// defaultPath is where commands are looked up that have no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// attendant runs commands in the sandbox, and reads and writes its files.
type attendant struct {
	wirepb.UnimplementedSandboxServer
	// folder and env are the worker's as it began. Functions may change theirs.
	folder string
	env    []string

	mu       sync.Mutex
	commands map[uint64]*command
}

func newAttendant() (*attendant, error) {
	folder, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return &attendant{folder: folder, env: os.Environ(), commands: map[uint64]*command{}}, nil
}

// path is a path of the sandbox as the session means it.
func (a *attendant) path(named []byte) string {
	path := string(named)
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(a.folder, path)
}

// command is a process that runs for the session.
type command struct {
	cmd      *exec.Cmd
	terminal *os.File // our end; nil if it has none

	mu      sync.Mutex
	reaped  bool // its process id may be another's
	waitErr error
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

// outputs sends what a command prints, from several goroutines.
type outputs struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]
}

func (o *outputs) send(message *wirepb.CommandOutput) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream.Send(message)
}

// copy sends what it reads until the end, and on to nowhere if nobody takes it any more.
func (o *outputs) copy(from *os.File, wrap func([]byte) *wirepb.CommandOutput) {
	buffer := make([]byte, outputPiece)
	for {
		n, err := from.Read(buffer)
		if n > 0 && o.send(wrap(buffer[:n])) != nil {
			return // the stream has ended, and so the command
		}
		if err != nil {
			return
		}
	}
}

func asStdout(data []byte) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stdout{Stdout: data}}
}

func asStderr(data []byte) *wirepb.CommandOutput {
	return &wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Stderr{Stderr: data}}
}

// Run is the handler of one command. Its goroutine for input ends with the stream.
func (a *attendant) Run(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return status.Error(codes.InvalidArgument, "the first message of a command is its start")
	}
	to := &outputs{stream: stream}
	// The kernel takes the end of the thread that starts the command for the worker's (see dieWithWorker), and user code may end threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, streams, err := a.start(start)
	if err != nil {
		return to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Failure{Failure: failure(err)}})
	}
	defer streams.close()
	defer a.forget(start.GetId())
	// Whoever does not want to hear of the command any more wants it gone, with all that it started in its group.
	stop := context.AfterFunc(stream.Context(), func() {
		_ = c.kill(syscall.SIGKILL)
		streams.interrupt()
	})
	defer stop()
	_ = to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Started{Started: &wirepb.Started{Pid: int64(c.cmd.Process.Pid)}}})
	if streams.stdin != nil {
		go streams.feed(stream)
	}
	var copying sync.WaitGroup
	if streams.stdout != nil {
		copying.Go(func() { to.copy(streams.stdout, asStdout) })
	}
	if streams.stderr != nil {
		copying.Go(func() { to.copy(streams.stderr, asStderr) })
	}
	awaitExit(c)
	if streams.stdin != nil && streams.stdin != streams.stdout {
		_ = streams.stdin.Close() // who writes there waits for nobody
	}
	cut := waitFor(&copying, time.Duration(start.GetWaitDelayNanos()), streams.interrupt)
	c.reap()
	if c.cmd.ProcessState == nil {
		return to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Failure{Failure: failure(fmt.Errorf("how the command ended is not known: %w", c.waitErr))}})
	}
	return to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_Exited{Exited: exited(c.cmd.ProcessState, cut)}})
}

// waitFor waits for the copying of output, which other processes than the command may hold open: for delay, if that is not 0. It reports whether it
// had to end it.
func waitFor(copying *sync.WaitGroup, delay time.Duration, interrupt func()) (cut bool) {
	if delay > 0 {
		var once sync.Mutex
		done := false
		timer := time.AfterFunc(delay, func() {
			once.Lock()
			defer once.Unlock()
			if !done {
				cut = true
				interrupt()
			}
		})
		defer func() {
			timer.Stop()
			once.Lock()
			done = true
			once.Unlock()
		}()
	}
	copying.Wait()
	return cut
}

func exited(state *os.ProcessState, cut bool) *wirepb.Exited {
	e := &wirepb.Exited{Code: int32(state.ExitCode()), Cut: cut}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = int32(status.Signal())
	}
	return e
}

// commandStreams are our ends of a command's descriptors; nil for what it does not have.
type commandStreams struct {
	stdin, stdout, stderr *os.File
	terminal              bool // stdin and stdout are one terminal
}

func (s *commandStreams) close() {
	for _, file := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if file != nil {
			_ = file.Close() // again: no harm
		}
	}
}

// interrupt ends reads and writes that wait.
func (s *commandStreams) interrupt() {
	for _, file := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if file != nil {
			_ = file.SetDeadline(time.Unix(1, 0))
		}
	}
}

// endOfTransmission is what a terminal's user types to end input.
const endOfTransmission = 4

// feed writes what comes to the command's standard input, until it has none any more or the stream ends.
func (s *commandStreams) feed(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]) {
	for {
		message, err := stream.Recv()
		if err != nil {
			return
		}
		switch kind := message.GetKind().(type) {
		case *wirepb.CommandInput_Stdin:
			// If it does not take it: what comes is dropped, for whoever sends it should learn of the command's end, not of this.
			_, _ = s.stdin.Write(kind.Stdin)
		case *wirepb.CommandInput_StdinEnd:
			if s.terminal {
				_, _ = s.stdin.Write([]byte{endOfTransmission})
			} else {
				_ = s.stdin.Close()
			}
		}
	}
}

// start starts a command.
func (a *attendant) start(start *wirepb.Start) (_ *command, _ *commandStreams, err error) {
	args := texts(start.GetArgs())
	if len(args) == 0 || args[0] == "" {
		return nil, nil, refused("run", "", "the command has no name")
	}
	env := a.environ(texts(start.GetEnv()))
	dir := a.folder
	if len(start.GetDir()) > 0 {
		dir = a.path(start.GetDir())
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, nil, err
	case !info.IsDir():
		return nil, nil, &os.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	path, err := lookPath(args[0], dir, env)
	if err != nil {
		return nil, nil, err
	}
	streams := &commandStreams{}
	var theirs []*os.File // of the command alone
	defer func() {
		for _, file := range theirs {
			_ = file.Close()
		}
		if err != nil {
			streams.close()
		}
	}()
	cmd := &exec.Cmd{Path: path, Args: args, Env: env, Dir: dir, SysProcAttr: ownGroup()}
	pipe := func(wanted bool) (r, w *os.File) {
		if !wanted || err != nil {
			return nil, nil
		}
		r, w, err = os.Pipe()
		return r, w
	}
	c := &command{cmd: cmd}
	if size := start.GetTerminal(); size != nil {
		ours, other, err := openTerminal(size)
		if err != nil {
			return nil, nil, err
		}
		theirs = append(theirs, other)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = other, other, other
		streams.stdin, streams.stdout, streams.terminal = ours, ours, true
		c.terminal = ours
		controlTerminal(cmd.SysProcAttr)
	} else {
		r, w := pipe(start.GetStdin())
		if r != nil {
			cmd.Stdin, streams.stdin, theirs = r, w, append(theirs, r)
		}
		if r, w = pipe(start.GetStdout()); r != nil {
			cmd.Stdout, streams.stdout, theirs = w, r, append(theirs, w)
		}
		if start.GetMerge() {
			cmd.Stderr = cmd.Stdout
		} else if r, w = pipe(start.GetStderr()); r != nil {
			cmd.Stderr, streams.stderr, theirs = w, r, append(theirs, w)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.commands[start.GetId()] != nil {
		return nil, nil, refused("run", args[0], fmt.Sprintf("there is a command %d", start.GetId()))
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	a.commands[start.GetId()] = c
	return c, streams, nil
}

func texts(list [][]byte) []string {
	out := make([]string, len(list))
	for i, text := range list {
		out[i] = string(text)
	}
	return out
}

func (a *attendant) forget(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.commands, id)
}

// environ is the environment of a command: the sandbox's, what the command has of its own, and what programs expect to find.
func (a *attendant) environ(own []string) []string {
	env := append(append([]string{}, a.env...), own...)
	has := map[string]bool{}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		has[name] = true
	}
	if !has["PATH"] {
		env = append(env, "PATH="+defaultPath)
	}
	if !has["HOME"] {
		env = append(env, "HOME="+a.folder)
	}
	return env
}

// lookPath finds a command as the command's own environment says.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		if filepath.IsAbs(name) {
			return name, nil
		}
		return filepath.Join(dir, name), nil
	}
	var path string
	for _, entry := range env { // the last one counts
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	for _, folder := range filepath.SplitList(path) {
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(dir, folder)
		}
		file := filepath.Join(folder, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &os.PathError{Op: "look up", Path: name, Err: fmt.Errorf("%w in PATH (%s)", os.ErrNotExist, path)}
}

// Signal is the handler of a signal for a command, or a new size of its terminal.
func (a *attendant) Signal(_ context.Context, message *wirepb.CommandSignal) (*wirepb.Done, error) {
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
		if c.terminal == nil {
			err = refused("resize", c.cmd.Args[0], "the command has no terminal")
		} else {
			err = resize(c.terminal, kind.Size)
		}
	default:
		err = refused("signal", c.cmd.Args[0], "the message has no signal")
	}
	return &wirepb.Done{Failure: failure(err)}, nil
}
