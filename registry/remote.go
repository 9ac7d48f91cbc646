package registry

import "reflect"

// A RemoteError is an error that a function returned in another process, or one that it wraps, as it arrives: it prints
// as the original did and wraps what that wrapped. [errors.Is] finds in it the registered variable that the original
// was, and [errors.As] a value of the original's type, if that is registered and its state could be sent.
type RemoteError struct {
	// Text is what Error() returned in the other process; cut, and it says so, if it is longer than 64 KiB.
	Text string
	// Type is the error's Go type there, as %T prints it.
	Type string

	// value is the error itself, as far as it exists here: a registered variable, or a value made from the state.
	value error
	// whole says that nothing is lost if value stands in for all of this.
	whole  bool
	causes []error
}

func (e *RemoteError) Error() string { return e.Text }

// Unwrap returns the errors that e wraps.
func (e *RemoteError) Unwrap() []error { return e.causes }

// Is reports whether e is target, or says so by a method Is of its own. What e wraps is errors.Is's to ask. A method that
// panics has said no: it may meet a state here that the other process made up.
func (e *RemoteError) Is(target error) (is bool) {
	if e.value == nil {
		return false
	}
	defer func() { is = recover() == nil && is }()
	if canCompare(target) && e.value == target {
		return true
	}
	x, ok := e.value.(interface{ Is(error) bool })
	return ok && x.Is(target)
}

// As sets target to the value that e is, if it is one of target's type, or lets a method As of its own do it.
func (e *RemoteError) As(target any) (as bool) {
	if e.value == nil {
		return false
	}
	defer func() { as = recover() == nil && as }()
	if to := reflect.ValueOf(target).Elem(); reflect.TypeOf(e.value).AssignableTo(to.Type()) {
		to.Set(reflect.ValueOf(e.value))
		return true
	}
	x, ok := e.value.(interface{ As(any) bool })
	return ok && x.As(target)
}

// plain is the error as a field holds it: the very value if that is all of it, so that code which compares the field or
// looks at its type finds what it would have found in the other process.
func (e *RemoteError) plain() error {
	if e.whole {
		return e.value
	}
	return e
}
