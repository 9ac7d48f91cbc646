package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/sandboxfn/sbx/registry"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runs counts the runs of functions.
var runs atomic.Int64

func init() {
	registry.Function0[string]("a", func(context.Context) (string, error) {
		runs.Add(1)
		return "a", nil
	})
	registry.Function0[string]("b", func(ctx context.Context) (string, error) {
		runs.Add(1)
		<-ctx.Done()
		return "", ctx.Err()
	})
	registry.Function0[string]("c", func(context.Context) (string, error) {
		runs.Add(1)
		return strings.Repeat("c", 300<<10), nil
	})
	registry.Function[string, string]("d", func(_ context.Context, text string) (string, error) {
		runs.Add(1)
		if text == "" {
			runtime.Goexit()
		}
		panic(text)
	})
	registry.Action[[]byte]("e", func(context.Context, []byte) error {
		runs.Add(1)
		return errors.New("e")
	})
	Divert() // as generated code does; this process is no worker
}

// A hostile session does what bytes say. It is the stream of the worker's handler.
type hostile struct {
	grpc.ServerStream
	script []byte
	ctx    context.Context
	cancel context.CancelFunc
	ledger *ledger.Ledger // the session's view; nil if there is none
	meter  *wire.Meter
	deaf   bool   // it takes no results
	sent   uint64 // frames
	queued int    // in the ledger
	runs   int    // of functions
	err    error  // of the handler

	mu      sync.Mutex
	asked   map[uint64]int // calls by id
	results map[uint64]int
	seen    uint64 // frames of the worker
}

func (h *hostile) Context() context.Context { return h.ctx }

// number takes a number of any size from the script: mostly small ones, which are the ids and slots in use, and those where
// arithmetic ends.
func (h *hostile) number() uint64 {
	if len(h.script) == 0 {
		return 0
	}
	first := h.script[0]
	h.script = h.script[1:]
	switch {
	case first == 0xf0:
		return math.MaxUint64
	case first == 0xf1:
		return math.MaxInt64
	case first == 0xf2:
		return math.MaxInt64 + 1
	case first == 0xf3:
		return uint64(time.Millisecond)
	case first == 0xf4:
		return ledger.Slots - 1
	case first < 0xf5 || len(h.script) < 8:
		return uint64(first % 16)
	}
	n := binary.LittleEndian.Uint64(h.script)
	h.script = h.script[8:]
	return n
}

// Recv is the worker's: it returns the next frame, and the end of the stream when the script has none.
func (h *hostile) Recv() (*wirepb.Frame, error) {
	h.sent++
	f := &wirepb.Frame{Sequence: h.sent}
	if h.sent == 1 {
		f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Hello{Hello: &wirepb.Hello{
			LeaseNanos: int64(h.number()), Concurrency: uint32(h.number()),
		}}})
		return f, nil
	}
	synctest.Wait() // whatever can happen has happened
	if len(h.script) == 0 || h.ctx.Err() != nil {
		h.cancel()
		return nil, io.EOF
	}
	for more := true; more && len(h.script) > 0; {
		op := h.number()
		more = op%2 == 0
		switch op / 2 {
		case 0:
			f.Messages = append(f.Messages, h.call(&wirepb.Body{}))
		case 1:
			f.Messages = append(f.Messages, h.call(&wirepb.Body{Stream: h.number(), Size: h.number()}))
		case 2:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Chunk{Chunk: &wirepb.Chunk{Stream: h.number(), Data: make([]byte, h.number()%1024)}}})
		case 3:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Abort{Abort: &wirepb.Abort{Stream: h.number()}}})
		case 4:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Cancel{Cancel: &wirepb.Cancel{Id: h.number()}}})
		case 5:
			slot, id := h.number(), h.number()
			if h.ledger != nil && slot < ledger.Slots {
				h.queued++
				h.ledger.Queue(int(slot), id)
			}
		case 6:
			h.ledger.Withdraw(int(h.number()%ledger.Slots), h.number())
			time.Sleep(time.Duration(h.number() % uint64(time.Hour))) // in the bubble
		default: // a frame of any content
			length := min(int(h.number()%1024), len(h.script))
			wild := &wirepb.Frame{}
			if proto.Unmarshal(h.script[:length], wild) == nil {
				for _, message := range wild.GetMessages() {
					if call := message.GetCall(); call != nil {
						h.ask(call.GetId())
					}
				}
				f.Messages = append(f.Messages, wild.GetMessages()...)
				f.Sequence += wild.GetSequence()
			}
			h.script = h.script[length:]
		}
	}
	return f, nil
}

func (h *hostile) call(argument *wirepb.Body) *wirepb.Message {
	call := &wirepb.Call{
		Argument: argument, Id: h.number(), Slot: uint32(h.number()), Function: uint32(h.number()), Attempt: uint32(h.number()),
		TimeoutNanos: int64(h.number()), DeadlineNanos: int64(h.number()), Metadata: map[string]string{"": string(h.script[:min(4, len(h.script))])},
	}
	if argument.GetStream() == 0 {
		length := min(int(h.number()%64), len(h.script))
		argument.Data = h.script[:length]
		h.script = h.script[length:]
	}
	h.ask(call.GetId())
	return &wirepb.Message{Kind: &wirepb.Message_Call{Call: call}}
}

func (h *hostile) ask(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[id]++
}

// Send is the worker's.
func (h *hostile) Send(f *wirepb.Frame) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen++
	if f.GetSequence() != h.seen || proto.Size(f) > wire.MaxFrame {
		panic("not a frame of the protocol")
	}
	for _, message := range f.GetMessages() {
		if result := message.GetResult(); result != nil {
			if h.deaf {
				return io.ErrClosedPipe
			}
			h.results[result.GetId()]++
		}
	}
	// As gRPC writes it: a data frame, with the message behind a prefix of 5 bytes.
	body := 5 + proto.Size(f)
	_, _ = h.meter.Write(append(binary.BigEndian.AppendUint32(nil, uint32(body)<<8), make([]byte, 5+body)...))
	return h.ctx.Err()
}

// nowhere is a connection whose bytes nobody gets.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// FuzzServe has a hostile session call a worker: the worker ends when the stream does, answers nothing twice, and runs nothing
// that the ledger does not allow.
func FuzzServe(f *testing.F) {
	seed := func(numbers ...byte) { f.Add(numbers, true); f.Add(numbers, false) }
	seed(0, 1, 10, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0)                                                     // a call
	seed(0, 2, 10, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0)                             // an id twice
	seed(0, 0, 0, 1, 9, 1, 1, 0xf1, 0xf1, 0, 0, 2, 9, 1, 1, 0xf0, 0xf2, 0, 9, 1)                     // durations, and a cancel
	seed(0xf1, 0xf0, 0, 1, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 1)                                    // the greatest numbers
	seed(0xf2, 0xf2, 10, 0xf4, 1, 0, 1, 0xf4, 2, 1, 0xf3, 0xf3, 0, 1, 1, 2, 2, 0, 0, 0)              // results in chunks
	seed(1, 1, 2, 1, 2, 1, 1, 1, 1, 0, 0, 0, 4, 1, 2)                                                // an argument in chunks
	seed(0, 1, 10, 1, 1, 12, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0)                                           // withdrawn
	seed(0, 4, 0, 1, 1, 3, 1, 0, 0, 2, 0xa1, 'x', 0, 2, 2, 3, 1, 0, 0, 2, 0xa0, 0, 3, 3, 4, 1, 0, 0) // panics
	frame, err := proto.Marshal(&wirepb.Frame{Messages: []*wirepb.Message{{Kind: &wirepb.Message_Welcome{Welcome: &wirepb.Welcome{}}}}})
	require.NoError(f, err)
	seed(append([]byte{0, 1, 15, byte(len(frame))}, frame...)...)
	f.Fuzz(func(t *testing.T, script []byte, withLedger bool) {
		synctest.Test(t, func(t *testing.T) {
			h := &hostile{script: script}
			h.serve(t, withLedger)
			total := 0
			for id, n := range h.results {
				assert.LessOrEqual(t, n, h.asked[id], "results of call %d", id)
			}
			for _, n := range h.asked {
				total += n
			}
			if withLedger {
				total = min(total, h.queued)
			}
			assert.LessOrEqual(t, h.runs, total)
		})
	})
}

// serve lets a worker serve the script to its end.
func (h *hostile) serve(t *testing.T, withLedger bool) {
	h.asked, h.results, h.meter = map[uint64]int{}, map[uint64]int{}, wire.NewMeter(nowhere{})
	h.ctx, h.cancel = context.WithCancel(t.Context())
	s := &server{exit: func(string) { h.cancel() }, meter: h.meter, wrap: func(wire.Stream) wire.Stream { return h }}
	if withLedger {
		file, err := ledger.New()
		require.NoError(t, err)
		defer file.Close()
		s.ledger, err = ledger.Map(file)
		require.NoError(t, err)
		defer s.ledger.Close()
		h.ledger, err = ledger.Map(file)
		require.NoError(t, err)
		defer h.ledger.Close()
	}
	before := runs.Load()
	done := make(chan error)
	go func() { done <- s.Serve(h) }()
	select {
	case h.err = <-done:
		require.Error(t, h.err)
	case <-time.After(1e6 * time.Hour):
		t.Fatal("the worker does not end with its stream")
	}
	h.runs = int(runs.Load() - before)
}

// The scripts do what they are meant to; and once a result can't be sent, nothing begins any more.
func TestServe(t *testing.T) {
	for _, withLedger := range []bool{true, false} {
		for _, deaf := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				h := &hostile{deaf: deaf, script: []byte{
					0, 1, // no lease, one at a time
					10, 3, 1, 10, 4, 2, // two calls in the ledger
					0, 1, 3, 0, 1, 0, 0, 0, 1, 2, 4, 0, 1, 0, 0, 0, // and in a frame
				}}
				h.serve(t, withLedger)
				if deaf {
					assert.Equal(t, 1, h.runs)
					assert.Empty(t, h.results)
					return
				}
				assert.Equal(t, 2, h.runs)
				assert.Equal(t, map[uint64]int{1: 1, 2: 1}, h.results)
			})
		}
	}
}

func TestCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := []byte{0, 0xf0} // as many as can be counted at a time
		for id := range uint64(ledger.Slots + 1) {
			script = append(script, 0, 0xff)
			script = binary.LittleEndian.AppendUint64(script, id)
			script = append(script, 0, 1, 1, 0, 0, 0)
		}
		h := &hostile{script: script}
		h.serve(t, false)
		require.ErrorContains(t, h.err, "call 2048 is one too many")
		assert.LessOrEqual(t, h.runs, ledger.Slots)
	})
}
