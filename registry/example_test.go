package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/sandboxfn/sbx/registry"
)

type Job struct {
	Name  string
	Steps int
}

func Train(_ context.Context, job Job) (string, error) {
	return fmt.Sprintf("%s took %d steps", job.Name, job.Steps), nil
}

var ErrDiverged = errors.New("training diverged")

// What generated code does in init, and what both sides of a call do with it.
func ExampleFunction() {
	registry.Function[Job, string]("example.com/m.Train", Train)

	// The calling side knows the function,
	entry, _ := registry.Lookup(Train)
	args, err := entry.EncodeArgs(nil, &Job{"mnist", 3})
	if err != nil {
		fmt.Println(err)
		return
	}

	// the running side its name.
	entry, _ = registry.ByName("example.com/m.Train")
	invocation, err := entry.DecodeArgs(args)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("error:", invocation.Run(context.Background()))
	data, _ := invocation.EncodeResult(nil)

	var result string
	fmt.Println("error:", entry.DecodeResult(data, &result))
	fmt.Println(result)
	// Output:
	// error: <nil>
	// error: <nil>
	// mnist took 3 steps
}

func ExampleError() {
	registry.Error("example.com/m.ErrDiverged", ErrDiverged)

	data := registry.AppendError(nil, fmt.Errorf("step 3: %w", ErrDiverged))
	err, _ := registry.DecodeError(data)
	fmt.Println(err, errors.Is(err, ErrDiverged))
	// Output: step 3: training diverged true
}

type StepError struct {
	Step int
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("step %d: %v", e.Step, e.Err) }

func ExampleErrorType() {
	registry.ErrorType[StepError]()

	data := registry.AppendError(nil, fmt.Errorf("training: %w", &StepError{3, io.ErrUnexpectedEOF}))
	err, _ := registry.DecodeError(data)
	fmt.Println(err)
	var step *StepError
	fmt.Println(errors.As(err, &step), step.Step, step.Err == io.ErrUnexpectedEOF)
	// Output:
	// training: step 3: unexpected EOF
	// true 3 true
}

type Circle struct{ Radius float64 }

func ExampleType() {
	type Drawing struct{ Shapes []any }
	drawing := Drawing{[]any{Circle{2}}}
	codec, _ := registry.CodecOf(reflect.TypeFor[Drawing]())

	_, err := codec.Append(nil, reflect.ValueOf(drawing))
	fmt.Println(err)

	registry.Type[Circle]()
	data, err := codec.Append(nil, reflect.ValueOf(drawing))
	fmt.Println(err)

	var copied Drawing
	err = codec.Decode(data, reflect.ValueOf(&copied).Elem())
	fmt.Println(copied, err)
	// Output:
	// Drawing.Shapes[0]: registry_test.Circle can't be sent: an interface holds it, and it isn't registered; register it from its package, github.com/sandboxfn/sbx/registry_test, in init: with Type of github.com/sandboxfn/sbx/registry
	// <nil>
	// {[{2}]} <nil>
}

func ExampleCodecOf() {
	type Options struct{ Callback func() }
	type Job struct{ Options Options }

	_, err := registry.CodecOf(reflect.TypeFor[Job]())
	fmt.Println(err)
	// Output: Job.Options.Callback: func() can't be sent: a function is code of this process; send the data that selects it
}
