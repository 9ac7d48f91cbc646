package registry

import (
	"encoding/binary"
	"math"
	"reflect"
	"strconv"
	"testing"
	"time"
	"unsafe"

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

// BenchmarkStructEmitted is what a generator could emit for the type: no reflection but for the time, no calls of package msgpack, and
// all the checks that the compiled codec makes, which tell nil from empty, bound depth and memory, and look for cycles. See
// docs/performance.md.
func BenchmarkStructEmitted(b *testing.B) {
	var buf []byte
	var out record
	times, err := CodecOf(reflect.TypeFor[time.Time]())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		e := encoders.Get().(*encoder)
		e.buf = buf[:0]
		if err := emitRecord(e, &benchRecord, times); err != nil {
			b.Fatal(err)
		}
		buf = e.buf
		e.buf = nil
		encoders.Put(e)
		out = record{}
		d := decoder{data: buf}
		if err := d.claim(20, 1, "a value"); err != nil {
			b.Fatal(err)
		}
		d.claimed = 0
		if err := readRecord(&d, &out, times); err != nil {
			b.Fatal(err)
		}
		if err := d.end(); err != nil {
			b.Fatal(err)
		}
	}
	want, err := codecFor[record](b).Append(nil, reflect.ValueOf(&benchRecord).Elem())
	if err != nil || len(want) != len(buf) || !reflect.DeepEqual(out, benchRecord) { // the map's order is not fixed
		b.Fatalf("%x, not %x: %v, %+v", buf, want, err, out)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
}

var (
	tagsType   = reflect.TypeFor[[]string]()
	parentType = reflect.TypeFor[*int64]()
	countsType = reflect.TypeFor[map[string]int]()
)

func emitInt(e *encoder, n int64) {
	switch {
	case n >= 0 && n <= codePosFixMax, n < 0 && n >= -32:
		e.buf = append(e.buf, byte(n))
	case n >= 0 && n <= math.MaxUint8:
		e.buf = append(e.buf, codeUint8, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		e.buf = binary.BigEndian.AppendUint16(append(e.buf, codeUint16), uint16(n))
	case n >= 0 && n <= math.MaxUint32:
		e.buf = binary.BigEndian.AppendUint32(append(e.buf, codeUint32), uint32(n))
	case n >= 0:
		e.buf = binary.BigEndian.AppendUint64(append(e.buf, codeUint64), uint64(n))
	default:
		e.buf = binary.BigEndian.AppendUint64(append(e.buf, codeInt64), uint64(n))
	}
}

// emitLength writes the header of a text, an array or a map.
func emitLength(e *encoder, t reflect.Type, n int, fix byte, fixMax int, codes [3]byte) error {
	switch {
	case n <= fixMax:
		e.buf = append(e.buf, fix|byte(n))
	case n <= math.MaxUint8 && codes[0] != 0:
		e.buf = append(e.buf, codes[0], byte(n))
	case n <= math.MaxUint16:
		e.buf = binary.BigEndian.AppendUint16(append(e.buf, codes[1]), uint16(n))
	case n <= maxLength:
		e.buf = binary.BigEndian.AppendUint32(append(e.buf, codes[2]), uint32(n))
	default:
		return fail(t, "it is too long", nil)
	}
	return nil
}

func emitText(e *encoder, s string) error {
	err := emitLength(e, reflect.TypeFor[string](), len(s), codeFixStr, 31, [3]byte{codeStr8, codeStr16, codeStr32})
	e.buf = append(e.buf, s...)
	return err
}

func emitRecord(e *encoder, r *record, times *Codec) error {
	e.buf = append(e.buf, codeFixArray|10)
	emitInt(e, r.ID)
	if err := emitText(e, r.Name); err != nil {
		return at(err, ".Name")
	}
	e.buf = binary.BigEndian.AppendUint64(append(e.buf, codeFloat64), math.Float64bits(r.Score))
	if r.Active {
		e.buf = append(e.buf, codeTrue)
	} else {
		e.buf = append(e.buf, codeFalse)
	}
	if r.Tags == nil {
		e.buf = append(e.buf, codeNil)
	} else {
		if err := emitLength(e, tagsType, len(r.Tags), codeFixArray, 15, [3]byte{0, codeArray16, codeArray32}); err != nil {
			return at(err, ".Tags")
		}
		address := uintptr(unsafe.Pointer(unsafe.SliceData(r.Tags)))
		if err := e.enter(tagsType, address, len(r.Tags)); err != nil {
			return at(err, ".Tags")
		}
		for i, tag := range r.Tags {
			if err := emitText(e, tag); err != nil {
				return at(at(err, "["+strconv.Itoa(i)+"]"), ".Tags")
			}
		}
		e.leave(tagsType, address, len(r.Tags))
	}
	if err := times.encode(e, unsafe.Pointer(&r.Created)); err != nil {
		return at(err, ".Created")
	}
	emitInt(e, int64(r.Took))
	if r.Parent == nil {
		e.buf = append(e.buf, codeNil)
	} else {
		address := uintptr(unsafe.Pointer(r.Parent))
		if err := e.enter(parentType, address, 0); err != nil {
			return at(err, ".Parent")
		}
		emitInt(e, *r.Parent)
		e.leave(parentType, address, 0)
	}
	if r.Data == nil {
		e.buf = append(e.buf, codeNil)
	} else {
		if err := emitLength(e, reflect.TypeFor[[]byte](), len(r.Data), 0, -1, [3]byte{codeBin8, codeBin16, codeBin32}); err != nil {
			return at(err, ".Data")
		}
		e.buf = append(e.buf, r.Data...)
	}
	if r.Counts == nil {
		e.buf = append(e.buf, codeNil)
		return nil
	}
	if err := emitLength(e, countsType, len(r.Counts), codeFixMap, 15, [3]byte{0, codeMap16, codeMap32}); err != nil {
		return at(err, ".Counts")
	}
	address := reflect.ValueOf(r.Counts).Pointer()
	if err := e.enter(countsType, address, 0); err != nil {
		return at(err, ".Counts")
	}
	for key, n := range r.Counts {
		if err := emitText(e, key); err != nil {
			return at(at(err, "[key]"), ".Counts")
		}
		emitInt(e, int64(n))
	}
	e.leave(countsType, address, 0)
	return nil
}

func readRecord(d *decoder, r *record, times *Codec) (err error) {
	if err := d.tuple(10); err != nil {
		return err
	}
	if r.ID, err = d.int64(); err != nil {
		return err
	}
	if r.Name, err = readText(d); err != nil {
		return err
	}
	if r.Score, err = d.float64(); err != nil {
		return err
	}
	if r.Active, err = d.bool(); err != nil {
		return err
	}
	if r.Tags, err = readTags(d); err != nil {
		return err
	}
	if err := times.decode(d, unsafe.Pointer(&r.Created)); err != nil {
		return err
	}
	took, err := d.int64()
	if err != nil {
		return err
	}
	r.Took = time.Duration(took)
	if r.Parent, err = readParent(d); err != nil {
		return err
	}
	if !d.isNil() {
		data, err := d.binary()
		if err != nil {
			return err
		}
		r.Data = append(make([]byte, 0, len(data)), data...)
	}
	r.Counts, err = readCounts(d)
	return err
}

func readText(d *decoder) (string, error) {
	text, err := d.text()
	return string(text), err
}

func readTags(d *decoder) ([]string, error) {
	if d.isNil() {
		return nil, nil
	}
	n, err := d.array(1)
	if err != nil {
		return nil, err
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	tags := make([]string, 0, min(n, ahead(n, 1, unsafe.Sizeof(""))))
	for range n {
		d.claimed--
		tag, err := readText(d)
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	d.leave()
	return tags, nil
}

func readParent(d *decoder) (*int64, error) {
	if d.isNil() {
		return nil, nil
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	if err := d.claim(1, 1, "a value"); err != nil {
		return nil, err
	}
	d.claimed--
	n, err := d.int64()
	if err != nil {
		return nil, err
	}
	d.leave()
	return &n, nil
}

func readCounts(d *decoder) (map[string]int, error) {
	if d.isNil() {
		return nil, nil
	}
	n, err := d.mapping(2)
	if err != nil {
		return nil, err
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	counts := make(map[string]int, min(n, ahead(n, 2, 24)))
	for range n {
		d.claimed--
		key, err := readText(d)
		if err != nil {
			return nil, err
		}
		d.claimed--
		value, err := d.int64()
		if err != nil {
			return nil, err
		}
		counts[key] = int(value)
	}
	if len(counts) != n {
		return nil, d.fail("a map of %d with only %d different keys", n, len(counts))
	}
	d.leave()
	return counts, nil
}

func BenchmarkStructMsgpack(b *testing.B) { benchmarkMsgpack(b, benchRecord) }
func BenchmarkBytes(b *testing.B)         { benchmark(b, make([]byte, 1<<20)) }
func BenchmarkBytesMsgpack(b *testing.B)  { benchmarkMsgpack(b, make([]byte, 1<<20)) }
func BenchmarkFloats(b *testing.B)        { benchmark(b, make([]float64, 100_000)) }
func BenchmarkFloatsMsgpack(b *testing.B) { benchmarkMsgpack(b, make([]float64, 100_000)) }
