package registry

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// same is deep equality for what a codec keeps: NaN is NaN, nil isn't empty, times are the same instant in the same
// zone, map entries with NaN in their keys are matched in any order.
func same(a, b reflect.Value) bool {
	if a.Type() != b.Type() {
		return false
	}
	if a.Kind() != reflect.Interface && a.CanInterface() { // CanInterface: an embedded struct may be unexported
		if equal, ok := sameLeaf(a.Interface(), b.Interface()); ok {
			return equal
		}
	}
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		return sameFloat(a.Float(), b.Float())
	case reflect.Complex64, reflect.Complex128:
		return sameFloat(real(a.Complex()), real(b.Complex())) && sameFloat(imag(a.Complex()), imag(b.Complex()))
	case reflect.Pointer, reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() || a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() {
			return false
		}
		if a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Uint8 {
			return bytes.Equal(a.Bytes(), b.Bytes())
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		return sameMap(a, b)
	case reflect.Struct:
		for i := range a.NumField() {
			field := a.Type().Field(i)
			if left(field) {
				continue
			}
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return a.Equal(b)
}

// sameLeaf compares what is more than its fields.
func sameLeaf(a, b any) (equal, ok bool) {
	switch x := a.(type) {
	case time.Time:
		y := b.(time.Time)
		const layout = time.RFC3339Nano + " MST"
		return x.Equal(y) && x.Format(layout) == y.Format(layout), true
	case big.Int:
		y := b.(big.Int)
		return x.Cmp(&y) == 0, true
	case big.Rat:
		y := b.(big.Rat)
		return x.Cmp(&y) == 0, true
	case big.Float:
		y := b.(big.Float)
		return x.Cmp(&y) == 0 && x.Prec() == y.Prec() && x.Mode() == y.Mode() && x.Signbit() == y.Signbit(), true
	}
	return reflect.DeepEqual(a, b), formOf(reflect.TypeOf(a)) != nil
}

func sameFloat(a, b float64) bool {
	return a == b && math.Signbit(a) == math.Signbit(b) || a != a && b != b
}

func sameMap(a, b reflect.Value) bool {
	if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
		return false
	}
	taken := make([]bool, b.Len())
	for x := a.MapRange(); x.Next(); {
		found := false
		i := 0
		for y := b.MapRange(); y.Next() && !found; i++ {
			if !taken[i] && same(x.Key(), y.Key()) && same(x.Value(), y.Value()) {
				found = true
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// scalars are the types that generated types are made of.
var scalars = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int16](), reflect.TypeFor[int32](),
	reflect.TypeFor[int64](), reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint32](),
	reflect.TypeFor[uint64](), reflect.TypeFor[float32](), reflect.TypeFor[float64](), reflect.TypeFor[complex64](),
	reflect.TypeFor[complex128](), reflect.TypeFor[string](), reflect.TypeFor[time.Time](), reflect.TypeFor[time.Duration](),
	reflect.TypeFor[celsius](), reflect.TypeFor[letter](), reflect.TypeFor[byValue](), reflect.TypeFor[packed](),
}

// pick draws one of n evenly; rapid's own numbers are mostly small, and so would the types be.
func pick(t *rapid.T, label string, n int) int {
	index := 0
	for _, bit := range rapid.SliceOfN(rapid.Bool(), 6, 6).Draw(t, label) {
		index *= 2
		if bit {
			index++
		}
	}
	return index % n
}

func drawType(t *rapid.T, depth int, key bool) reflect.Type {
	kinds := []string{"scalar"}
	switch {
	case depth > 0 && key:
		kinds = []string{"struct", "array", "any", "scalar"}
	case depth > 0:
		kinds = []string{"struct", "struct", "map", "map", "slice", "slice", "pointer", "array", "any", "recursive", "big", "scalar"}
	}
	switch kinds[pick(t, "kind", len(kinds))] {
	case "array":
		return reflect.ArrayOf(pick(t, "length", 4), drawType(t, depth-1, key))
	case "struct":
		fields := make([]reflect.StructField, pick(t, "fields", 5))
		for i := range fields {
			fields[i] = reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: drawType(t, depth-1, key)}
		}
		return reflect.StructOf(fields)
	case "any":
		return reflect.TypeFor[any]()
	case "slice":
		return reflect.SliceOf(drawType(t, depth-1, false))
	case "map":
		return reflect.MapOf(drawType(t, depth-1, true), drawType(t, depth-1, false))
	case "pointer":
		return reflect.PointerTo(drawType(t, depth-1, false))
	case "recursive":
		return reflect.TypeFor[tree]()
	case "big":
		return reflect.TypeFor[*big.Int]()
	default:
		return scalars[pick(t, "scalar", len(scalars))]
	}
}

// fill gives v a drawn value.
func fill(t *rapid.T, v reflect.Value, depth int, key bool) {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = drawTime(t)
		return
	case *big.Int:
		x.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "int"))
		return
	case *byValue:
		x.text = rapid.String().Draw(t, "text")
		return
	case *packed:
		x.n = rapid.Int().Draw(t, "packed")
		return
	}
	size := func() int { return pick(t, "size", max(min(depth, 3), 0)+2) - 1 }
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "int") >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "uint") >> (64 - v.Type().Bits()))
	case reflect.Float32:
		v.SetFloat(float64(drawFloat(t)))
	case reflect.Float64:
		v.SetFloat(drawFloat(t))
	case reflect.Complex64, reflect.Complex128:
		v.SetComplex(complex(drawFloat(t), drawFloat(t)))
	case reflect.String:
		v.SetString(string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "string")))
	case reflect.Pointer:
		if size() >= 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), depth-1, key)
		}
	case reflect.Slice:
		if n := size(); n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(t, v.Index(i), depth-1, key)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), depth-1, key)
		}
	case reflect.Map:
		if n := size(); n >= 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n {
				k, x := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				fill(t, k, depth-1, true)
				fill(t, x, depth-1, key)
				v.SetMapIndex(k, x)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), depth-1, key)
		}
	case reflect.Interface:
		if size() < 0 {
			return
		}
		held := []reflect.Type{reflect.TypeFor[int](), reflect.TypeFor[uint8](), reflect.TypeFor[string](), reflect.TypeFor[float64](),
			reflect.TypeFor[time.Time](), reflect.TypeFor[bool]()}
		if !key {
			held = append(held, reflect.TypeFor[[]byte](), reflect.TypeFor[[]any](), reflect.TypeFor[map[string]any]())
		}
		x := reflect.New(held[pick(t, "held", len(held))]).Elem()
		fill(t, x, depth-1, key)
		v.Set(x)
	}
}

func drawFloat(t *rapid.T) float64 {
	special := []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1)}
	if i := rapid.IntRange(0, 2*len(special)).Draw(t, "special"); i < len(special) {
		return special[i]
	}
	return rapid.Float64().Draw(t, "float")
}

func drawTime(t *rapid.T) time.Time {
	at := time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
	switch rapid.IntRange(0, 2).Draw(t, "zone") {
	case 0:
		return at.UTC()
	case 1:
		return at.In(time.FixedZone(rapid.StringMatching("[A-Z]{0,4}").Draw(t, "name"), rapid.IntRange(-50000, 50000).Draw(t, "offset")))
	default:
		return at
	}
}

func TestEveryValueOfEveryTypeCrosses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := drawType(t, 4, false)
		codec, err := CodecOf(typ)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		in, out := reflect.New(typ).Elem(), reflect.New(typ).Elem()
		fill(t, in, 5, false)
		data, err := codec.Append(nil, in)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if len(data) < codec.min {
			t.Fatalf("%s: %d bytes, and %d are the least", typ, len(data), codec.min)
		}
		if err := codec.Decode(data, out); err != nil {
			t.Fatalf("%s: %x: %v", typ, data, err)
		}
		if !same(in, out) {
			t.Fatalf("%s: sent %#v, got %#v", typ, in, out)
		}
		for cut := range min(len(data), 50) {
			if err := codec.Decode(data[:cut], out); err == nil {
				t.Fatalf("%s: %d of %d bytes were enough", typ, cut, len(data))
			}
		}
	})
}
