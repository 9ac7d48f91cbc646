package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// crossedRecord is a record after it was encoded, sent and decoded.
func crossedRecord(t *testing.T, record slog.Record, attrs ...slog.Attr) slog.Record {
	t.Helper()
	budget := NewLogBudget()
	data, err := proto.Marshal(EncodeRecord(record, budget.Encode(0, attrs)))
	require.NoError(t, err)
	assert.Less(t, len(data), 2*maxLogBytes)
	var arrived wirepb.Record
	require.NoError(t, proto.Unmarshal(data, &arrived))
	out, size := DecodeRecord(&arrived)
	assert.Less(t, size, 4*maxLogBytes)
	return out
}

func attrsOf(record slog.Record) (attrs []slog.Attr) {
	record.Attrs(func(attr slog.Attr) bool {
		attrs = append(attrs, attr)
		return true
	})
	return attrs
}

type badText struct{ how string }

func (b badText) MarshalText() ([]byte, error) {
	if b.how == "panics" {
		panic("in MarshalText")
	}
	return nil, errors.New("will not")
}

type badValue struct{}

func (badValue) LogValue() slog.Value { panic("in LogValue") }

func TestValuesThatCross(t *testing.T) {
	utc := time.Date(2026, 5, 6, 7, 8, 9, 10, time.UTC)
	for name, c := range map[string]struct{ in, out slog.Value }{
		"UTC":          {slog.TimeValue(utc), slog.TimeValue(utc)},
		"zero time":    {slog.TimeValue(time.Time{}), slog.TimeValue(time.Time{})},
		"strange time": {slog.TimeValue(time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)), slog.StringValue("12000-01-01 00:00:00 +0000 UTC")},
		"infinity":     {slog.Float64Value(math.Inf(-1)), slog.Float64Value(math.Inf(-1))},
		"lowest":       {slog.Int64Value(math.MinInt64), slog.Int64Value(math.MinInt64)},
		"group":        {slog.GroupValue(slog.Group("a", slog.Group("b", "c", 1))), slog.GroupValue(slog.Group("a", slog.Group("b", "c", 1)))},
		"empty text":   {slog.StringValue(""), slog.StringValue("")},
		"no UTF-8":     {slog.StringValue("a\xffb"), slog.StringValue("a\uFFFDb")},
		"panics":       {slog.AnyValue(badText{"panics"}), slog.StringValue("!PANIC: wire.badText: in MarshalText")},
		"fails":        {slog.AnyValue(badText{}), slog.StringValue("!ERROR: will not")},
		"nil error":    {slog.AnyValue((*ProtocolError)(nil)), slog.StringValue("!PANIC: *wire.ProtocolError: runtime error: invalid memory address or nil pointer dereference")},
	} {
		t.Run(name, func(t *testing.T) {
			attrs := attrsOf(crossedRecord(t, slog.Record{}, slog.Attr{Key: "k", Value: c.in}))
			require.Len(t, attrs, 1)
			assert.Equal(t, slog.Attr{Key: "k", Value: c.out}, attrs[0])
		})
	}
	attrs := attrsOf(crossedRecord(t, slog.Record{}, slog.Any("k", badValue{}), slog.Attr{}))
	require.Len(t, attrs, 1, "the empty attribute is none")
	assert.Contains(t, attrs[0].Value.String(), "LogValue panicked")
}

func TestRecordsThatCross(t *testing.T) {
	now := time.Now()
	out := crossedRecord(t, slog.NewRecord(now.In(time.FixedZone("", 7200)), slog.Level(3), "m\xff", 0))
	assert.Equal(t, now.Round(0), out.Time, "in this program's zone")
	assert.Equal(t, slog.Level(3), out.Level)
	assert.Equal(t, "m\uFFFD", out.Message)
	assert.Zero(t, crossedRecord(t, slog.Record{}).Time)
	assert.Equal(t, slog.Level(math.MinInt32), crossedRecord(t, slog.Record{Level: math.MinInt}).Level)
	assert.Equal(t, slog.Level(math.MaxInt32), crossedRecord(t, slog.Record{Level: math.MaxInt}).Level)
}

func TestWhatIsTooMuchIsCutAndSaysSo(t *testing.T) {
	long := strings.Repeat("x", maxLogText+10)
	out := crossedRecord(t, slog.NewRecord(time.Time{}, 0, long, 0), slog.String("k", long))
	cut := strings.Repeat("x", maxLogText) + "… (10 bytes more)"
	assert.Equal(t, cut, out.Message)
	assert.Equal(t, cut, attrsOf(out)[0].Value.String())

	many := make([]slog.Attr, maxLogAttrs+100)
	for i := range many {
		many[i] = slog.Int("k", i)
	}
	attrs := attrsOf(crossedRecord(t, slog.Record{}, many...))
	require.Len(t, attrs, maxLogAttrs+1)
	assert.Equal(t, slog.Int(LogCut, 100), attrs[maxLogAttrs])

	big := make([]slog.Attr, 10)
	for i := range big {
		big[i] = slog.String("k", long)
	}
	attrs = attrsOf(crossedRecord(t, slog.Record{}, big...))
	assert.Equal(t, LogCut, attrs[len(attrs)-1].Key)

	deep := slog.Int("k", 1)
	for range 100 {
		deep = slog.Attr{Key: "g", Value: slog.GroupValue(deep)}
	}
	attrs = attrsOf(crossedRecord(t, slog.Record{}, deep))
	depth := 0
	for attrs[0].Value.Kind() == slog.KindGroup {
		attrs = attrs[0].Value.Group()
		depth++
	}
	assert.Equal(t, maxLogDepth+1, depth)
	assert.Equal(t, slog.Int(LogCut, 1), attrs[0])

	// What one logger is given again and again is cut once, not ever longer.
	budget := NewLogBudget()
	given := 0
	for range 10_000 {
		given += len(budget.Encode(0, many[:1]))
	}
	assert.Less(t, given, maxLogAttrs+maxLogDepth)
}

func TestHostileRecords(t *testing.T) {
	deep := &wirepb.Attr{Key: "k"}
	for range 5000 {
		deep = &wirepb.Attr{Key: "g", Value: &wirepb.Attr_Group{Group: &wirepb.Group{Attrs: []*wirepb.Attr{deep, nil, {}}}}}
	}
	text := &wirepb.Attr{Key: strings.Repeat("k", 1<<20), Value: &wirepb.Attr_Text{Text: strings.Repeat("v", 1<<20)}}
	for name, in := range map[string]*wirepb.Record{
		"nil":         nil,
		"nil attrs":   {Attrs: make([]*wirepb.Attr, 1_000_000)},
		"empty group": {Attrs: []*wirepb.Attr{{Value: &wirepb.Attr_Group{}}, {Value: &wirepb.Attr_Time{}}}},
		"deep":        {Attrs: []*wirepb.Attr{deep}},
		"long":        {Message: strings.Repeat("m", 1<<20), Attrs: []*wirepb.Attr{text, text, text}},
		"times": {Time: &wirepb.Time{Seconds: math.MaxInt64}, Attrs: []*wirepb.Attr{
			{Value: &wirepb.Attr_Time{Time: &wirepb.Time{Seconds: math.MinInt64}}},
			{Value: &wirepb.Attr_Time{Time: &wirepb.Time{Nanos: math.MaxUint32}}},
			{Value: &wirepb.Attr_Time{Time: &wirepb.Time{Offset: math.MinInt32}}},
		}},
	} {
		t.Run(name, func(t *testing.T) { check(t, in) })
	}
}

// check decodes a record, and lets slog's handlers print it.
func check(t *testing.T, in *wirepb.Record) {
	record, size := DecodeRecord(in)
	assert.Less(t, size, 8*maxLogBytes)
	text := RecordText(record)
	assert.NotContains(t, text, "\n")
	assert.Less(t, len(text), 20*maxLogBytes) // quotes make it longer
	require.NoError(t, slog.NewJSONHandler(io.Discard, nil).Handle(context.Background(), record))
}

func FuzzDecodeRecord(f *testing.F) {
	budget := NewLogBudget()
	seed, err := proto.Marshal(EncodeRecord(slog.NewRecord(time.Now(), 4, "seed", 0), budget.Encode(0, []slog.Attr{
		slog.Int("i", 1), slog.Group("g", slog.Time("t", time.Now()), slog.Duration("d", 1)), slog.String("s", "x"),
	})))
	require.NoError(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var in wirepb.Record
		if proto.Unmarshal(data, &in) == nil {
			check(t, &in)
		}
	})
}

// jammed is a stream whose first Send blocks until it is let.
type jammed struct {
	release chan struct{}
	sent    []*wirepb.Message
}

func (j *jammed) Send(frame *wirepb.Frame) error {
	<-j.release
	j.sent = append(j.sent, frame.GetMessages()...)
	return nil
}

func (j *jammed) Recv() (*wirepb.Frame, error) { return nil, io.EOF }

func TestOffersAreBoundedAndKeepTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := &jammed{release: make(chan struct{})}
		conn := NewConn(stream, nil)
		ping := &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}
		record := &wirepb.Message{Kind: &wirepb.Message_Log{Log: &wirepb.Log{Record: &wirepb.Record{Message: strings.Repeat("x", 1000)}}}}
		conn.Send(ping, nil, nil)
		synctest.Wait() // the ping is on its way, and the rest waits
		queued := 0
		for conn.Offer(record) {
			queued++
		}
		assert.InDelta(t, maxOffered/(1000+offeredSize), queued, 20)
		conn.Send(ping, nil, nil)
		assert.False(t, conn.Offer(&wirepb.Message{}), "there is no room until the next frame, not even for little")
		close(stream.release)
		synctest.Wait()
		assert.True(t, conn.Offer(record))
		synctest.Wait()
		conn.Close()
		<-conn.Stopped()
		require.Len(t, stream.sent, queued+3)
		assert.NotNil(t, stream.sent[queued+1].GetPing(), "what was sent after the records comes after them")
		assert.False(t, conn.Offer(record))
		assert.Zero(t, conn.offered)
	})
}
