package sbx

import (
	"context"
	"iter"
)

// Function is a wrapped function with one argument. Its methods may be called at the same time.
type Function[In, Out any] struct {
	*function
	local func(context.Context, In) (Out, error)
}

// Function wraps fn, which must be declared somewhere (no closure, no method value) and registered by sbxgen. It does no
// I/O. What is wrong with fn or opts is reported by the first call, and by [Function.Err].
func (s *Session) Function[In, Out any](fn func(context.Context, In) (Out, error), opts ...FunctionOption) *Function[In, Out] {
	return &Function[In, Out]{s.wrap(fn, opts), fn}
}

// In returns the function for calls in that sandbox, which they start if nothing has. What the function's options say of sandboxes does not
// count there, Concurrency included: the sandbox's own does. When the sandbox has ended, calls fail with [ErrNotRunning].
func (f *Function[In, Out]) In(sb *Sandbox) *Function[In, Out] {
	if f == nil {
		f = new(Function[In, Out])
	}
	return &Function[In, Out]{f.inner().in(sb), f.local}
}

func (f *Function[In, Out]) inner() *function {
	if f == nil {
		return notWrapped
	}
	return f.made()
}

// Err returns what is wrong with how the function was wrapped; nil if nothing is.
func (f *Function[In, Out]) Err() error { return f.inner().resolve() }

// Call runs the function in a sandbox and waits for its result. When ctx ends, so does the function's context, and Call
// returns at once; a function that does not return within a second then loses its sandbox. The argument is encoded and the result decoded on
// the caller's goroutine: marshalers of the program's own are not interrupted, nor bounded by Timeout.
// Errors are [*CallError].
func (f *Function[In, Out]) Call(ctx context.Context, in In) (out Out, err error) {
	err = f.inner().invoke(ctx, &out, &in)
	return out, err
}

// Spawn starts a call and returns its handle. The argument is encoded before Spawn returns. ctx bounds the call.
func (f *Function[In, Out]) Spawn(ctx context.Context, in In) *Call[Out] {
	return spawn[Out](ctx, f.inner(), &in)
}

// Local runs the function in this process, without a sandbox, a copy of its argument, or a limit on its time.
func (f *Function[In, Out]) Local(ctx context.Context, in In) (out Out, err error) {
	if f == nil || f.local == nil {
		return out, f.inner().misuse
	}
	return f.local(ctx, in)
}

// Map runs the function on every input and yields the results in the order of the inputs.
//
// The input is taken on a goroutine of its own, and only as far ahead as [Ahead] allows. A call's error is yielded in its
// result's place, and the iteration goes on, unless [FailFast] is given. When ctx ends, the session is closed, or a
// [Journal] can't be written, one last error is yielded that belongs to no input: a [*CallError] whose Index is -1. Leaving
// the loop early cancels the calls that run and waits for them, and for the input as well unless that takes longer than a
// second; so does a panic in the loop's body. A panic in the input is raised in the loop. The results can be ranged over once.
func (f *Function[In, Out]) Map(ctx context.Context, inputs iter.Seq[In], opts ...MapOption) iter.Seq2[Out, error] {
	results := mapped[In, Out](ctx, f.inner(), inputs, one, true, opts)
	return func(yield func(Out, error) bool) {
		for result := range results {
			if !yield(result.Output, result.Err) {
				return
			}
		}
	}
}

// Result is what came of one input.
type Result[In, Out any] struct {
	// Index is the input's place, from 0; -1 if Err ended the whole run and belongs to no input.
	Index int
	// Input is the input.
	Input In
	// Output is what the function returned; the zero value if Err is not nil.
	Output Out
	// Err is the call's error.
	Err error
}

// MapUnordered is [Function.Map], but yields results as calls finish.
func (f *Function[In, Out]) MapUnordered(ctx context.Context, inputs iter.Seq[In], opts ...MapOption) iter.Seq[Result[In, Out]] {
	return mapped[In, Out](ctx, f.inner(), inputs, one, false, opts)
}

// MapSlice runs the function on every input and returns all results, in the order of the inputs. If calls fail, their
// results are zero and the error is a [*MapError]; with [FailFast], or when ctx ends, what did not run is zero too.
func (f *Function[In, Out]) MapSlice(ctx context.Context, inputs []In, opts ...MapOption) ([]Out, error) {
	outputs := make([]Out, len(inputs))
	failed := &MapError{Inputs: len(inputs)}
	each := func(yield func(In) bool) {
		for _, in := range inputs {
			if !yield(in) {
				return
			}
		}
	}
	known := mapOption(func(c *mapConfig) { c.total = len(inputs) })
	for result := range f.MapUnordered(ctx, each, append([]MapOption{known}, opts...)...) {
		switch {
		case result.Err != nil:
			failed.Errors = append(failed.Errors, result.Err)
		default:
			outputs[result.Index] = result.Output
		}
	}
	if len(failed.Errors) > 0 {
		return outputs, failed
	}
	return outputs, nil
}

// Action is a wrapped function that returns only an error. Its methods may be called at the same time.
type Action[In any] struct {
	*function
	local func(context.Context, In) error
}

// Action wraps fn as [Session.Function] does.
func (s *Session) Action[In any](fn func(context.Context, In) error, opts ...FunctionOption) *Action[In] {
	return &Action[In]{s.wrap(fn, opts), fn}
}

// In is [Function.In].
func (f *Action[In]) In(sb *Sandbox) *Action[In] {
	if f == nil {
		f = new(Action[In])
	}
	return &Action[In]{f.inner().in(sb), f.local}
}

func (f *Action[In]) inner() *function {
	if f == nil {
		return notWrapped
	}
	return f.made()
}

// Err is [Function.Err].
func (f *Action[In]) Err() error { return f.inner().resolve() }

// Call is [Function.Call].
func (f *Action[In]) Call(ctx context.Context, in In) error { return f.inner().invoke(ctx, nil, &in) }

// Spawn is [Function.Spawn]. The handle's result is empty.
func (f *Action[In]) Spawn(ctx context.Context, in In) *Call[struct{}] {
	return spawn[struct{}](ctx, f.inner(), &in)
}

// Local is [Function.Local].
func (f *Action[In]) Local(ctx context.Context, in In) error {
	if f == nil || f.local == nil {
		return f.inner().misuse
	}
	return f.local(ctx, in)
}

// Map is [Function.Map], and yields the error of each input, nil if it has none.
func (f *Action[In]) Map(ctx context.Context, inputs iter.Seq[In], opts ...MapOption) iter.Seq[error] {
	results := mapped[In, struct{}](ctx, f.inner(), inputs, one, true, opts)
	return func(yield func(error) bool) {
		for result := range results {
			if !yield(result.Err) {
				return
			}
		}
	}
}

// MapUnordered is [Function.MapUnordered]. The results' outputs are empty.
func (f *Action[In]) MapUnordered(ctx context.Context, inputs iter.Seq[In], opts ...MapOption) iter.Seq[Result[In, struct{}]] {
	return mapped[In, struct{}](ctx, f.inner(), inputs, one, false, opts)
}

// Function0 is a wrapped function with no argument but its context. Its methods may be called at the same time.
type Function0[Out any] struct {
	*function
	local func(context.Context) (Out, error)
}

// Function0 wraps fn as [Session.Function] does.
func (s *Session) Function0[Out any](fn func(context.Context) (Out, error), opts ...FunctionOption) *Function0[Out] {
	return &Function0[Out]{s.wrap(fn, opts), fn}
}

// In is [Function.In].
func (f *Function0[Out]) In(sb *Sandbox) *Function0[Out] {
	if f == nil {
		f = new(Function0[Out])
	}
	return &Function0[Out]{f.inner().in(sb), f.local}
}

func (f *Function0[Out]) inner() *function {
	if f == nil {
		return notWrapped
	}
	return f.made()
}

// Err is [Function.Err].
func (f *Function0[Out]) Err() error { return f.inner().resolve() }

// Call is [Function.Call].
func (f *Function0[Out]) Call(ctx context.Context) (out Out, err error) {
	err = f.inner().invoke(ctx, &out)
	return out, err
}

// Spawn is [Function.Spawn].
func (f *Function0[Out]) Spawn(ctx context.Context) *Call[Out] { return spawn[Out](ctx, f.inner()) }

// Local is [Function.Local].
func (f *Function0[Out]) Local(ctx context.Context) (out Out, err error) {
	if f == nil || f.local == nil {
		return out, f.inner().misuse
	}
	return f.local(ctx)
}

// Function2 is a wrapped function with two arguments. Its methods may be called at the same time.
type Function2[A, B, Out any] struct {
	*function
	local func(context.Context, A, B) (Out, error)
}

// Function2 wraps fn as [Session.Function] does.
func (s *Session) Function2[A, B, Out any](fn func(context.Context, A, B) (Out, error), opts ...FunctionOption) *Function2[A, B, Out] {
	return &Function2[A, B, Out]{s.wrap(fn, opts), fn}
}

// In is [Function.In].
func (f *Function2[A, B, Out]) In(sb *Sandbox) *Function2[A, B, Out] {
	if f == nil {
		f = new(Function2[A, B, Out])
	}
	return &Function2[A, B, Out]{f.inner().in(sb), f.local}
}

func (f *Function2[A, B, Out]) inner() *function {
	if f == nil {
		return notWrapped
	}
	return f.made()
}

// Err is [Function.Err].
func (f *Function2[A, B, Out]) Err() error { return f.inner().resolve() }

// Call is [Function.Call].
func (f *Function2[A, B, Out]) Call(ctx context.Context, a A, b B) (out Out, err error) {
	err = f.inner().invoke(ctx, &out, &a, &b)
	return out, err
}

// Spawn is [Function.Spawn].
func (f *Function2[A, B, Out]) Spawn(ctx context.Context, a A, b B) *Call[Out] {
	return spawn[Out](ctx, f.inner(), &a, &b)
}

// Local is [Function.Local].
func (f *Function2[A, B, Out]) Local(ctx context.Context, a A, b B) (out Out, err error) {
	if f == nil || f.local == nil {
		return out, f.inner().misuse
	}
	return f.local(ctx, a, b)
}

// Map is [Function.Map] over pairs of arguments.
func (f *Function2[A, B, Out]) Map(ctx context.Context, inputs iter.Seq2[A, B], opts ...MapOption) iter.Seq2[Out, error] {
	results := mapped[pair[A, B], Out](ctx, f.inner(), pairs(inputs), two, true, opts)
	return func(yield func(Out, error) bool) {
		for result := range results {
			if !yield(result.Output, result.Err) {
				return
			}
		}
	}
}

// Result2 is what came of one pair of arguments.
type Result2[A, B, Out any] struct {
	// Index is the pair's place, from 0; -1 if Err ended the whole run and belongs to no pair.
	Index int
	// A and B are the arguments.
	A A
	B B
	// Output is what the function returned; the zero value if Err is not nil.
	Output Out
	// Err is the call's error.
	Err error
}

// MapUnordered is [Function.MapUnordered] over pairs of arguments.
func (f *Function2[A, B, Out]) MapUnordered(ctx context.Context, inputs iter.Seq2[A, B], opts ...MapOption) iter.Seq[Result2[A, B, Out]] {
	results := mapped[pair[A, B], Out](ctx, f.inner(), pairs(inputs), two, false, opts)
	return func(yield func(Result2[A, B, Out]) bool) {
		for r := range results {
			if !yield(Result2[A, B, Out]{Index: r.Index, A: r.Input.a, B: r.Input.b, Output: r.Output, Err: r.Err}) {
				return
			}
		}
	}
}
