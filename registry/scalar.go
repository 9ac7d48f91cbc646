package registry

import (
	"reflect"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// An atom is how a type without parts is written and read, by value.
type atom[T any] struct {
	min int // the least number of bytes that a value takes
	put func(*encoder, T) error
	get func(*decoder) (T, error)
}

// complete completes the codec of a type that has the form of T in memory.
func (a atom[T]) complete(c *Codec) {
	c.min = a.min
	c.encode = func(e *encoder, p unsafe.Pointer) error { return a.put(e, *(*T)(p)) }
	c.decode = func(d *decoder, p unsafe.Pointer) (err error) {
		*(*T)(p), err = a.get(d)
		return err
	}
}

type signed interface {
	int | int8 | int16 | int32 | int64
}

func signedAtom[T signed](t reflect.Type) atom[T] {
	return atom[T]{
		min: 1,
		put: func(e *encoder, n T) error {
			e.buf = appendInt(e.buf, int64(n))
			return nil
		},
		get: func(d *decoder) (T, error) {
			n, err := d.int64()
			if err == nil && int64(T(n)) != n {
				err = d.fail("%d overflows %s", n, t)
			}
			return T(n), err
		},
	}
}

type unsigned interface {
	uint | uint8 | uint16 | uint32 | uint64
}

func unsignedAtom[T unsigned](t reflect.Type) atom[T] {
	return atom[T]{
		min: 1,
		put: func(e *encoder, n T) error {
			e.buf = appendUint(e.buf, uint64(n))
			return nil
		},
		get: func(d *decoder) (T, error) {
			n, err := d.uint64()
			if err == nil && uint64(T(n)) != n {
				err = d.fail("%d overflows %s", n, t)
			}
			return T(n), err
		},
	}
}

func stringAtom(t reflect.Type) atom[string] {
	return atom[string]{
		min: 1,
		put: func(e *encoder, s string) error { return e.string(t, s) },
		get: func(d *decoder) (string, error) {
			b, err := d.text()
			return string(b), err
		},
	}
}

var (
	boolAtom    = atom[bool]{1, onWire((*msgpack.Encoder).EncodeBool), (*decoder).bool}
	float32Atom = atom[float32]{5, onWire((*msgpack.Encoder).EncodeFloat32), (*decoder).float32}
	float64Atom = atom[float64]{9, onWire((*msgpack.Encoder).EncodeFloat64), (*decoder).float64}

	complex64Atom  = atom[complex64]{11, encodeComplex64, decodeComplex64}
	complex128Atom = atom[complex128]{19, encodeComplex128, decodeComplex128}
)

func onWire[T any](put func(*msgpack.Encoder, T) error) func(*encoder, T) error {
	return func(e *encoder, x T) error { return put(e.wire, x) }
}

// scalar completes the codec of a type without parts.
func scalar(c *Codec) {
	t := c.typ
	switch t.Kind() {
	case reflect.Bool:
		boolAtom.complete(c)
	case reflect.Int:
		signedAtom[int](t).complete(c)
	case reflect.Int8:
		signedAtom[int8](t).complete(c)
	case reflect.Int16:
		signedAtom[int16](t).complete(c)
	case reflect.Int32:
		signedAtom[int32](t).complete(c)
	case reflect.Int64:
		signedAtom[int64](t).complete(c)
	case reflect.Uint:
		unsignedAtom[uint](t).complete(c)
	case reflect.Uint8:
		unsignedAtom[uint8](t).complete(c)
	case reflect.Uint16:
		unsignedAtom[uint16](t).complete(c)
	case reflect.Uint32:
		unsignedAtom[uint32](t).complete(c)
	case reflect.Uint64:
		unsignedAtom[uint64](t).complete(c)
	case reflect.Float32:
		float32Atom.complete(c)
	case reflect.Float64:
		float64Atom.complete(c)
	case reflect.Complex64:
		complex64Atom.complete(c)
	case reflect.Complex128:
		complex128Atom.complete(c)
	case reflect.String:
		stringAtom(t).complete(c)
	}
}

func encodeComplex64(e *encoder, x complex64) error {
	if err := e.wire.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := e.wire.EncodeFloat32(real(x)); err != nil {
		return err
	}
	return e.wire.EncodeFloat32(imag(x))
}

func decodeComplex64(d *decoder) (complex64, error) {
	if err := d.tuple(2); err != nil {
		return 0, err
	}
	re, err := d.float32()
	if err != nil {
		return 0, err
	}
	im, err := d.float32()
	return complex(re, im), err
}

func encodeComplex128(e *encoder, x complex128) error {
	if err := e.wire.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := e.wire.EncodeFloat64(real(x)); err != nil {
		return err
	}
	return e.wire.EncodeFloat64(imag(x))
}

func decodeComplex128(d *decoder) (complex128, error) {
	if err := d.tuple(2); err != nil {
		return 0, err
	}
	re, err := d.float64()
	if err != nil {
		return 0, err
	}
	im, err := d.float64()
	return complex(re, im), err
}
