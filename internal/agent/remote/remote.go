// Package remote is a driver's side of an agent (package agent), which starts a worker in a container or pod. Its audience is drivers.
//
// An [Agent] is reached over a Unix socket ([Accept]), or over one stream of bytes ([Over]). It owns these goroutines, and [Agent.Close]
// waits for them: one that reads the agent's events, one that sends the request to kill, and, over a stream, yamux's own. Those that write to the direct stream, or
// close it, end with the connection, at the latest.
// All that an agent says is the sandbox's word: it is bounded, and believed of that sandbox only.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/agent"
)

const (
	// maxGreeting is the most that may come before an agent's hello: what init functions print that run before the agent's.
	maxGreeting = 64 << 10
	// sendTime bounds the sending of a request that nobody waits for.
	sendTime = time.Second
	// lostTime bounds the search for how a sandbox ended whose agent is gone.
	lostTime = 30 * time.Second
	// togetherTime is how much longer an agent may live than a worker that was killed with it.
	togetherTime = 500 * time.Millisecond
)

// Start describes a worker's start.
type Start struct {
	// Env is the whole environment of the worker.
	Env []string
	// OpenFiles and Processes are limits that the agent sets; 0 leaves what the container has.
	OpenFiles, Processes uint64
	// Lost says how the sandbox ended, where the agent ended without saying how the worker did, or was killed with it.
	Lost func(ctx context.Context) (driver.Exit, error)
}

// Agent is one that has said hello. Start and Close may be called at the same time.
type Agent struct {
	control net.Conn
	session *yamux.Session // nil over a socket
	conns   [agent.Streams]net.Conn
	tasks   sync.WaitGroup

	mu      sync.Mutex
	begun   bool
	closing sync.Once
	closed  chan struct{} // once it is hung up
}

// Over talks to the agent at the other end of stream, which Close closes. It waits for its hello; when ctx ends or something else comes, stream is closed.
func Over(ctx context.Context, stream io.ReadWriteCloser, token string) (*Agent, error) {
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	fail := func(err error) (*Agent, error) {
		_ = stream.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if err := awaitHello(stream, token); err != nil {
		return fail(err)
	}
	session, err := yamux.Client(newGuard(agent.Joined(stream)), agent.Multiplexing())
	if err != nil {
		return fail(err)
	}
	a := &Agent{session: session, closed: make(chan struct{})}
	for i := range a.conns {
		if a.conns[i], err = session.Open(); err != nil {
			_ = session.Close()
			return fail(fmt.Errorf("open the agent's streams: %w", err))
		}
	}
	a.control = a.conns[agent.ControlStream]
	return a, nil
}

// awaitHello reads byte by byte, so that what follows is left, until an agent says that it knows the token.
func awaitHello(from io.Reader, token string) error {
	hello := agent.Hello(token)
	var last []byte
	one := make([]byte, 1)
	for range maxGreeting {
		if _, err := io.ReadFull(from, one); err != nil {
			return fmt.Errorf("wait for the agent: %w", err)
		}
		last = append(last, one[0])
		last = last[max(0, len(last)-len(hello)):]
		if string(last) == hello {
			return nil
		}
	}
	return errors.New("wait for the agent: something else answers; does an init function print without end?")
}

// Start starts the worker, once. When it fails or ctx ends, the agent's connection is closed, and the agent ends.
func (a *Agent) Start(ctx context.Context, start Start) (driver.Process, error) {
	a.mu.Lock()
	begun := a.begun
	a.begun = true
	a.mu.Unlock()
	if begun {
		return nil, errors.New("the agent has started a worker before")
	}
	stop := context.AfterFunc(ctx, func() { _ = a.hangUp() })
	defer stop()
	streams, err := a.send(start)
	if err == nil {
		var event agent.Event
		switch err = agent.Read(a.control, agent.MaxEvent, &event); {
		case err != nil:
			err = fmt.Errorf("wait for the agent to start the worker: %w", err)
		case !event.Started:
			err = fmt.Errorf("the agent could not: %s", event.Error)
		}
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		if streams != nil {
			streams.close()
		}
		_ = a.hangUp()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	p := newProcess(a, streams)
	a.tasks.Go(func() { p.follow(start.Lost) })
	a.tasks.Go(p.sendKill)
	return p, nil
}

// send sends the request to start, and returns the driver's ends of the worker's streams.
func (a *Agent) send(start Start) (*streams, error) {
	request := agent.Request{Start: &agent.Start{Env: start.Env, OpenFiles: start.OpenFiles, Processes: start.Processes}}
	if a.session == nil {
		return sendFiles(a.control, request)
	}
	if err := agent.Write(a.control, request); err != nil {
		return nil, fmt.Errorf("tell the agent to start the worker: %w", err)
	}
	return &streams{
		conn: a.conns[agent.ConnStream], direct: &cutStream{Conn: a.conns[agent.DirectStream], cut: make(chan struct{})}, handshake: a.conns[agent.HandshakeStream], stdout: a.conns[agent.StdoutStream], stderr: a.conns[agent.StderrStream],
	}, nil
}

// Ended is closed when the connection has ended. It is of streams only: of sockets nothing tells before Start.
func (a *Agent) Ended() <-chan struct{} {
	if a.session == nil {
		return nil
	}
	return a.session.CloseChan()
}

// Close hangs up, so that the agent ends, and waits until nothing of it is left here but what the worker's process still has to be read. It may be
// called again.
func (a *Agent) Close() error {
	err := a.hangUp()
	a.tasks.Wait()
	return err
}

func (a *Agent) hangUp() (err error) {
	a.closing.Do(func() {
		close(a.closed)
		if a.session != nil {
			err = a.session.Close()
		} else {
			err = a.control.Close()
		}
	})
	return err
}

// streams are the driver's ends of what a worker has open.
type streams struct {
	conn, direct              net.Conn
	handshake, stdout, stderr io.ReadCloser
	ledger                    *os.File
}

func (s *streams) close() {
	for _, stream := range []io.Closer{s.conn, s.handshake, s.stdout, s.stderr} {
		_ = stream.Close()
	}
	if s.direct != nil {
		_ = s.direct.Close()
	}
	if s.ledger != nil {
		_ = s.ledger.Close()
	}
}

func (s *streams) Conn() net.Conn           { return s.conn }
func (s *streams) Direct() net.Conn         { return s.direct }
func (s *streams) Handshake() io.ReadCloser { return s.handshake }
func (s *streams) Stdout() io.ReadCloser    { return s.stdout }
func (s *streams) Stderr() io.ReadCloser    { return s.stderr }
func (s *streams) Ledger() *os.File         { return s.ledger }

// cutStream ends at once when it is closed, for whoever reads or writes it. One of yamux's ends only when the agent agrees, and waits until it can be told.
type cutStream struct {
	net.Conn
	closing sync.Once
	cut     chan struct{}
}

// Write waits on another goroutine: no deadline reaches one that waits for the connection below.
func (s *cutStream) Write(p []byte) (int, error) {
	data, written := bytes.Clone(p), make(chan error, 1)
	go func() {
		_, err := s.Conn.Write(data)
		written <- err
	}()
	select {
	case err := <-written:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-s.cut:
		return 0, net.ErrClosed
	}
}

func (s *cutStream) Close() (err error) {
	s.closing.Do(func() {
		close(s.cut)
		err = s.SetDeadline(time.Unix(1, 0))
		go func() { _ = s.Conn.Close() }() // it ends with the agent's connection, at the latest
	})
	return err
}

// process is the worker's. Its end is the agent's word, or else what the driver finds out.
type process struct {
	*streams
	agent *Agent

	killing sync.Once
	kill    chan struct{} // closed when its end is asked for
	sent    chan struct{} // closed when the agent was told, or could not be, as sendErr says
	sendErr error
	done    chan struct{}
	exit    driver.Exit // read after done, as is:
	err     error
}

func newProcess(a *Agent, s *streams) *process {
	return &process{streams: s, agent: a, kill: make(chan struct{}), sent: make(chan struct{}), done: make(chan struct{})}
}

// follow reads what the agent says of the worker.
func (p *process) follow(lost func(context.Context) (driver.Exit, error)) {
	defer close(p.done)
	for {
		var event agent.Event
		if err := agent.Read(p.agent.control, agent.MaxEvent, &event); err != nil {
			break
		}
		if exit := event.Exit; exit != nil {
			p.exit = driver.Exit{Code: exit.Code, Signal: syscall.Signal(exit.Signal), OutOfMemory: exit.OutOfMemory}
			if p.exit.Signal != syscall.SIGKILL || p.exit.OutOfMemory || p.killed() || p.agentLives() {
				return
			}
			break // the sandbox was killed as a whole, and the worker died first
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lostTime)
	defer cancel()
	p.exit, p.err = lost(ctx)
}

// agentLives tells whether the agent has outlived its worker. It waits for the driver to hang up.
func (p *process) agentLives() bool {
	_ = p.agent.control.SetReadDeadline(time.Now().Add(togetherTime))
	_, err := p.agent.control.Read(make([]byte, 1))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, yamux.ErrTimeout) || p.killed()
}

func (p *process) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-p.done:
		return p.exit, p.err
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
}

// Kill asks the agent to kill the worker, and the rest of the sandbox with it. An agent that does not take it is left to the sandbox's Stop.
func (p *process) Kill() error {
	p.killing.Do(func() { close(p.kill) })
	select {
	case <-p.sent:
		return p.sendErr
	case <-p.done:
		return nil
	case <-time.After(sendTime):
		return errors.New("tell the agent to kill the worker: it takes nothing")
	}
}

// sendKill does what Kill asks for. Over a stream that nobody reads it may take long, whatever deadline it has.
func (p *process) sendKill() {
	defer close(p.sent)
	select {
	case <-p.kill:
		if err := agent.Write(p.agent.control, agent.Request{Kill: true}); errors.Is(err, yamux.ErrConnectionWriteTimeout) { // else it is gone, and so are all
			p.sendErr = fmt.Errorf("tell the agent to kill the worker: %w", err)
		}
	case <-p.done:
	case <-p.agent.closed:
	}
}

// killed tells whether the worker's end was asked for, if only by hanging up.
func (p *process) killed() bool {
	select {
	case <-p.kill:
		return true
	case <-p.agent.closed:
		return true
	default:
		return false
	}
}
