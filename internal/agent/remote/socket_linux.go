package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/internal/agent"
	"github.com/sandboxfn/sbx/internal/ledger"
)

// Accept waits until the agent that knows the token has dialed the listener, and closes that. Others who dial are sent away; the caller
// sees to it that only the container and whoever is trusted with it can.
func Accept(ctx context.Context, listener *net.UnixListener, token string) (*Agent, error) {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer func() { _ = listener.Close() }()
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(sendTime))
		if err := awaitHello(conn, token); err != nil {
			_ = conn.Close()
			continue
		}
		_ = conn.SetReadDeadline(time.Time{})
		return &Agent{control: conn, closed: make(chan struct{})}, nil
	}
}

// sendFiles sends the request to start with the worker's ends of its streams. Descriptors that come back are never received: they are not asked
// for, and so the kernel drops them.
func sendFiles(control net.Conn, request agent.Request) (*streams, error) {
	ours, theirs, err := newStreams()
	if err != nil {
		return nil, err
	}
	defer closeFiles(theirs[:])
	var descriptors []int
	for _, file := range theirs {
		descriptors = append(descriptors, int(file.Fd()))
	}
	message := &oneMessage{conn: control.(*net.UnixConn), rights: unix.UnixRights(descriptors...)}
	if err := agent.Write(message, request); err != nil {
		ours.close()
		return nil, fmt.Errorf("tell the agent to start the worker: %w", err)
	}
	return ours, nil
}

// oneMessage sends descriptors with the first byte that is written.
type oneMessage struct {
	conn   *net.UnixConn
	rights []byte
}

func (m *oneMessage) Write(p []byte) (int, error) {
	n, _, err := m.conn.WriteMsgUnix(p[:1], m.rights, nil)
	if err != nil || n == 0 {
		return n, err
	}
	rest, err := m.conn.Write(p[1:])
	return n + rest, err
}

func newStreams() (_ *streams, theirs [agent.Files]*os.File, err error) {
	s := &streams{}
	var opened []*os.File
	var conns []net.Conn
	defer func() {
		if err != nil {
			closeFiles(opened)
			for _, conn := range conns {
				_ = conn.Close()
			}
		}
	}()
	pipe := func(to int) *os.File {
		if err != nil {
			return nil
		}
		var r *os.File
		if r, theirs[to], err = os.Pipe(); err == nil {
			opened = append(opened, r, theirs[to])
		}
		return r
	}
	pair := func(to int) net.Conn {
		if err != nil {
			return nil
		}
		var conn net.Conn
		if conn, theirs[to], err = socketPair(); err == nil {
			conns, opened = append(conns, conn), append(opened, theirs[to])
		}
		return conn
	}
	s.handshake, s.stdout, s.stderr = pipe(agent.HandshakeFile), pipe(agent.StdoutFile), pipe(agent.StderrFile)
	s.conn, s.direct = pair(agent.ConnFile), pair(agent.DirectFile)
	if err != nil {
		return nil, theirs, err
	}
	if s.ledger, err = ledger.New(); err != nil {
		return nil, theirs, err
	}
	opened = append(opened, s.ledger)
	copied, err := unix.FcntlInt(s.ledger.Fd(), unix.F_DUPFD_CLOEXEC, 0) // theirs is closed when it is sent
	if err != nil {
		return nil, theirs, os.NewSyscallError("fcntl", err)
	}
	theirs[agent.LedgerFile] = os.NewFile(uintptr(copied), "ledger")
	return s, theirs, nil
}

func closeFiles(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// socketPair returns the two ends of a byte stream.
func socketPair() (net.Conn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	outer, inner := os.NewFile(uintptr(pair[0]), "session"), os.NewFile(uintptr(pair[1]), "worker")
	defer func() { _ = outer.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(outer)
	if err != nil {
		return nil, nil, errors.Join(err, inner.Close())
	}
	return conn, inner, nil
}
