package sbx

import (
	"io"
	"os"
	"sync"
)

// maxPipe is how much output waits in a pipe of a command: more than pipes of the system hold, so that no program waits here that would not with os/exec.
const maxPipe = 256 << 10

// pipe is a buffer between a command's output and whoever reads it.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	data   []byte
	most   int   // of data
	ended  bool  // nothing more comes
	err    error // at the end; nil for io.EOF
	closed bool  // nobody reads any more
}

func newPipe() *pipe {
	p := &pipe{most: maxPipe}
	p.change.L = &p.mu
	return p
}

func (p *pipe) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) > 0 && len(p.data)+len(data) > p.most && !p.closed && !p.ended {
		p.change.Wait()
	}
	switch {
	case p.closed:
		return 0, errPipeClosed
	case p.ended:
		return len(data), nil // too late; the pipe's error says so
	}
	p.data = append(p.data, data...)
	p.change.Broadcast()
	return len(data), nil
}

func (p *pipe) Read(to []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 && !p.ended && !p.closed && len(to) > 0 {
		p.change.Wait()
	}
	switch {
	case p.closed:
		return 0, os.ErrClosed
	case len(to) == 0:
		return 0, nil
	case len(p.data) == 0 && p.err != nil:
		return 0, p.err
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

// widen has the pipe take more. What a command that was killed had written is on its way, and how it ended comes behind that: it must not wait for a reader.
func (p *pipe) widen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = MaxOutput
	p.change.Broadcast()
}

// end has the pipe end after what it holds, with err or with io.EOF. The first end counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.ended, p.err = true, err
		p.change.Broadcast()
	}
}

// StdoutPipe returns a reader of the command's standard output. Unlike that of os/exec it can be read to its end after Wait, too. Of output that nobody reads
// 256 KiB are kept; then the command waits, and Wait with it. When it was sent SIGKILL, SIGTERM or SIGINT, [MaxOutput] bytes are kept, so that Wait returns when it is dead. Closing it early has the command killed when it writes again. It ends with io.EOF only if the sandbox said how the command
// ended, and else with the error of Start or Wait.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if err := c.made(); err != nil {
		return nil, c.fail(err)
	}
	return c.outputPipe(&c.Stdout, "Stdout")
}

// StderrPipe is [Cmd.StdoutPipe] for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if err := c.made(); err != nil {
		return nil, c.fail(err)
	}
	return c.outputPipe(&c.Stderr, "Stderr")
}

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

// StdinPipe returns a writer to the command's standard input; Close ends that. A write waits for Start, and as long as the command does not read. It
// fails with io.ErrClosedPipe when the command has ended, or reads no more.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	switch {
	case c.made() != nil:
		return nil, c.fail(c.made())
	case c.started:
		return nil, c.fail(&OptionError{Option: "Cmd.StdinPipe", Reason: "is asked for after Start"})
	case c.Stdin != nil || c.stdin != nil:
		return nil, c.fail(&OptionError{Option: "Cmd.Stdin", Reason: "is set already"})
	}
	c.stdin = &stdinPipe{attached: make(chan struct{})}
	return c.stdin, nil
}

// stdinPipe sends what is written to it.
type stdinPipe struct {
	attached chan struct{} // closed by Start; then:
	run      *commandRun   // nil if the command did not start

	writing sync.Mutex // one write at a time

	mu     sync.Mutex
	busy   bool // a write sends: Close must not
	closed bool
}

// attach says what takes the input.
func (p *stdinPipe) attach(r *commandRun) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run = r
	close(p.attached)
	if p.closed && !p.busy {
		p.finish()
	}
}

// finish ends the input. Callers hold mu.
func (p *stdinPipe) finish() {
	if p.run != nil {
		_ = p.run.stream.CloseSend() // which does not wait; if the command has ended, so has its input
	}
}

func (p *stdinPipe) Write(data []byte) (n int, err error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	<-p.attached
	p.mu.Lock()
	if p.closed || p.run == nil {
		p.mu.Unlock()
		return 0, io.ErrClosedPipe
	}
	p.busy = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy = false
		if p.closed {
			p.finish()
		}
	}()
	for len(data) > 0 {
		piece := data[:min(len(data), inputPiece)]
		if p.isClosed() || p.run.send(piece) != nil {
			return n, io.ErrClosedPipe
		}
		n += len(piece)
		data = data[len(piece):]
	}
	return n, nil
}

func (p *stdinPipe) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Close ends the input when what was written is on its way. It does not wait, and may be called again.
func (p *stdinPipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	select {
	case <-p.attached:
		if !p.busy {
			p.finish()
		}
	default: // attach does it
	}
	return nil
}
