package registry

import (
	"bytes"
	"encoding"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// A form says by which pair of methods a type travels.
type form struct {
	name                       string
	marshalName, unmarshalName string
	marshaler, unmarshaler     reflect.Type
	marshal                    func(any) ([]byte, error)
	unmarshal                  func(any, []byte) error
}

// forms are all of them, in the order in which they are preferred.
var forms = []*form{
	{
		name:          "msgpack",
		marshalName:   "MarshalMsgpack",
		unmarshalName: "UnmarshalMsgpack",
		marshaler:     reflect.TypeFor[msgpack.Marshaler](),
		unmarshaler:   reflect.TypeFor[msgpack.Unmarshaler](),
		marshal:       func(v any) ([]byte, error) { return v.(msgpack.Marshaler).MarshalMsgpack() },
		// Unlike the other two, this method isn't documented to leave the bytes alone.
		unmarshal: func(v any, b []byte) error { return v.(msgpack.Unmarshaler).UnmarshalMsgpack(bytes.Clone(b)) },
	},
	{
		name:          "binary",
		marshalName:   "MarshalBinary",
		unmarshalName: "UnmarshalBinary",
		marshaler:     reflect.TypeFor[encoding.BinaryMarshaler](),
		unmarshaler:   reflect.TypeFor[encoding.BinaryUnmarshaler](),
		marshal:       func(v any) ([]byte, error) { return v.(encoding.BinaryMarshaler).MarshalBinary() },
		unmarshal:     func(v any, b []byte) error { return v.(encoding.BinaryUnmarshaler).UnmarshalBinary(b) },
	},
	{
		name:          "text",
		marshalName:   "MarshalText",
		unmarshalName: "UnmarshalText",
		marshaler:     reflect.TypeFor[encoding.TextMarshaler](),
		unmarshaler:   reflect.TypeFor[encoding.TextUnmarshaler](),
		marshal:       func(v any) ([]byte, error) { return v.(encoding.TextMarshaler).MarshalText() },
		unmarshal:     func(v any, b []byte) error { return v.(encoding.TextUnmarshaler).UnmarshalText(b) },
	},
}

// formOf gives the form of a type; nil if it travels by its kind.
func formOf(t reflect.Type) *form {
	for _, f := range forms {
		if declares(t, f.marshaler) && declares(t, f.unmarshaler) {
			return f
		}
	}
	return nil
}

// halfForm says what is missing where a type has one method of a pair only; it is empty if there is none such.
func halfForm(t reflect.Type) string {
	for _, f := range forms {
		marshal, unmarshal := declares(t, f.marshaler), declares(t, f.unmarshaler)
		has, lacks := f.marshalName, f.unmarshalName
		if unmarshal {
			has, lacks = lacks, has
		}
		if marshal != unmarshal {
			return fmt.Sprintf("it has %s but no %s of its own, so only one side could use it; give it both", has, lacks)
		}
	}
	return ""
}

// declares reports whether a type has the method of an interface, on the value or the pointer, by itself. If an
// embedded field has it too, the type most likely has it from there, and a method from there knows nothing of the
// other fields; so it doesn't count, and the struct travels field by field.
func declares(t, method reflect.Type) bool {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface || !has(t, method) {
		return false
	}
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if field := t.Field(i); field.Anonymous && has(field.Type, method) {
				return false
			}
		}
	}
	return true
}

func has(t, method reflect.Type) bool {
	return t.Implements(method) || reflect.PointerTo(t).Implements(method)
}

// build completes the codec of a type that travels in the form. A nil slice or map stays nil and its methods unasked.
func (f *form) build(c *Codec) {
	t := c.typ
	mayBeNil := nilable(t)
	c.encode = func(e *encoder, p unsafe.Pointer) error {
		v := reflect.NewAt(t, p)
		if mayBeNil && v.Elem().IsNil() {
			return e.wire.EncodeNil()
		}
		b, err := guard(func() ([]byte, error) { return f.marshal(v.Interface()) })
		if err != nil {
			return fail(t, f.marshalName+" failed", err)
		}
		return e.bytes(t, b)
	}
	c.decode = func(d *decoder, p unsafe.Pointer) error {
		if mayBeNil && d.isNil() {
			return nil
		}
		b, err := d.binary()
		if err != nil {
			return err
		}
		from := d.off - len(b)
		_, err = guard(func() ([]byte, error) { return nil, f.unmarshal(reflect.NewAt(t, p).Interface(), b) })
		if err != nil {
			return &DataError{Offset: from, Reason: fmt.Sprintf("%s of %s failed", f.unmarshalName, t), Err: err}
		}
		return nil
	}
}

// guard turns a panic of a type's own method into an error: bytes from elsewhere must not be able to end the process
// through a method that trusts them.
func guard(method func() ([]byte, error)) (b []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %s", panicText(r))
		}
	}()
	return method()
}
