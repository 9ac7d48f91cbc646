package inprocess

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/protobuf/proto"
)

// Message is one frame of the protocol, as a worker receives or sends it.
type Message struct {
	// Sandbox is the id of the worker's sandbox.
	Sandbox string
	// FromWorker says that the worker sends it; else the session did.
	FromWorker bool
	// Number counts the frames of the stream in this direction from 1.
	Number int
	// Kinds are what the frame holds: "hello", "welcome", "call", "cancel", "result", "chunk", "abort", "ping" or "log" for each.
	Kinds []string
}

// A Fault is what happens to a message.
type Fault struct {
	kind  faultKind
	delay time.Duration
}

type faultKind int

const (
	faultNone faultKind = iota
	faultDrop
	faultDuplicate
	faultCut
	faultFreeze
)

// The zero Fault lets a message pass.
var (
	// Drop loses the message.
	Drop = Fault{kind: faultDrop}
	// Duplicate delivers it twice.
	Duplicate = Fault{kind: faultDuplicate}
	// Cut closes the connection in its place.
	Cut = Fault{kind: faultCut}
	// Freeze holds it, and all that follows in its direction, until the connection ends.
	Freeze = Fault{kind: faultFreeze}
)

// Delay holds the message, and all that follows in its direction, for d.
func Delay(d time.Duration) Fault { return Fault{delay: d} }

// faulty is a stream with faults. Send and Recv have one caller each.
type faulty struct {
	wire.Stream
	sandbox string
	fault   func(Message) Fault
	conn    io.Closer
	ended   <-chan struct{} // closed when the stream has ended

	sent, received int
	again          *wirepb.Frame // to be received once more
	mu             sync.Mutex
}

func newFaulty(stream wire.Stream, sandbox string, fault func(Message) Fault, conn io.Closer) *faulty {
	s := &faulty{Stream: stream, sandbox: sandbox, fault: fault, conn: conn}
	if stream, ok := stream.(interface{ Context() context.Context }); ok { // as gRPC's has
		s.ended = stream.Context().Done()
	}
	return s
}

func (s *faulty) Send(frame *wirepb.Frame) error {
	s.sent++
	switch pass, err := s.apply(frame, true, s.sent); {
	case err != nil:
		return err
	case pass.kind == faultDrop:
		return nil
	case pass.kind == faultDuplicate:
		if err := s.Stream.Send(frame); err != nil {
			return err
		}
	}
	return s.Stream.Send(frame)
}

func (s *faulty) Recv() (*wirepb.Frame, error) {
	if frame := s.again; frame != nil {
		s.again = nil
		return frame, nil
	}
	for {
		frame, err := s.Stream.Recv()
		if err != nil {
			return nil, err
		}
		s.received++
		switch pass, err := s.apply(frame, false, s.received); {
		case err != nil:
			return nil, err
		case pass.kind == faultDrop:
			continue
		case pass.kind == faultDuplicate:
			s.again = proto.CloneOf(frame)
		}
		return frame, nil
	}
}

// apply asks what is to happen to a frame and waits or ends the connection if it says so.
func (s *faulty) apply(frame *wirepb.Frame, fromWorker bool, number int) (Fault, error) {
	message := Message{Sandbox: s.sandbox, FromWorker: fromWorker, Number: number}
	for _, m := range frame.GetMessages() {
		if kind := m.ProtoReflect().WhichOneof(m.ProtoReflect().Descriptor().Oneofs().Get(0)); kind != nil {
			message.Kinds = append(message.Kinds, string(kind.Name()))
		}
	}
	s.mu.Lock()
	fault := s.fault(message)
	s.mu.Unlock()
	switch fault.kind {
	case faultCut:
		_ = s.conn.Close()
		return fault, io.ErrClosedPipe
	case faultFreeze:
		<-s.ended
		return fault, io.ErrClosedPipe
	}
	if fault.delay > 0 {
		timer := time.NewTimer(fault.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.ended:
			return fault, io.ErrClosedPipe
		}
	}
	return fault, nil
}

// String names the fault, for tests.
func (f Fault) String() string {
	if f.delay > 0 {
		return "delay " + f.delay.String()
	}
	return [...]string{"none", "drop", "duplicate", "cut", "freeze"}[f.kind]
}
