package wire

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// Bounds of a record on the wire. What is beyond them is cut off, and the record says so.
const (
	maxLogText  = 16 << 10 // of one text
	maxLogBytes = 64 << 10 // of all keys and values of a record
	maxLogAttrs = 256      // groups included
	maxLogDepth = 16       // of groups in groups; and as many notes of what was cut may come on top
	logAttrSize = 100      // about what an attribute takes in memory beside its texts
)

// LogCut is the key of an attribute that stands for others that were cut off; its value says how many.
const LogCut = "!CUT"

// Times that cross are those that every handler can print.
var firstTime, lastTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC).Unix()

// A LogBudget counts what a record may still take.
type LogBudget struct{ attrs, bytes, text int }

// NewLogBudget returns the budget of a record that is encoded.
func NewLogBudget() LogBudget {
	return LogBudget{attrs: maxLogAttrs, bytes: maxLogBytes, text: maxLogText}
}

// arrivedBudget is the budget of a record that arrives: twice as much, so that what an honest worker cut, and the notes that say
// so, are not cut again.
func arrivedBudget() LogBudget {
	return LogBudget{attrs: 2*maxLogAttrs + maxLogDepth, bytes: 2 * maxLogBytes, text: 2 * maxLogText}
}

// full reports whether nothing more fits.
func (b *LogBudget) full(depth int) bool { return b.attrs <= 0 || b.bytes <= 0 || depth > maxLogDepth }

// clip cuts a text to what it may have and to what is left.
func (b *LogBudget) clip(text string) string {
	text = Clip(text, min(b.text, max(b.bytes, 0)))
	b.bytes -= len(text)
	return text
}

// Encode returns attributes as they cross. Values that find themselves only when they are logged do so now. depth is how
// many groups they are in.
func (b *LogBudget) Encode(depth int, attrs []slog.Attr) []*wirepb.Attr {
	encoded := make([]*wirepb.Attr, 0, min(len(attrs), max(b.attrs, 0)+1))
	for i, attr := range attrs {
		if b.full(depth) {
			if b.attrs--; b.attrs > -maxLogDepth {
				encoded = append(encoded, &wirepb.Attr{Key: LogCut, Value: &wirepb.Attr_Integer{Integer: int64(len(attrs) - i)}})
			}
			return encoded
		}
		value := attr.Value.Resolve()
		if attr.Key == "" && value.Kind() == slog.KindAny && value.Any() == nil {
			continue // slog's empty attribute
		}
		b.attrs--
		out := &wirepb.Attr{Key: b.clip(attr.Key)}
		b.encodeValue(depth, value, out)
		encoded = append(encoded, out)
	}
	return encoded
}

func (b *LogBudget) encodeValue(depth int, value slog.Value, out *wirepb.Attr) {
	switch value.Kind() {
	case slog.KindString:
		out.Value = &wirepb.Attr_Text{Text: b.clip(value.String())}
	case slog.KindInt64:
		out.Value = &wirepb.Attr_Integer{Integer: value.Int64()}
	case slog.KindUint64:
		out.Value = &wirepb.Attr_Natural{Natural: value.Uint64()}
	case slog.KindFloat64:
		out.Value = &wirepb.Attr_Number{Number: value.Float64()}
	case slog.KindBool:
		out.Value = &wirepb.Attr_Truth{Truth: value.Bool()}
	case slog.KindDuration:
		out.Value = &wirepb.Attr_DurationNanos{DurationNanos: int64(value.Duration())}
	case slog.KindGroup:
		out.Value = &wirepb.Attr_Group{Group: &wirepb.Group{Attrs: b.Encode(depth+1, value.Group())}}
	case slog.KindTime:
		if t := encodeTime(value.Time()); t != nil {
			out.Value = &wirepb.Attr_Time{Time: t}
			return
		}
		out.Value = &wirepb.Attr_Text{Text: b.clip(value.Time().String())}
	default:
		out.Value = &wirepb.Attr_Text{Text: b.clip(logText(value.Any()))}
	}
}

// Group returns a group's name as it crosses. ok is false for one that is too deep, whose attributes are cut too.
func (b *LogBudget) Group(depth int, name string) (clipped string, ok bool) {
	if depth > maxLogDepth {
		return "", false
	}
	b.attrs--
	return b.clip(name), true
}

// EncodeRecord returns the record with its attributes, which are encoded already.
func EncodeRecord(r slog.Record, attrs []*wirepb.Attr) *wirepb.Record {
	level := max(math.MinInt32, min(math.MaxInt32, r.Level))
	record := &wirepb.Record{Level: int32(level), Message: Clip(r.Message, maxLogText), Attrs: attrs}
	if !r.Time.IsZero() {
		record.Time = encodeTime(r.Time)
	}
	return record
}

// encodeTime returns nil for a time that can't cross.
func encodeTime(t time.Time) *wirepb.Time {
	seconds := t.Unix()
	if seconds < firstTime || seconds > lastTime {
		return nil
	}
	_, offset := t.Zone()
	return &wirepb.Time{Seconds: seconds, Nanos: uint32(t.Nanosecond()), Offset: int32(offset)}
}

// logText is how a value prints, as slog's text handler has it. Its methods are user code, and may panic.
func logText(v any) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("!PANIC: %T: %s", v, PanicText(p))
		}
	}()
	switch v := v.(type) {
	case error:
		return v.Error()
	case encoding.TextMarshaler:
		data, err := v.MarshalText()
		if err != nil {
			return "!ERROR: " + err.Error()
		}
		return string(data)
	case []byte:
		return string(v)
	}
	return fmt.Sprintf("%+v", v)
}

// DecodeRecord returns a record that arrived, with what is beyond the bounds cut off, and about how many bytes it takes.
// It never fails.
func DecodeRecord(in *wirepb.Record) (record slog.Record, size int) {
	whole := arrivedBudget()
	b := whole
	r := slog.Record{Level: slog.Level(in.GetLevel()), Message: Clip(in.GetMessage(), b.text)}
	if t, ok := decodeTime(in.GetTime()); ok && in.GetTime() != nil {
		r.Time = t.Local() // so that all records of a log tell it alike
	}
	r.AddAttrs(b.decode(0, in.GetAttrs())...)
	return r, len(r.Message) + whole.bytes - b.bytes + (whole.attrs-b.attrs)*logAttrSize
}

func (b *LogBudget) decode(depth int, in []*wirepb.Attr) []slog.Attr {
	attrs := make([]slog.Attr, 0, min(len(in), max(b.attrs, 0)+1))
	for i, attr := range in {
		if b.full(depth) {
			return append(attrs, slog.Int(LogCut, len(in)-i))
		}
		b.attrs--
		attrs = append(attrs, slog.Attr{Key: b.clip(attr.GetKey()), Value: b.decodeValue(depth, attr)})
	}
	return attrs
}

func (b *LogBudget) decodeValue(depth int, attr *wirepb.Attr) slog.Value {
	switch value := attr.GetValue().(type) {
	case *wirepb.Attr_Text:
		return slog.StringValue(b.clip(value.Text))
	case *wirepb.Attr_Integer:
		return slog.Int64Value(value.Integer)
	case *wirepb.Attr_Natural:
		return slog.Uint64Value(value.Natural)
	case *wirepb.Attr_Number:
		return slog.Float64Value(value.Number)
	case *wirepb.Attr_Truth:
		return slog.BoolValue(value.Truth)
	case *wirepb.Attr_DurationNanos:
		return slog.DurationValue(time.Duration(value.DurationNanos))
	case *wirepb.Attr_Time:
		if t, ok := decodeTime(value.Time); ok {
			return slog.TimeValue(t)
		}
	case *wirepb.Attr_Group:
		return slog.GroupValue(b.decode(depth+1, value.Group.GetAttrs())...)
	}
	return slog.StringValue("!BADVALUE")
}

func decodeTime(in *wirepb.Time) (t time.Time, ok bool) {
	const day = 24 * 60 * 60
	if in.GetSeconds() < firstTime || in.GetSeconds() > lastTime || in.GetNanos() >= 1e9 || in.GetOffset() <= -day || in.GetOffset() >= day {
		return time.Time{}, false
	}
	t = time.Unix(in.GetSeconds(), int64(in.GetNanos())).UTC()
	if in.GetOffset() == 0 {
		return t, true
	}
	if _, local := t.Local().Zone(); local == int(in.GetOffset()) {
		return t.Local(), true
	}
	return t.In(time.FixedZone("", int(in.GetOffset()))), true
}

// RecordText returns a record as one line, without its time.
func RecordText(r slog.Record) string {
	var text strings.Builder
	r.Time = time.Time{} // which a handler leaves out
	handler := slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.Level(math.MinInt)})
	_ = handler.Handle(context.Background(), r) // a builder takes everything
	return strings.TrimSuffix(text.String(), "\n")
}
