package registry

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"unsafe"
)

// A Codec writes and reads the values of one type. It is safe for concurrent use.
type Codec struct {
	typ reflect.Type
	min int // the least number of bytes that a value takes
	// Both get the address of a value of typ, which is faster than a reflect.Value of it by more than half.
	encode func(*encoder, unsafe.Pointer) error
	decode func(*decoder, unsafe.Pointer) error

	// What its values consist of, for Shape; empty where nothing needs to be told.
	fields []string
	of     []*Codec
	same   bool // they are encoded as those of the one in of are
}

// valueAt is the value of type t at p.
func valueAt(t reflect.Type, p unsafe.Pointer) reflect.Value { return reflect.NewAt(t, p).Elem() }

// addressOf is where an addressable value is.
func addressOf(v reflect.Value) unsafe.Pointer { return v.Addr().UnsafePointer() }

// codecs caches finished codecs by their reflect.Type.
var codecs sync.Map

// CodecOf gives the codec of a type, compiling it if it is asked for the first time. The error is a *[TypeError].
func CodecOf(t reflect.Type) (*Codec, error) {
	if codec, ok := codecs.Load(t); ok {
		return codec.(*Codec), nil
	}
	c := compiler{root: t, codecs: map[reflect.Type]*Codec{}}
	codec, err := c.codec(t)
	if err != nil {
		return nil, err
	}
	// Only now is every codec that another one refers to complete.
	for t, codec := range c.codecs {
		codecs.LoadOrStore(t, codec)
	}
	return codec, nil
}

// Append appends the encoding of v, which has the codec's type, to dst. The error is a *[ValueError]; dst is then
// returned as it was. v must not change meanwhile.
func (c *Codec) Append(dst []byte, v reflect.Value) ([]byte, error) { return c.append(dst, v, false) }

func (c *Codec) append(dst []byte, v reflect.Value, sorted bool) ([]byte, error) {
	if !v.IsValid() || v.Type() != c.typ {
		return dst, c.misuse(v, fmt.Sprintf("a value of type %s is needed", c.typ))
	}
	if !v.CanInterface() {
		return dst, c.misuse(v, "it was read from an unexported field")
	}
	return encode(dst, c, addressable(v), maxEncoded, nil, sorted)
}

// Decode sets v, which has the codec's type and can be set, from data, all of it. What v held before is lost. The
// error is a *[DataError], and v is then zero; or a *[ValueError] if v doesn't fit. data may be reused afterwards.
func (c *Codec) Decode(data []byte, v reflect.Value) error {
	return c.decodeFrom(decoder{data: data}, v)
}

func (c *Codec) decodeFrom(d decoder, v reflect.Value) error {
	if !v.IsValid() || v.Type() != c.typ || !v.CanSet() {
		return c.misuse(v, fmt.Sprintf("a settable value of type %s is needed", c.typ))
	}
	v.SetZero()
	err := d.value(c, v)
	if err != nil {
		v.SetZero()
	}
	return err
}

func (c *Codec) misuse(v reflect.Value, reason string) error {
	err := &ValueError{Path: rootName(c.typ), Reason: reason}
	if v.IsValid() {
		err.Type = v.Type()
	}
	return err
}

// addressable gives v or a copy of it that has an address. All values inside an addressable one are addressable too,
// but for those in maps and interfaces; so marshalers with pointer receivers work everywhere.
func addressable(v reflect.Value) reflect.Value {
	if v.CanAddr() {
		return v
	}
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	return copied
}

// A compiler makes the codecs of one root type and of all that it is made of.
type compiler struct {
	root   reflect.Type
	codecs map[reflect.Type]*Codec // those that this compiler began; a recursive type finds its own here
	path   []string                // outermost first
}

func (c *compiler) refuse(t reflect.Type, reason string) error {
	path := rootName(c.root)
	for _, segment := range c.path {
		path += segment
	}
	return &TypeError{Root: c.root, Path: path, Type: t, Reason: reason}
}

// inside compiles the codec of a part.
func (c *compiler) inside(segment string, t reflect.Type) (*Codec, error) {
	c.path = append(c.path, segment)
	codec, err := c.codec(t)
	c.path = c.path[:len(c.path)-1]
	return codec, err
}

func (c *compiler) codec(t reflect.Type) (*Codec, error) {
	if codec, ok := codecs.Load(t); ok {
		return codec.(*Codec), nil
	}
	if codec, ok := c.codecs[t]; ok {
		return codec, nil
	}
	// A type contains itself only through pointers, slices, maps and interfaces, and each of them takes a byte at
	// least, so this minimum is right wherever it is read before the codec is complete.
	codec := &Codec{typ: t, min: 1}
	c.codecs[t] = codec
	return codec, c.build(codec)
}

func (c *compiler) build(codec *Codec) error {
	t := codec.typ
	if leaf, ok := leaves[t]; ok {
		codec.min, codec.encode, codec.decode = leaf.min, leaf.encode, leaf.decode
		return nil
	}
	if reason := refusal(t); reason != "" {
		return c.refuse(t, reason)
	}
	form := formOf(t)
	if half := halfForm(t); form == nil && half != "" {
		return c.refuse(t, half)
	}
	if form != nil {
		form.build(codec)
		return nil
	}

	switch t.Kind() {
	case reflect.Pointer:
		return c.pointer(codec)
	case reflect.Slice:
		return c.slice(codec)
	case reflect.Array:
		return c.array(codec)
	case reflect.Map:
		return c.mapping(codec)
	case reflect.Struct:
		return c.structure(codec)
	case reflect.Interface:
		if isErrorField(t) {
			errorField(codec)
		} else {
			dynamic(codec)
		}
		return nil
	default:
		scalar(codec)
		return nil
	}
}

var (
	errorInterface = reflect.TypeFor[error]()
	contextType    = reflect.TypeFor[context.Context]()
)

// refusal says why values of a type can't be sent whatever they hold; it is empty if they can.
func refusal(t reflect.Type) string {
	switch t.PkgPath() {
	case "sync", "sync/atomic":
		return `it guards memory of this process; leave the field out with the tag msgpack:"-"`
	}
	switch t.Kind() {
	case reflect.Chan:
		return "a channel belongs to this process; send the values instead"
	case reflect.Func:
		return "a function is code of this process; send the data that selects it"
	case reflect.UnsafePointer, reflect.Uintptr:
		return "an address means nothing in another process"
	case reflect.Array:
		if uint64(t.Len()) > maxLength {
			return "it has more elements than an array on the wire can have"
		}
	case reflect.Interface:
		switch {
		case t.Implements(errorInterface) && !isErrorField(t):
			return "an error may arrive as text, which has no other methods; use the type error"
		case t == contextType:
			return "a context doesn't cross; take it as the function's first parameter"
		}
	}
	return ""
}
