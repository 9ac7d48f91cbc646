package registry

import (
	"encoding/binary"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

type record struct {
	ID      int64
	Name    string
	Score   float64
	Active  bool
	Tags    []string
	Created time.Time
	Took    time.Duration
	Parent  *int64
	Data    []byte
	Counts  map[string]int
}

var benchRecord = record{1 << 40, "a name", 1.5, true, []string{"a", "b"}, time.Unix(1e9, 5).UTC(), time.Second, ptr(int64(7)),
	[]byte("some bytes"), map[string]int{"a": 1, "b": 2}}

func benchmark[T any](b *testing.B, in T) {
	c := codecFor[T](b)
	var buf []byte
	var out T
	for b.Loop() {
		var err error
		if buf, err = c.Append(buf[:0], reflect.ValueOf(&in).Elem()); err != nil {
			b.Fatal(err)
		}
		if err = c.Decode(buf, reflect.ValueOf(&out).Elem()); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
}

func benchmarkMsgpack[T any](b *testing.B, in T) {
	var size int
	for b.Loop() {
		buf, err := msgpack.Marshal(&in)
		if err != nil {
			b.Fatal(err)
		}
		var out T
		if err := msgpack.Unmarshal(buf, &out); err != nil {
			b.Fatal(err)
		}
		size = len(buf)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
}

func BenchmarkStruct(b *testing.B) { benchmark(b, benchRecord) }

// BenchmarkStructEmitted is what a generator could emit for the type, at best: no reflection but for the time and no calls of
// package msgpack in what is written, and this package's checks in what is read. See docs/performance.md.
func BenchmarkStructEmitted(b *testing.B) {
	var buf []byte
	var out record
	times, err := CodecOf(reflect.TypeFor[time.Time]())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if buf, err = appendRecord(buf[:0], &benchRecord, times); err != nil {
			b.Fatal(err)
		}
		out = record{}
		if err = readRecord(&decoder{data: buf}, &out, times); err != nil {
			b.Fatal(err)
		}
	}
	if !reflect.DeepEqual(out, benchRecord) {
		b.Fatalf("%+v", out)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
}

func appendInt(dst []byte, n int64) []byte {
	if n >= 0 && n <= codePosFixMax {
		return append(dst, byte(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, codeInt64), uint64(n))
}

func appendText(dst []byte, s string) []byte {
	return append(append(dst, codeFixStr|byte(len(s))), s...)
}

func appendRecord(dst []byte, r *record, times *Codec) (_ []byte, err error) {
	dst = appendInt(append(dst, codeFixArray|10), r.ID)
	dst = appendText(dst, r.Name)
	dst = binary.BigEndian.AppendUint64(append(dst, codeFloat64), math.Float64bits(r.Score))
	if r.Active {
		dst = append(dst, codeTrue)
	} else {
		dst = append(dst, codeFalse)
	}
	dst = append(dst, codeFixArray|byte(len(r.Tags)))
	for _, tag := range r.Tags {
		dst = appendText(dst, tag)
	}
	if dst, err = times.Append(dst, reflect.ValueOf(&r.Created).Elem()); err != nil {
		return nil, err
	}
	dst = appendInt(dst, int64(r.Took))
	dst = appendInt(append(dst, codeFixArray|1), *r.Parent)
	dst = append(append(dst, codeBin8, byte(len(r.Data))), r.Data...)
	dst = append(dst, codeFixMap|byte(len(r.Counts)))
	for key, n := range r.Counts {
		dst = appendInt(appendText(dst, key), int64(n))
	}
	return dst, nil
}

func readRecord(d *decoder, r *record, times *Codec) error {
	if err := d.tuple(10); err != nil {
		return err
	}
	var err error
	take := func(failed error) {
		if err == nil {
			err = failed
		}
	}
	integer := func() int64 { n, failed := d.int64(); take(failed); return n }
	text := func() string { t, failed := d.text(); take(failed); return string(t) }
	r.ID, r.Name = integer(), text()
	score, failed := d.float64()
	take(failed)
	active, failed := d.bool()
	take(failed)
	r.Score, r.Active = score, active
	n, failed := d.array(1)
	take(failed)
	r.Tags = make([]string, n)
	for i := range r.Tags {
		d.claimed--
		r.Tags[i] = text()
	}
	take(times.decode(d, reflect.ValueOf(&r.Created).Elem()))
	r.Took = time.Duration(integer())
	take(d.tuple(1))
	r.Parent = new(integer())
	data, failed := d.binary()
	take(failed)
	r.Data = append([]byte(nil), data...)
	n, failed = d.mapping(2)
	take(failed)
	r.Counts = make(map[string]int, n)
	for range n {
		d.claimed -= 2
		key := text()
		r.Counts[key] = int(integer())
	}
	return err
}

func BenchmarkStructMsgpack(b *testing.B) { benchmarkMsgpack(b, benchRecord) }
func BenchmarkBytes(b *testing.B)         { benchmark(b, make([]byte, 1<<20)) }
func BenchmarkBytesMsgpack(b *testing.B)  { benchmarkMsgpack(b, make([]byte, 1<<20)) }
func BenchmarkFloats(b *testing.B)        { benchmark(b, make([]float64, 100_000)) }
func BenchmarkFloatsMsgpack(b *testing.B) { benchmarkMsgpack(b, make([]float64, 100_000)) }
