package wire

import (
	"encoding/binary"
	"net"
	"sync"
)

// Meter is the connection below a gRPC stream. It tells when what was sent has really been written, which gRPC's Send does
// not: it counts the bytes of the HTTP/2 data frames of the connection's first stream, which is the one of calls. What is written to a socket
// arrives, even if this process ends at once.
type Meter struct {
	net.Conn

	// of Write alone
	header [9]byte
	have   int // bytes of header
	rest   int // bytes of the frame's body that are to come
	isData bool

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

// firstStream is the number of the first stream that a client opens.
const firstStream = 1

// count returns how many of the bytes, which follow the ones before, are the bodies of data frames of the first stream.
func (m *Meter) count(p []byte) (data int) {
	for len(p) > 0 {
		if m.rest == 0 {
			n := copy(m.header[m.have:], p)
			p = p[n:]
			if m.have += n; m.have == len(m.header) {
				// RFC 9113, section 4.1: 24 bits of length, 8 of type (0 is data), 8 of flags, 32 of stream.
				m.have, m.rest = 0, int(binary.BigEndian.Uint32(m.header[:4])>>8)
				m.isData = m.header[3] == 0 && binary.BigEndian.Uint32(m.header[5:])&^(1<<31) == firstStream
			}
			continue
		}
		n := min(m.rest, len(p))
		if m.isData {
			data += n
		}
		m.rest -= n
		p = p[n:]
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
