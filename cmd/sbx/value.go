package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sandboxfn/sbx/registry"
)

// maxNested is how deep lists and maps nest that are shown.
const maxNested = 1000

// readable is an encoded result of a shape as JSON can have it; its bytes if it can't be read. It is read here, and not by a decoder of MessagePack, because nothing is known of
// it: a sandbox may have sent anything.
func readable(data []byte, shape registry.Shape) any {
	if len(data) == 0 { // of a function without a result
		return nil
	}
	r := valueReader{data: data, shape: shape}
	value, ok := r.value(0, 0)
	if !ok || len(r.data) > 0 {
		return data
	}
	return value
}

// valueReader reads MessagePack. Where a value is not as the shape says, it is shown as it is.
type valueReader struct {
	data  []byte
	shape registry.Shape
}

// node is what the shape says of a value; nothing if it says nothing.
func (r *valueReader) node(n int) registry.Node {
	if n < 0 || n >= len(r.shape) {
		return registry.Node{}
	}
	return r.shape[n]
}

// element is the node of all elements of a list, or values of a map.
func element(node registry.Node) int {
	if len(node.Fields) > 0 || len(node.Of) != 1 {
		return -1
	}
	return node.Of[0]
}

// take returns the next n bytes.
func (r *valueReader) take(n uint64) ([]byte, bool) {
	if n > uint64(len(r.data)) {
		return nil, false
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken, true
}

// number reads a big-endian number of some bytes.
func (r *valueReader) number(size uint64) (uint64, bool) {
	b, ok := r.take(size)
	return binary.BigEndian.Uint64(append(make([]byte, 8-len(b), 16), b...)), ok
}

// value reads a value of which the shape's node n tells.
func (r *valueReader) value(depth, n int) (any, bool) {
	if r.node(n).Time {
		return r.time(depth)
	}
	b, ok := r.take(1)
	if !ok || depth > maxNested {
		return nil, false
	}
	switch code := b[0]; {
	case code <= 0x7f:
		return code, true
	case code <= 0x8f:
		return r.mapping(uint64(code&0x0f), depth, n)
	case code <= 0x9f:
		return r.list(uint64(code&0x0f), depth, n)
	case code <= 0xbf:
		return r.text(uint64(code & 0x1f))
	case code >= 0xe0:
		return int8(code), true
	case code == 0xc0:
		return nil, true
	case code == 0xc2 || code == 0xc3:
		return code == 0xc3, true
	case code == 0xca:
		bits, ok := r.number(4)
		return finite(float64(math.Float32frombits(uint32(bits))), 32), ok
	case code == 0xcb:
		bits, ok := r.number(8)
		return finite(math.Float64frombits(bits), 64), ok
	case code >= 0xcc && code <= 0xcf:
		return r.number(1 << (code - 0xcc))
	case code >= 0xd0 && code <= 0xd3:
		size := uint64(1) << (code - 0xd0)
		bits, ok := r.number(size)
		shift := 64 - 8*size
		return int64(bits<<shift) >> shift, ok
	case code >= 0xc4 && code <= 0xc6:
		return r.sized(1<<(code-0xc4), r.binary)
	case code >= 0xd9 && code <= 0xdb:
		return r.sized(1<<(code-0xd9), r.text)
	case code == 0xdc || code == 0xdd:
		return r.sized(2<<(code-0xdc), func(length uint64) (any, bool) { return r.list(length, depth, n) })
	case code == 0xde || code == 0xdf:
		return r.sized(2<<(code-0xde), func(length uint64) (any, bool) { return r.mapping(length, depth, n) })
	case code >= 0xd4 && code <= 0xd8:
		return r.extension(1 << (code - 0xd4))
	case code >= 0xc7 && code <= 0xc9:
		return r.sized(1<<(code-0xc7), r.extension)
	}
	return nil, false // 0xc1 is never used
}

// time reads a time.Time.
func (r *valueReader) time(depth int) (any, bool) {
	rest := r.data
	value, ok := r.value(depth+1, -1)
	if !ok {
		return nil, false
	}
	var t time.Time
	codec, err := registry.CodecOf(reflect.TypeFor[time.Time]())
	if err == nil {
		err = codec.Decode(rest[:len(rest)-len(r.data)], reflect.ValueOf(&t).Elem())
	}
	if _, textErr := t.MarshalText(); err != nil || textErr != nil { // it is none, or none that JSON can have
		return value, true
	}
	return t, true
}

// sized reads what follows its length.
func (r *valueReader) sized(size uint64, read func(n uint64) (any, bool)) (any, bool) {
	n, ok := r.number(size)
	if !ok {
		return nil, false
	}
	return read(n)
}

func (r *valueReader) binary(n uint64) (any, bool) { return r.take(n) }

func (r *valueReader) text(n uint64) (any, bool) {
	b, ok := r.take(n)
	return string(b), ok
}

func (r *valueReader) list(length uint64, depth, n int) (any, bool) {
	node := r.node(n)
	if len(node.Fields) > 0 && uint64(len(node.Fields)) == length && len(node.Of) == len(node.Fields) {
		return r.fields(node, depth)
	}
	list := []any{}
	for range length {
		value, ok := r.value(depth+1, element(node))
		if !ok {
			return nil, false
		}
		list = append(list, value)
	}
	return list, true
}

// fields reads a struct.
func (r *valueReader) fields(node registry.Node, depth int) (any, bool) {
	s := structure{names: node.Fields}
	for _, of := range node.Of {
		value, ok := r.value(depth+1, of)
		if !ok {
			return nil, false
		}
		s.values = append(s.values, value)
	}
	return s, true
}

// structure is an object of JSON whose members keep their order.
type structure struct {
	names  []string
	values []any
}

// MarshalJSON implements json.Marshaler.
func (s structure) MarshalJSON() ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	separator := byte('{')
	for i, name := range s.names {
		text.WriteByte(separator)
		separator = ','
		if err := encoder.Encode(name); err != nil {
			return nil, err
		}
		text.WriteByte(':')
		if err := encoder.Encode(s.values[i]); err != nil {
			return nil, err
		}
	}
	text.WriteByte('}')
	return text.Bytes(), nil // whose line breaks the outer encoder removes
}

// mapping reads a map: an object if its keys are texts or numbers, else a list of pairs.
func (r *valueReader) mapping(length uint64, depth, n int) (any, bool) {
	object, pairs := map[string]any{}, []any{}
	for range length {
		key, ok := r.value(depth+1, -1)
		if !ok {
			return nil, false
		}
		value, ok := r.value(depth+1, element(r.node(n)))
		if !ok {
			return nil, false
		}
		pairs = append(pairs, []any{key, value})
		switch key.(type) {
		case []any, map[string]any, []byte, nil:
		default:
			object[fmt.Sprint(key)] = value
		}
	}
	if len(object) != len(pairs) {
		return pairs, true
	}
	return object, true
}

// extension is a value of a type of its own, of which the bytes are shown.
func (r *valueReader) extension(n uint64) (any, bool) {
	if _, ok := r.take(1); !ok { // its type
		return nil, false
	}
	return r.take(n)
}

// finite is a number, or its name if JSON has none for it.
func finite(f float64, bits int) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Sprint(f)
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, bits))
}

// printable is a text in which nothing controls a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '\uFFFD'
		}
		return r
	}, text)
}

// escaped is a line of JSON without the control characters that JSON allows.
func escaped(line []byte) []byte {
	var out []byte
	for _, r := range string(line) {
		if r >= 0x7f && r < 0xa0 {
			out = fmt.Appendf(out, `\u%04x`, r)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}
