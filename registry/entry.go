package registry

import (
	"context"
	"fmt"
	"reflect"
	"sync"
)

// An Entry is a registered function. Its methods may be called at the same time.
type Entry struct {
	name  string
	id    identity
	begin func() *Invocation // an invocation with zero arguments

	compileOnce sync.Once
	params      []*Codec
	result      *Codec // nil for an action
	err         error  // a *TypeError

	describeOnce sync.Once
	signature    string
	fingerprint  string
}

// Name is the name that the function was registered under.
func (e *Entry) Name() string { return e.name }

// Params are the types of the parameters after the context.
func (e *Entry) Params() []reflect.Type {
	params := make([]reflect.Type, 0, e.id.typ.NumIn()-1)
	for i := 1; i < e.id.typ.NumIn(); i++ {
		params = append(params, e.id.typ.In(i))
	}
	return params
}

// Result is the type of the result before the error; nil for an [Action].
func (e *Entry) Result() reflect.Type {
	if e.id.typ.NumOut() == 1 {
		return nil
	}
	return e.id.typ.Out(0)
}

// Signature is a canonical text of the parameters' and the result's types, with the names, fields and tags of all that
// they are made of. It is the same in each process that is built from the same source, on every platform.
func (e *Entry) Signature() string {
	e.describe()
	return e.signature
}

// Fingerprint is a short form of the signature: 32 lower-case hexadecimal digits.
func (e *Entry) Fingerprint() string {
	e.describe()
	return e.fingerprint
}

// Err is a *[TypeError] if the type of a parameter or of the result can't be sent, else nil.
func (e *Entry) Err() error {
	e.compile()
	return e.err
}

func (e *Entry) describe() {
	e.describeOnce.Do(func() {
		e.signature = signatureOf(e.Params(), e.Result())
		e.fingerprint = fingerprintOf(e.signature)
	})
}

func (e *Entry) compile() {
	e.compileOnce.Do(func() {
		for _, t := range e.Params() {
			codec, err := CodecOf(t)
			if err != nil {
				e.err = err
				return
			}
			e.params = append(e.params, codec)
		}
		if t := e.Result(); t != nil {
			e.result, e.err = CodecOf(t)
		}
	})
}

// EncodeArgs appends the encoding of the arguments to dst. Each argument is a pointer to a value of the parameter's
// type. The error is a *[TypeError] or a *[ValueError]; dst is then returned as it was.
func (e *Entry) EncodeArgs(dst []byte, args ...any) ([]byte, error) {
	return e.encodeArgs(dst, false, args)
}

// EncodeArgsSorted is [Entry.EncodeArgs] with the entries of maps in the order of their encodings, so that equal arguments have equal
// encodings, as far as marshalers of theirs see to that, too.
func (e *Entry) EncodeArgsSorted(dst []byte, args ...any) ([]byte, error) {
	return e.encodeArgs(dst, true, args)
}

func (e *Entry) encodeArgs(dst []byte, sorted bool, args []any) ([]byte, error) {
	e.compile()
	if e.err != nil {
		return dst, e.err
	}
	if len(args) != len(e.params) {
		return dst, &ValueError{Path: e.name, Reason: fmt.Sprintf(
			"the function takes %d arguments after the context, not %d", len(e.params), len(args))}
	}
	out := dst
	for i, arg := range args {
		codec := e.params[i]
		v, err := pointedTo(arg, codec.typ)
		if err != nil {
			return dst, err
		}
		if out, err = codec.append(out, v, sorted); err != nil {
			return dst, err
		}
	}
	return out, nil
}

// DecodeArgs reads what [Entry.EncodeArgs] wrote. The error is a *[TypeError] or a *[DataError]. data must not be changed
// afterwards: long values may be parts of it.
func (e *Entry) DecodeArgs(data []byte) (*Invocation, error) {
	e.compile()
	if e.err != nil {
		return nil, e.err
	}
	invocation := e.begin()
	invocation.entry = e
	d := decoder{data: data, owned: true}
	for _, codec := range e.params {
		if err := d.claim(codec.min, 1, "an argument"); err != nil {
			return nil, err
		}
	}
	for i, codec := range e.params {
		d.claimed -= codec.min
		if err := codec.decode(&d, reflect.ValueOf(invocation.args[i]).UnsafePointer()); err != nil {
			return nil, err
		}
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return invocation, nil
}

// DecodeResult reads what [Invocation.EncodeResult] wrote into result, a pointer to the result's type; for an [Action]
// it is nil. The error is a *[TypeError], a *[DataError], or a *[ValueError] if result has another type. data must not
// be changed afterwards: long values may be parts of it.
func (e *Entry) DecodeResult(data []byte, result any) error {
	e.compile()
	if e.err != nil {
		return e.err
	}
	if e.result == nil {
		d := decoder{data: data}
		return d.end()
	}
	v, err := pointedTo(result, e.result.typ)
	if err != nil {
		return err
	}
	return e.result.decodeFrom(decoder{data: data, owned: true}, v)
}

func pointedTo(pointer any, t reflect.Type) (reflect.Value, error) {
	v := reflect.ValueOf(pointer)
	if !v.IsValid() || v.Type() != reflect.PointerTo(t) || v.IsNil() {
		return reflect.Value{}, &ValueError{Path: rootName(t), Type: reflect.TypeOf(pointer),
			Reason: fmt.Sprintf("a pointer to a %s is needed", t)}
	}
	return v.Elem(), nil
}

// An Invocation is one call of a function with its arguments. It belongs to one goroutine.
type Invocation struct {
	entry  *Entry
	args   []any // pointers
	result any   // a pointer; nil for an action
	run    func(context.Context) error
}

// Run calls the function. The error is the function's own, untouched, and a panic of the function is not caught.
func (i *Invocation) Run(ctx context.Context) error { return i.run(ctx) }

// EncodeResult appends the encoding of the result to dst, after Run; nothing for an [Action]. The error is a
// *[ValueError]; dst is then returned as it was.
func (i *Invocation) EncodeResult(dst []byte) ([]byte, error) {
	if i.entry.result == nil {
		return dst, nil
	}
	return i.entry.result.Append(dst, reflect.ValueOf(i.result).Elem())
}
