package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// raw is a sandbox whose worker speaks HTTP/2 by hand.
type raw struct {
	script func(*peer)
}

func (r *raw) Stop(context.Context) error { return nil }

func (r *raw) StartWorker(context.Context, driver.WorkerSpec) (driver.Process, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(file); err != nil {
			return nil, err
		}
		_ = file.Close()
	}
	p := &fakeProcess{
		conn: ends[0], inner: ends[1], handshake: io.NopCloser(strings.NewReader(goodLine)), stdout: io.NopCloser(strings.NewReader("")), done: make(chan struct{}),
	}
	p.end = sync.OnceFunc(func() { close(p.done) })
	go func() {
		defer func() { _ = ends[1].Close() }()
		r.script(newPeer(ends[1]))
	}()
	return p, nil
}

// peer is the server's side of a connection of HTTP/2.
type peer struct {
	net.Conn
	*http2.Framer
	out bytes.Buffer // what Framer writes
}

func newPeer(conn net.Conn) *peer {
	p := &peer{Conn: conn}
	p.Framer = http2.NewFramer(&p.out, conn)
	return p
}

// flush sends what was written; false if the connection has ended.
func (p *peer) flush() bool {
	_, err := p.Write(p.out.Bytes())
	p.out.Reset()
	return err == nil
}

// greet does what a worker does up to its welcome.
func (p *peer) greet() bool {
	if _, err := io.ReadFull(p.Conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return false
	}
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	_ = p.WriteSettingsAck()
	var headers bytes.Buffer
	encoder := hpack.NewEncoder(&headers)
	for _, field := range [][2]string{{":status", "200"}, {"content-type", "application/grpc"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	if !p.flush() {
		return false
	}
	for { // for the stream
		frame, err := p.ReadFrame()
		if err != nil {
			return false
		}
		if frame.Header().StreamID == 1 {
			break
		}
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers.Bytes(), EndHeaders: true})
	_ = p.WriteData(1, false, message(frame(1, welcome())))
	return p.flush()
}

// message is a frame of ours as gRPC sends it.
func message(f *wirepb.Frame) []byte {
	data, err := proto.Marshal(f)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What a worker sends that gRPC keeps, and that takes many times its length, is refused; what gRPC itself bounds costs little.
func TestHostileHTTP2(t *testing.T) {
	const length = 4<<20 - 1
	flood := func(n int, write func(*peer)) func(*peer) {
		return func(p *peer) {
			for range n {
				write(p)
				if !p.flush() {
					return
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		script func(*peer)
		want   string // empty if it is not refused
	}{
		{"long settings", flood(10_000, func(p *peer) {
			_ = p.WriteSettings(make([]http2.Setting, 2730)...)
		}), "type 4 of 16380 bytes"},
		{"long farewells", flood(100, func(p *peer) {
			_ = p.WriteGoAway(1<<31-1, http2.ErrCodeNo, make([]byte, 16_000))
		}), "type 7 of 16008 bytes"},
		{"frames of no type", flood(100, func(p *peer) {
			_ = p.WriteRawFrame(0x77, 0, 1, make([]byte, 16_000))
		}), "type 119 of 16000 bytes"},
		{"padding", flood(1, func(p *peer) {
			_ = p.WriteDataPadded(1, false, nil, make([]byte, 255))
		}), "padded data"},
		{"streams that nobody opened", flood(500, func(p *peer) {
			for stream := range uint32(1000) {
				_ = p.WriteData(3+2*stream, false, []byte{0})
			}
		}), ""},
		{"a message in bytes", func(p *peer) {
			go func() { _, _ = io.Copy(io.Discard, p.Conn) }()
			_ = p.WriteData(1, false, binary.BigEndian.AppendUint32([]byte{0}, length))
			flood(length/1000, func(p *peer) {
				for range 1000 {
					_ = p.WriteData(1, false, []byte{0x12})
				}
			})(p)
		}, "a message in too many pieces"},
		{"a message in pieces of nothing", flood(1, func(p *peer) {
			_ = p.WriteData(1, false, []byte{0})
			for range 100 {
				_ = p.WriteData(1, false, nil)
			}
		}), "a message in too many pieces"},
		{"windows", flood(500, func(p *peer) {
			for range 1000 {
				_ = p.WriteWindowUpdate(1, 1)
			}
		}), ""},
		{"answers", flood(500, func(p *peer) {
			for range 1000 {
				_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x08, 3, '1', '0', '0'}, EndHeaders: true})
			}
		}), ""},
		{"pings that are not read", flood(500, func(p *peer) {
			for range 1000 {
				_ = p.WritePing(false, [8]byte{})
			}
			_ = p.SetWriteDeadline(time.Now().Add(time.Second))
		}), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			greeted, sent, over := make(chan bool), make(chan struct{}), make(chan struct{})
			defer close(over)
			before := heap()
			w, err := Start(t.Context(), &raw{script: func(p *peer) {
				ok := p.greet()
				greeted <- ok
				if ok {
					c.script(p)
				}
				close(sent)
				<-over
			}}, Config{Session: "s", Sandbox: "s-1", Divert: 1})
			require.True(t, <-greeted)
			require.NoError(t, err)
			defer w.Close()
			most := before
			for going := true; going; {
				select {
				case <-sent:
					going = false
				case <-time.After(10 * time.Millisecond):
				}
				most = max(most, heap())
			}
			assert.Less(t, most-before, uint64(16<<20))
			if c.want == "" {
				return
			}
			select {
			case <-w.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the worker was not given up")
			}
			require.ErrorAs(t, w.Lost().Err, new(*wire.ProtocolError))
			assert.ErrorContains(t, w.Lost().Err, c.want)
		})
	}
}
