package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/protobuf/proto"
)

// Direct is a stream over a connection of its own, without gRPC between. If that is a socket of the system, what Send has returned from is in the
// socket, and arrives even if this process ends at once.
//
// A frame is four bytes of length, and so many bytes that are encoded as gRPC would have them. A frame of one chunk, marked by the
// length's highest bit, is the frame's number and the stream's, eight bytes each, and the data: so many bytes.
type Direct struct {
	conn net.Conn
	raw  syscall.RawConn // nil if it is no socket of the system; then come counts what has arrived, of which seen was known
	come atomic.Uint64
	seen uint64

	in   *bufio.Reader
	body []byte // kept for frames of some length

	out   []byte // the last frame that was sent
	rest  []byte // what of it is not written
	write func(fd uintptr) bool
	err   error // of write

	chunk [chunkHead]byte
	place func(stream uint64, n int) []byte // where to read a chunk's data to; nil if that is nowhere yet
}

const (
	frameHead = 4
	chunkHead = frameHead + 16
	isChunk   = 1 << 31
	// directBuffer is how much is read at a time, and how long a buffer may be that is kept.
	directBuffer = 8 << 10
)

// NewDirect returns the stream over conn. Closing conn ends it.
func NewDirect(conn net.Conn) (*Direct, error) {
	d := &Direct{conn: conn, place: nowhere}
	from := io.Reader(conn)
	if socket, ok := conn.(syscall.Conn); ok {
		var err error
		if d.raw, err = socket.SyscallConn(); err != nil {
			return nil, err
		}
	} else {
		from = counted{conn, &d.come}
	}
	d.in = bufio.NewReaderSize(from, directBuffer)
	d.write = func(fd uintptr) bool {
		n, err := writeOnce(fd, d.rest)
		d.rest, d.err = d.rest[max(n, 0):], err
		return true
	}
	return d, nil
}

// Send writes a frame.
func (d *Direct) Send(frame *wirepb.Frame) error {
	if chunk := frame.GetMessages()[0].GetChunk(); chunk != nil {
		binary.BigEndian.PutUint32(d.chunk[:], isChunk|uint32(len(chunk.GetData())))
		binary.BigEndian.PutUint64(d.chunk[frameHead:], frame.GetSequence())
		binary.BigEndian.PutUint64(d.chunk[frameHead+8:], chunk.GetStream())
		buffers := net.Buffers{d.chunk[:], chunk.GetData()} // not copied
		_, err := buffers.WriteTo(d.conn)
		return err
	}
	if err := d.encode(frame); err != nil {
		return err
	}
	return d.Finish()
}

// Try is Send, but does not wait for the other side to read: if whole is false, Finish must follow.
func (d *Direct) Try(frame *wirepb.Frame) (whole bool, err error) {
	if err := d.encode(frame); err != nil {
		return false, err
	}
	if d.raw == nil { // nobody knows whether a write would wait
		return false, nil
	}
	if err := d.raw.Write(d.write); err != nil {
		return false, err
	}
	if d.err != nil && !errors.Is(d.err, syscall.EAGAIN) && !errors.Is(d.err, syscall.EINTR) {
		return false, d.err
	}
	return len(d.rest) == 0, nil
}

// Finish writes what is left of the last frame.
func (d *Direct) Finish() error {
	_, err := d.conn.Write(d.rest)
	d.rest = nil
	if cap(d.out) > directBuffer {
		d.out = nil
	}
	return err
}

func (d *Direct) encode(frame *wirepb.Frame) (err error) {
	d.out, err = proto.MarshalOptions{}.MarshalAppend(append(d.out[:0], 0, 0, 0, 0), frame)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(d.out, uint32(len(d.out)-frameHead))
	d.rest = d.out
	return nil
}

// Recv reads a frame.
func (d *Direct) Recv() (*wirepb.Frame, error) {
	head, err := d.in.Peek(frameHead)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n&isChunk != 0 {
		return d.recvChunk(n &^ isChunk)
	}
	if n > MaxFrame {
		return nil, broken("a frame of %d bytes; the limit is %d", n, MaxFrame)
	}
	if _, err := d.in.Discard(frameHead); err != nil {
		return nil, err
	}
	if n <= directBuffer {
		body, err := d.in.Peek(n)
		if err != nil {
			return nil, unexpected(err)
		}
		frame, err := decodeFrame(body)
		if err != nil {
			return nil, err
		}
		_, err = d.in.Discard(n)
		return frame, err
	}
	body := d.body
	if n > cap(body) {
		body = make([]byte, n)
	}
	if n <= maxInline {
		d.body = body
	}
	if _, err := io.ReadFull(d.in, body[:n]); err != nil {
		return nil, unexpected(err)
	}
	return decodeFrame(body[:n])
}

// counted counts what it reads.
type counted struct {
	io.Reader
	n *atomic.Uint64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(uint64(n))
	return n, err
}

// Unread reports whether bytes have arrived that Recv has not read; where that can't be known, whether some have arrived since it was asked last, by the one goroutine
// that may ask.
func (d *Direct) Unread() (unread bool) {
	if d.raw == nil {
		come := d.come.Load()
		unread, d.seen = come != d.seen, come
		return unread
	}
	err := d.raw.Control(func(fd uintptr) { unread = hasUnread(fd) })
	return err == nil && unread
}

func nowhere(uint64, int) []byte { return nil }

func (d *Direct) recvChunk(n int) (*wirepb.Frame, error) {
	if n > chunkSize {
		return nil, broken("a chunk of %d bytes; the limit is %d", n, chunkSize)
	}
	var head [chunkHead]byte
	if _, err := io.ReadFull(d.in, head[:]); err != nil {
		return nil, unexpected(err)
	}
	stream := binary.BigEndian.Uint64(head[frameHead+8:])
	data := d.place(stream, n)
	if data == nil {
		data = newPiece(n)
	}
	if _, err := io.ReadFull(d.in, data); err != nil {
		return nil, unexpected(err)
	}
	chunk := &wirepb.Chunk{Stream: stream, Data: data}
	return &wirepb.Frame{
		Sequence: binary.BigEndian.Uint64(head[frameHead:]),
		Messages: []*wirepb.Message{{Kind: &wirepb.Message_Chunk{Chunk: chunk}}},
	}, nil
}

// pieces are buffers of chunkSize for what arrives of big values.
var pieces = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// newPiece returns a buffer of n bytes, no longer than it must be.
func newPiece(n int) []byte {
	if n < chunkSize {
		return make([]byte, n)
	}
	return pieces.Get().(*[chunkSize]byte)[:]
}

// maxFreed is how many pieces are kept of one value, until the next collections of garbage: 64 MiB.
const maxFreed = 256

// freePieces takes buffers back that nobody uses any more.
func freePieces(list [][]byte) {
	list = list[:min(len(list), maxFreed)]
	for _, piece := range list {
		if cap(piece) == chunkSize {
			pieces.Put((*[chunkSize]byte)(piece[:chunkSize]))
		}
	}
}

// unexpected is the error of a connection that ends within a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
