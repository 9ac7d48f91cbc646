package wire

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// nested returns empty messages in each other, in the fields of numbers, the outermost first.
func nested(numbers ...protowire.Number) []byte { return within(nil, numbers...) }

// fill repeats a piece until there is a frame of it.
func fill(piece []byte) []byte { return bytes.Repeat(piece, MaxFrame/len(piece)) }

// within puts data in the fields of numbers.
func within(data []byte, numbers ...protowire.Number) []byte {
	for i := len(numbers) - 1; i >= 0; i-- {
		data = protowire.AppendBytes(protowire.AppendTag(nil, numbers[i], protowire.BytesType), data)
	}
	return data
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestFramesOfManyMessagesAreRefused(t *testing.T) {
	const messages, welcome, call, log = 2, 2, 3, 9
	var entries []byte
	for i := range uint32(MaxFrame / 9) {
		key := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), binary.BigEndian.AppendUint32(nil, i%128|i/128%128<<8|i/128/128<<16))
		entries = append(entries, within(key, 9)...)
	}
	for name, data := range map[string][]byte{
		"empty messages":        fill(nested(messages)),
		"calls":                 fill(nested(messages, call)),
		"results":               fill(nested(messages, 5, 3)),
		"kinds that take turns": within(fill(append(nested(8), nested(7)...))[:MaxFrame-20], messages),
		"functions":             within(fill(nested(1))[:MaxFrame-20], messages, welcome),
		"metadata":              within(entries[:len(entries)/8*8], messages, call),
		"attributes":            within(fill(nested(4))[:MaxFrame-20], messages, log, 3),
		"grouped":               within(fill(nested(1))[:MaxFrame-40], messages, log, 3, 4, 9),
	} {
		t.Run(name, func(t *testing.T) {
			if name != "kinds that take turns" { // and leave one each
				took := allocated(func() { require.NoError(t, proto.Unmarshal(data, &wirepb.Frame{})) })
				assert.Greater(t, took, uint64(40<<20), "the control")
			}
			assert.Less(t, allocated(func() {
				_, err := decodeFrame(data)
				require.ErrorAs(t, err, new(*ProtocolError))
				require.ErrorContains(t, err, "more than 65536 messages")
			}), uint64(16<<10))
		})
	}
}

// What is not refused takes no more than the constants say.
func TestWhatAFrameTakes(t *testing.T) {
	for name, piece := range map[string][]byte{
		"empty messages": nested(2), "calls": nested(2, 3), "results": nested(2, 5, 3), "panics": nested(2, 5, 5), "records": nested(2, 9, 3),
		"attributes": nested(2, 9, 3, 4), "functions": nested(2, 2, 1), "metadata": nested(2, 3, 9),
	} {
		parts := 1 << 30
		require.NoError(t, frameShape.check(piece, &parts, maxDepth))
		data := bytes.Repeat(piece, maxParts/(1<<30-parts))
		assert.Less(t, allocated(func() {
			_, err := decodeFrame(data)
			require.NoError(t, err, name)
		}), uint64(16<<20), name)
	}
}

func TestDeepFramesAreRefused(t *testing.T) {
	group := &wirepb.Attr{}
	for range 2 * maxLogDepth {
		group = &wirepb.Attr{Value: &wirepb.Attr_Group{Group: &wirepb.Group{Attrs: []*wirepb.Attr{group}}}}
	}
	data, err := proto.Marshal(&wirepb.Frame{Messages: []*wirepb.Message{{Kind: &wirepb.Message_Log{Log: &wirepb.Log{
		Record: &wirepb.Record{Attrs: []*wirepb.Attr{group}}}}}}})
	require.NoError(t, err)
	_, err = decodeFrame(data)
	require.ErrorAs(t, err, new(*ProtocolError))
	assert.ErrorContains(t, err, "deep")
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for _, data := range []string{"\x12", "\x12\x05x", "\x12\x02\x0a\x05", "\x80", "\x00\x00", "\x0c", "\x0b", "\x12\x05\x1a\x03\x32\x01\xff"} {
		_, err := decodeFrame([]byte(data))
		require.ErrorAs(t, err, new(*ProtocolError), "%q", data)
		assert.ErrorContains(t, err, "can't be decoded")
	}
}

// A frame takes as many messages as the other side allows, and leaves the rest to the next.
func TestManySmallMessagesTakeSeveralFrames(t *testing.T) {
	host, worker, _ := connect(t)
	attrs := make([]*wirepb.Attr, 200)
	for i := range attrs {
		attrs[i] = &wirepb.Attr{Value: &wirepb.Attr_Time{Time: &wirepb.Time{}}}
	}
	const n = 1000
	for range n {
		worker.Send(&wirepb.Message{Kind: &wirepb.Message_Log{Log: &wirepb.Log{Record: &wirepb.Record{Attrs: attrs}}}}, nil, nil)
	}
	for range n {
		message, err := host.Recv()
		require.NoError(t, err)
		require.Len(t, message.GetLog().GetRecord().GetAttrs(), len(attrs))
	}
	assert.Greater(t, host.received.Load(), uint64(n*2*len(attrs)/maxParts))
}

// partsIn counts messages as they are in memory.
func partsIn(message protoreflect.Message) int {
	parts := 1
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			parts += value.Map().Len()
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				parts += partsIn(value.List().Get(i).Message())
			}
		default:
			parts += partsIn(value.Message())
		}
		return true
	})
	return parts
}

// FuzzDecode holds what is known of a frame before it is decoded against what it is then.
func FuzzDecode(f *testing.F) {
	for _, frame := range []*wirepb.Frame{
		{Sequence: 1, Messages: []*wirepb.Message{announce(1, 5), chunk(1, 2), {Kind: &wirepb.Message_Call{Call: &wirepb.Call{
			Name: "x", Metadata: map[string]string{"a": "b", "": ""}, Argument: &wirepb.Body{Data: []byte("\x12\x00\x12\x00")}}}}}},
		{Messages: []*wirepb.Message{{Kind: &wirepb.Message_Welcome{Welcome: &wirepb.Welcome{Functions: []*wirepb.Function{{Name: "f"}, {}}}}}}},
		{Messages: []*wirepb.Message{{Kind: &wirepb.Message_Log{Log: &wirepb.Log{Record: &wirepb.Record{Time: &wirepb.Time{Seconds: 1}, Attrs: []*wirepb.Attr{
			{Key: "k", Value: &wirepb.Attr_Group{Group: &wirepb.Group{Attrs: []*wirepb.Attr{{Value: &wirepb.Attr_Time{Time: &wirepb.Time{}}}}}}}}}}}}}},
		{Messages: []*wirepb.Message{{Kind: &wirepb.Message_Result{Result: &wirepb.Result{Outcome: &wirepb.Result_TimedOut{TimedOut: &wirepb.TimedOut{}}}}}}},
	} {
		data, err := proto.Marshal(frame)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("\x13\x12\x00\x14")) // a group
	f.Add([]byte("\x10\x01\x12\x04\x42\x00\x42\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := &wirepb.Frame{}
		left := maxParts
		checked, decoded := frameShape.check(data, &left, maxDepth), proto.Unmarshal(data, frame)
		if checked != nil {
			if decoded == nil {
				assert.True(t, left < 0 || strings.Contains(checked.Error(), "deep"), "%v", checked)
			}
			return
		}
		if decoded != nil {
			return // a text that is none
		}
		assert.LessOrEqual(t, partsIn(frame.ProtoReflect()), maxParts-left+1, "but for the frame itself")
		again, err := proto.Marshal(frame)
		require.NoError(t, err)
		left = maxParts
		require.NoError(t, frameShape.check(again, &left, maxDepth))
		sent := 0
		for _, message := range frame.GetMessages() {
			sent += partsOf(message)
		}
		assert.LessOrEqual(t, maxParts-left, sent, "no more than the sender reckons with")
	})
}

func BenchmarkDecode(b *testing.B) {
	frame := &wirepb.Frame{Sequence: 1}
	for id := range 1000 {
		frame.Messages = append(frame.Messages, &wirepb.Message{Kind: &wirepb.Message_Result{Result: &wirepb.Result{
			Id: uint64(id), Attempt: 1, Outcome: &wirepb.Result_Value{Value: &wirepb.Body{Data: []byte("value")}}}}})
	}
	data, err := proto.Marshal(frame)
	require.NoError(b, err)
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = checkParts(data)
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			_, _ = decodeFrame(data)
		}
	})
}
