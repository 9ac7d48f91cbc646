package wire

import (
	"cmp"
	"context"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A message of two bytes takes a hundred in memory when it is decoded, so a frame's length alone does not bound what it takes.
const (
	// maxParts is how many messages a frame may have, those in messages included: some 12 MiB of memory beside the frame's own bytes.
	maxParts = 64 << 10
	// maxDepth is how deep they may be in each other. Groups of attributes are the deepest, with two messages each.
	maxDepth = 2*maxLogDepth + 16
)

// Codec is gRPC's for messages of protobuf, but what a [Stream] receives it decodes only once that is known to take little memory.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

// received is what a stream receives into. gRPC would make a text of an error.
type received struct {
	frame *wirepb.Frame
	err   error
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*received)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	r.frame, r.err = decodeFrame(buffer.ReadOnlyData())
	return nil
}

// NewStream returns the frames of a gRPC stream that has [Codec]. guard, which may be nil, is what it lies over.
func NewStream(stream messages, guard *Guard) Stream { return frames{stream, guard} }

// messages are what gRPC's streams have in common.
type messages interface {
	Context() context.Context
	SendMsg(any) error
	RecvMsg(any) error
}

type frames struct {
	messages
	guard *Guard
}

func (f frames) Send(frame *wirepb.Frame) error { return f.SendMsg(frame) }

func (f frames) Recv() (*wirepb.Frame, error) {
	var r received
	if err := f.RecvMsg(&r); err != nil {
		return nil, cmp.Or(f.guard.Err(), err)
	}
	return r.frame, r.err
}

func decodeFrame(data []byte) (*wirepb.Frame, error) {
	if err := checkParts(data); err != nil {
		return nil, err
	}
	frame := &wirepb.Frame{}
	if err := (protobuf.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, frame); err != nil {
		return nil, broken("a frame that can't be decoded: %v", err)
	}
	return frame, nil
}

// checkParts refuses a frame with too many messages, or too deep ones. It allocates nothing.
func checkParts(data []byte) error {
	left := maxParts
	return frameShape.check(data, &left, maxDepth)
}

// A shape has, by the numbers of a message's fields, the shapes of those that are messages themselves; else nil.
type shape struct{ fields []*shape }

var frameShape = shapeOf((&wirepb.Frame{}).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})

func shapeOf(message protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[message.FullName()]; s != nil {
		return s
	}
	s := &shape{}
	known[message.FullName()] = s
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if part := field.Message(); part != nil { // of a map, what stands for its entries
			s.fields = append(s.fields, make([]*shape, max(0, int(field.Number())+1-len(s.fields)))...)
			s.fields[field.Number()] = shapeOf(part, known)
		}
	}
	return s
}

func (s *shape) check(data []byte, left *int, depth int) error {
	if depth == 0 {
		return broken("messages in each other, more than %d deep", maxDepth)
	}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return malformed(n)
		}
		data = data[n:]
		if kind != protowire.BytesType || int(number) >= len(s.fields) || s.fields[number] == nil {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return malformed(n)
			}
			data = data[n:]
			continue
		}
		if *left--; *left < 0 {
			return broken("a frame of more than %d messages", maxParts)
		}
		part, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return malformed(n)
		}
		data = data[n:]
		if err := s.fields[number].check(part, left, depth-1); err != nil {
			return err
		}
	}
	return nil
}

func malformed(code int) error {
	return broken("a frame that can't be decoded: %v", protowire.ParseError(code))
}

// partsOf is how many parts a message that is sent has in a frame, at most.
func partsOf(message *wirepb.Message) int {
	switch kind := message.GetKind().(type) {
	case *wirepb.Message_Welcome:
		return 2 + len(kind.Welcome.GetFunctions())
	case *wirepb.Message_Call:
		return 3 + len(kind.Call.GetMetadata())
	case *wirepb.Message_Log:
		return 4 + partsOfAttrs(kind.Log.GetRecord().GetAttrs())
	}
	return 3 // with what is in it, and what is in that
}

func partsOfAttrs(attrs []*wirepb.Attr) int {
	parts := 2 * len(attrs) // a time or a group is a part of its own
	for _, attr := range attrs {
		parts += partsOfAttrs(attr.GetGroup().GetAttrs())
	}
	return parts
}
