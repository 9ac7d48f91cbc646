package registry

import (
	"encoding/binary"
	"math"
	"slices"
)

// What many numbers are made of is written and read here without a call for each byte or number. The format is msgpack's, and
// integers are as short as msgpack/v5 makes them.

func appendUint(dst []byte, n uint64) []byte {
	switch {
	case n <= codePosFixMax:
		return append(dst, byte(n))
	case n <= math.MaxUint8:
		return append(dst, codeUint8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, codeUint16), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, codeUint32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, codeUint64), n)
}

func appendInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(dst, uint64(n))
	case n >= -32: // what fits beside the code's three bits
		return append(dst, byte(n))
	case n >= math.MinInt8:
		return append(dst, codeInt8, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(dst, codeInt16), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(dst, codeInt32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, codeInt64), uint64(n))
}

// A bulk writes and reads many values of one type that all take the same number of bytes.
type bulk[T any] struct {
	append func(dst []byte, values []T) []byte
	// read fills values from what is at the begin of data, which is long enough, and returns how many of them are what they should be.
	read func(values []T, data []byte) int
}

var float64s = bulk[float64]{
	append: func(dst []byte, values []float64) []byte {
		dst, out := extend(dst, 9*len(values))
		for i, x := range values {
			b := out[9*i : 9*i+9]
			b[0] = codeFloat64
			binary.BigEndian.PutUint64(b[1:], math.Float64bits(x))
		}
		return dst
	},
	read: func(values []float64, data []byte) int {
		for i := range values {
			b := data[9*i : 9*i+9]
			if b[0] != codeFloat64 {
				return i
			}
			values[i] = math.Float64frombits(binary.BigEndian.Uint64(b[1:]))
		}
		return len(values)
	},
}

var float32s = bulk[float32]{
	append: func(dst []byte, values []float32) []byte {
		dst, out := extend(dst, 5*len(values))
		for i, x := range values {
			b := out[5*i : 5*i+5]
			b[0] = codeFloat32
			binary.BigEndian.PutUint32(b[1:], math.Float32bits(x))
		}
		return dst
	},
	read: func(values []float32, data []byte) int {
		for i := range values {
			b := data[5*i : 5*i+5]
			if b[0] != codeFloat32 {
				return i
			}
			values[i] = math.Float32frombits(binary.BigEndian.Uint32(b[1:]))
		}
		return len(values)
	},
}

// extend makes dst longer by n bytes, and returns it and these.
func extend(dst []byte, n int) (longer, added []byte) {
	longer = slices.Grow(dst, n)[:len(dst)+n]
	return longer, longer[len(dst):]
}
