package registry

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"unsafe"
)

// nilable reports whether values of a type are nil on the wire when they are nil in memory.
func nilable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return true
	}
	return false
}

// pointer: nil, or the value; inside an array of one where the value may be nil itself, to tell the two apart.
func (c *compiler) pointer(codec *Codec) error {
	t := codec.typ
	elem, err := c.inside("", t.Elem())
	if err != nil {
		return err
	}
	wrapped := nilable(t.Elem())
	codec.of, codec.same = []*Codec{elem}, !wrapped
	codec.encode = func(e *encoder, p unsafe.Pointer) error {
		to := *(*unsafe.Pointer)(p)
		if to == nil {
			return e.wire.EncodeNil()
		}
		if err := e.enter(t, uintptr(to), 0); err != nil {
			return err
		}
		if wrapped {
			if err := e.wire.EncodeArrayLen(1); err != nil {
				return err
			}
		}
		if err := elem.encode(e, to); err != nil {
			return err
		}
		e.leave(t, uintptr(to), 0)
		return nil
	}
	codec.decode = func(d *decoder, p unsafe.Pointer) error {
		if d.isNil() {
			return nil
		}
		if err := d.enter(); err != nil {
			return err
		}
		if wrapped {
			if err := d.tuple(1); err != nil {
				return err
			}
		}
		// Not a byte of memory for what can't be there.
		if err := d.claim(elem.min, 1, "a value"); err != nil {
			return err
		}
		d.claimed -= elem.min
		to := reflect.New(t.Elem()).UnsafePointer()
		if err := elem.decode(d, to); err != nil {
			return err
		}
		*(*unsafe.Pointer)(p) = to
		d.leave()
		return nil
	}
	return nil
}

// sliceHeader is how a slice of any type is in memory.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func (c *compiler) slice(codec *Codec) error {
	t := codec.typ
	elem, err := c.inside("[]", t.Elem())
	if err != nil {
		return err
	}
	if t.Elem().Kind() == reflect.Uint8 && formOf(t.Elem()) == nil {
		byteSlice(codec)
		return nil
	}
	if complete, ok := plainSlices[t.Elem()]; ok {
		complete(codec)
		return nil
	}
	codec.of = []*Codec{elem}
	size := t.Elem().Size()
	codec.encode = func(e *encoder, p unsafe.Pointer) error {
		s := *(*sliceHeader)(p)
		if s.data == nil {
			return e.wire.EncodeNil()
		}
		if err := e.arrayLen(t, s.len); err != nil {
			return err
		}
		if s.len == 0 {
			return nil
		}
		if err := e.enter(t, uintptr(s.data), s.len); err != nil {
			return err
		}
		for i := range s.len {
			if err := elem.encode(e, unsafe.Add(s.data, uintptr(i)*size)); err != nil {
				return at(err, "["+strconv.Itoa(i)+"]")
			}
		}
		e.leave(t, uintptr(s.data), s.len)
		return nil
	}
	codec.decode = func(d *decoder, p unsafe.Pointer) error {
		if d.isNil() {
			return nil
		}
		n, err := d.array(elem.min)
		if err != nil {
			return err
		}
		if err := d.enter(); err != nil {
			return err
		}
		room := min(n, ahead(n, elem.min, size))
		s := reflect.MakeSlice(t, room, room)
		for i := range n {
			if i == room {
				room = min(n, 2*room)
				grown := reflect.MakeSlice(t, room, room)
				reflect.Copy(grown, s)
				s = grown
			}
			d.claimed -= elem.min
			if err := elem.decode(d, unsafe.Add(s.UnsafePointer(), uintptr(i)*size)); err != nil {
				return err
			}
		}
		*(*sliceHeader)(p) = sliceHeader{s.UnsafePointer(), n, n}
		d.leave()
		return nil
	}
	return nil
}

// ownedSize is how long bytes are at least that are not copied out of what they are read from.
const ownedSize = 4 << 10

func byteSlice(c *Codec) {
	t := c.typ
	c.encode = func(e *encoder, p unsafe.Pointer) error {
		s := *(*[]byte)(p)
		if s == nil {
			return e.wire.EncodeNil()
		}
		return e.bytes(t, s)
	}
	c.decode = func(d *decoder, p unsafe.Pointer) error {
		if d.isNil() {
			return nil
		}
		b, err := d.binary()
		if err != nil {
			return err
		}
		if d.owned && len(b) >= ownedSize && len(b) >= len(d.data)/2 { // which keeps no more than twice what it needs
			*(*[]byte)(p) = b
			return nil
		}
		*(*[]byte)(p) = append(make([]byte, 0, len(b)), b...) // never nil, unlike bytes.Clone of nothing
		return nil
	}
}

func (c *compiler) array(codec *Codec) error {
	t, n := codec.typ, codec.typ.Len()
	elem, err := c.inside("[]", t.Elem())
	if err != nil {
		return err
	}
	if t.Elem().Kind() == reflect.Uint8 && formOf(t.Elem()) == nil {
		codec.min = limit(headerSize(uint64(n), 256) + uint64(n))
		codec.encode = func(e *encoder, p unsafe.Pointer) error { return e.bytes(t, unsafe.Slice((*byte)(p), n)) }
		codec.decode = func(d *decoder, p unsafe.Pointer) error {
			b, err := d.binary()
			if err == nil && len(b) != n {
				err = d.fail("%d bytes where %d are expected", len(b), n)
			}
			if err == nil {
				copy(unsafe.Slice((*byte)(p), n), b)
			}
			return err
		}
		return nil
	}
	codec.of = []*Codec{elem}
	size := t.Elem().Size()
	codec.min = limit(headerSize(uint64(n), 16) + uint64(n)*uint64(elem.min))
	codec.encode = func(e *encoder, p unsafe.Pointer) error {
		if err := e.arrayLen(t, n); err != nil {
			return err
		}
		for i := range n {
			if err := elem.encode(e, unsafe.Add(p, uintptr(i)*size)); err != nil {
				return at(err, "["+strconv.Itoa(i)+"]")
			}
		}
		return nil
	}
	codec.decode = func(d *decoder, p unsafe.Pointer) error {
		got, err := d.array(elem.min)
		if err == nil && got != n {
			err = d.fail("an array of %d where %d elements are expected", got, n)
		}
		if err != nil {
			return err
		}
		for i := range n {
			d.claimed -= elem.min
			if err := elem.decode(d, unsafe.Add(p, uintptr(i)*size)); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// headerSize is the least size of a header for n elements, where a header of one byte ends below short.
func headerSize(n, short uint64) uint64 {
	switch {
	case n < short:
		return 1
	case n <= math.MaxUint16:
		return 2
	default:
		return 4
	}
}

// limit keeps a least size within what may be multiplied by a length. No input is larger anyway.
func limit(size uint64) int { return int(min(size, math.MaxInt32)) }

func (c *compiler) mapping(codec *Codec) error {
	t := codec.typ
	if reason := keyRefusal(t.Key()); reason != "" {
		c.path = append(c.path, "[key]")
		return c.refuse(t.Key(), reason)
	}
	key, err := c.inside("[key]", t.Key())
	if err != nil {
		return err
	}
	value, err := c.inside("[]", t.Elem())
	if err != nil {
		return err
	}
	if complete, ok := plainMaps[reflect.MapOf(t.Key(), t.Elem())]; ok {
		complete(codec)
		return nil
	}
	codec.of = []*Codec{value}
	codec.encode = func(e *encoder, p unsafe.Pointer) error {
		v := valueAt(t, p)
		if v.IsNil() {
			return e.wire.EncodeNil()
		}
		if err := e.mapLen(t, v.Len()); err != nil {
			return err
		}
		if v.Len() == 0 {
			return nil
		}
		address := v.Pointer()
		if err := e.enter(t, address, 0); err != nil {
			return err
		}
		k, x := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		atK, atX := addressOf(k), addressOf(x)
		var starts []int
		for entry := v.MapRange(); entry.Next(); {
			if e.sorted {
				starts = append(starts, len(e.buf))
			}
			k.SetIterKey(entry)
			if err := key.encode(e, atK); err != nil {
				return at(err, "[key]")
			}
			x.SetIterValue(entry)
			if err := value.encode(e, atX); err != nil {
				return at(err, "["+keyText(k)+"]")
			}
		}
		e.sortEntries(starts)
		e.leave(t, address, 0)
		return nil
	}
	mayPanic := holdsInterface(t.Key())
	size := t.Key().Size() + t.Elem().Size()
	codec.decode = func(d *decoder, p unsafe.Pointer) error {
		if d.isNil() {
			return nil
		}
		least := key.min + value.min
		n, err := d.mapping(least)
		if err != nil {
			return err
		}
		if err := d.enter(); err != nil {
			return err
		}
		m := reflect.MakeMapWithSize(t, min(n, ahead(n, least, size)))
		k, x := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		atK, atX := addressOf(k), addressOf(x)
		for range n {
			k.SetZero()
			d.claimed -= key.min
			if err := key.decode(d, atK); err != nil {
				return err
			}
			if mayPanic && !k.Comparable() {
				return d.fail("a map key that can't be compared")
			}
			x.SetZero()
			d.claimed -= value.min
			if err := value.decode(d, atX); err != nil {
				return err
			}
			m.SetMapIndex(k, x)
		}
		if m.Len() != n {
			return d.fail("a map of %d with only %d different keys", n, m.Len())
		}
		valueAt(t, p).Set(m)
		d.leave()
		return nil
	}
	return nil
}

// keyRefusal says why a type that Go accepts as a map key can't be sent as one.
func keyRefusal(t reflect.Type) string {
	if _, ok := leaves[t]; ok || formOf(t) != nil {
		return ""
	}
	switch t.Kind() {
	case reflect.Pointer:
		return "a pointer as a map key is found by its address, which changes on the way; use what it points to"
	case reflect.Interface:
		if isErrorField(t) {
			return "an error as a map key is found by its address, which changes on the way; use its text"
		}
	case reflect.Array:
		return keyRefusal(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if field := t.Field(i); !left(field) {
				if reason := keyRefusal(field.Type); reason != "" {
					return reason
				}
			}
		}
	}
	return ""
}

// holdsInterface reports whether a value of a comparable type may hold one that can't be compared.
func holdsInterface(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Array:
		return holdsInterface(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if holdsInterface(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// keyText shows a map key in a path.
func keyText(k reflect.Value) string {
	const most = 40
	switch k.Kind() {
	case reflect.String:
		s := k.String()
		if len(s) > most {
			return strconv.Quote(s[:most]) + "…"
		}
		return strconv.Quote(s)
	case reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprint(k) // of a reflect.Value: no method of the key is called
	default:
		return "a " + k.Type().String()
	}
}
