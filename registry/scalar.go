package registry

import (
	"reflect"

	"github.com/vmihailenco/msgpack/v5"
)

// scalar completes the codec of a type without parts.
func scalar(c *Codec) {
	t := c.typ
	switch t.Kind() {
	case reflect.Bool:
		c.encode = func(e *encoder, v reflect.Value) error { return e.wire.EncodeBool(v.Bool()) }
		c.decode = func(d *decoder, v reflect.Value) error {
			b, err := d.bool()
			v.SetBool(b)
			return err
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		c.encode = func(e *encoder, v reflect.Value) error { return e.wire.EncodeInt(v.Int()) }
		c.decode = func(d *decoder, v reflect.Value) error {
			n, err := d.int64()
			if err == nil && v.OverflowInt(n) {
				err = d.fail("%d overflows %s", n, t)
			}
			v.SetInt(n)
			return err
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		c.encode = func(e *encoder, v reflect.Value) error { return e.wire.EncodeUint(v.Uint()) }
		c.decode = func(d *decoder, v reflect.Value) error {
			n, err := d.uint64()
			if err == nil && v.OverflowUint(n) {
				err = d.fail("%d overflows %s", n, t)
			}
			v.SetUint(n)
			return err
		}
	case reflect.Float32:
		c.min = 5
		c.encode = func(e *encoder, v reflect.Value) error { return e.wire.EncodeFloat32(float32(v.Float())) }
		c.decode = func(d *decoder, v reflect.Value) error {
			f, err := d.float32()
			v.SetFloat(float64(f))
			return err
		}
	case reflect.Float64:
		c.min = 9
		c.encode = func(e *encoder, v reflect.Value) error { return e.wire.EncodeFloat64(v.Float()) }
		c.decode = func(d *decoder, v reflect.Value) error {
			f, err := d.float64()
			v.SetFloat(f)
			return err
		}
	case reflect.Complex64:
		c.min = 11
		c.encode = encodeComplex64
		c.decode = decodeComplex64
	case reflect.Complex128:
		c.min = 19
		c.encode = encodeComplex128
		c.decode = decodeComplex128
	case reflect.String:
		c.encode = func(e *encoder, v reflect.Value) error { return e.string(t, v.String()) }
		c.decode = func(d *decoder, v reflect.Value) error {
			b, err := d.text()
			v.SetString(string(b))
			return err
		}
	}
}

func encodeComplex64(e *encoder, v reflect.Value) error {
	x := complex64(v.Complex())
	if err := e.wire.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := e.wire.EncodeFloat32(real(x)); err != nil {
		return err
	}
	return e.wire.EncodeFloat32(imag(x))
}

func decodeComplex64(d *decoder, v reflect.Value) error {
	if err := d.tuple(2); err != nil {
		return err
	}
	re, err := d.float32()
	if err != nil {
		return err
	}
	im, err := d.float32()
	v.SetComplex(complex128(complex(re, im)))
	return err
}

func encodeComplex128(e *encoder, v reflect.Value) error {
	x := v.Complex()
	if err := e.wire.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := e.wire.EncodeFloat64(real(x)); err != nil {
		return err
	}
	return e.wire.EncodeFloat64(imag(x))
}

func decodeComplex128(d *decoder, v reflect.Value) error {
	if err := d.tuple(2); err != nil {
		return err
	}
	re, err := d.float64()
	if err != nil {
		return err
	}
	im, err := d.float64()
	v.SetComplex(complex(re, im))
	return err
}

// numbers holds how slices of the common number types are written and read without a reflect.Value for each element.
var numbers = map[reflect.Type]func(*Codec){
	reflect.TypeFor[float64](): func(c *Codec) { plain(c, 9, (*msgpack.Encoder).EncodeFloat64, (*decoder).float64) },
	reflect.TypeFor[float32](): func(c *Codec) { plain(c, 5, (*msgpack.Encoder).EncodeFloat32, (*decoder).float32) },
	reflect.TypeFor[int64]():   func(c *Codec) { plain(c, 1, (*msgpack.Encoder).EncodeInt, (*decoder).int64) },
	reflect.TypeFor[uint64]():  func(c *Codec) { plain(c, 1, (*msgpack.Encoder).EncodeUint, (*decoder).uint64) },
	reflect.TypeFor[int](): func(c *Codec) {
		plain(c, 1,
			func(wire *msgpack.Encoder, n int) error { return wire.EncodeInt(int64(n)) },
			func(d *decoder) (int, error) {
				n, err := d.int64()
				if err == nil && int64(int(n)) != n {
					err = d.fail("%d overflows int", n)
				}
				return int(n), err
			})
	},
}

// plain completes the codec of a slice of a number type, whose elements take size bytes or more.
func plain[T any](c *Codec, size int, put func(*msgpack.Encoder, T) error, get func(*decoder) (T, error)) {
	t, basic := c.typ, reflect.TypeFor[[]T]()
	c.encode = func(e *encoder, v reflect.Value) error {
		if v.IsNil() {
			return e.wire.EncodeNil()
		}
		if err := e.arrayLen(t, v.Len()); err != nil {
			return err
		}
		for _, x := range v.Convert(basic).Interface().([]T) {
			if err := put(e.wire, x); err != nil {
				return err
			}
		}
		return nil
	}
	c.decode = func(d *decoder, v reflect.Value) error {
		if d.isNil() {
			return nil
		}
		n, err := d.array(size)
		if err != nil {
			return err
		}
		d.claimed -= n * size
		s := make([]T, n) // a number takes no more than eight times its least size on the wire
		for i := range s {
			if s[i], err = get(d); err != nil {
				return err
			}
		}
		v.Set(reflect.ValueOf(s).Convert(t))
		return nil
	}
}
