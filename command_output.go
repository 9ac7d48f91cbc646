package sbx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// mayWait reports whether a write may take long, and so hold up the other output if both came by one stream: not into memory.
func mayWait(w io.Writer) bool {
	switch w.(type) {
	case nil, *limited, *tail, *bytes.Buffer, *strings.Builder:
		return false
	}
	return w != io.Discard
}

// receive takes output until the stream ends, and standard error has ended.
func (r *commandRun) receive() {
	returned := false
	defer func() {
		if !returned { // a panic goes on after this
			r.note(func(received *result) { received.writing = errGoexit })
		}
		r.leaveStream()
		close(r.done)
		r.settle()
	}()
	exited, err := r.read()
	if exited == nil && err == nil {
		err = errNoStatus
	}
	if r.stderr != nil {
		if exited == nil { // it ends with the stream, if its writer does not wait: watch sees to that
			r.note(func(received *result) { received.failure = cmp.Or(received.failure, err) })
			r.endStream()
			r.fail()
		}
		<-r.stderr.over
		if exited != nil && !exited.GetCut() && r.stderr.err != nil {
			exited, err = nil, r.stderr.err
		}
	}
	r.note(func(received *result) { received.exited, received.failure = exited, cmp.Or(received.failure, err) })
	returned = true
}

// stderrRun is standard error that comes by a stream of its own.
type stderrRun struct {
	stream grpc.ServerStreamingClient[wirepb.CommandOutput]
	end    context.CancelFunc // of the stream, for the command's own, which it belongs to, may go on to other commands
	over   chan struct{}      // closed when no more comes
	err    error              // why not all came; read after over
}

// receiveStderr takes standard error until its stream ends.
func (r *commandRun) receiveStderr() {
	returned := false
	defer func() {
		if !returned {
			r.note(func(received *result) { received.writing = errGoexit })
			r.fail()
		}
		r.stderr.end()
		close(r.stderr.over)
	}()
	if err := r.readStderr(); err != nil {
		r.stderr.err = err
		r.note(func(received *result) { received.failure = cmp.Or(received.failure, err) })
		r.fail() // it would wait for somebody who reads
	}
	returned = true
}

func (r *commandRun) readStderr() error {
	for {
		message, err := r.stderr.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return r.streamFailure(err)
		}
		kind, ok := message.GetKind().(*wirepb.CommandOutput_Stderr)
		if !ok {
			return fmt.Errorf("the sandbox sent %T as standard error", message.GetKind())
		}
		r.write(r.cmd.Stderr, kind.Stderr)
	}
}

// streamFailure is why a stream broke.
func (r *commandRun) streamFailure(err error) error {
	if r.stream.ctx.Err() != nil { // watch has given up
		return errUnanswered
	}
	return r.cmd.sandbox.remoteError(r.cmd.ctx, r.running, err)
}

// read hands output on, and returns how the command ended.
func (r *commandRun) read() (*wirepb.Exited, error) {
	for {
		message, err := r.stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errNoStatus
		case err != nil:
			return nil, r.streamFailure(err)
		}
		switch kind := message.GetKind().(type) {
		case *wirepb.CommandOutput_Stdout:
			r.write(r.cmd.Stdout, kind.Stdout)
		case *wirepb.CommandOutput_Stderr:
			if r.stderr != nil {
				return nil, errStderr // its writer is another goroutine's
			}
			r.write(r.cmd.Stderr, kind.Stderr)
		case *wirepb.CommandOutput_StdinClosed:
			r.deaf.Store(true)
		case *wirepb.CommandOutput_Exited:
			return kind.Exited, nil
		case *wirepb.CommandOutput_Failure:
			return nil, remoteFailure(kind.Failure) // nil is no success, either
		default:
			return nil, fmt.Errorf("the sandbox sent %T while a command ran", kind)
		}
	}
}

// write hands output on. When nobody takes it, the command has nothing to run for.
func (r *commandRun) write(to io.Writer, data []byte) {
	select {
	case <-r.over:
		return
	case <-r.failed:
		return
	default:
	}
	if to == nil || len(data) == 0 {
		return
	}
	r.writes.Add(1)
	n, err := to.Write(data)
	r.writes.Add(-1)
	err = tame(err)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		r.note(func(received *result) { received.writing = cmp.Or(received.writing, err) }) // the other output's may have failed before
		r.fail()
	}
}

// fail has the command killed: it has nothing to run for.
func (r *commandRun) fail() { r.failing.Do(func() { close(r.failed) }) }
