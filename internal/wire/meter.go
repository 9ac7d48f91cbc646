package wire

import (
	"net"
	"sync"
)

// Meter is the connection below a gRPC stream. It tells when what was sent has really been written, which gRPC's Send does
// not: it counts the bytes of HTTP/2 data frames, of which only our stream's messages are made. What is written to a socket
// arrives, even if this process ends at once.
type Meter struct {
	net.Conn

	frames frameSplitter // of Write alone

	mu      sync.Mutex
	changed sync.Cond
	data    uint64
	ended   bool
}

// NewMeter returns a meter over conn, to which nothing was written yet. It is the server's side: it begins with a frame.
func NewMeter(conn net.Conn) *Meter {
	m := &Meter{Conn: conn}
	m.changed.L = &m.mu
	return m
}

func (m *Meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	data := m.count(p[:n])
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data += uint64(data)
	m.ended = m.ended || err != nil
	m.changed.Broadcast()
	return n, err
}

// Close ends the connection, and every wait.
func (m *Meter) Close() error {
	err := m.Conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.changed.Broadcast()
	return err
}

// count returns how many of the bytes, which follow the ones before, are the bodies of data frames.
func (m *Meter) count(p []byte) (data int) {
	for len(p) > 0 {
		var body []byte
		if body, p, _ = m.frames.next(p); m.frames.kind() == frameData {
			data += len(body)
		}
	}
	return data
}

// wait returns when so many bytes of messages were written, or the connection has ended; false if they were not.
func (m *Meter) wait(bytes uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.data < bytes && !m.ended {
		m.changed.Wait()
	}
	return m.data >= bytes
}
