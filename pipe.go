package sbx

import (
	"io"
	"os"
	"sync"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// maxPipe is how much output waits in a pipe of a command: more than pipes of the system hold, so that no program waits here that would not with os/exec.
const maxPipe = 256 << 10

// pipe is a buffer between a command's output and whoever reads it.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	data   []byte
	ended  bool // nothing more comes
	closed bool // nobody reads any more
}

func newPipe() *pipe {
	p := &pipe{}
	p.change.L = &p.mu
	return p
}

func (p *pipe) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) > 0 && len(p.data)+len(data) > maxPipe && !p.closed {
		p.change.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.data = append(p.data, data...)
	p.change.Broadcast()
	return len(data), nil
}

func (p *pipe) Read(to []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 && !p.ended && !p.closed {
		p.change.Wait()
	}
	switch {
	case p.closed:
		return 0, os.ErrClosed
	case len(p.data) == 0:
		return 0, io.EOF
	}
	n := copy(to, p.data)
	if p.data = p.data[n:]; len(p.data) == 0 {
		p.data = nil
	}
	p.change.Broadcast()
	return n, nil
}

// Close ends the reading: what the command writes from now on has it killed.
func (p *pipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.data = true, nil
	p.change.Broadcast()
	return nil
}

func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.change.Broadcast()
}

// StdoutPipe returns a reader of the command's standard output. Unlike that of os/exec it can be read to its end after Wait, too. Of output that nobody reads
// 256 KiB are kept; then the command waits. Closing it early has the command killed when it writes again.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.outputPipe(&c.Stdout, "Stdout") }

// StderrPipe is [Cmd.StdoutPipe] for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.outputPipe(&c.Stderr, "Stderr") }

func (c *Cmd) outputPipe(field *io.Writer, name string) (io.ReadCloser, error) {
	switch {
	case c.started:
		return nil, c.fail(&OptionError{Option: "Cmd." + name + "Pipe", Reason: "is asked for after Start"})
	case *field != nil:
		return nil, c.fail(&OptionError{Option: "Cmd." + name, Reason: "is set already"})
	}
	p := newPipe()
	c.pipes = append(c.pipes, p)
	*field = p
	return p, nil
}

// StdinPipe returns a writer to the command's standard input; Close ends that. A write waits as long as the command does not read, and
// fails with io.ErrClosedPipe when it has ended.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	switch {
	case c.started:
		return nil, c.fail(&OptionError{Option: "Cmd.StdinPipe", Reason: "is asked for after Start"})
	case c.Stdin != nil || c.stdin != nil:
		return nil, c.fail(&OptionError{Option: "Cmd.Stdin", Reason: "is set already"})
	}
	c.stdin = &stdinPipe{cmd: c}
	return c.stdin, nil
}

// stdinPipe sends what is written to it.
type stdinPipe struct {
	cmd *Cmd

	mu     sync.Mutex
	closed bool
}

func (p *stdinPipe) Write(data []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd.done == nil {
		return 0, p.cmd.fail(&OptionError{Option: "Cmd.StdinPipe", Reason: "is written to before Start"})
	}
	for len(data) > 0 {
		piece := data[:min(len(data), inputPiece)]
		if p.closed || p.cmd.send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_Stdin{Stdin: piece}}) != nil {
			return n, io.ErrClosedPipe
		}
		n += len(piece)
		data = data[len(piece):]
	}
	return n, nil
}

// Close may be called again.
func (p *stdinPipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.cmd.done == nil {
		p.closed = true
		return nil
	}
	p.closed = true
	_ = p.cmd.send(&wirepb.CommandInput{Kind: &wirepb.CommandInput_StdinEnd{StdinEnd: true}}) // if it has ended, so has its input
	return nil
}
