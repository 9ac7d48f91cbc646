package registry

import (
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// An errorType is a registered type of errors.
type errorType struct {
	name string
	typ  reflect.Type
	// codec is nil if the state can't be sent; such errors arrive as text.
	codec func() *Codec
	// partial says that a field isn't sent, because its tag says so.
	partial func() bool
}

// errorTypes holds the error types that were registered.
var errorTypes = struct {
	sync.RWMutex
	byName map[string]*errorType
	byType map[reflect.Type]*errorType
}{
	byName: map[string]*errorType{},
	byType: map[reflect.Type]*errorType{},
}

// The standard library's error types that every program knows. Those of other packages are registered by generated code,
// where a program uses them.
func init() {
	ErrorType[fs.PathError]()
	ErrorType[os.LinkError]()
	ErrorType[os.SyscallError]()
	ErrorType[strconv.NumError]()
	ErrorType[syscall.Errno]()
	ErrorType[time.ParseError]()
}

// ErrorType registers an error type, so that [errors.As] finds a value of it, with all its state, in what a function
// returned after that crossed the wire. If T is an error, values and pointers are found, each as the function returned it;
// if only *T is, pointers. A field of type error in T travels as the tree of errors that it holds. An error whose state
// can't be sent (see [CodecOf]) arrives as text with its type's name, and never in part. Call it from init, so that the
// worker does too. It panics if another type has its name, which happens only to types that are declared inside functions.
func ErrorType[T any]() {
	t := reflect.TypeFor[T]()
	registerErrorType(t)
	registerErrorType(reflect.PointerTo(t))
}

// registerErrorType registers t if it is an error. One that no longer is, until generated code is written anew, is nobody's.
func registerErrorType(t reflect.Type) {
	if !t.Implements(errorInterface) || t.Kind() == reflect.Interface {
		return
	}
	e := &errorType{
		name: typeName(t), typ: t,
		codec: sync.OnceValue(func() *Codec {
			codec, err := CodecOf(t)
			if err != nil {
				return nil
			}
			return codec
		}),
		partial: sync.OnceValue(func() bool { return leavesOut(t, map[reflect.Type]bool{}) }),
	}
	errorTypes.Lock()
	defer errorTypes.Unlock()
	other := errorTypes.byName[e.name]
	switch {
	case other == nil:
		errorTypes.byName[e.name], errorTypes.byType[t] = e, e
	case other.typ != t:
		panic(fmt.Sprintf("registry: two error types are called %s; declare one of them outside of its function", e.name))
	}
}

func errorTypeOf(t reflect.Type) *errorType {
	errorTypes.RLock()
	defer errorTypes.RUnlock()
	return errorTypes.byType[t]
}

func errorTypeNamed(name []byte) *errorType {
	errorTypes.RLock()
	defer errorTypes.RUnlock()
	return errorTypes.byName[string(name)]
}

// leavesOut reports whether a field of t, or of what it is made of, isn't sent. What interfaces hold is not looked at.
func leavesOut(t reflect.Type, seen map[reflect.Type]bool) bool {
	if _, ok := leaves[t]; ok || seen[t] || formOf(t) != nil {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return leavesOut(t.Elem(), seen)
	case reflect.Map:
		return leavesOut(t.Key(), seen) || leavesOut(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			field := t.Field(i)
			if left(field) && field.Name != "_" || !left(field) && leavesOut(field.Type, seen) {
				return true
			}
		}
	}
	return false
}
