// Package train wraps functions, most of them wrongly. // want package:"summary of example.com/m/train"
package train

import (
	"context"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/registry"

	"example.com/m/other"
)

type job struct {
	Callback func()
	Shape    shape
}

type shape interface{ Area() float64 }

type box[T any] struct{ Value T }

type model struct{ rate float64 }

func (m *model) predict(ctx context.Context, n int) (int, error) { return n, nil }

// Epochs is written by main.
var Epochs int

// Known is written by main, and that is known.
//
//sbxgen:ignore SBX013 the sandbox is meant to see the default
var Known int

func train(ctx context.Context, j job) (int, error)   { return 0, nil }
func epochs(ctx context.Context, n int) (int, error)  { return n + Epochs + Known + other.Level(), nil }
func gen[T any](ctx context.Context, in T) (T, error) { return in, nil }

var session, _ = sbx.Open(context.Background()) // want `^SBX012: the initialization of a package variable runs in the sandbox too`

func init() {
	registry.Type[box[chan int]]() // want `^SBX015: no value of box\[chan int\] can be sent, registered or not: .*\.Value: chan int`
	registry.Type[shape]()         // want `^SBX015: shape is an interface, and registering one panics`
	registry.Type[box[int]]()
}

// Wrap wraps.
func Wrap(session *sbx.Session, fn func(context.Context, int) (int, error)) {
	type local struct{ N int }
	rate := 1
	session.Function(train) // want `^SBX003: job.Callback: func\(\) can't be sent`
	session.Function(epochs)
	session.Function(fn)                                             // want `^SBX005: fn is a parameter`
	session.Function((&model{}).predict)                             // want `^SBX004: .* is a method value, bound to a \*model`
	session.Function(gen[local])                                     // want `^SBX008: local is declared inside a function`
	session.Function[int, int](nil)                                  // want `^SBX006: nil is wrapped`
	_ = session.Function[int, int]                                   // want `^SBX009: session.Function is used as a value`
	session.Function(func(ctx context.Context, n int) (int, error) { // want `^SBX002: a function literal captures rate \(int\)`
		return rate, nil
	})
}

func generic[T any](session *sbx.Session) {
	session.Function(gen[T]) // want `^SBX007: gen\[T\] is wrapped with the type parameter T`
}
