package registry

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

func encoded[T any](t *testing.T, in T) []byte {
	t.Helper()
	data, err := codecFor[T](t).Append(nil, reflect.ValueOf(&in).Elem())
	require.NoError(t, err)
	return data
}

// What is written here must be what msgpack/v5 writes, at every length that an integer can have.
func TestNumbersAreMsgpacks(t *testing.T) {
	numbers := []int64{0, math.MinInt64, math.MaxInt64}
	for shift := range 63 {
		for _, n := range []int64{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			numbers = append(numbers, n, -n)
		}
	}
	for range 1000 {
		numbers = append(numbers, int64(rand.Uint64())>>rand.IntN(64))
	}
	wide := make([]uint64, len(numbers))
	floats, halves := make([]float64, len(numbers)), make([]float32, len(numbers))
	for i, n := range numbers {
		wide[i] = uint64(n)
		floats[i], halves[i] = math.Float64frombits(uint64(n)), float32(n) // theirs changes what some kinds of NaN hold
	}
	theirs := func(in any) []byte {
		var out bytes.Buffer
		encoder := msgpack.NewEncoder(&out)
		encoder.UseCompactInts(true)
		require.NoError(t, encoder.Encode(in))
		return out.Bytes()
	}
	assert.Equal(t, theirs(numbers), encoded(t, numbers))
	assert.Equal(t, theirs(wide), encoded(t, wide))
	assert.Equal(t, theirs(floats), encoded(t, floats))
	assert.Equal(t, theirs(halves), encoded(t, halves))
	for i, n := range numbers { // alone
		require.Equal(t, theirs(n), encoded(t, n))
		require.Equal(t, theirs(wide[i]), encoded(t, wide[i]))
	}
	assert.Equal(t, numbers, crossed(t, numbers))
	assert.Equal(t, wide, crossed(t, wide))
}

// A number of another type among many is found where it is.
func TestAWrongNumberAmongMany(t *testing.T) {
	data := encoded(t, []float64{1, 2, 3})
	data[1+2*9] = codeInt64
	var out []float64
	err := codecFor[[]float64](t).Decode(data, reflect.ValueOf(&out).Elem())
	assert.ErrorContains(t, err, "a float64 is expected")
	var wrong *DataError
	require.ErrorAs(t, err, &wrong)
	assert.Equal(t, 1+2*9, wrong.Offset)
	assert.ErrorContains(t, codecFor[[]float64](t).Decode(data[:20], reflect.ValueOf(&out).Elem()), "remain")
}
