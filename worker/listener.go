package worker

import (
	"net"
	"sync"
)

// oneListener accepts one connection that is there already, and ends when that one is closed.
type oneListener struct {
	conn  chan net.Conn
	addr  net.Addr
	close func()
	done  chan struct{}
}

func newOneListener(conn net.Conn) *oneListener {
	l := &oneListener{conn: make(chan net.Conn, 1), addr: conn.LocalAddr(), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	l.conn <- &closeConn{Conn: conn, closed: l.close}
	return l
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error {
	l.close()
	return nil
}

func (l *oneListener) Addr() net.Addr { return l.addr }

// ended reports whether the connection was closed, by either side.
func (l *oneListener) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// closeConn tells when gRPC is done with the connection.
type closeConn struct {
	net.Conn
	closed func()
}

func (c *closeConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
