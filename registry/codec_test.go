package registry

import (
	"errors"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

func codecFor[T any](t testing.TB) *Codec {
	t.Helper()
	c, err := CodecOf(reflect.TypeFor[T]())
	require.NoError(t, err)
	return c
}

// crossed sends a value there.
func crossed[T any](t testing.TB, in T) T {
	t.Helper()
	c := codecFor[T](t)
	data, err := c.Append(nil, reflect.ValueOf(&in).Elem())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(data), c.min, "the least size must be the least")
	var out T
	require.NoError(t, c.Decode(data, reflect.ValueOf(&out).Elem()))
	return out
}

type (
	celsius float64
	letter  byte
	inner   struct{ A, B int }
	hidden  struct {
		A int
		B *inner
	}
	outer struct {
		inner2
		hidden
		C string
		_ int
		D int `msgpack:"-"`
	}
	inner2 struct{ X []string }
	tree   struct {
		Value    int
		Children []*tree
		ByName   map[string]tree
	}
	selfPointer *selfPointer
	selfSlice   []selfSlice
	selfMap     map[string]selfMap
	stamped     struct {
		time.Time
		Note string
	}
	tagged struct {
		Keep  int
		drop  chan int `msgpack:"-"`
		Leave func()   `msgpack:"-,"`
	}
	keyed struct {
		A [2]int
		B string
	}
)

func ptr[T any](v T) *T { return &v }

func TestCodecKeeps(t *testing.T) {
	check := func(v any) {
		t.Helper()
		in := reflect.ValueOf(v)
		c, err := CodecOf(in.Type())
		require.NoError(t, err)
		data, err := c.Append(nil, in)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(data), c.min)
		out := reflect.New(in.Type()).Elem()
		require.NoError(t, c.Decode(data, out), "%T %x", v, data)
		assert.True(t, same(in, out), "%T: sent %#v, got %#v", v, v, out)
	}
	for _, v := range []any{
		true, false,
		int(-1), int8(math.MinInt8), int16(math.MaxInt16), int32(math.MinInt32), int64(math.MinInt64), int64(math.MaxInt64),
		int64(-32), int64(-33), int64(-129), int64(-32769), int64(127), int64(128), int64(255), int64(65536),
		uint(7), uint8(255), uint16(65535), uint32(math.MaxUint32), uint64(math.MaxUint64),
		float32(1.5), float32(math.Inf(-1)), float32(math.NaN()), math.NaN(), math.Inf(1), math.Copysign(0, -1), math.SmallestNonzeroFloat64,
		complex64(complex(1, -2)), complex(math.NaN(), math.Inf(-1)),
		"", "héllo", "\xff\xfe\x00", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 256), strings.Repeat("x", 70000),
		[]byte(nil), []byte{}, []byte{0, 255}, make([]byte, 70000), []letter{1}, []letter(nil), [3]byte{1, 2, 3}, [0]byte{}, [300]byte{7},
		celsius(3), time.Duration(-5),
		[]int(nil), []int{}, []int{1, -1}, []float64{1, math.NaN()}, []celsius{1}, []int64{math.MinInt64}, []uint64{math.MaxUint64},
		[]float32{1}, []string{"a"}, [][]int{nil, {}, {1}}, [2][]string{{"a"}, nil}, make([]string, 70000), make([]int, 20), make([]bool, 17),
		[]struct{}{{}, {}}, [4]struct{}{}, struct{}{},
		map[string]int(nil), map[string]int{}, map[int]string{-1: "a", 2: "b"}, map[float64]int{math.Inf(1): 1, 0.5: 2},
		map[float64]int{math.NaN(): 1}, map[keyed]bool{{[2]int{1, 2}, "x"}: true}, map[[2]string]int{{"a", "b"}: 1},
		map[any]int{1: 1, "1": 2, int8(1): 3}, map[bool][]int{true: nil}, map[complex64]int{1i: 1}, map[netip.Addr]int{netip.MustParseAddr("::1"): 1},
		(*int)(nil), ptr(0), ptr(ptr(5)), ptr((*int)(nil)), ptr(ptr((*int)(nil))), ptr([]int(nil)), ptr(map[string]int(nil)), ptr(any(nil)),
		outer{inner2: inner2{[]string{"x"}}, hidden: hidden{A: 1, B: &inner{2, 3}}, C: "c"},
		tree{1, []*tree{nil, {Value: 2}}, map[string]tree{"a": {Value: 3}}},
		selfPointer(nil), selfPointer(ptr(selfPointer(nil))), selfSlice{nil, {}, {{}}}, selfMap{"a": nil, "b": {"c": {}}},
		tagged{Keep: 1}, struct{ Any any }{nil}, []any{nil, true, 1, int8(1), uint64(math.MaxUint64), float32(1), 1.5, "s", []byte{1},
			time.Duration(1), []any{1, []any{}}, map[string]any{"a": map[string]any{}}},
		struct{ U *url.URL }{&url.URL{Scheme: "https", Host: "h"}}, netip.Addr{},
	} {
		check(v)
	}
}

func TestCodecDropsOnlyWhatIsTagged(t *testing.T) {
	out := crossed(t, outer{D: 7, C: "c"})
	assert.Equal(t, outer{C: "c"}, out)
	assert.Equal(t, tagged{Keep: 1}, crossed(t, tagged{Keep: 1, drop: make(chan int), Leave: func() {}}))
}

func TestSharedPointers(t *testing.T) {
	p := ptr(1)
	out := crossed(t, []*int{p, p})
	require.Equal(t, []*int{p, p}, out)
	assert.NotSame(t, out[0], out[1])
}

func TestTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	for name, in := range map[string]time.Time{
		"zero":      {},
		"now":       time.Now(),
		"utc":       time.Date(2026, 1, 2, 3, 4, 5, 999999999, time.UTC),
		"berlin":    time.Date(2026, 7, 2, 3, 4, 5, 6, berlin),
		"fixed":     time.Date(2026, 7, 2, 3, 4, 5, 6, time.FixedZone("EST", -5*3600)),
		"unnamed":   time.Date(2026, 7, 2, 3, 4, 5, 6, time.FixedZone("", 5400)),
		"false utc": time.Date(2026, 7, 2, 3, 4, 5, 6, time.FixedZone("UTC", 3600)),
		"past":      time.Date(-5000, 1, 1, 0, 0, 0, 0, berlin),
		"seconds":   time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 3208)),
		"far":       time.Unix(math.MaxInt64, 5).UTC(),
	} {
		t.Run(name, func(t *testing.T) {
			out := crossed(t, in)
			assert.True(t, in.Equal(out))
			assert.Equal(t, in.IsZero(), out.IsZero())
			const layout = "2006-01-02T15:04:05.999999999 -07:00:00 MST"
			assert.Equal(t, in.Format(layout), out.Format(layout))
			assert.Equal(t, in.Location().String(), out.Location().String())
			assert.Equal(t, in.Round(0).AddDate(0, 6, 0).Format(layout), out.AddDate(0, 6, 0).Format(layout), "the zone's rules")
		})
	}
	assert.Equal(t, time.Time{}, crossed(t, time.Time{}))
	assert.Same(t, time.UTC, crossed(t, time.Unix(0, 0).UTC()).Location())
	assert.Same(t, time.Local, crossed(t, time.Now()).Location())

	t.Run("another local zone", func(t *testing.T) {
		c := codecFor[time.Time](t)
		// A program in a zone of which this one knows only what the bytes say.
		data := []byte{0x95, 0x00, 0x00, 0xcd, 0x0e, 0x10, 0xa3, 'F', 'O', 'O', 0xa5, 'L', 'o', 'c', 'a', 'l'}
		var out time.Time
		require.NoError(t, c.Decode(data, reflect.ValueOf(&out).Elem()))
		assert.Equal(t, "1970-01-01 01:00 FOO", out.Format("2006-01-02 15:04 MST"))
	})
}

func TestBig(t *testing.T) {
	huge, _ := new(big.Int).SetString("-123456789012345678901234567890", 10)
	for _, in := range []*big.Int{nil, {}, big.NewInt(-1), huge} {
		out := crossed(t, in)
		require.Equal(t, in == nil, out == nil)
		if in != nil {
			assert.Zero(t, in.Cmp(out))
		}
	}
	for _, in := range []*big.Rat{nil, {}, big.NewRat(-1, 3), new(big.Rat).SetFrac(huge, big.NewInt(7))} {
		out := crossed(t, in)
		require.Equal(t, in == nil, out == nil)
		if in != nil {
			assert.Zero(t, in.Cmp(out))
		}
	}
	third := new(big.Float).SetPrec(200).SetMode(big.ToZero)
	third.Quo(big.NewFloat(-1), big.NewFloat(3))
	for _, in := range []*big.Float{nil, {}, big.NewFloat(1.5), third, new(big.Float).SetInf(true), new(big.Float).SetPrec(77),
		new(big.Float).Neg(new(big.Float))} {
		out := crossed(t, in)
		require.Equal(t, in == nil, out == nil)
		if in != nil {
			assert.Zero(t, in.Cmp(out))
			assert.Equal(t, in.Prec(), out.Prec())
			assert.Equal(t, in.Mode(), out.Mode())
			assert.Equal(t, in.Acc(), out.Acc())
			assert.Equal(t, in.Signbit(), out.Signbit())
		}
	}
	assert.Equal(t, int64(5), ptr(crossed(t, map[string]big.Int{"a": *big.NewInt(5)})["a"]).Int64())
}

type (
	byValue   struct{ text string }
	byPointer struct{ n int }
	packed    struct{ n int }
	prefers   struct{ n int }
	mapText   map[string]int
	onlyOut   struct{ A int }
	onlyIn    struct{ A int }
	explodes  struct{}
	declines  struct{}
)

func (v byValue) MarshalText() ([]byte, error)      { return []byte(v.text), nil }
func (v *byValue) UnmarshalText(b []byte) error     { v.text = string(b); return nil }
func (v *byPointer) MarshalBinary() ([]byte, error) { return []byte{byte(v.n)}, nil }
func (v *byPointer) UnmarshalBinary(b []byte) error { v.n = int(b[0]); return nil } // panics if there is none
func (v packed) MarshalMsgpack() ([]byte, error)    { return msgpack.Marshal(v.n) }
func (v *packed) UnmarshalMsgpack(b []byte) error   { return msgpack.Unmarshal(b, &v.n) }
func (v prefers) MarshalBinary() ([]byte, error)    { return []byte{byte(v.n)}, nil }
func (v *prefers) UnmarshalBinary(b []byte) error   { v.n = int(b[0]); return nil }
func (v prefers) MarshalText() ([]byte, error)      { return nil, errors.New("not this one") }
func (m mapText) MarshalText() ([]byte, error)      { return []byte("x"), nil }
func (m *mapText) UnmarshalText(b []byte) error     { *m = mapText{string(b): 1}; return nil }
func (onlyOut) MarshalText() ([]byte, error)        { return nil, nil }
func (*onlyIn) UnmarshalBinary([]byte) error        { return nil }
func (explodes) MarshalBinary() ([]byte, error)     { panic("boom") }
func (*explodes) UnmarshalBinary([]byte) error      { return nil }
func (declines) MarshalBinary() ([]byte, error)     { return nil, errRefused }
func (*declines) UnmarshalBinary([]byte) error      { return errRefused }

var errRefused = errors.New("refused")

func TestMarshalers(t *testing.T) {
	assert.Equal(t, byValue{"x"}, crossed(t, byValue{"x"}))
	assert.Equal(t, map[byValue]*byValue{{"k"}: {"v"}, {"n"}: nil}, crossed(t, map[byValue]*byValue{{"k"}: {"v"}, {"n"}: nil}))
	assert.Equal(t, map[string]byPointer{"a": {3}}, crossed(t, map[string]byPointer{"a": {3}}), "no address in a map")
	assert.Equal(t, packed{300}, crossed(t, packed{300}))
	assert.Equal(t, prefers{4}, crossed(t, prefers{4}))
	assert.Equal(t, mapText{"x": 1}, crossed(t, mapText{}))
	assert.Nil(t, crossed(t, mapText(nil)))

	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	assert.Equal(t, stamped{at, "kept"}, crossed(t, stamped{at, "kept"}), "a promoted MarshalBinary would drop the note")

	var value *ValueError
	_, err := codecFor[[]declines](t).Append(nil, reflect.ValueOf(make([]declines, 1)))
	require.ErrorAs(t, err, &value)
	assert.ErrorIs(t, err, errRefused)
	assert.Equal(t, "[]registry.declines[0]", value.Path)
	_, err = codecFor[explodes](t).Append(nil, reflect.ValueOf(explodes{}))
	require.ErrorAs(t, err, &value)
	assert.Contains(t, err.Error(), "boom")

	var data *DataError
	err = codecFor[byPointer](t).Decode([]byte{codeBin8, 0}, reflect.ValueOf(&byPointer{}).Elem())
	require.ErrorAs(t, err, &data)
	assert.Contains(t, err.Error(), "panic")
	err = codecFor[declines](t).Decode([]byte{codeBin8, 0}, reflect.ValueOf(&declines{}).Elem())
	assert.ErrorIs(t, err, errRefused)
}

// The wire must be MessagePack that others read.
func TestWire(t *testing.T) {
	in := struct {
		A int
		B string
		C []byte
		D map[string]float64
		E *bool
	}{-5, "x", []byte{1}, map[string]float64{"k": 1.5}, nil}
	c, err := CodecOf(reflect.TypeOf(in))
	require.NoError(t, err)
	data, err := c.Append(nil, reflect.ValueOf(in))
	require.NoError(t, err)
	var out []any
	require.NoError(t, msgpack.Unmarshal(data, &out))
	assert.Equal(t, []any{int8(-5), "x", []byte{1}, map[string]any{"k": 1.5}, nil}, out)
}

func TestDecodeReplacesAndCopies(t *testing.T) {
	c := codecFor[map[string][]byte](t)
	data, err := c.Append(nil, reflect.ValueOf(map[string][]byte{"a": {1, 2}}))
	require.NoError(t, err)
	v := map[string][]byte{"old": nil}
	require.NoError(t, c.Decode(data, reflect.ValueOf(&v).Elem()))
	clear(data)
	assert.Equal(t, map[string][]byte{"a": {1, 2}}, v)
	require.Error(t, c.Decode(data[:2], reflect.ValueOf(&v).Elem()))
	assert.Nil(t, v, "nothing half-filled")
}

func TestCodecMisuse(t *testing.T) {
	c := codecFor[int](t)
	var value *ValueError
	for _, v := range []reflect.Value{{}, reflect.ValueOf("x"), reflect.ValueOf(struct{ a int }{1}).Field(0)} {
		_, err := c.Append(nil, v)
		assert.ErrorAs(t, err, &value)
		assert.ErrorAs(t, c.Decode([]byte{1}, v), &value)
	}
	assert.ErrorAs(t, c.Decode([]byte{1}, reflect.ValueOf(1)), &value)
}
