package launch

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/ledger"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// A hostile worker does what bytes say.
type hostile struct {
	script []byte
	ledger *ledger.Ledger // its own view
	memory *os.File       // of the ledger
	sent   uint64         // frames
	calls  chan *wirepb.Call
	asked  chan struct{} // where a call is

	// what it did
	lingers bool            // its process ends only when it is killed, and then not by that
	claimed map[uint64]bool // in keeping with the protocol
	lied    bool            // by writing into the ledger
	ended   chan struct{}
	end     func()
}

func newHostile(t testing.TB, script []byte) *hostile {
	h := &hostile{script: script, calls: make(chan *wirepb.Call, 100), asked: make(chan struct{}, 1), claimed: map[uint64]bool{}, ended: make(chan struct{})}
	h.end = sync.OnceFunc(func() { close(h.ended) })
	var err error
	h.memory, err = ledger.New()
	require.NoError(t, err)
	h.ledger, err = ledger.Map(h.memory)
	require.NoError(t, err)
	return h
}

// Send is the session's.
func (h *hostile) Send(frame *wirepb.Frame) error {
	for _, message := range frame.GetMessages() {
		if call := message.GetCall(); call != nil {
			h.calls <- call
		}
		if message.GetProfile() != nil {
			h.asked <- struct{}{}
		}
	}
	return nil
}

// number takes a number of any size from the script: mostly small ones, which are the ids, slots and streams in use.
func (h *hostile) number() uint64 {
	if len(h.script) == 0 {
		return 0
	}
	first := h.script[0]
	h.script = h.script[1:]
	if first < 0xf0 || len(h.script) < 8 {
		return uint64(first % 16)
	}
	n := binary.LittleEndian.Uint64(h.script)
	h.script = h.script[8:]
	return n
}

// Recv is the session's: it returns the next frame, and the end of the stream when the script has none.
func (h *hostile) Recv() (*wirepb.Frame, error) {
	if len(h.script) == 0 {
		if !h.lingers {
			h.end()
		}
		return nil, io.EOF
	}
	h.sent++
	f := &wirepb.Frame{Sequence: h.sent}
	for more := true; more && len(h.script) > 0; {
		op := h.number()
		more = op%2 == 0
		switch op / 2 {
		case 0: // a whole result
			f.Messages = append(f.Messages, h.result(&wirepb.Body{Data: make([]byte, h.number()%1024)}))
		case 1: // one that is announced
			f.Messages = append(f.Messages, h.result(&wirepb.Body{Stream: h.number(), Size: h.number()}))
		case 2:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Chunk{Chunk: &wirepb.Chunk{Stream: h.number(), Data: make([]byte, h.number()%1024)}}})
		case 3:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Abort{Abort: &wirepb.Abort{Stream: h.number()}}})
		case 4:
			f.Messages = append(f.Messages, &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}, h.progress(), h.profiled())
		case 5: // a begin as it should be
			slot, id := h.number(), h.number()
			if slot < ledger.Slots && h.ledger.Claim(int(slot), id) {
				h.claimed[id] = true
			}
		case 6: // a scribble
			h.lied = true
			var entry [8]byte
			binary.NativeEndian.PutUint64(entry[:], h.number()<<2|h.number())
			_, _ = h.memory.WriteAt(entry[:], int64(h.number()%ledger.Slots)*8)
		default: // a frame of any content
			length := min(int(h.number()%1024), len(h.script))
			wild := &wirepb.Frame{}
			if proto.Unmarshal(h.script[:length], wild) == nil {
				f.Messages = append(f.Messages, wild.GetMessages()...)
				f.Sequence += wild.GetSequence()
			}
			h.script = h.script[length:]
		}
	}
	return f, nil
}

// progress is of any call, with a note of any bytes.
func (h *hostile) progress() *wirepb.Message {
	progress := &wirepb.Progress{Call: h.number(), Done: int64(h.number()), Total: int64(h.number())}
	progress.Note = strings.Repeat(string([]byte{byte(h.number()), byte(h.number()), 0x1b, 0xff}), int(h.number()%1024))
	return &wirepb.Message{Kind: &wirepb.Message_Progress{Progress: progress}}
}

// profiled is of any request, of any length, whole or announced.
func (h *hostile) profiled() *wirepb.Message {
	profiled := &wirepb.Profiled{Id: h.number(), Profile: &wirepb.Body{Stream: h.number(), Size: h.number()}}
	profiled.Profile.Data = make([]byte, h.number()%16*(10<<10))
	return &wirepb.Message{Kind: &wirepb.Message_Profiled{Profiled: profiled}}
}

func (h *hostile) result(body *wirepb.Body) *wirepb.Message {
	result := &wirepb.Result{Id: h.number(), Attempt: uint32(h.number())}
	switch h.number() {
	case 0:
		result.Outcome = &wirepb.Result_FunctionError{FunctionError: body.GetData()}
	case 1:
		result.Outcome = &wirepb.Result_Refused{Refused: &wirepb.Refusal{Reason: wirepb.Refusal_Reason(h.number())}}
	case 2:
		result.Outcome = &wirepb.Result_TimedOut{TimedOut: &wirepb.TimedOut{Error: body.GetData(), Running: true}}
	case 3:
		result.Outcome = &wirepb.Result_Panic{Panic: &wirepb.Panic{}}
	case 4:
		result.Outcome = &wirepb.Result_Value{} // without a body
	case 5: // of nothing
	default:
		result.Outcome = &wirepb.Result_Value{Value: body}
	}
	return &wirepb.Message{Kind: &wirepb.Message_Result{Result: result}}
}

// worker makes the session's side, as Start does, but over frames instead of a connection.
func (h *hostile) worker(t testing.TB) *Worker {
	conn, err := grpc.NewClient("passthrough:///hostile", grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	outer, inner := net.Pipe()
	p := &fakeProcess{
		conn: outer, inner: inner, handshake: io.NopCloser(strings.NewReader(goodLine)), stdout: io.NopCloser(strings.NewReader("")),
		done: h.ended, end: h.end, ledger: h.memory,
	}
	w := &Worker{grpc: conn, process: p, output: readOutput(p, Config{}), report: readReport(p.handshake, maxReport), calls: map[uint64]*Pending{}, done: make(chan struct{})}
	w.conn = wire.NewConn(h, w.returned)
	w.closeConn = func() {}
	w.ledger, err = ledger.Map(h.memory)
	require.NoError(t, err)
	for slot := range 16 { // few, so that scripts find them
		w.slots = append(w.slots, slot)
	}
	return w
}

// FuzzWorker has a hostile worker answer a session's calls: whatever it does costs it its own calls, and nothing else.
func FuzzWorker(f *testing.F) {
	seed := func(numbers ...byte) { f.Add(numbers) }
	seed(0, 5, 1, 1, 6, 0, 5, 2, 1, 0)                   // results of two calls
	seed(0, 5, 1, 1, 6, 1, 5, 1, 1, 6)                   // of one, twice
	seed(2, 1, 9, 1, 1, 6, 4, 1, 9)                      // in chunks
	seed(2, 1, 9, 1, 1, 6, 2, 2, 9, 1, 1, 6, 4, 2, 9)    // announced twice
	seed(2, 1, 9, 1, 1, 6, 6, 1, 2, 2, 9, 1, 1, 6, 4, 2) // and withdrawn in between
	seed(10, 15, 1, 10, 14, 2, 0, 5, 3, 1, 1)            // begins
	seed(12, 1, 2, 0, 12, 15, 15, 15)                    // scribbles
	seed(0, 5, 1, 1, 4, 0, 1, 2, 1, 5)
	seed(8, 1, 2, 3, 65, 66, 15, 9, 1, 2, 3, 65, 66, 15) // progress of a call
	seed(8, 3, 1, 1, 1, 1, 1, 9)                         // of one that was withdrawn, and of none
	seed(9, 0, 0, 0, 0, 0, 0, 7, 0, 0, 6)                // a stack
	seed(9, 0, 0, 0, 0, 0, 0, 7, 0, 0, 7)                // one that is too long
	seed(9, 0, 0, 0, 0, 0, 0, 7, 9, 1, 0, 4, 9, 1)       // one in chunks
	frame, err := proto.Marshal(&wirepb.Frame{Messages: []*wirepb.Message{welcome(), result(1, 1)}})
	require.NoError(f, err)
	f.Add(append([]byte{14, byte(min(len(frame), 15))}, frame...))
	f.Fuzz(func(t *testing.T, script []byte) {
		h := newHostile(t, script)
		w := h.worker(t)
		var calls []*Pending
		for i := range 6 {
			calls = append(calls, w.Go(&wirepb.Call{Attempt: 1}, make([]byte, i*20<<10))) // the last ones in chunks
		}
		for range calls { // the worker has them
			select {
			case <-h.calls:
			case <-time.After(10 * time.Second):
				t.Fatal("a call does not arrive")
			}
		}
		var stack []byte
		var asking sync.WaitGroup
		asking.Go(func() { stack, _ = calls[1].Stack(t.Context()) }) // by the id 7
		<-h.asked
		withdrawn := calls[2].Withdraw()
		require.True(t, withdrawn)
		calls[3].Cancel()
		go w.receive()
		select {
		case <-w.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the session hangs")
		}
		asking.Wait()
		assert.LessOrEqual(t, len(stack), wire.MaxCallStack)
		for i, call := range calls {
			if progress := call.Progress(); progress != nil {
				assert.LessOrEqual(t, len(progress.Note), wire.MaxNote)
				assert.NotContains(t, progress.Note, "\x1b")
				assert.GreaterOrEqual(t, min(progress.Done, progress.Total), int64(0))
			}
			answered := false
			select {
			case <-call.Done():
				answered = true
				assert.Equal(t, call.id, call.Result().GetId())
				assert.EqualValues(t, 1, call.Result().GetAttempt())
				assert.NotNil(t, call.Result().GetOutcome())
			default:
			}
			if call == calls[2] {
				assert.False(t, answered, "it was withdrawn")
				assert.False(t, call.Begun())
				continue
			}
			if !answered && !h.lied {
				assert.Equal(t, h.claimed[call.id], call.Begun(), "call %d", i)
			}
			assert.Equal(t, answered && call.result.GetRefused() != nil || !answered && !call.Begun(), call.Withdraw())
		}
		assert.False(t, w.Go(&wirepb.Call{Attempt: 1}, nil).Begun())
		w.Close()
		h.ledger.Close()
	})
}

func TestAnEndThatShowsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHostile(t, nil)
		defer h.ledger.Close()
		h.lingers = true
		w := h.worker(t)
		go w.receive()
		require.NotNil(t, w.Lost().Exit)
		assert.Equal(t, driver.Exit{Code: 3}, *w.Lost().Exit)
		w.Close()
	})
}
