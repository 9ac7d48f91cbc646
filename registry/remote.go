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

	// variable is the registered variable that the error was.
	variable error
	// value is the error itself, as far as it exists here: the variable, or a value made from the state. They differ where
	// the state of a variable had changed in the other process.
	value error
	// whole says that nothing is lost if value stands in for all of this.
	whole   bool
	answers answers
	causes  []error
}

func (e *RemoteError) Error() string { return e.Text }

// Unwrap returns the errors that e wraps.
func (e *RemoteError) Unwrap() []error { return e.causes }

// Is reports whether e is target, or says so by a method Is of its own. What e wraps is errors.Is's to ask. A method that
// panics has said no: it may meet a state here that the other process made up.
func (e *RemoteError) Is(target error) (is bool) {
	defer func() { is = recover() == nil && is }()
	if canCompare(target) && (e.value == target || e.variable == target) {
		return true
	}
	x, ok := e.value.(interface{ Is(error) bool })
	return ok && x.Is(target)
}

// As sets target to the value that e is, if it is one of target's type, or lets a method As of its own do it. Text that
// was a net.Error is one here, too.
func (e *RemoteError) As(target any) (as bool) {
	defer func() { as = recover() == nil && as }()
	self := e.value
	if self == nil {
		self = e.plain()
	}
	to := reflect.ValueOf(target).Elem()
	for _, candidate := range []error{self, e} {
		if reflect.TypeOf(candidate).AssignableTo(to.Type()) {
			to.Set(reflect.ValueOf(candidate))
			return true
		}
	}
	x, ok := e.value.(interface{ As(any) bool })
	return ok && x.As(target)
}

// plain is the error as a field holds it: the very value if that is all of it, so that code which compares the field or
// looks at its type finds what it would have found in the other process.
func (e *RemoteError) plain() error {
	switch {
	case e.whole:
		return e.value
	case e.answers&isTimeouter == 0:
		return e
	case e.answers&isTemporary == 0:
		return timeoutError{e}
	}
	return netError{timeoutError{e}}
}

// answers are what an error says by the methods of a net.Error, which much code asks errors of unknown types for. The
// types that have them are rarely exported.
type answers uint8

const (
	isTimeouter answers = 1 << iota // has the method Timeout
	timeout                         // which returned true
	isTemporary                     // has the method Temporary
	temporary                       // which returned true
	allAnswers  = 1<<iota - 1
)

// answersOf asks an error. One that panics has not answered.
func answersOf(err error) (a answers) {
	defer func() {
		if recover() != nil {
			a = 0
		}
	}()
	if e, ok := err.(interface{ Timeout() bool }); ok {
		if a |= isTimeouter; e.Timeout() {
			a |= timeout
		}
	}
	if e, ok := err.(interface{ Temporary() bool }); ok {
		if a |= isTemporary; e.Temporary() {
			a |= temporary
		}
	}
	return a
}

// A timeoutError is text that was an error with the method Timeout.
type timeoutError struct{ *RemoteError }

func (e timeoutError) Timeout() bool { return e.answers&timeout != 0 }

// A netError is text that was a net.Error.
type netError struct{ timeoutError }

func (e netError) Temporary() bool { return e.answers&temporary != 0 }

// asRemote returns the RemoteError that an error is; nil if it is none.
func asRemote(err error) *RemoteError {
	switch e := err.(type) {
	case *RemoteError:
		return e
	case timeoutError:
		return e.RemoteError
	case netError:
		return e.RemoteError
	}
	return nil
}
