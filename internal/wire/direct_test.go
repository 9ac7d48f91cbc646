//go:build unix

package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// socketPair returns both ends of a socket.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(file)
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	t.Cleanup(func() { _, _ = ends[0].Close(), ends[1].Close() })
	return ends[0], ends[1]
}

func newDirect(t *testing.T, conn net.Conn) *Direct {
	t.Helper()
	stream, err := NewDirect(conn)
	require.NoError(t, err)
	return stream
}

// connectDirect returns two sides over a socket.
func connectDirect(t *testing.T) (host, worker *Conn) {
	a, b := socketPair(t)
	host, worker = NewConn(newDirect(t, a), nil), NewConn(newDirect(t, b), nil)
	t.Cleanup(func() {
		host.Close()
		worker.Close()
		_, _ = a.Close(), b.Close()
		<-host.Stopped()
		<-worker.Stopped()
	})
	return host, worker
}

func TestDirectValuesOfAllLengths(t *testing.T) {
	host, worker := connectDirect(t)
	for id, n := range []int{0, 1, directBuffer - 100, directBuffer, maxInline, maxInline + 1, chunkSize, chunkSize + 1, 3*chunkSize + 7, 40 * chunkSize} {
		want := pattern(n, byte(id))
		message, body := callMessage(uint64(id))
		if id%2 == 0 {
			host.SendTicket(&Ticket{}, message, body, want, true)
		} else {
			host.Send(message, body, want)
		}
		got := recvCall(t, worker)
		assert.EqualValues(t, id, got.GetId())
		assert.True(t, bytes.Equal(want, got.GetArgument().GetData()), "%d bytes", n)
	}
}

func TestSendingNowDoesNotWaitForWhoDoesNotRead(t *testing.T) {
	host, worker := connectDirect(t)
	const count = 100 // of which few fit into the socket
	for id := range count {
		message, body := callMessage(uint64(id))
		host.SendTicket(&Ticket{}, message, body, pattern(maxInline, byte(id)), true)
	}
	for id := range count {
		got := recvCall(t, worker)
		require.EqualValues(t, id, got.GetId(), "in order")
		require.True(t, bytes.Equal(pattern(maxInline, byte(id)), got.GetArgument().GetData()))
	}
}

func TestSendThenTellsWhenItIsInTheSocket(t *testing.T) {
	for _, now := range []bool{true, false} {
		a, b := socketPair(t)
		host := NewConn(newDirect(t, a), nil)
		var told atomic.Int64
		for id := range 100 {
			message, body := callMessage(uint64(id))
			host.SendThen(message, body, pattern(maxInline, 0), now, func() { told.Add(1) })
			if id == 0 {
				require.Eventually(t, func() bool { return told.Load() > 0 }, 10*time.Second, time.Millisecond)
			}
		}
		// Without a reader few of the others fit. Each that is told of can be read, although this end is closed.
		host.Close()
		require.NoError(t, a.Close())
		<-host.Stopped()
		assert.Less(t, told.Load(), int64(100))
		reader, arrived := newDirect(t, b), int64(0)
		for {
			frame, err := reader.Recv()
			if err != nil {
				break
			}
			arrived += int64(len(frame.GetMessages()))
		}
		assert.GreaterOrEqual(t, arrived, told.Load())
	}
}

func TestDirectRefusesLongFrames(t *testing.T) {
	for _, length := range []uint32{MaxFrame + 1, isChunk | (chunkSize + 1), ^uint32(0)} {
		a, b := socketPair(t)
		_, err := a.Write(binary.BigEndian.AppendUint32(nil, length))
		require.NoError(t, err)
		stream := newDirect(t, b)
		_, err = stream.Recv()
		assert.ErrorAs(t, err, new(*ProtocolError))
		assert.Nil(t, stream.body, "nothing is allocated for it")
	}
}

func TestSmallValuesPassBigOnes(t *testing.T) {
	host, worker := connectDirect(t)
	message, body := callMessage(1)
	host.Send(message, body, pattern(64*chunkSize, 1))
	message, body = callMessage(2)
	host.Send(message, body, pattern(10, 2))
	assert.EqualValues(t, 2, recvCall(t, worker).GetId())
	assert.True(t, bytes.Equal(pattern(64*chunkSize, 1), recvCall(t, worker).GetArgument().GetData()))
}

func TestDirectEndsWithinAFrame(t *testing.T) {
	for _, length := range []uint32{10, directBuffer + 10, isChunk | 100} {
		a, b := socketPair(t)
		_, err := a.Write(append(binary.BigEndian.AppendUint32(nil, length), "short"...))
		require.NoError(t, err)
		require.NoError(t, a.Close())
		_, err = newDirect(t, b).Recv()
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

// Over what is no socket of the system nothing is tried, since it might wait, and all arrives all the same.
func TestDirectOverAnyConnection(t *testing.T) {
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	from, to := newDirect(t, a), newDirect(t, b)
	frame := &wirepb.Frame{Sequence: 7, Messages: []*wirepb.Message{{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}}}
	whole, err := from.Try(frame)
	require.NoError(t, err)
	assert.False(t, whole)
	assert.False(t, to.Unread())
	finished := make(chan error, 1)
	go func() { finished <- from.Finish() }()
	got, err := to.Recv()
	require.NoError(t, err)
	require.NoError(t, <-finished)
	assert.EqualValues(t, 7, got.GetSequence())
	assert.NotNil(t, got.GetMessages()[0].GetPing())
}

// FuzzDirect reads what a hostile side may write.
func FuzzDirect(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 8, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 7})
	f.Add([]byte{0, 0, 0, 4, 8, 1, 0x12, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := socketPair(t)
		if len(data) > 64<<10 {
			return // more than the socket is sure to take
		}
		_, err := a.Write(data)
		require.NoError(t, err)
		require.NoError(t, a.Close())
		stream := newDirect(t, b)
		for err == nil {
			var frame *wirepb.Frame
			if frame, err = stream.Recv(); err == nil {
				require.NotNil(t, frame)
			}
		}
	})
}

func BenchmarkDirect(b *testing.B) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(b, err)
	ends := make([]*Direct, 2)
	for i, fd := range fds {
		conn, err := net.FileConn(os.NewFile(uintptr(fd), "socket"))
		require.NoError(b, err)
		ends[i], err = NewDirect(conn)
		require.NoError(b, err)
	}
	message, body := callMessage(1)
	body.Data = pattern(100, 0)
	frame := &wirepb.Frame{Sequence: 1, Messages: []*wirepb.Message{message}}
	b.ReportAllocs()
	for b.Loop() {
		if err := ends[0].Send(frame); err != nil {
			b.Fatal(err)
		}
		if _, err := ends[1].Recv(); err != nil {
			b.Fatal(err)
		}
	}
}
