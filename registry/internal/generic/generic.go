// Package generic holds functions for tests of identity across packages.
package generic

import "context"

// Echo returns its argument.
func Echo[T any](_ context.Context, in T) (T, error) { return in, nil }

// Plain returns its argument. It is small enough to be inlined.
func Plain(_ context.Context, in int) (int, error) { return in, nil }

// Same has the code and the type of Plain.
func Same(_ context.Context, in int) (int, error) { return in, nil }

// Named has the shape of int, so that instantiations share code with int's.
type Named int

// The functions as this package names them.
var (
	Int      = Echo[int]
	String   = Echo[string]
	Pointer  = Echo[*int]
	OfNamed  = Echo[Named]
	PlainVar = Plain
	SameVar  = Same
)
