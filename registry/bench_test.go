package registry

import (
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

func BenchmarkStruct(b *testing.B)        { benchmark(b, benchRecord) }
func BenchmarkStructMsgpack(b *testing.B) { benchmarkMsgpack(b, benchRecord) }
func BenchmarkBytes(b *testing.B)         { benchmark(b, make([]byte, 1<<20)) }
func BenchmarkBytesMsgpack(b *testing.B)  { benchmarkMsgpack(b, make([]byte, 1<<20)) }
func BenchmarkFloats(b *testing.B)        { benchmark(b, make([]float64, 100_000)) }
func BenchmarkFloatsMsgpack(b *testing.B) { benchmarkMsgpack(b, make([]float64, 100_000)) }
