package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
)

var (
	ErrAlias = io.ErrClosedPipe
	ErrStage = &StageError{Stage: "none"} // a variable of a type that is an error
)

type (
	StageError struct {
		Stage string
		Err   error
	}
	// lineError is unexported, and found as a value and as a pointer.
	lineError struct{ Line int }
	status    int
	manyError struct{ Errs []error }
	// nestedError has the fields and methods of the error that it embeds.
	nestedError struct {
		StageError
		Status status
	}
	// hiddenError arrives as text.
	hiddenError struct{ line int }
	// matchError is whatever has its status.
	matchError struct{ Status status }
	// misbehavingError panics in one of its methods.
	misbehavingError struct{ In string }
	nilError         struct{ text string }
)

func (e *StageError) Error() string { return fmt.Sprintf("stage %s: %v", e.Stage, e.Err) }
func (e *StageError) Unwrap() error { return e.Err }

func (e lineError) Error() string { return "line " + strconv.Itoa(e.Line) }

func (s status) Error() string { return "status " + strconv.Itoa(int(s)) }

func (e manyError) Error() string   { return fmt.Sprintf("%d errors", len(e.Errs)) }
func (e manyError) Unwrap() []error { return e.Errs }

func (e *hiddenError) Error() string { return "hidden line " + strconv.Itoa(e.line) }

func (e *matchError) Error() string        { return "match" }
func (e *matchError) Is(target error) bool { return target == e.Status }

func (e *misbehavingError) Error() string { return e.do("Error") }
func (e *misbehavingError) Is(error) bool { return e.do("Is") == "" }
func (e *misbehavingError) As(any) bool   { return e.do("As") == "" }
func (e *misbehavingError) Unwrap() error { e.do("Unwrap"); return nil }

func (e *misbehavingError) do(what string) string {
	if e.In == what {
		panic("in " + what)
	}
	return "misbehaves in " + e.In
}

func (e *nilError) Error() string { return e.text }

// quittingError ends the goroutine that reads it.
type quittingError struct{}

func (*quittingError) Error() string                  { return "quits" }
func (*quittingError) MarshalBinary() ([]byte, error) { return []byte{1}, nil }
func (*quittingError) UnmarshalBinary([]byte) error   { runtime.Goexit(); return nil }

// Typed returns errors by what they show.
func Typed(_ context.Context, what string) (int, error) {
	switch what {
	case "stage":
		return 0, fmt.Errorf("typed: %w", &StageError{"load", &StageError{"open", fmt.Errorf("first: %w", errors.Join(ErrOdd, ErrAlias))}})
	case "value":
		return 0, lineError{3}
	case "pointer":
		return 0, &lineError{4}
	case "status":
		return 0, fmt.Errorf("typed: %w", status(404))
	case "many":
		return 0, manyError{[]error{io.EOF, nil, &StageError{Stage: "x"}, manyError{[]error{status(1), ErrStage}}}}
	case "nested":
		return 0, &nestedError{StageError{"deep", errPrivate}, 500}
	case "hidden":
		return 0, fmt.Errorf("typed: %w", errors.Join(&hiddenError{5}, io.ErrNoProgress))
	case "match":
		return 0, &matchError{418}
	case "variable":
		return 0, fmt.Errorf("typed: %w", ErrStage)
	case "nil":
		return 0, (*nilError)(nil)
	case "quits":
		return 0, &quittingError{}
	case "path":
		_, err := os.Open("/no/such/file")
		return 0, err
	case "number":
		return strconv.Atoi("x1")
	case "url":
		_, err := url.PathUnescape("%zz")
		return 0, &url.Error{Op: "Get", URL: "http://x", Err: err}
	case "standard":
		return 0, errors.Join(
			&net.DNSError{Err: "no such host", Name: "x.test", IsNotFound: true, UnwrapErr: fs.ErrNotExist},
			&exec.Error{Name: "nobody", Err: exec.ErrNotFound},
			&os.LinkError{Op: "link", Old: "a", New: "b", Err: fs.ErrExist},
		)
	case "deep":
		err := ErrOdd
		for i := range 20 {
			err = errors.Join(io.ErrShortWrite, &StageError{strconv.Itoa(i), fmt.Errorf("at %d: %w", i, err)})
		}
		return 0, err
	}
	return 0, nil
}

// Misbehave returns an error that panics in one of its methods, beside one that doesn't.
func Misbehave(_ context.Context, in string) (int, error) {
	return 0, errors.Join(&misbehavingError{in}, ErrOdd)
}

// Outcome carries errors as values, both ways.
type Outcome struct {
	Err  error
	Errs map[string]error
}

func Judge(_ context.Context, outcome Outcome) (Outcome, error) {
	outcome.Errs = map[string]error{
		"odd":    nil,
		"was":    outcome.Err,
		"around": fmt.Errorf("judged: %w", outcome.Err),
	}
	if errors.Is(outcome.Err, ErrOdd) {
		outcome.Errs["odd"] = ErrOdd
	}
	return outcome, nil
}
