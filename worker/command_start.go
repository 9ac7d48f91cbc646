package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// defaultPath is where commands are looked up that have no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// commandStreams are our ends of a command's descriptors; nil for what it does not have.
type commandStreams struct {
	stdin, stdout, stderr *os.File
	terminal              bool // stdin and stdout are one terminal
	// held is the command's end of its terminal, until it has ended: without it reading would end when the command closes its own, and it may open the
	// terminal again.
	held *os.File
}

func (s *commandStreams) close() {
	for _, file := range []*os.File{s.stdin, s.stdout, s.stderr, s.held} {
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

// endOfTransmission is what a terminal's user types to end input, or at the end of a line that is not complete to send that.
const endOfTransmission = 4

// feed writes what comes to the command's standard input, until no more comes or the stream ends.
func (s *commandStreams) feed(stream grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput], to *outputs) {
	last, closed := byte('\n'), false
	for {
		message, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && s.terminal:
			if last != '\n' {
				_, _ = s.stdin.Write([]byte{endOfTransmission})
			}
			_, _ = s.stdin.Write([]byte{endOfTransmission})
			return
		case errors.Is(err, io.EOF):
			_ = s.stdin.Close()
			return
		case err != nil:
			return
		}
		data := message.GetStdin()
		if len(data) == 0 || closed {
			continue // dropped: this side must take it, or whoever sends it would wait
		}
		last = data[len(data)-1]
		if _, err := s.stdin.Write(data); err != nil {
			closed = true
			// At the command's end, whoever sends should learn of that.
			_ = to.send(&wirepb.CommandOutput{Kind: &wirepb.CommandOutput_StdinClosed{StdinClosed: true}})
		}
	}
}

// start starts a command.
func (a *attendant) start(start *wirepb.Start) (_ *command, err error) {
	args, env := texts(start.GetArgs()), a.environ(texts(start.GetEnv()))
	if len(args) == 0 || args[0] == "" {
		return nil, refused("run", "", "the command has no name")
	}
	dir := a.folder
	if len(start.GetDir()) > 0 {
		dir = a.path(start.GetDir())
		if !slices.ContainsFunc(start.GetEnv(), func(entry []byte) bool { return bytes.HasPrefix(entry, []byte("PWD=")) }) {
			env = append(env, "PWD="+filepath.Clean(dir)) // as os/exec has it
		}
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, &os.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	path, err := lookPath(args[0], dir, env)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: args, Env: env, Dir: dir, SysProcAttr: ownGroup()}
	c := &command{cmd: cmd, streams: &commandStreams{}, exited: make(chan struct{}), stopping: make(chan struct{})}
	theirs, err := c.streams.open(start, cmd)
	defer func() {
		for _, file := range theirs {
			_ = file.Close()
		}
		if err != nil {
			c.streams.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if start.GetApart() && c.streams.stderr != nil {
		c.apart = &apart{streams: make(chan grpc.ServerStreamingServer[wirepb.CommandOutput]), taken: make(chan struct{}), copied: make(chan struct{})}
	}
	if !a.remember(start.GetId(), c) {
		return nil, refused("run", args[0], fmt.Sprintf("there is a command %d", start.GetId()))
	}
	// Whoever signals it meanwhile waits.
	c.mu.Lock()
	defer c.mu.Unlock()
	begun := a.starts.begin()
	err = cmd.Start()
	for try := 0; errors.Is(err, syscall.ETXTBSY) && try < 10; try++ { // a start is over a moment before its process holds nothing any more
		time.Sleep(10 * time.Millisecond)
		again := &exec.Cmd{Path: path, Args: args, Env: env, Dir: dir, SysProcAttr: cmd.SysProcAttr, Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr}
		cmd, c.cmd = again, again
		err = cmd.Start()
	}
	begun()
	if err != nil {
		c.reaped = true // there is nothing to signal
		close(c.exited)
		a.forget(start.GetId())
		return nil, notStarted(err, path, dir)
	}
	return c, nil
}

// starts are the commands that are being started now, and since when. Until its program runs, the process of each holds what the worker has open: also what is being
// written, which can't be executed then.
type starts struct {
	mu    sync.Mutex
	under map[chan struct{}]time.Time
}

// startTime is how long a start is waited for from its begin. One that takes longer is stuck, in a file system that does not answer say, and is not to cost each
// file of a tree that is copied as much.
const startTime = time.Second

// begin counts a command as being started until end.
func (s *starts) begin() (end func()) {
	over := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under[over] = time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.under, over)
		close(over)
	}
}

// settle waits until no process is left that holds what was closed before.
func (s *starts) settle() {
	s.mu.Lock()
	under := maps.Clone(s.under)
	s.mu.Unlock()
	for over, since := range under {
		select {
		case <-over:
		case <-time.After(time.Until(since.Add(startTime))):
		}
	}
}

// notStarted tells an error of a command's start as what it is about, where the system names the command for something else that is missing or closed.
func notStarted(err error, path, dir string) error {
	var entering, starting *os.PathError
	if _, statErr := os.Stat(dir + "/."); errors.As(statErr, &entering) {
		return &os.PathError{Op: "chdir", Path: dir, Err: entering.Err}
	}
	if _, statErr := os.Stat(path); statErr == nil && errors.Is(err, os.ErrNotExist) && errors.As(err, &starting) {
		starting.Err = fmt.Errorf("%w: not of this file, but of the interpreter that its first line names (a carriage return at its end counts), or of its loader", starting.Err)
	}
	return err
}

// remember names a command; false if the name is taken.
func (a *attendant) remember(id uint64, c *command) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.commands[id] != nil {
		return false
	}
	a.commands[id] = c
	return true
}

func texts(from [][]byte) []string {
	to := make([]string, len(from))
	for i, text := range from {
		to[i] = string(text)
	}
	return to
}

// open makes what a command's descriptors are, and returns those that are the command's alone.
func (s *commandStreams) open(start *wirepb.Start, cmd *exec.Cmd) (theirs []*os.File, err error) {
	if size := start.GetTerminal(); size != nil {
		ours, other, err := openTerminal(size)
		if err != nil {
			return nil, err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = other, other, other
		s.stdin, s.stdout, s.held, s.terminal = ours, ours, other, true
		controlTerminal(cmd.SysProcAttr)
		return nil, nil
	}
	if start.GetStdin() {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		cmd.Stdin, s.stdin, theirs = r, w, append(theirs, r)
	}
	if start.GetStdout() {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		cmd.Stdout, s.stdout, theirs = w, r, append(theirs, w)
	}
	if start.GetMerge() {
		cmd.Stderr = cmd.Stdout
	} else if start.GetStderr() {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		cmd.Stderr, s.stderr, theirs = w, r, append(theirs, w)
	}
	return theirs, nil
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
