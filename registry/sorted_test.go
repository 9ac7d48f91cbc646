package registry

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mapped has maps in all the ways in which they are encoded.
type mapped struct {
	Plain  map[string]float64
	Keys   map[[2]int]string
	Nested map[string]map[int]map[bool]string
	Any    any
	Empty  map[string]int
	Nil    map[string]int
}

func newMapped() mapped {
	m := mapped{
		Plain: map[string]float64{}, Keys: map[[2]int]string{}, Nested: map[string]map[int]map[bool]string{}, Empty: map[string]int{},
	}
	held := map[string]any{}
	for i := range 20 {
		name := fmt.Sprint("k", i*i)
		m.Plain[name], m.Keys[[2]int{i, -i}], held[name] = float64(i), name, i
		m.Nested[name] = map[int]map[bool]string{i: {true: "t", false: "f"}, i + 1: nil, 300 * i: {}}
	}
	m.Any = held
	return m
}

func TestSortedEncodingsAreEqual(t *testing.T) {
	codec, err := CodecOf(reflect.TypeFor[mapped]())
	require.NoError(t, err)
	encode := func(sorted bool) string {
		m := newMapped()
		data, err := codec.append([]byte("before"), reflect.ValueOf(&m).Elem(), sorted)
		require.NoError(t, err)
		return string(data)
	}
	first := encode(true)
	others := map[string]bool{}
	for range 50 {
		require.Equal(t, first, encode(true))
		others[encode(false)] = true
	}
	assert.Greater(t, len(others), 1, "unless it is asked for, there is no order")
	var got mapped
	require.NoError(t, codec.Decode([]byte(first[len("before"):]), reflect.ValueOf(&got).Elem()))
	assert.Equal(t, fmt.Sprint(newMapped()), fmt.Sprint(got))
	assert.Nil(t, got.Nil)
}
