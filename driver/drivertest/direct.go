package drivertest

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counted is a sandbox whose direct socket counts what arrives on it.
type counted struct {
	driver.Sandbox
	arrived atomic.Int64
	has     bool
}

type countedProcess struct {
	driver.Process
	sandbox *counted
}

type countedConn struct {
	net.Conn
	arrived *atomic.Int64
}

// countedSocket has the descriptor of a connection, too.
type countedSocket struct {
	countedConn
	socket syscall.Conn
}

func (c *counted) StartWorker(ctx context.Context, spec driver.WorkerSpec) (driver.Process, error) {
	process, err := c.Sandbox.StartWorker(ctx, spec)
	if err != nil {
		return nil, err
	}
	c.has = process.Direct() != nil
	return countedProcess{process, c}, nil
}

func (p countedProcess) Direct() net.Conn {
	direct := p.Process.Direct()
	if direct == nil {
		return nil
	}
	conn := countedConn{direct, &p.sandbox.arrived}
	if socket, ok := direct.(syscall.Conn); ok {
		return countedSocket{conn, socket}
	}
	return conn
}

func (c countedSocket) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.arrived.Add(int64(n))
	return n, err
}

func (s *suite) direct() {
	sandbox := &counted{Sandbox: s.create()}
	w := s.leased(sandbox, patience)
	if !sandbox.has {
		return
	}
	want := make([]byte, 1000)
	require.Equal(s, want, result[[]byte](s, "echo", call(s, w, "echo", want)))
	assert.Greater(s, sandbox.arrived.Load(), int64(len(want)), "results come on what the worker has as driver.DirectFD")
}
