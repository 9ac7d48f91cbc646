package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/protobuf/proto"
)

// ErrClosed is what Send's ticket and Recv return after Close.
var ErrClosed = errors.New("connection closed")

// A ProtocolError says that the other side broke a rule of the protocol. The connection is of no use after it.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "protocol broken by the other side: " + e.Reason }

func broken(format string, args ...any) error {
	return &ProtocolError{Reason: fmt.Sprintf(format, args...)}
}

// Stream is one side of the gRPC stream.
type Stream interface {
	Send(*wirepb.Frame) error
	Recv() (*wirepb.Frame, error)
}

// Conn sends and receives messages over a stream: it gathers messages into frames and cuts big values into chunks.
// Send, Offer, Abort and Close may be called at the same time; Recv is for one goroutine.
type Conn struct {
	stream Stream

	mu      sync.Mutex
	wake    sync.Cond // work for the sender, or the end
	queue   []*Ticket // small messages, and heads of big ones
	big     []*Ticket // whose chunks are on their way
	offered int       // size of the messages in queue that came by Offer
	full    bool      // Offer refuses until the next frame
	next    int       // index into big: whose turn it is
	streams uint64    // names given to big values
	err     error
	stopped chan struct{} // the sender has ended

	sent     uint64        // frames; of the sender alone
	bytes    uint64        // of the messages that gRPC was given, as it frames them; guarded by mu
	received atomic.Uint64 // frames

	// of Recv alone
	pending   []*wirepb.Message
	incoming  map[uint64]*incoming
	announced func(*wirepb.Message) error
}

// A Ticket stands for a message that was given to Send.
type Ticket struct {
	message *wirepb.Message
	big     *outgoing
	whole   chan struct{} // closed when the last chunk is given to the transport; nil without chunks
	offered int           // its size, if it came by Offer
	handed  bool          // to the transport, but for the chunks; guarded by Conn.mu
	end     uint64        // the bytes that were sent with it and before, once it was sent whole; guarded by Conn.mu
}

type outgoing struct {
	stream uint64
	data   []byte
}

type incoming struct {
	message *wirepb.Message
	body    *wirepb.Body
}

// NewConn returns a connection over stream. If announced is not nil, Recv calls it for each message whose value is going to
// arrive in chunks, before it takes any of them; its error ends the connection.
func NewConn(stream Stream, announced func(*wirepb.Message) error) *Conn {
	c := &Conn{stream: stream, announced: announced, stopped: make(chan struct{}), incoming: map[uint64]*incoming{}}
	c.wake.L = &c.mu
	go c.send()
	return c
}

// Send queues a message. If body is not nil it is the message's body, and Send fills it with value, whole or as an
// announcement of chunks. value must not be changed afterwards. Send does not wait.
func (c *Conn) Send(message *wirepb.Message, body *wirepb.Body, value []byte) *Ticket {
	ticket := &Ticket{message: message}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return ticket
	}
	switch {
	case body == nil:
	case len(value) <= maxInline:
		body.Data = value
	default:
		c.streams++
		body.Stream, body.Size = c.streams, uint64(len(value))
		ticket.big = &outgoing{stream: c.streams, data: value}
		ticket.whole = make(chan struct{})
	}
	c.queue = append(c.queue, ticket)
	c.wake.Broadcast()
	return ticket
}

// Offer queues a message that may be dropped, in its turn among those of Send, and reports whether it did. When
// maxOffered bytes of such messages wait it refuses all until the next frame is made, so that gaps are few.
func (c *Conn) Offer(message *wirepb.Message) bool {
	size := proto.Size(message) + offeredSize
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.full = c.full || c.offered+size > maxOffered
	if c.full {
		return false
	}
	c.offered += size
	c.queue = append(c.queue, &Ticket{message: message, offered: size})
	c.wake.Broadcast()
	return true
}

// Whole is closed when the last of the message's chunks was given to the transport: until then messages that are sent later overtake it.
// It is nil if the message has none.
func (t *Ticket) Whole() <-chan struct{} { return t.whole }

// Handed reports whether the ticket's message and its value were wholly given to the transport. If they were not, the
// other side certainly does not have them, and never will once the connection is closed.
func (c *Conn) Handed(ticket *Ticket) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ticket.handed && (ticket.big == nil || len(ticket.big.data) == 0)
}

// Abort withdraws a message that is not wholly handed to the transport, and reports whether it could.
func (c *Conn) Abort(ticket *Ticket) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, queued := range c.queue {
		if queued == ticket {
			c.queue = append(c.queue[:i], c.queue[i+1:]...)
			return true
		}
	}
	for i, sending := range c.big {
		if sending == ticket {
			c.big = append(c.big[:i], c.big[i+1:]...)
			c.queue = append(c.queue, &Ticket{message: &wirepb.Message{Kind: &wirepb.Message_Abort{Abort: &wirepb.Abort{Stream: ticket.big.stream}}}})
			c.wake.Broadcast()
			return true
		}
	}
	return false
}

// Close ends the connection: what is queued is not sent. It does not wait for a Send of the stream that is under way;
// whoever owns the stream ends that, and then [Conn.Stopped] closes.
func (c *Conn) Close() { c.Fail(ErrClosed) }

// Err is what ended the connection first; nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stopped is closed when the connection's goroutine has ended.
func (c *Conn) Stopped() <-chan struct{} { return c.stopped }

// Fail is Close with a reason.
func (c *Conn) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.wake.Broadcast()
}

// send is the connection's goroutine. While one frame is on its way the next gathers, so frames grow with the load.
func (c *Conn) send() {
	defer close(c.stopped)
	for {
		frame, whole := c.gather()
		if frame == nil {
			return
		}
		if err := c.stream.Send(frame); err != nil {
			if !errors.Is(err, io.EOF) { // by which gRPC means that Recv says why the stream has ended
				c.Fail(fmt.Errorf("send: %w", err))
			}
			return
		}
		c.account(frame, whole)
	}
}

// grpcPrefix is what gRPC puts before each message: a flag and a length.
const grpcPrefix = 5

// account notes what was sent with a frame.
func (c *Conn) account(frame *wirepb.Frame, whole []*Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += uint64(grpcPrefix + proto.Size(frame))
	for _, ticket := range whole {
		ticket.end = c.bytes
	}
	c.wake.Broadcast()
}

// Flush returns when the ticket's message and its value were written to m, which is below the connection's stream, or the
// connection has ended; false if they were not.
func (c *Conn) Flush(ticket *Ticket, m *Meter) bool {
	c.mu.Lock()
	for ticket.end == 0 && c.err == nil {
		c.wake.Wait()
	}
	end := ticket.end
	c.mu.Unlock()
	return end > 0 && m.wait(end)
}

// gather waits for something to send, and returns the tickets that are sent whole with it. Small messages go first; then one
// chunk of each big value in turn.
func (c *Conn) gather() (frame *wirepb.Frame, whole []*Ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && len(c.queue) == 0 && len(c.big) == 0 {
		c.wake.Wait()
	}
	if c.err != nil {
		return nil, nil
	}
	c.sent++
	frame = &wirepb.Frame{Sequence: c.sent}
	size, parts := 0, 2 // of the chunk
	for len(c.queue) > 0 && size < frameTarget {
		ticket := c.queue[0]
		if parts += partsOf(ticket.message); parts > maxParts && len(frame.Messages) > 0 {
			break
		}
		if ticket.big != nil && len(c.big) == maxStreams {
			break // what waits behind it keeps its order
		}
		c.queue[0] = nil
		c.queue = c.queue[1:]
		ticket.handed = true
		c.offered -= ticket.offered
		if ticket.big != nil {
			c.big = append(c.big, ticket)
		} else {
			whole = append(whole, ticket)
		}
		frame.Messages = append(frame.Messages, ticket.message)
		size += proto.Size(ticket.message)
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
	c.full = false
	if len(c.big) > 0 && size < frameTarget {
		c.next %= len(c.big)
		ticket := c.big[c.next]
		big := ticket.big
		piece := big.data[:min(chunkSize, len(big.data))]
		big.data = big.data[len(piece):]
		frame.Messages = append(frame.Messages, &wirepb.Message{Kind: &wirepb.Message_Chunk{Chunk: &wirepb.Chunk{Stream: big.stream, Data: piece}}})
		if len(big.data) == 0 {
			c.big = append(c.big[:c.next], c.big[c.next+1:]...)
			whole = append(whole, ticket)
			close(ticket.whole)
		} else {
			c.next++
		}
	}
	return frame, whole
}

// Recv returns the next message that is complete: its body, if it has one, holds the whole value in Data. Chunks and
// aborts are not returned. An error is final.
func (c *Conn) Recv() (*wirepb.Message, error) {
	for {
		for len(c.pending) > 0 {
			message := c.pending[0]
			c.pending = c.pending[1:]
			complete, err := c.accept(message)
			if err != nil {
				c.Fail(err)
				return nil, err
			}
			if complete != nil {
				return complete, nil
			}
		}
		frame, err := c.stream.Recv()
		if err != nil {
			err = fmt.Errorf("receive: %w", err)
			c.Fail(err)
			return nil, err
		}
		if number := c.received.Add(1); frame.GetSequence() != number {
			err := broken("frame %d arrived as number %d", frame.GetSequence(), number)
			c.Fail(err)
			return nil, err
		}
		c.pending = frame.GetMessages()
	}
}

// accept returns a message that message completes, or nil.
func (c *Conn) accept(message *wirepb.Message) (*wirepb.Message, error) {
	switch kind := message.GetKind().(type) {
	case *wirepb.Message_Chunk:
		return c.acceptChunk(kind.Chunk)
	case *wirepb.Message_Abort:
		delete(c.incoming, kind.Abort.GetStream())
		return nil, nil
	case nil:
		return nil, broken("a message of no known kind")
	}
	body := bodyOf(message)
	if body.GetStream() == 0 {
		return message, nil
	}
	switch {
	case body.GetSize() == 0 || body.GetSize() > MaxValue:
		return nil, broken("a value of %d bytes is announced; the limit is %d", body.GetSize(), MaxValue)
	case len(c.incoming) == maxStreams:
		return nil, broken("more than %d values at once", maxStreams)
	case c.incoming[body.GetStream()] != nil:
		return nil, broken("stream %d is announced twice", body.GetStream())
	}
	if c.announced != nil {
		if err := c.announced(message); err != nil {
			return nil, err
		}
	}
	body.Data = nil
	c.incoming[body.GetStream()] = &incoming{message: message, body: body}
	return nil, nil
}

func (c *Conn) acceptChunk(chunk *wirepb.Chunk) (*wirepb.Message, error) {
	in := c.incoming[chunk.GetStream()]
	if in == nil {
		return nil, broken("a chunk of stream %d, which is not announced", chunk.GetStream())
	}
	have, size := uint64(len(in.body.Data)), in.body.GetSize()
	if n := uint64(len(chunk.GetData())); n == 0 || n > size-have {
		return nil, broken("a chunk of %d bytes where %d are missing", n, size-have)
	}
	// The buffer grows with what has arrived, never with what was announced.
	if need := have + uint64(len(chunk.GetData())); need > uint64(cap(in.body.Data)) {
		grown := make([]byte, have, min(size, 2*need))
		copy(grown, in.body.Data)
		in.body.Data = grown
	}
	in.body.Data = append(in.body.Data, chunk.GetData()...)
	if uint64(len(in.body.Data)) < size {
		return nil, nil
	}
	delete(c.incoming, chunk.GetStream())
	return in.message, nil
}

// bodyOf returns the body of a message that can have one, else nil.
func bodyOf(message *wirepb.Message) *wirepb.Body {
	switch kind := message.GetKind().(type) {
	case *wirepb.Message_Call:
		return kind.Call.GetArgument()
	case *wirepb.Message_Result:
		return kind.Result.GetValue()
	case *wirepb.Message_Profiled:
		return kind.Profiled.GetProfile()
	}
	return nil
}

// beats is how many times in a lease a side says that it is there, and looks whether the other one did.
const beats = 4

// turns is how many goroutines a sign of life passes through on one side, and some more, each of which may have to wait its turn.
const turns = 10

// Watch calls beat several times in each lease, and lapsed once nothing was received for as long as a lease. It ends then, or
// when ctx does. Time in which this process did not run does not count; nor does time in which the other side was too crowded
// with goroutines for messages to pass: crowded is told whether this one is, and returns a count that grows while
// the other one is. Where this one is, the silence may last longer by what messages take here, but not for ever.
func (c *Conn) Watch(ctx context.Context, lease time.Duration, beat func(), crowded func(bool) uint64, lapsed func()) {
	interval := max(lease/beats, 1)
	c.watch(ctx, interval, newCrowd(interval/2).waited, beat, crowded, lapsed)
}

// watch is Watch, with what tells how long goroutines of this side wait.
func (c *Conn) watch(ctx context.Context, interval time.Duration, waited func() time.Duration, beat func(), crowded func(bool) uint64, lapsed func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	crowd, quit := tellOften(interval, waited, func() { crowded(true) })
	defer quit()
	// Where it is crowded, beat can take long.
	beating := make(chan struct{}, 1)
	defer func() { beating <- struct{}{} }()
	silent, patience, last, lastTheirs := 0, beats, c.received.Load(), crowded(false)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		wait := crowd()
		received, theirs := c.received.Load(), crowded(wait > 0)
		if received != last || theirs != lastTheirs {
			silent, patience, last, lastTheirs = 0, beats, received, theirs
		} else {
			silent++
			if wait > 0 {
				// A wait from before the silence is none of a message's: this process may have been stopped.
				patience = max(patience, beats+turns*min(silent, int(wait/interval)+1))
			}
			if silent >= patience {
				lapsed()
				return
			}
		}
		select {
		case beating <- struct{}{}:
			go func() {
				beat()
				<-beating
			}()
		default:
		}
	}
}
