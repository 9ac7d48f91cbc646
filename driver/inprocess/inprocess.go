// Package inprocess is a driver that runs workers inside the program itself: through the real encoding and the real
// protocol, but in no sandbox at all. It is for tests: calls start in microseconds, a debugger sees both sides, and
// faults can be injected. What a function does to package variables, files or the process it does to the program; a
// function that calls os.Exit ends it.
//
// A worker owns one goroutine, which ends when its connection does and its calls have returned.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/worker"
)

// Options configure the driver.
type Options struct {
	// Conn, if not nil, wraps the session's end of each worker's connection. Tests inject faults with it: what it returns
	// may delay, cut or garble bytes.
	Conn func(net.Conn) net.Conn
	// Start, if not nil, is called before a worker starts; its error makes the start fail.
	Start func(sandbox string) error
	// Fault, if not nil, is asked what is to happen to each message of the protocol. It is called by one goroutine of a worker at a
	// time.
	Fault func(Message) Fault
	// NoLedger makes workers as they are where a driver can't share memory with them: it is never certain then that a call
	// which was sent did not begin, and no call waits in a worker.
	NoLedger bool
}

// New returns the driver. opts may be nil.
func New(opts *Options) driver.Driver {
	if opts == nil {
		opts = &Options{}
	}
	return inprocess{*opts}
}

type inprocess struct{ options Options }

func (inprocess) Name() string { return "inprocess" }

func (d inprocess) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return &session{options: d.options, sandboxes: map[*sandbox]struct{}{}}, nil
}

type session struct {
	options Options

	mu        sync.Mutex
	closed    bool
	sandboxes map[*sandbox]struct{}
}

func (s *session) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if len(spec.Env) > 0 {
		return nil, fmt.Errorf("inprocess: sandbox %s: a worker in this process can't have an environment of its own; leave Env out or use another driver", spec.ID)
	}
	if err := s.Report().Check(spec.Limits); err != nil {
		return nil, fmt.Errorf("inprocess: create sandbox %s: %w", spec.ID, err)
	}
	if err := driver.NoImages("inprocess", "its workers run in the program itself", spec.Image); err != nil {
		return nil, fmt.Errorf("inprocess: create sandbox %s: %w", spec.ID, err)
	}
	if err := driver.NoMounts("inprocess", "its workers run in the program itself, and see its files where they are", spec.Mounts); err != nil {
		return nil, fmt.Errorf("inprocess: create sandbox %s: %w", spec.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("inprocess: create sandbox %s: session is %w", spec.ID, driver.ErrStopped)
	}
	sb := &sandbox{session: s, id: spec.ID}
	s.sandboxes[sb] = struct{}{}
	return sb, nil
}

func (*session) Report() driver.Report {
	return driver.Unheld("inprocess", "its workers run in the program itself",
		"use the local driver (the default) on Linux")
}

func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var left []*sandbox
	for sb := range s.sandboxes {
		left = append(left, sb)
	}
	s.mu.Unlock()
	var errs []error
	for _, sb := range left {
		errs = append(errs, sb.Stop(ctx))
	}
	return errors.Join(errs...)
}

type sandbox struct {
	session *session
	id      string

	mu      sync.Mutex
	stopped bool
	process *process
}

func (sb *sandbox) StartWorker(ctx context.Context, _ driver.WorkerSpec) (driver.Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	switch {
	case sb.stopped:
		return nil, fmt.Errorf("inprocess: sandbox %s: %w", sb.id, driver.ErrStopped)
	case sb.process != nil:
		return nil, fmt.Errorf("inprocess: sandbox %s has a worker already", sb.id)
	}
	if start := sb.session.options.Start; start != nil {
		if err := start(sb.id); err != nil {
			return nil, err
		}
	}
	outer, inner := net.Pipe()
	handshakeReader, handshakeWriter := io.Pipe()
	p := &process{conn: outer, inner: inner, handshake: handshakeReader, done: make(chan struct{})}
	if !sb.session.options.NoLedger {
		p.ledger, _ = ledger.New() // where memory can't be shared there is none
	}
	if wrap := sb.session.options.Conn; wrap != nil {
		p.conn = wrap(outer)
	}
	var wrapStream func(wire.Stream) wire.Stream
	if fault := sb.session.options.Fault; fault != nil {
		wrapStream = func(stream wire.Stream) wire.Stream {
			return newFaulty(stream, sb.id, fault, inner)
		}
	}
	go func() {
		defer close(p.done)
		p.err = worker.Serve(context.Background(), inner, handshakeWriter, p.ledger, wrapStream)
		_ = handshakeWriter.Close()
		_ = inner.Close()
	}()
	sb.process = p
	return p, nil
}

func (sb *sandbox) Stop(ctx context.Context) error {
	sb.mu.Lock()
	sb.stopped = true
	p := sb.process
	sb.mu.Unlock()
	if p != nil {
		_ = p.Kill()
		if _, err := p.Wait(ctx); err != nil && ctx.Err() != nil {
			return fmt.Errorf("inprocess: stop sandbox %s: a function does not return: %w", sb.id, err)
		}
	}
	sb.session.mu.Lock()
	defer sb.session.mu.Unlock()
	delete(sb.session.sandboxes, sb)
	return nil
}

type process struct {
	conn, inner net.Conn
	handshake   *io.PipeReader
	ledger      *os.File
	done        chan struct{}
	err         error // of the worker; read after done
	wasKilled   bool
	mu          sync.Mutex
}

func (p *process) Conn() net.Conn { return p.conn }

// Direct is nil: faults are for frames on their way through gRPC.
func (p *process) Direct() net.Conn { return nil }

func (p *process) Handshake() io.ReadCloser { return p.handshake }

// Stdout is empty: what functions print goes where the program prints.
func (p *process) Stdout() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Stderr is empty, as Stdout is.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (p *process) Ledger() *os.File { return p.ledger }

func (p *process) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.wasKilled:
		return driver.Exit{Code: -1, Signal: syscall.SIGKILL}, nil
	case p.err != nil:
		return driver.Exit{Code: 1}, nil
	}
	return driver.Exit{}, nil
}

// Kill ends the worker's connection, and with it the contexts of its calls. Nothing can end a function that ignores its
// context.
func (p *process) Kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	p.mu.Lock()
	p.wasKilled = true
	p.mu.Unlock()
	_ = p.handshake.Close()
	return p.inner.Close()
}
