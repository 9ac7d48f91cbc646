package wire

import (
	"encoding/binary"
	"net"
	"sync"
)

// Frames of HTTP/2 (RFC 9113): their types as far as they are told apart here.
const (
	frameData         = 0
	frameHeaders      = 1
	frameContinuation = 9

	flagPadded = 8
)

// headerLength is how long a frame's header is: 24 bits of length, 8 of type, 8 of flags, 32 of stream.
const headerLength = 9

// frameSplitter finds the frames in what goes one way on a connection of HTTP/2, piece by piece.
type frameSplitter struct {
	header [headerLength]byte
	have   int // bytes of header
	rest   int // bytes of the frame's body that are to come
}

// next returns what comes first in p, which is not empty, and the rest of p: a part of the body of the frame that header tells of, or, if
// body is nil, something of a header. begins says that it is whole now.
func (s *frameSplitter) next(p []byte) (body, rest []byte, begins bool) {
	if s.rest > 0 {
		n := min(s.rest, len(p))
		s.rest -= n
		return p[:n], p[n:], false
	}
	n := copy(s.header[s.have:], p)
	if s.have += n; s.have == headerLength {
		s.have, s.rest = 0, s.length()
		begins = true
	}
	return nil, p[n:], begins
}

func (s *frameSplitter) length() int    { return int(binary.BigEndian.Uint32(s.header[:4]) >> 8) }
func (s *frameSplitter) kind() byte     { return s.header[3] }
func (s *frameSplitter) flags() byte    { return s.header[4] }
func (s *frameSplitter) stream() uint32 { return binary.BigEndian.Uint32(s.header[5:]) &^ (1 << 31) } // a bit is reserved

// What gRPC of the session's side keeps of a frame of HTTP/2 is bounded in number, and not in length where these are not.
const (
	// maxControl is the longest frame that has neither data nor headers. gRPC's server has a few settings to say.
	maxControl = 256
	// sparePieces and pieceLength: a message may come in so many frames, and one more for each so many bytes that it has. gRPC cuts
	// where a window of 64 KiB ends, and every 16 KiB.
	sparePieces = 64
	pieceLength = 1 << 10
	// maxPartial is of how many streams a message that is there in part is followed. There are no more calls, commands and files at a time in one sandbox; who
	// begins messages on more has what was known of them forgotten, which earns it sparePieces for that many frames.
	maxPartial = 4096
)

// A Guard is the connection below the session's gRPC streams. It refuses frames of HTTP/2 that a worker's gRPC does not send, and of which
// the session's would keep many times their length. It has to see them in the clear: TLS would have to be below it.
type Guard struct {
	net.Conn

	// of Read alone
	frames  frameSplitter
	calls   partial             // of the first stream
	partial map[uint32]*partial // by stream, those of the others of which a message is there in part

	mu  sync.Mutex
	err error
}

// partial is what is known of a message that is there in part.
type partial struct {
	prefix []byte // as far as it is there
	left   int    // bytes of the message that are to come
	pieces int    // frames that it may come in, yet
}

func (m *partial) whole() bool { return m.left == 0 && len(m.prefix) == 0 }

// NewGuard returns a guard over conn, from which nothing was read yet. It is the client's side.
func NewGuard(conn net.Conn) *Guard { return &Guard{Conn: conn, partial: map[uint32]*partial{}} }

func (g *Guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if broken := g.check(p[:n]); broken != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.err = broken
		return 0, broken
	}
	return n, err
}

// Err is what the worker has done that it must not, once Read has returned that; else nil.
func (g *Guard) Err() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *Guard) check(p []byte) error {
	for len(p) > 0 {
		body, rest, begins := g.frames.next(p)
		p = rest
		isData := g.frames.kind() == frameData
		switch {
		case begins && isData:
			if g.frames.flags()&flagPadded != 0 {
				return broken("padded data")
			}
			if m := g.of(g.frames.stream()); m != nil && !m.whole() {
				if m.pieces--; m.pieces < 0 {
					return broken("a message in too many pieces")
				}
			}
		case begins && g.frames.length() > maxControl && g.frames.kind() != frameHeaders && g.frames.kind() != frameContinuation:
			return broken("an HTTP/2 frame of type %d of %d bytes", g.frames.kind(), g.frames.length())
		case body != nil && isData:
			g.messages(body)
		}
	}
	return nil
}

// of is what is known of a stream; nil if nothing is.
func (g *Guard) of(stream uint32) *partial {
	if stream == firstStream {
		return &g.calls
	}
	return g.partial[stream]
}

// messages follows the messages in the data of a stream.
func (g *Guard) messages(data []byte) {
	stream := g.frames.stream()
	m := g.of(stream)
	if m == nil {
		if len(g.partial) == maxPartial {
			clear(g.partial)
		}
		m = &partial{}
		g.partial[stream] = m
	}
	m.follow(data)
	if m.whole() {
		delete(g.partial, stream)
	}
}

// follow takes what comes next of a stream.
func (m *partial) follow(data []byte) {
	for len(data) > 0 {
		if m.left == 0 {
			n := min(grpcPrefix-len(m.prefix), len(data))
			if len(m.prefix) == 0 {
				m.pieces = sparePieces
			}
			m.prefix, data = append(m.prefix, data[:n]...), data[n:]
			if len(m.prefix) < grpcPrefix {
				return
			}
			m.left = int(binary.BigEndian.Uint32(m.prefix[1:])) // of which gRPC refuses more than MaxFrame
			m.pieces += min(m.left, MaxFrame) / pieceLength
			m.prefix = m.prefix[:0]
			continue
		}
		n := min(m.left, len(data))
		m.left -= n
		data = data[n:]
	}
}
