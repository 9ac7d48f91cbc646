package registry

import (
	"encoding/binary"
	"encoding/hex"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"math/big"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allocated measures the bytes that f allocates, garbage included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

type huge struct {
	Pad  [1 << 20]byte
	Note string
}

type padded struct {
	Skip [4096]byte `msgpack:"-"`
	A    int
}

// hostileTypes are what bytes are decoded into by the tests below and by FuzzDecode.
var hostileTypes = []reflect.Type{
	reflect.TypeFor[tree](),
	reflect.TypeFor[selfSlice](),
	reflect.TypeFor[selfPointer](),
	reflect.TypeFor[selfMap](),
	reflect.TypeFor[map[any]any](),
	reflect.TypeFor[[]struct{}](),
	reflect.TypeFor[[][]byte](),
	reflect.TypeFor[[]string](),
	reflect.TypeFor[map[struct{}]struct{}](),
	reflect.TypeFor[[]float64](),
	reflect.TypeFor[[]int](),
	reflect.TypeFor[[]time.Time](),
	reflect.TypeFor[[]*big.Int](),
	reflect.TypeFor[[]big.Rat](),
	reflect.TypeFor[[]big.Float](),
	reflect.TypeFor[[]*huge](),
	reflect.TypeFor[[3][2]map[uint8]int16](),
	reflect.TypeFor[map[byValue][]byPointer](),
	reflect.TypeFor[struct {
		outer
		A any
		B complex128
		C uint64
	}](),
}

func TestHostileBytes(t *testing.T) {
	for _, test := range []struct {
		name  string
		typ   reflect.Type
		hex   string
		words string // in the error
	}{
		{"nothing", reflect.TypeFor[int](), "", "1 bytes or more, and 0 remain"},
		{"short number", reflect.TypeFor[int](), "cd01", "ends early"},
		{"wrong code", reflect.TypeFor[int](), "c0", "0xc0 where an integer is expected"},
		{"unused code", reflect.TypeFor[string](), "c1", "0xc1"},
		{"overflow", reflect.TypeFor[int8](), "ccff", "255 overflows int8"},
		{"overflow named", reflect.TypeFor[letter](), "cd0100", "256 overflows registry.letter"},
		{"overflow int64", reflect.TypeFor[int64](), "cfffffffffffffffff", "overflows int64"},
		{"overflow in slice", reflect.TypeFor[[]int64](), "91cfffffffffffffffff", "overflows int64"},
		{"negative", reflect.TypeFor[uint8](), "ff", "no negative"},
		{"bool", reflect.TypeFor[bool](), "01", "a bool"},
		{"float width", reflect.TypeFor[float32](), "cb0000000000000000", "a float32"},
		{"trailing", reflect.TypeFor[int](), "0101", "1 bytes follow"},
		{"long string", reflect.TypeFor[string](), "dbffffffff", "length 4294967295, and 0 bytes remain"},
		{"long bytes", reflect.TypeFor[[]byte](), "c6ffffffff", "length 4294967295"},
		{"long array", reflect.TypeFor[[]string](), "ddffffffff", "an array of 4294967295"},
		{"long map", reflect.TypeFor[map[int]int](), "dfffffffff", "a map of 4294967295"},
		{"long empty structs", reflect.TypeFor[[]struct{}](), "ddffffffff", "an array of 4294967295"},
		{"short float array", reflect.TypeFor[[]float64](), "dc0002cb0000000000000000", "needs 18 bytes"},
		{"map of two in one", reflect.TypeFor[map[string]int](), "82a16101", "needs 4 bytes"},
		{"same key twice", reflect.TypeFor[map[int]int](), "8201010102", "only 1 different keys"},
		{"struct too short", reflect.TypeFor[inner](), "910101", "1 where 2"},
		{"struct too long", reflect.TypeFor[inner](), "93010101", "3 where 2"},
		{"array length", reflect.TypeFor[[2]bool](), "93c2c2c2", "3 where 2"},
		{"byte array length", reflect.TypeFor[[2]byte](), "c4010100", "1 bytes where 2"},
		{"huge pointer", reflect.TypeFor[*huge](), "9200", "needs 1048"},
		{"unregistered", reflect.TypeFor[any](), "92a1780000", "isn't registered here"},
		{"unhashable key", reflect.TypeFor[map[any]int](), "8192a55b5d616e799001", "can't be compared"},
		{"not implemented", reflect.TypeFor[shape](), "92a3696e7401", "doesn't implement it"},
		{"time parts", reflect.TypeFor[time.Time](), "93010203", "a time of 3 parts"},
		{"time nanoseconds", reflect.TypeFor[time.Time](), "9200ce3b9aca00", "1000000000 nanoseconds"},
		{"time zone", reflect.TypeFor[time.Time](), "950000ce7fffffffa0a0", "from UTC"},
		{"int no bytes", reflect.TypeFor[big.Int](), "c40000", "no bytes"},
		{"int version", reflect.TypeFor[big.Int](), "c40180", "version"},
		{"int minus zero", reflect.TypeFor[big.Int](), "c40103", "zero has no sign"},
		{"rat numerator", reflect.TypeFor[big.Rat](), "c40502ffffffff", "longer than all"},
		{"float form", reflect.TypeFor[big.Float](), "c406010e00000000", "doesn't exist"},
		{"float mode", reflect.TypeFor[big.Float](), "c40601e800000000", "doesn't exist"},
		{"float mantissa", reflect.TypeFor[big.Float](), "c412010a000000400000000000000000000000ff", "normalized"},
		{"float no mantissa", reflect.TypeFor[big.Float](), "c40a010affffffff00000000", "doesn't fit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := CodecOf(test.typ)
			require.NoError(t, err)
			b, err := hex.DecodeString(test.hex)
			require.NoError(t, err)
			v := reflect.New(test.typ).Elem()
			used := allocated(func() { err = c.Decode(b, v) })
			var data *DataError
			require.ErrorAs(t, err, &data)
			assert.Contains(t, err.Error(), test.words)
			assert.LessOrEqual(t, data.Offset, len(b))
			assert.Less(t, used, uint64(16<<10))
			assert.True(t, v.IsZero())
		})
	}
}

// Headers nested in each other, each of which would be granted all that remains if nobody kept accounts, would make
// the decoder allocate the square of the input.
func TestNestedHeaders(t *testing.T) {
	const depth = 5000
	var data []byte
	for i := range depth {
		data = append(data, codeArray32)
		data = binary.BigEndian.AppendUint32(data, uint32(5*(depth-i)-5))
	}
	var err error
	used := allocated(func() { err = codecFor[selfSlice](t).Decode(data, reflect.ValueOf(new(selfSlice)).Elem()) })
	assert.Error(t, err)
	assert.Less(t, used, uint64(32*len(data)))

	// The control: one header of the same length that keeps its word allocates about 24 bytes an element.
	data = append([]byte{codeArray32}, binary.BigEndian.AppendUint32(nil, 5*depth)...)
	data = append(data, strings.Repeat("\xc0", 5*depth)...)
	used = allocated(func() { err = codecFor[selfSlice](t).Decode(data, reflect.ValueOf(new(selfSlice)).Elem()) })
	assert.NoError(t, err)
	assert.Greater(t, used, uint64(5*depth*24))
}

// A type whose values are large in memory and small on the wire gets its memory as the elements prove to be there.
func TestPaddedElements(t *testing.T) {
	data := append([]byte{codeArray32, 0, 0, 0x10, 0}, strings.Repeat("\xc0", 2*4096)...)
	var err error
	used := allocated(func() { err = codecFor[[]padded](t).Decode(data, reflect.ValueOf(new([]padded)).Elem()) })
	assert.Error(t, err)
	assert.Less(t, used, uint64(16*len(data)+8192))
}

// FuzzDecode decodes any bytes into many types: no panic, memory in proportion, and what was accepted can be sent again
// and means the same.
func FuzzDecode(f *testing.F) {
	for i, t := range hostileTypes {
		c, err := CodecOf(t)
		require.NoError(f, err)
		zero, err := c.Append(nil, reflect.Zero(t))
		require.NoError(f, err)
		f.Add(uint8(i), zero)
		for _, header := range []string{"ddffffffff", "dfffffffff", "dbffffffff", "c6ffffffff", "dc0003c0c0c0", "9191919190",
			"92a55b5d616e7992a3696e7401", "81a16181a162c0", "c40a010a0000003500000001", "950000000161416155"} {
			b, err := hex.DecodeString(header)
			require.NoError(f, err)
			f.Add(uint8(i), b)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		typ := hostileTypes[int(which)%len(hostileTypes)]
		c, err := CodecOf(typ)
		require.NoError(t, err)
		v := reflect.New(typ).Elem()
		used := allocated(func() { err = c.Decode(data, v) })
		// The types above take 200 bytes at most for one on the wire; the constant is for time zones and for what
		// the fuzzer itself does meanwhile.
		if most := uint64(200*len(data) + 1<<20); used > most {
			t.Fatalf("%s took %d bytes of memory for %d", typ, used, len(data))
		}
		if err != nil {
			var bad *DataError
			require.ErrorAs(t, err, &bad)
			return
		}
		again, err := c.Append(nil, v)
		require.NoError(t, err)
		w := reflect.New(typ).Elem()
		require.NoError(t, c.Decode(again, w))
		require.True(t, same(v, w), "%#v\n%#v", v, w)
	})
}

// Two pointers to the next node, in each of many: written for each way that leads to it, the value has no end.
type shared struct{ A, B *shared }

func (shared) Error() string { return "shared" }

func TestSharedPointersEnd(t *testing.T) {
	value := &shared{}
	for range 60 {
		value = &shared{value, value}
	}
	codec := codecFor[*shared](t)
	_, err := encodeValue(codec, reflect.ValueOf(&value).Elem(), 1<<16, nil)
	var failed *ValueError
	require.ErrorAs(t, err, &failed)
	assert.ErrorContains(t, err, "too long: more than 65536 bytes")
	assert.Less(t, len(err.Error()), 1<<10)

	floats, text := make([]float64, 1<<10), strings.Repeat("x", 1<<10)
	for _, value := range []any{
		slices.Repeat([][]float64{floats}, 100), slices.Repeat([]string{text}, 100), slices.Repeat([][]byte{[]byte(text)}, 100),
		slices.Repeat([]map[string]string{{text: text}}, 100),
	} {
		copied := addressable(reflect.ValueOf(value))
		codec, err := CodecOf(copied.Type())
		require.NoError(t, err)
		encoded, err := encodeValue(codec, copied, 1<<16, nil)
		require.ErrorAs(t, err, &failed, "%T, %d bytes", value, len(encoded))
	}

	ErrorType[*shared]()
	tree := AppendError(nil, value)
	assert.Less(t, len(tree), 1<<10)
	remote, err := DecodeError(tree)
	require.NoError(t, err)
	assert.Equal(t, "shared", remote.Error())
	assert.NotErrorAs(t, remote, new(*shared), "half an error is none")
}
