package registry

import (
	"context"
	"fmt"
	"reflect"
	"sync"
)

// identity is what tells two functions apart. The type is needed beside the code because instantiations of a generic
// function may share code, the code because functions share types.
type identity struct {
	code uintptr
	typ  reflect.Type
}

// functions holds what was registered.
var functions = struct {
	sync.RWMutex
	byName     map[string]*Entry
	byIdentity map[identity]*Entry
}{
	byName:     map[string]*Entry{},
	byIdentity: map[identity]*Entry{},
}

// Function registers a function of one argument under a name that is unique in the program: "example.com/m/train.Train".
// Generated code calls it from init; nothing is computed before the function is first used. It panics if name is taken
// by another function, if the function has another name already, or if fn is nil: programs with such a registration
// would run the wrong code.
func Function[In, Out any](name string, fn func(context.Context, In) (Out, error)) {
	register(name, reflect.ValueOf(fn), func() *Invocation {
		var in In
		var out Out
		return &Invocation{
			args:   []any{&in},
			result: &out,
			run: func(ctx context.Context) (err error) {
				out, err = fn(ctx, in)
				return err
			},
		}
	})
}

// Action registers a function with an argument and no result but its error. See [Function].
func Action[In any](name string, fn func(context.Context, In) error) {
	register(name, reflect.ValueOf(fn), func() *Invocation {
		var in In
		return &Invocation{
			args: []any{&in},
			run:  func(ctx context.Context) error { return fn(ctx, in) },
		}
	})
}

// Function0 registers a function without an argument. See [Function].
func Function0[Out any](name string, fn func(context.Context) (Out, error)) {
	register(name, reflect.ValueOf(fn), func() *Invocation {
		var out Out
		return &Invocation{
			result: &out,
			run: func(ctx context.Context) (err error) {
				out, err = fn(ctx)
				return err
			},
		}
	})
}

// Function2 registers a function of two arguments. See [Function].
func Function2[A, B, Out any](name string, fn func(context.Context, A, B) (Out, error)) {
	register(name, reflect.ValueOf(fn), func() *Invocation {
		var a A
		var b B
		var out Out
		return &Invocation{
			args:   []any{&a, &b},
			result: &out,
			run: func(ctx context.Context) (err error) {
				out, err = fn(ctx, a, b)
				return err
			},
		}
	})
}

func register(name string, fn reflect.Value, begin func() *Invocation) {
	if fn.IsNil() {
		panic(fmt.Sprintf("registry: the function registered as %s is nil", name))
	}
	id := identity{fn.Pointer(), fn.Type()}

	functions.Lock()
	defer functions.Unlock()
	byName, byIdentity := functions.byName[name], functions.byIdentity[id]
	switch {
	case byName == nil && byIdentity == nil:
		entry := &Entry{name: name, id: id, begin: begin}
		functions.byName[name] = entry
		functions.byIdentity[id] = entry
	case byName == byIdentity: // the same registration again
	case byIdentity != nil:
		panic(fmt.Sprintf("registry: the function registered as %s is registered as %s too; run go generate again",
			name, byIdentity.name))
	default:
		panic(fmt.Sprintf("registry: two functions are registered as %s, a %s and a %s; run go generate again",
			name, byName.id.typ, id.typ))
	}
}

// Lookup finds the entry of a function by its identity. It reports false for what is nil, not a function, or not
// registered.
func Lookup(fn any) (*Entry, bool) {
	v := reflect.ValueOf(fn)
	if v.Kind() != reflect.Func || v.IsNil() {
		return nil, false
	}
	functions.RLock()
	defer functions.RUnlock()
	entry, ok := functions.byIdentity[identity{v.Pointer(), v.Type()}]
	return entry, ok
}

// ByName finds the entry of the function that is registered under name.
func ByName(name string) (*Entry, bool) {
	functions.RLock()
	defer functions.RUnlock()
	entry, ok := functions.byName[name]
	return entry, ok
}
