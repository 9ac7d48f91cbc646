package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

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

// streamError is what a stream failed of. Nothing of it can be found but a [*ProtocolError]: the error of a call that was lost wraps it, and io.EOF there
// would be taken for the function's own.
func streamError(doing string, err error) error {
	if errors.As(err, new(*ProtocolError)) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %v", doing, err) //nolint:errorlint // see above
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
	direct *Direct // stream, if it is one

	mu      sync.Mutex
	wake    sync.Cond // work for the sender, or the end
	queue   []*Ticket // small messages, and heads of big ones
	big     []*Ticket // whose chunks are on their way
	offered int       // size of the messages in queue that came by Offer
	full    bool      // Offer refuses until the next frame
	next    int       // index into big: whose turn it is
	turn    bool      // a direct stream's next frame is a chunk
	streams uint64    // names given to big values
	err     error
	ended   bool          // the stream has, and Recv says why
	stopped chan struct{} // nobody uses the stream to send any more

	sending bool   // somebody uses the stream to send
	begun   *sent  // a frame that was not sent whole
	count   uint64 // frames; guarded by mu, as are those two
	spare   *sent  // of a direct stream, which keeps nothing of a frame; guarded by mu

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
	then    func()        // called when it was sent whole; nil if nobody wants to know
}

// sent is a frame that is sent, with the tickets that are whole with it.
type sent struct {
	frame *wirepb.Frame
	whole []*Ticket
}

type outgoing struct {
	stream uint64
	data   []byte
}

type incoming struct {
	message *wirepb.Message
	body    *wirepb.Body
	pieces  [][]byte // that have arrived, until there is data
	have    uint64   // bytes
	data    []byte   // the whole value's place
}

// NewConn returns a connection over stream. If announced is not nil, Recv calls it for each message whose value is going to
// arrive in chunks, before it takes any of them; its error ends the connection.
func NewConn(stream Stream, announced func(*wirepb.Message) error) *Conn {
	c := &Conn{stream: stream, announced: announced, stopped: make(chan struct{}), incoming: map[uint64]*incoming{}}
	c.wake.L = &c.mu
	if direct, ok := stream.(*Direct); ok {
		c.direct, direct.place = direct, c.place
	}
	go c.send()
	return c
}

// Send queues a message. If body is not nil it is the message's body, and Send fills it with value, whole or as an
// announcement of chunks. value must not be changed afterwards. Send does not wait.
func (c *Conn) Send(message *wirepb.Message, body *wirepb.Body, value []byte) *Ticket {
	ticket := &Ticket{}
	c.SendTicket(ticket, message, body, value, false)
	return ticket
}

// Unread reports whether something has arrived that Recv has not read, as far as that is known.
func (c *Conn) Unread() bool { return c.direct != nil && c.direct.Unread() }

// Direct reports whether the stream is one that SendThen needs.
func (c *Conn) Direct() bool { return c.direct != nil }

// SendTicket is Send with a ticket, a new one, from whoever calls it. now says that no other message will come soon: this
// goroutine sends it, if it can without waiting.
func (c *Conn) SendTicket(ticket *Ticket, message *wirepb.Message, body *wirepb.Body, value []byte, now bool) {
	ticket.message = message
	c.post(ticket, body, value, now)
}

// SendThen is SendTicket on a direct stream. It calls then when the message and its value are in the socket, and not at all if the
// connection ends before.
func (c *Conn) SendThen(message *wirepb.Message, body *wirepb.Body, value []byte, now bool, then func()) {
	c.post(&Ticket{message: message, then: then}, body, value, now)
}

func (c *Conn) post(ticket *Ticket, body *wirepb.Body, value []byte, now bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
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
	if now && c.direct != nil && !c.sending && c.begun == nil && len(c.queue) == 1 && len(c.big) == 0 && ticket.big == nil {
		c.transmit(c.direct.Try)
	}
	if len(c.queue) > 0 || c.begun != nil {
		c.wake.Broadcast()
	}
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
	c.fail(err)
}

// fail is Fail for callers that hold mu.
func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.wake.Broadcast()
}

// send is the connection's goroutine. While one frame is on its way the next gathers, so frames grow with the load.
func (c *Conn) send() {
	defer close(c.stopped)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for c.sending || c.err == nil && !c.ended && c.begun == nil && len(c.queue) == 0 && len(c.big) == 0 {
			c.wake.Wait()
		}
		if c.err == nil && c.direct != nil && c.begun == nil && len(c.big) == 0 {
			// Those who are about to run may have something for the same frame. Who is alone does not come here.
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
			if c.sending || c.err == nil && len(c.queue) == 0 {
				continue
			}
		}
		if c.err != nil || c.ended {
			return
		}
		c.transmit(c.whole)
	}
}

// whole sends a frame, or the rest of the last one.
func (c *Conn) whole(frame *wirepb.Frame) (bool, error) {
	if frame == nil {
		return true, c.direct.Finish()
	}
	return true, c.stream.Send(frame)
}

// transmit sends what comes next, by a function that gets no frame where there is only the rest of one. Callers hold mu, which
// transmit gives up meanwhile, and have seen that nobody is sending.
func (c *Conn) transmit(send func(*wirepb.Frame) (whole bool, err error)) {
	s, frame := c.begun, (*wirepb.Frame)(nil)
	if s == nil {
		s = c.gather()
		frame = s.frame
	}
	c.sending, c.begun = true, nil
	c.mu.Unlock()
	whole, err := send(frame)
	c.mu.Lock()
	c.sending = false
	switch {
	case errors.Is(err, io.EOF): // by which gRPC means that Recv says why the stream has ended
		c.ended = true
	case err != nil:
		c.fail(streamError("send", err))
	case !whole:
		c.begun = s
	default:
		c.account(s)
	}
	if c.err != nil || c.ended {
		c.wake.Broadcast()
	}
}

// grpcPrefix is what gRPC puts before each message: a flag and a length.
const grpcPrefix = 5

// account notes what was sent with a frame. Callers hold mu, which account gives up while it tells those who want to know.
func (c *Conn) account(s *sent) {
	if c.direct == nil { // nobody flushes a direct stream
		c.bytes += uint64(grpcPrefix + proto.Size(s.frame))
		for _, ticket := range s.whole {
			ticket.end = c.bytes
		}
		c.wake.Broadcast()
	}
	for _, ticket := range s.whole {
		if ticket.then != nil {
			c.mu.Unlock()
			ticket.then()
			c.mu.Lock()
		}
	}
	if c.direct != nil && cap(s.whole) <= maxSpare {
		clear(s.whole)
		clear(s.frame.Messages)
		s.whole, s.frame.Messages = s.whole[:0], s.frame.Messages[:0]
		c.spare = s
	}
}

// maxSpare is for how many messages a frame may have room that is used again.
const maxSpare = 256

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

// gather makes the next frame of what there is to send. Small messages go first; then one chunk of each big value in turn. Callers
// hold mu.
func (c *Conn) gather() *sent {
	c.count++
	s := c.spare
	if s == nil {
		s = &sent{frame: &wirepb.Frame{}}
	}
	c.spare = nil
	frame := s.frame
	frame.Sequence = c.count
	if c.direct != nil && len(c.big) > 0 && (c.turn || len(c.queue) == 0) { // chunks have frames of their own there
		c.turn = false
		c.chunk(s)
		return s
	}
	c.turn = true
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
			s.whole = append(s.whole, ticket)
		}
		frame.Messages = append(frame.Messages, ticket.message)
		size += proto.Size(ticket.message)
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
	c.full = false
	if c.direct == nil && len(c.big) > 0 && size < frameTarget {
		c.chunk(s)
	}
	return s
}

// chunk adds the next chunk to a frame. Callers hold mu.
func (c *Conn) chunk(s *sent) {
	c.next %= len(c.big)
	ticket := c.big[c.next]
	big := ticket.big
	piece := big.data[:min(chunkSize, len(big.data))]
	big.data = big.data[len(piece):]
	s.frame.Messages = append(s.frame.Messages, &wirepb.Message{Kind: &wirepb.Message_Chunk{Chunk: &wirepb.Chunk{Stream: big.stream, Data: piece}}})
	if len(big.data) > 0 {
		c.next++
		return
	}
	c.big = append(c.big[:c.next], c.big[c.next+1:]...)
	s.whole = append(s.whole, ticket)
	close(ticket.whole)
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
			err = streamError("receive", err)
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
	n, left := uint64(len(chunk.GetData())), in.body.GetSize()-in.have
	if n == 0 || n > left || n < min(chunkSize, left) { // short ones could take much memory
		return nil, broken("a chunk of %d bytes where %d are missing", n, left)
	}
	// The value's place takes no more than four times what has arrived, whatever was announced.
	if in.data == nil {
		in.pieces = append(in.pieces, chunk.GetData())
	} else if place := in.data[in.have:]; unsafe.SliceData(place) != unsafe.SliceData(chunk.GetData()) {
		copy(place, chunk.GetData())
	}
	in.have += n
	if in.data == nil && in.have >= in.body.GetSize()/4 {
		in.data = in.pieces[0]
		if in.have < in.body.GetSize() || len(in.pieces) > 1 {
			in.data = make([]byte, in.body.GetSize())
			at := 0
			for _, piece := range in.pieces {
				at += copy(in.data[at:], piece)
			}
			freePieces(in.pieces)
		}
		in.pieces = nil
	}
	if n < left {
		return nil, nil
	}
	in.body.Data = in.data
	delete(c.incoming, chunk.GetStream())
	return in.message, nil
}

// place returns where the next n bytes of a value are to be, if there is a place for them.
func (c *Conn) place(stream uint64, n int) []byte {
	in := c.incoming[stream]
	if in == nil || in.data == nil || uint64(n) > in.body.GetSize()-in.have {
		return nil
	}
	return in.data[in.have:][:n]
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
