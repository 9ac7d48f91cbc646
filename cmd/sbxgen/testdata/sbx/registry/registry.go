// Package registry stands in for the real one: it remembers what was registered, in order.
package registry

import (
	"context"
	"reflect"
)

var Names []string

func Function[In, Out any](name string, fn func(context.Context, In) (Out, error)) { add(name) }
func Action[In any](name string, fn func(context.Context, In) error)               { add(name) }
func Function0[Out any](name string, fn func(context.Context) (Out, error))        { add(name) }
func Function2[A, B, Out any](name string, fn func(context.Context, A, B) (Out, error)) {
	add(name)
}
func Error(name string, err error) { add(name) }
func ErrorType[T any]()            { add(reflect.TypeFor[T]().String()) }

// Type registers a type that interfaces hold.
func Type[T any]() { add(reflect.TypeFor[T]().String()) }

func add(name string) { Names = append(Names, name) }
