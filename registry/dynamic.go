package registry

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"
)

// dynamicTypes holds the concrete types that may travel inside interfaces.
var dynamicTypes = struct {
	sync.RWMutex
	byName map[string]reflect.Type
	names  map[reflect.Type]string
}{
	byName: map[string]reflect.Type{},
	names:  map[reflect.Type]string{},
}

// basicTypes are those that travel inside interfaces without registration.
var basicTypes = sync.OnceValue(func() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for _, t := range []reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[string](), reflect.TypeFor[[]byte](),
		reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int16](), reflect.TypeFor[int32](), reflect.TypeFor[int64](),
		reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint32](), reflect.TypeFor[uint64](),
		reflect.TypeFor[float32](), reflect.TypeFor[float64](),
		reflect.TypeFor[time.Time](), reflect.TypeFor[time.Duration](),
		reflect.TypeFor[complex64](), reflect.TypeFor[complex128](),
		reflect.TypeFor[[]any](), reflect.TypeFor[map[string]any](),
		reflect.TypeFor[[]bool](), reflect.TypeFor[[]string](), reflect.TypeFor[[]int](), reflect.TypeFor[[]int64](),
		reflect.TypeFor[[]float32](), reflect.TypeFor[[]float64](),
		reflect.TypeFor[map[string]bool](), reflect.TypeFor[map[string]string](), reflect.TypeFor[map[string]int](),
		reflect.TypeFor[map[string]float64](),
	} {
		types[typeName(t)] = t
	}
	return types
})

// Type registers a concrete type, so that its values may travel inside interfaces: in a field of type any, or in a
// result that is an interface. Register exactly the type that the interface holds: *Circle is another type than
// Circle. The types that need no registration are listed in the package comment. Call it from init or a package
// variable, so that the worker does too. It panics if T is an interface itself, or if another type has its name, which
// happens only to types that are declared inside functions.
func Type[T any]() {
	t := reflect.TypeFor[T]()
	name := typeName(t)
	if t.Kind() == reflect.Interface {
		panic(fmt.Sprintf("registry: Type[%s] registers an interface; register the types that it holds", name))
	}
	dynamicTypes.Lock()
	defer dynamicTypes.Unlock()
	if other, ok := dynamicTypes.byName[name]; ok && other != t {
		panic(fmt.Sprintf("registry: two types are called %s; declare one of them outside of its function", name))
	}
	dynamicTypes.byName[name] = t
	dynamicTypes.names[t] = name
}

func dynamicName(t reflect.Type) (string, bool) {
	name := typeName(t)
	if basicTypes()[name] == t {
		return name, true
	}
	dynamicTypes.RLock()
	defer dynamicTypes.RUnlock()
	name, ok := dynamicTypes.names[t]
	return name, ok
}

func dynamicType(name []byte) (reflect.Type, bool) {
	if t, ok := basicTypes()[string(name)]; ok {
		return t, true
	}
	dynamicTypes.RLock()
	defer dynamicTypes.RUnlock()
	t, ok := dynamicTypes.byName[string(name)]
	return t, ok
}

// registryPath is the import path of this package.
var registryPath = reflect.TypeFor[Codec]().PkgPath()

// howToRegister says how a type is registered: with the call, if that can be written in any package.
func howToRegister(t reflect.Type) string {
	if owner := onlyNamedIn(t); owner != "" {
		return fmt.Sprintf("register it from its package, %s, in init: with Type of %s", owner, registryPath)
	}
	return fmt.Sprintf("call registry.Type[%s]() of %s from init", t, registryPath)
}

// onlyNamedIn gives the package which a type can't be named outside of, because something in it isn't exported or the
// package can't be imported. It is empty if there is none. The arguments of a generic type aren't known, and what is
// written for them isn't Go; so it counts as one that can't be named.
func onlyNamedIn(t reflect.Type) string {
	if t.Name() != "" {
		qualifier, name, _ := strings.Cut(t.String(), ".")
		first, _ := utf8.DecodeRuneInString(name)
		imported := qualifier != "main" && !strings.HasSuffix(qualifier, "_test")
		if imported && unicode.IsUpper(first) && !strings.Contains(name, "[") {
			return ""
		}
		return t.PkgPath() // empty for a predeclared type
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return onlyNamedIn(t.Elem())
	case reflect.Map:
		return cmp.Or(onlyNamedIn(t.Key()), onlyNamedIn(t.Elem()))
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i)
			if owner := cmp.Or(field.PkgPath, onlyNamedIn(field.Type)); owner != "" {
				return owner
			}
		}
	}
	return ""
}

// dynamic completes the codec of an interface: nil, or [type name, value].
func dynamic(c *Codec) {
	t := c.typ
	c.encode = func(e *encoder, p unsafe.Pointer) error {
		v := valueAt(t, p)
		if v.IsNil() {
			return e.wire.EncodeNil()
		}
		held := v.Elem()
		segment := ".(" + held.Type().String() + ")"
		codec, err := CodecOf(held.Type())
		if err != nil {
			return at(fail(held.Type(), "no value of this type can", err), segment)
		}
		name, ok := dynamicName(held.Type())
		if !ok {
			return fail(held.Type(), "an interface holds it, and it isn't registered; "+howToRegister(held.Type()), nil)
		}
		if err := e.enter(t, 0, 0); err != nil {
			return err
		}
		if err := e.wire.EncodeArrayLen(2); err != nil {
			return err
		}
		if err := e.wire.EncodeString(name); err != nil {
			return err
		}
		if err := codec.encode(e, addressOf(addressable(held))); err != nil {
			return at(err, segment)
		}
		e.leave(t, 0, 0)
		return nil
	}
	c.decode = func(d *decoder, p unsafe.Pointer) error {
		if d.isNil() {
			return nil
		}
		if err := d.enter(); err != nil {
			return err
		}
		if err := d.tuple(2); err != nil {
			return err
		}
		name, err := d.text()
		if err != nil {
			return err
		}
		held, ok := dynamicType(name)
		if !ok {
			return d.fail("an interface holds a %.100q, which isn't registered here; call registry.Type for it from init", name)
		}
		if !held.AssignableTo(t) {
			return d.fail("an interface %s holds a %s, which doesn't implement it", t, held)
		}
		codec, err := CodecOf(held)
		if err != nil {
			return &DataError{Offset: d.off, Reason: "an interface holds a type that can't be sent", Err: err}
		}
		if err := d.claim(codec.min, 1, "a value"); err != nil {
			return err
		}
		d.claimed -= codec.min
		x := reflect.New(held)
		if err := codec.decode(d, x.UnsafePointer()); err != nil {
			return err
		}
		valueAt(t, p).Set(x.Elem())
		d.leave()
		return nil
	}
}
