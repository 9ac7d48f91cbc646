package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is one direction of a stream. Frames cross it encoded, as they do in gRPC.
type pipe struct {
	frames chan []byte
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe { return &pipe{frames: make(chan []byte), closed: make(chan struct{})} }

func (p *pipe) close() { p.once.Do(func() { close(p.closed) }) }

type side struct{ in, out *pipe }

func (s side) Send(frame *wirepb.Frame) error {
	data, err := proto.Marshal(frame)
	if err != nil {
		return err
	}
	if len(data) > MaxFrame {
		return errors.New("frame too long")
	}
	select {
	case s.out.frames <- data:
		return nil
	case <-s.out.closed:
		return io.EOF
	}
}

func (s side) Recv() (*wirepb.Frame, error) {
	select {
	case data := <-s.in.frames:
		frame := &wirepb.Frame{}
		return frame, proto.Unmarshal(data, frame)
	case <-s.in.closed:
		return nil, io.EOF
	}
}

// connect returns two connected sides, and what ends them.
func connect(t *testing.T) (host, worker *Conn, cut func()) {
	a, b := newPipe(), newPipe()
	host, worker = NewConn(side{b, a}, nil), NewConn(side{a, b}, nil)
	cut = func() { a.close(); b.close() }
	t.Cleanup(func() {
		host.Close()
		worker.Close()
		cut()
		<-host.Stopped()
		<-worker.Stopped()
	})
	return host, worker, cut
}

func callMessage(id uint64) (*wirepb.Message, *wirepb.Body) {
	body := &wirepb.Body{}
	return &wirepb.Message{Kind: &wirepb.Message_Call{Call: &wirepb.Call{Id: id, Argument: body}}}, body
}

func sendCall(c *Conn, id uint64, value []byte) *Ticket {
	message, body := callMessage(id)
	return c.Send(message, body, value)
}

func recvCall(t *testing.T, c *Conn) *wirepb.Call {
	t.Helper()
	message, err := c.Recv()
	require.NoError(t, err)
	require.NotNil(t, message.GetCall(), "%v", message)
	return message.GetCall()
}

func pattern(n int, salt byte) []byte {
	value := make([]byte, n)
	for i := range value {
		value[i] = byte(i>>8) ^ byte(i) ^ salt
	}
	return value
}

func TestValuesOfAllLengths(t *testing.T) {
	host, worker, _ := connect(t)
	for id, n := range []int{0, 1, maxInline - 1, maxInline, maxInline + 1, chunkSize, chunkSize + 1, 3*chunkSize + 7} {
		want := pattern(n, byte(id))
		sendCall(host, uint64(id), want)
		got := recvCall(t, worker)
		assert.EqualValues(t, id, got.GetId())
		assert.True(t, bytes.Equal(want, got.GetArgument().GetData()), "%d bytes", n)
	}
}

func TestBigAndSmallValuesShareTheStream(t *testing.T) {
	host, worker, _ := connect(t)
	const bigs = 5
	for id := range bigs {
		sendCall(host, uint64(id), pattern((id+2)*chunkSize+id, byte(id)))
	}
	for id := bigs; id < 200; id++ {
		sendCall(host, uint64(id), pattern(100, byte(id)))
	}
	var order []uint64
	for range 200 {
		got := recvCall(t, worker)
		n := 100
		if got.GetId() < bigs {
			n = (int(got.GetId())+2)*chunkSize + int(got.GetId())
		}
		require.True(t, bytes.Equal(pattern(n, byte(got.GetId())), got.GetArgument().GetData()))
		order = append(order, got.GetId())
	}
	assert.Less(t, slices.Index(order, 199), slices.Index(order, 4), "small values don't wait for big ones")
	assert.Less(t, slices.Index(order, 0), slices.Index(order, 4), "big values take turns")
}

func TestFramesGatherWhileOneIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, worker, _ := connect(t)
		for id := range 1000 {
			sendCall(host, uint64(id), nil)
			if id == 0 {
				synctest.Wait() // the first is alone on its way
			}
		}
		for id := range 1000 {
			assert.EqualValues(t, id, recvCall(t, worker).GetId())
		}
		assert.EqualValues(t, 2, worker.received.Load())
	})
}

func TestTicketsTellWhatWasHanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, worker, cut := connect(t)
		first := sendCall(host, 1, nil)
		synctest.Wait() // on its way: the other side does not read yet
		second := sendCall(host, 2, nil)
		big := sendCall(host, 3, pattern(3*chunkSize, 0))
		synctest.Wait()
		assert.True(t, host.Handed(first))
		assert.False(t, host.Handed(second))
		assert.EqualValues(t, 1, recvCall(t, worker).GetId())
		synctest.Wait()
		assert.True(t, host.Handed(second), "its frame is on its way")
		assert.False(t, host.Handed(big), "some of its chunks are not")
		cut()
		synctest.Wait()
		assert.False(t, host.Handed(big))
		late := sendCall(host, 4, nil)
		synctest.Wait()
		assert.False(t, host.Handed(late))
	})
}

func TestAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, worker, _ := connect(t)
		first := sendCall(host, 1, nil)
		synctest.Wait()
		queued, big := sendCall(host, 2, nil), sendCall(host, 3, pattern(5*chunkSize, 0))
		assert.False(t, host.Abort(first), "it is on its way")
		assert.True(t, host.Abort(queued))
		assert.EqualValues(t, 1, recvCall(t, worker).GetId())
		synctest.Wait() // the head of the big one and a chunk are on their way
		assert.True(t, host.Abort(big))
		assert.False(t, host.Abort(big), "once")
		sendCall(host, 4, nil)
		assert.EqualValues(t, 4, recvCall(t, worker).GetId(), "what was withdrawn never arrives")
		assert.Empty(t, worker.incoming)
	})
}

func TestRecvEndsWithTheStream(t *testing.T) {
	host, worker, cut := connect(t)
	cut()
	_, err := worker.Recv()
	require.EqualError(t, err, "receive: EOF")
	assert.NotErrorIs(t, err, io.EOF, "it may be what a function returned")
	<-worker.Stopped()
	host.Close()
	<-host.Stopped()
	assert.False(t, host.Handed(sendCall(host, 1, nil)))
}

// script is a stream that plays frames.
type script struct {
	frames []*wirepb.Frame
}

func (s *script) Send(*wirepb.Frame) error { return nil }

func (s *script) Recv() (*wirepb.Frame, error) {
	if len(s.frames) == 0 {
		return nil, io.EOF
	}
	frame := s.frames[0]
	s.frames = s.frames[1:]
	return frame, nil
}

func announce(stream, size uint64) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Call{Call: &wirepb.Call{Argument: &wirepb.Body{Stream: stream, Size: size}}}}
}

func chunk(stream uint64, n int) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Chunk{Chunk: &wirepb.Chunk{Stream: stream, Data: make([]byte, n)}}}
}

func TestHostileFramesAreRefused(t *testing.T) {
	many := make([]*wirepb.Message, 0, maxStreams+1)
	for i := range maxStreams + 1 {
		many = append(many, announce(uint64(i+1), 10))
	}
	frame := func(sequence uint64, messages ...*wirepb.Message) *wirepb.Frame {
		return &wirepb.Frame{Sequence: sequence, Messages: messages}
	}
	for _, c := range []struct {
		name   string
		frames []*wirepb.Frame
		want   string
	}{
		{"no sequence", []*wirepb.Frame{frame(0)}, "frame 0 arrived as number 1"},
		{"a gap", []*wirepb.Frame{frame(1), frame(3)}, "frame 3 arrived as number 2"},
		{"a repeat", []*wirepb.Frame{frame(1), frame(1)}, "frame 1 arrived as number 2"},
		{"an empty message", []*wirepb.Frame{frame(1, &wirepb.Message{})}, "no known kind"},
		{"a chunk of nothing", []*wirepb.Frame{frame(1, chunk(7, 1))}, "not announced"},
		{"an empty chunk", []*wirepb.Frame{frame(1, announce(1, 5), chunk(1, 0))}, "a chunk of 0 bytes where 5 are missing"},
		{"too much", []*wirepb.Frame{frame(1, announce(1, chunkSize+2), chunk(1, chunkSize), chunk(1, 3))}, "a chunk of 3 bytes where 2 are missing"},
		{"crumbs", []*wirepb.Frame{frame(1, announce(1, 5), chunk(1, 3), chunk(1, 2))}, "a chunk of 3 bytes where 5 are missing"},
		{"a huge value", []*wirepb.Frame{frame(1, announce(1, MaxValue+1))}, "the limit is"},
		{"an empty value in chunks", []*wirepb.Frame{frame(1, announce(1, 0))}, "a value of 0 bytes"},
		{"announced twice", []*wirepb.Frame{frame(1, announce(1, 5), announce(1, 5))}, "announced twice"},
		{"too many at once", []*wirepb.Frame{frame(1, many...)}, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := NewConn(&script{frames: c.frames}, nil)
			_, err := conn.Recv()
			var broken *ProtocolError
			require.ErrorAs(t, err, &broken)
			assert.ErrorContains(t, err, c.want)
			<-conn.Stopped()
		})
	}
}

func TestAnAnnouncementAllocatesNothing(t *testing.T) {
	conn := NewConn(&script{frames: []*wirepb.Frame{{Sequence: 1, Messages: []*wirepb.Message{announce(1, MaxValue), chunk(1, chunkSize)}}}}, nil)
	_, err := conn.Recv()
	require.EqualError(t, err, "receive: EOF")
	assert.Empty(t, conn.incoming[1].body.Data)
	assert.Len(t, conn.incoming[1].pieces, 1)
	<-conn.Stopped()
}

// FuzzRecv feeds frames of any content to the receiver: it must neither panic nor hold more than it was given.
func FuzzRecv(f *testing.F) {
	seed, err := proto.Marshal(&wirepb.Frame{Sequence: 1, Messages: []*wirepb.Message{announce(1, 5), chunk(1, 5)}})
	require.NoError(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := &wirepb.Frame{}
		if proto.Unmarshal(data, frame) != nil {
			return
		}
		frame.Sequence = 1
		conn := NewConn(&script{frames: []*wirepb.Frame{frame}}, nil)
		for {
			message, err := conn.Recv()
			if err != nil {
				break
			}
			if body := bodyOf(message); body.GetStream() != 0 {
				assert.Len(t, body.GetData(), int(body.GetSize()))
			}
		}
		held := 0
		for _, in := range conn.incoming {
			for _, piece := range in.pieces {
				held += len(piece)
			}
		}
		assert.LessOrEqual(t, held, len(data))
		<-conn.Stopped()
	})
}
