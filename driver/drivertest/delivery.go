package drivertest

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/launch"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The clauses about what becomes of calls.

// timed starts a call of one of the suite's functions with limits of its time.
func (s *suite) timed(w *launch.Worker, function string, in any, timeout, deadline time.Duration) *launch.Pending {
	entry, ok := registry.ByName(name(function))
	require.True(s, ok)
	argument, err := entry.EncodeArgs(nil, in)
	require.NoError(s, err)
	remote, ok := w.Function(entry.Name())
	require.True(s, ok)
	return w.Go(&wirepb.Call{Attempt: 1, Function: remote.Index, TimeoutNanos: int64(timeout), DeadlineNanos: int64(deadline)}, argument)
}

// leased starts a worker with a lease and one call at a time.
func (s *suite) leased(sandbox driver.Sandbox, lease time.Duration) *launch.Worker {
	running, err := launch.Start(s.ctx, sandbox, launch.Config{Session: "drivertest", Sandbox: "drivertest", Divert: worker.Diverts(), Lease: lease})
	require.NoError(s, err)
	s.Cleanup(func() {
		assert.NoError(s, sandbox.Stop(context.Background()))
		running.Close()
	})
	return running
}

func (s *suite) withdraw() {
	w := s.leased(s.create(), patience)
	if !w.Queues() {
		return // the driver shares no memory with its workers
	}
	first := call(s, w, "block", false)
	second := call(s, w, "echo", []byte("2"))
	third := call(s, w, "echo", []byte("3"))
	assert.True(s, second.Withdraw())
	first.Cancel()
	s.await(first.Done(), "end of the first call")
	assert.Equal(s, []byte("3"), result[[]byte](s, "echo", third))
	select {
	case <-second.Done():
		s.Fatal("a call that was withdrawn has a result")
	default:
	}
	assert.False(s, third.Withdraw(), "it has run")
}

func (s *suite) cancel() {
	w, _ := s.launch(s.create())
	pending := call(s, w, "block", false)
	pending.Cancel()
	s.await(pending.Done(), "end of the call")
	outcome := pending.Result()
	if outcome.GetRefused().GetReason() == wirepb.Refusal_REASON_CANCELLED {
		return // it had not begun yet
	}
	remote, err := registry.DecodeError(outcome.GetFunctionError())
	require.NoError(s, err, "%v", outcome)
	require.ErrorIs(s, remote, context.Canceled)
}

func (s *suite) deadlines() {
	w, _ := s.launch(s.create())
	forever := false
	for _, c := range []struct {
		timeout, deadline time.Duration
		isDeadline        bool
	}{{time.Millisecond, 0, false}, {0, time.Millisecond, true}, {time.Millisecond, time.Hour, false}, {time.Hour, 5 * time.Millisecond, true}} {
		pending := s.timed(w, "block", &forever, c.timeout, c.deadline)
		s.await(pending.Done(), "end of the call")
		timedOut := pending.Result().GetTimedOut()
		if timedOut == nil && c.isDeadline && pending.Result().GetRefused() != nil {
			continue // the deadline passed before it began
		}
		require.NotNil(s, timedOut, "%v", pending.Result())
		assert.Equal(s, c.isDeadline, timedOut.GetDeadline())
		assert.False(s, timedOut.GetRunning())
	}
}

func (s *suite) outlast() {
	sandbox := s.create()
	w := s.leased(sandbox, 0)
	forever, queues := true, w.Queues()
	stuck := s.timed(w, "block", &forever, 10*time.Millisecond, 0)
	behind := call(s, w, "echo", []byte("behind"))
	s.await(stuck.Done(), "result")
	require.True(s, stuck.Result().GetTimedOut().GetRunning(), "%v", stuck.Result())
	assert.Contains(s, stuck.Result().GetTimedOut().GetStack(), "drivertest.block")
	s.await(w.Done(), "end of the worker") // which nobody asked for
	assert.Equal(s, wire.FunctionHeld, w.Lost().Decided)
	if queues {
		assert.False(s, behind.Begun())
	}
}

func (s *suite) stopped() {
	w := s.leased(s.create(), 500*time.Millisecond)
	assert.Equal(s, []byte("1"), result[[]byte](s, "echo", call(s, w, "echo", []byte("1"))))
	pending := call(s, w, "crash", stopSignal)
	s.await(w.Done(), "end of the worker")
	require.ErrorIs(s, w.Lost(), launch.ErrSilent)
	assert.True(s, pending.Begun())
}

// mute is a sandbox whose session falls silent, and can kill nothing then.
type mute struct {
	driver.Sandbox
	silent  atomic.Bool
	process driver.Process
}

type muteProcess struct {
	driver.Process
	mute *mute
}

type muteConn struct {
	net.Conn
	mute *mute
}

func (m *mute) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	process, err := m.Sandbox.StartWorker(ctx, spec)
	if err != nil {
		return nil, err
	}
	m.process = process
	return muteProcess{process, m}, nil
}

func (p muteProcess) Conn() net.Conn { return muteConn{p.Process.Conn(), p.mute} }

func (p muteProcess) Direct() net.Conn {
	direct := p.Process.Direct()
	if direct == nil {
		return nil
	}
	conn := muteConn{direct, p.mute}
	if socket, ok := direct.(syscall.Conn); ok {
		return muteSocket{conn, socket}
	}
	return conn
}

// muteSocket has the descriptor of a connection, too, which the session may write to while it is not silent.
type muteSocket struct {
	muteConn
	syscall.Conn
}

func (p muteProcess) Kill() error {
	if p.mute.silent.Load() {
		return nil
	}
	return p.Process.Kill()
}

func (c muteConn) Write(b []byte) (int, error) {
	if c.mute.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// Close leaves the connection open: a session that was stopped closes nothing.
func (c muteConn) Close() error {
	if c.mute.silent.Load() {
		return nil
	}
	return c.Conn.Close()
}

func (s *suite) silence() {
	sandbox := &mute{Sandbox: s.create()}
	w := s.leased(sandbox, 500*time.Millisecond)
	assert.Equal(s, []byte("1"), result[[]byte](s, "echo", call(s, w, "echo", []byte("1"))))
	call(s, w, "block", true)
	sandbox.silent.Store(true)
	exit, err := sandbox.process.Wait(s.ctx)
	require.NoError(s, err, "the worker lives on")
	assert.Equal(s, driver.Exit{Code: 1}, exit)
	sandbox.silent.Store(false)
	_ = sandbox.process.Conn().Close()
	if direct := sandbox.process.Direct(); direct != nil {
		_ = direct.Close()
	}
}
