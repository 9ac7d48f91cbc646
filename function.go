package sbx

import (
	"fmt"
	"reflect"
	"runtime"
	"sync/atomic"

	"github.com/sandboxfn/sbx/internal/pool"
	"github.com/sandboxfn/sbx/registry"
	"github.com/sandboxfn/sbx/worker"
)

// function is what wrapped functions of all types have in common.
type function struct {
	session *Session
	fn      any
	config  functionConfig
	class   class
	where   *Sandbox // that calls run in; nil for those of the session's pool
	misuse  error    // found when the function was wrapped

	entry atomic.Pointer[registry.Entry] // set when it was found
}

// notWrapped stands for functions that are nil or zero, as a field is that was not set.
var notWrapped = &function{fn: (func())(nil), misuse: &OptionError{Option: "the function", Reason: "was not wrapped; use what Session.Function or the like returned"}}

// made is the function, or notWrapped.
func (f *function) made() *function {
	if f == nil {
		return notWrapped
	}
	return f
}

// sandboxes are those that calls run in.
func (f *function) sandboxes() *pool.Pool[class, *sandbox] {
	if f.where != nil {
		return f.where.calls
	}
	return f.session.pool
}

// in is the function in a sandbox of the program's own.
func (f *function) in(sb *Sandbox) *function {
	g := &function{session: f.session, fn: f.fn, config: f.config, where: sb, misuse: f.misuse}
	g.entry.Store(f.entry.Load())
	switch {
	case g.misuse != nil:
	case sb.wrong() != nil:
		g.misuse = sb.wrong()
	default:
		g.class = sb.class
	}
	return g
}

// wrap notes what is wrapped and how. What is wrong is reported by the first call, and by Err.
func (s *Session) wrap(fn any, opts []FunctionOption) *function {
	f := &function{session: s, fn: fn}
	switch {
	case !s.opened():
		f.misuse = errNotOpened
	case reflect.ValueOf(fn).IsNil():
		f.misuse = &OptionError{Option: "the function", Reason: "is nil; give a declared function"}
	default:
		f.config, f.misuse = newFunctionConfig(s.config.spec, opts)
		f.class = f.config.spec.class()
	}
	return f
}

// resolve looks the function up, and returns what is wrong with it or with how it was wrapped. A function that was wrapped
// before it was registered, by a package variable say, is found later.
func (f *function) resolve() error {
	if f.misuse != nil || f.entry.Load() != nil {
		return f.misuse
	}
	entry, ok := registry.Lookup(f.fn)
	switch {
	case !ok:
		return fmt.Errorf("%w: run \"go generate ./...\" (with //go:generate go tool sbxgen in a file of the module) or \"go tool sbxgen\", and build the whole package again (go run . and not go run main.go); closures and method values can't be registered", ErrNotRegistered)
	case worker.Diverts() == 0:
		return fmt.Errorf("%w for this program: its main package lacks the generated file that makes it a worker: run \"go tool sbxgen\" in the module of the main package, and build the whole package again (go run . and not go run main.go)", ErrNotRegistered)
	case entry.Err() != nil:
		return &ArgumentError{Err: entry.Err()}
	}
	f.entry.Store(entry)
	return nil
}

// name is the function's registered name, or what the runtime calls it.
func (f *function) name() string {
	f = f.made()
	if entry := f.entry.Load(); entry != nil {
		return entry.Name()
	}
	if entry, ok := registry.Lookup(f.fn); ok { // no call has looked it up, or none can
		return entry.Name()
	}
	return nameOf(f.fn)
}

// String is the function's name. What the function is wrapped with may be secret, and is not for fmt to print.
func (f *function) String() string { return f.name() }

// GoString is String, for %#v.
func (f *function) GoString() string { return f.name() }

// nameOf names a function that is not registered, for messages only.
func nameOf(fn any) string {
	if v := reflect.ValueOf(fn); !v.IsNil() {
		if f := runtime.FuncForPC(v.Pointer()); f != nil {
			return f.Name()
		}
	}
	return "(no function)"
}
