//go:build !sbxworker

package kubernetes

import (
	"context"
	"net"
	"sync"
	"time"
)

// connections are those of a session to the API server, as far as its HTTP client makes them. A client can be told to close what is idle, and not to close
// all; a session that is closed leaves none.
type connections struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	closed bool
	all    map[*connection]struct{}
}

type connection struct {
	net.Conn
	of *connections
}

func newConnections(dial func(ctx context.Context, network, address string) (net.Conn, error)) *connections {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext // as client-go's
	}
	return &connections{dial: dial, all: map[*connection]struct{}{}}
}

func (c *connections) open(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	made := &connection{conn, c}
	c.all[made] = struct{}{}
	return made, nil
}

func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.all {
		_ = conn.Conn.Close()
	}
}
